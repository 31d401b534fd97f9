"""PyTorch Geometric: its models explained, and LRP inside its own ``Explainer``.

Needs ``pip install "unsupervised-xai[pyg]"``; nothing is imported of it before it is used.
"""

from typing import Any

from graphs.pyg.composite import ConvComposite, pyg_composite
from graphs.pyg.inputs import required_pyg
from graphs.pyg.relevance import PyGRelevance, explain_pyg

__all__ = [
    "ConvComposite",
    "LRPExplainer",
    "PyGRelevance",
    "explain_pyg",
    "pyg_composite",
    "required_pyg",
]


def __getattr__(name: str) -> Any:
    if name == "LRPExplainer":
        # a subclass of PyG's own, so PyG has to be there
        from graphs.pyg.explainer import LRPExplainer

        return LRPExplainer
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
