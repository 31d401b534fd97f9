"""Explain, look, keep and measure: relevance for unsupervised models."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from neuralize.coverage import coverage
    from xai import datasets, evaluate
    from xai.audit import Audit, Check
    from xai.errors import XaiError
    from xai.explainer import explain
    from xai.pair_explainer import bilrp
    from xai.relevance import Relevance
    from xai.report import Finding, Report
    from xai.similarity import SimilarityRelevance
    from xai.virtual_layers import BasisRelevance, frequency, in_basis

_HOME = {
    "Audit": "xai.audit",
    "BasisRelevance": "xai.virtual_layers",
    "Check": "xai.audit",
    "Finding": "xai.report",
    "Relevance": "xai.relevance",
    "Report": "xai.report",
    "SimilarityRelevance": "xai.similarity",
    "XaiError": "xai.errors",
    "bilrp": "xai.pair_explainer",
    "coverage": "neuralize.coverage",
    "explain": "xai.explainer",
    "frequency": "xai.virtual_layers",
    "in_basis": "xai.virtual_layers",
}

_MODULES = ("datasets", "evaluate")

__all__ = [
    "Audit",
    "BasisRelevance",
    "Check",
    "Finding",
    "Relevance",
    "Report",
    "SimilarityRelevance",
    "XaiError",
    "bilrp",
    "coverage",
    "datasets",
    "evaluate",
    "explain",
    "frequency",
    "in_basis",
]

if not TYPE_CHECKING:
    # Public names load when first used: `xai --help` need not wait seconds for torch.
    def __getattr__(name: str) -> object:
        if name in _MODULES:
            return import_module(f"xai.{name}")
        if name not in _HOME:
            raise AttributeError(f"module 'xai' has no attribute {name!r}")
        value = getattr(import_module(_HOME[name]), name)
        globals()[name] = value
        return value

    def __dir__() -> list[str]:
        return sorted({*globals(), *__all__})
