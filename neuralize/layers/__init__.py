"""The layers neuralized models are made of: an operation and its relevance rule each."""

from neuralize.layers.distances import (
    Fold,
    MinkowskiDistances,
    QuadraticForms,
    SquaredDistances,
    SquareRoot,
)
from neuralize.layers.fronts import Elementwise, Projection, Selection, Step
from neuralize.layers.pools import (
    ClusterContrast,
    HarmonicPool,
    SoftMaxPool,
    SoftMinPool,
    WeightedSum,
)

__all__ = [
    "ClusterContrast",
    "Elementwise",
    "Fold",
    "HarmonicPool",
    "MinkowskiDistances",
    "Projection",
    "QuadraticForms",
    "Selection",
    "SoftMaxPool",
    "SoftMinPool",
    "SquareRoot",
    "SquaredDistances",
    "Step",
    "WeightedSum",
]
