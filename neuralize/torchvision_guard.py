"""Import zennit beside a torchvision whose compiled operators cannot load.

``import zennit`` imports torchvision. A torchvision built for CUDA cannot load its extension
beside a CPU-only torch (pip resolves that pair without complaint), and its import then dies with
``RuntimeError: operator torchvision::nms does not exist``, because it describes the output shape
of operators that the extension would have declared. Nothing here needs those operators, so it is
enough to declare them: schemas without kernels. Models and transforms then work, and *calling*
non-maximum suppression still raises.

zennit is therefore imported through `import_zennit`, and never by importing `neuralize`.

Examples
--------
>>> zennit = import_zennit()
>>> zennit.rules.Epsilon(epsilon=1e-6).__class__.__name__
'Epsilon'
"""

import importlib
import sys
import threading
from types import ModuleType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch.library import Library

__all__ = ["ensure_importable_torchvision", "import_zennit"]

# What torchvision/csrc/ops declares; these two are the ones described outside a check that the
# extension was loaded.
_SCHEMAS = {
    "nms": "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms": "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
}

# A declaration lives as long as its Library object, so it is kept for the life of the process.
_declarations: list["Library"] = []
_lock = threading.RLock()


def ensure_importable_torchvision() -> bool:
    """Make ``import torchvision`` succeed where only its missing operators prevent it.

    A healthy torchvision is imported and left alone; without torchvision nothing happens. May be
    called repeatedly and from several threads.

    Returns
    -------
    bool
        Whether this process runs on declared operators, so that calling them raises.

    Raises
    ------
    Exception
        Whatever else importing torchvision raises, unchanged.
    """
    with _lock:
        try:
            importlib.import_module("torchvision")
        except ModuleNotFoundError as error:
            if error.name != "torchvision":  # torchvision is there and lacks a requirement
                raise
        except RuntimeError as error:
            if "torchvision::" not in str(error):
                raise
            _forget_torchvision()
            _declare_operators()
            importlib.import_module("torchvision")
        return bool(_declarations)


def import_zennit() -> ModuleType:
    """Import zennit, after making sure that its import of torchvision succeeds.

    Returns
    -------
    module
        The ``zennit`` package with its submodules loaded.
    """
    ensure_importable_torchvision()
    return importlib.import_module("zennit")


def _forget_torchvision() -> None:
    """Drop what the failed import left behind; submodules of a dead package would be reused."""
    for name in list(sys.modules):
        if name.partition(".")[0] == "torchvision":
            del sys.modules[name]


def _declare_operators() -> None:
    """Declare the operators that do not exist yet, without kernels."""
    import torch  # here, so that importing this module costs nothing

    missing = [schema for name, schema in _SCHEMAS.items() if not _is_declared(name)]
    if missing:
        library = torch.library.Library("torchvision", "FRAGMENT")
        for schema in missing:
            library.define(schema)
        _declarations.append(library)


def _is_declared(name: str) -> bool:
    """Whether torch knows an operator ``torchvision::name``."""
    import torch

    return hasattr(torch.ops.torchvision, name)
