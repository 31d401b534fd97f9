"""skorch without what it would import beside itself.

skorch imports PyG wherever it is installed, several seconds for data types that no detector here
uses. While skorch is imported, PyG counts as missing; afterwards it can be imported as ever.
"""

import sys

_absent = "torch_geometric" not in sys.modules
if _absent:
    sys.modules["torch_geometric"] = None  # type: ignore[assignment]
try:
    from skorch import NeuralNet
    from skorch.callbacks import Callback, Checkpoint, EarlyStopping
finally:
    if _absent:
        del sys.modules["torch_geometric"]

__all__ = ["Callback", "Checkpoint", "EarlyStopping", "NeuralNet"]
