"""How faithful an explanation is, and whether detectors are right for the right reasons."""

from xai.evaluate.auroc import Auroc, auroc
from xai.evaluate.comparison import compare, paired_verdict
from xai.evaluate.conditional import ConditionalReplacement
from xai.evaluate.curves import FlippingResult, plot_curves
from xai.evaluate.flipping import pixel_flipping
from xai.evaluate.inpainting import harmonic_inpainting
from xai.evaluate.localisation import localisation
from xai.evaluate.randomisation import randomisation_check, shuffled_features
from xai.evaluate.regions import per_region_overlap
from xai.evaluate.replacement import (
    REPLACEMENTS,
    InpaintReplacement,
    MeanReplacement,
    replacement_rule,
)
from xai.evaluate.strategies import strategies
from xai.evaluate.strategy_table import Strategies
from xai.evaluate.trajectory import Replacement, Trajectory

__all__ = [
    "REPLACEMENTS",
    "Auroc",
    "ConditionalReplacement",
    "FlippingResult",
    "InpaintReplacement",
    "MeanReplacement",
    "Replacement",
    "Strategies",
    "Trajectory",
    "auroc",
    "compare",
    "harmonic_inpainting",
    "localisation",
    "paired_verdict",
    "per_region_overlap",
    "pixel_flipping",
    "plot_curves",
    "randomisation_check",
    "replacement_rule",
    "shuffled_features",
    "strategies",
]
