"""Fitted unsupervised models as equivalent networks, and the LRP rules that explain them."""

from neuralize import (
    gaussian_mixture,
    isolation_forest,
    kernel_density,
    kernel_pca,
    local_outlier_factor,
    mahalanobis,
    neighbors,
    one_class_svm,
    pca,
    pipeline,
)
from neuralize.convert import neuralize, register_converter
from neuralize.errors import (
    InputError,
    NoRuleError,
    UnfittedModelError,
    UnsupportedModelError,
    XaiError,
)
from neuralize.kernel_kmeans import KernelKMeans
from neuralize.network import Attribution, Neuralized
from neuralize.propagate import Layer, Ledger, propagating
from neuralize.score_map import ScoreMap
from neuralize.svdd import SVDD

__all__ = [
    "SVDD",
    "Attribution",
    "InputError",
    "KernelKMeans",
    "Layer",
    "Ledger",
    "Neuralized",
    "NoRuleError",
    "ScoreMap",
    "UnfittedModelError",
    "UnsupportedModelError",
    "XaiError",
    "gaussian_mixture",
    "isolation_forest",
    "kernel_density",
    "kernel_pca",
    "local_outlier_factor",
    "mahalanobis",
    "neighbors",
    "neuralize",
    "one_class_svm",
    "pca",
    "pipeline",
    "propagating",
    "register_converter",
]
