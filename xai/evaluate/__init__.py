"""How faithful an explanation is, and whether detectors are right for the right reasons."""

from xai.evaluate.auroc import Auroc, auroc
from xai.evaluate.comparison import compare, paired_verdict
from xai.evaluate.conditional import ConditionalReplacement
from xai.evaluate.curves import FlippingResult, plot_curves
from xai.evaluate.flipping import pixel_flipping
from xai.evaluate.group_clustering import clustering_score
from xai.evaluate.inpainting import harmonic_inpainting
from xai.evaluate.localisation import localisation
from xai.evaluate.outlier_exposure import few_outliers, low_pass, low_pass_ablation
from xai.evaluate.outlier_search import (
    Evolution,
    OutlierSearch,
    evolve_outlier,
    random_search,
    single_outlier_fitness,
)
from xai.evaluate.performance_drop import (
    PerformanceDrop,
    average_performance_drop,
    cramers_v,
)
from xai.evaluate.randomisation import randomisation_check, shuffled_features
from xai.evaluate.regions import per_region_overlap
from xai.evaluate.replacement import (
    REPLACEMENTS,
    InpaintReplacement,
    MeanReplacement,
    replacement_rule,
)
from xai.evaluate.robustness import RobustnessCurve, robustness_index
from xai.evaluate.strategies import strategies
from xai.evaluate.strategy_table import Strategies
from xai.evaluate.trajectory import Replacement, Trajectory

__all__ = [
    "REPLACEMENTS",
    "Auroc",
    "ConditionalReplacement",
    "Evolution",
    "FlippingResult",
    "InpaintReplacement",
    "MeanReplacement",
    "OutlierSearch",
    "PerformanceDrop",
    "Replacement",
    "RobustnessCurve",
    "Strategies",
    "Trajectory",
    "auroc",
    "average_performance_drop",
    "clustering_score",
    "compare",
    "cramers_v",
    "evolve_outlier",
    "few_outliers",
    "harmonic_inpainting",
    "localisation",
    "low_pass",
    "low_pass_ablation",
    "paired_verdict",
    "per_region_overlap",
    "pixel_flipping",
    "plot_curves",
    "random_search",
    "randomisation_check",
    "replacement_rule",
    "robustness_index",
    "shuffled_features",
    "single_outlier_fitness",
    "strategies",
]
