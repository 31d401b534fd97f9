"""Slow, plain re-implementations: the evidence and relevance every network is held against.

Dense loops in float64 numpy, written from the models' own sources and from the definitions of the
relevance rules, never from this package's networks.
"""

from tests.neuralize.oracles.additive import (
    CopulaTails,
    EmpiricalTails,
    Histograms,
)
from tests.neuralize.oracles.base import Array, Oracle, Shares, spread
from tests.neuralize.oracles.clusters import BisectingTree, KernelClusters, NearestCentroid
from tests.neuralize.oracles.forest import PathLength
from tests.neuralize.oracles.gaussians import (
    Ellipsoid,
    Mixture,
    PulledResidual,
    Residual,
    mixture_constants,
    mixture_precisions,
)
from tests.neuralize.oracles.kernels import FeatureSpaceResidual, SoftNearest
from tests.neuralize.oracles.neighbors import (
    ClusterDistance,
    ComponentDistances,
    LocalFactor,
    Neighbours,
)
from tests.neuralize.oracles.parts import (
    Parts,
    absolute,
    energies,
    euclidean,
    minkowski,
    projected,
    root,
    squared,
)
from tests.neuralize.oracles.pipelines import (
    Behind,
    Step,
    clipped,
    element_wise,
    row_space,
    selection,
    unspecified,
    wsquared,
)

__all__ = [
    "Array",
    "Behind",
    "BisectingTree",
    "ClusterDistance",
    "ComponentDistances",
    "CopulaTails",
    "Ellipsoid",
    "EmpiricalTails",
    "FeatureSpaceResidual",
    "Histograms",
    "KernelClusters",
    "LocalFactor",
    "Mixture",
    "NearestCentroid",
    "Neighbours",
    "Oracle",
    "Parts",
    "PathLength",
    "PulledResidual",
    "Residual",
    "Shares",
    "SoftNearest",
    "Step",
    "absolute",
    "clipped",
    "element_wise",
    "energies",
    "euclidean",
    "minkowski",
    "mixture_constants",
    "mixture_precisions",
    "projected",
    "root",
    "row_space",
    "selection",
    "spread",
    "squared",
    "unspecified",
    "wsquared",
]
