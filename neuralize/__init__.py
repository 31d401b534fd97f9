"""Fitted unsupervised models as equivalent networks, and the LRP rules that explain them."""

from neuralize import (
    gaussian_mixture,
    isolation_forest,
    kernel_density,
    kernel_pca,
    local_outlier_factor,
    mahalanobis,
    module,
    neighbors,
    one_class_svm,
    pca,
    pipeline,
)
from neuralize.attribution import Attribution
from neuralize.convert import neuralize, register_converter
from neuralize.coverage import Coverage, coverage
from neuralize.engine.registry import register_operation
from neuralize.errors import (
    AmplificationWarning,
    InputError,
    NoRuleError,
    UnfittedModelError,
    UnsupportedModelError,
    XaiError,
)
from neuralize.kernel_kmeans import KernelKMeans
from neuralize.lrp import LRP, Trace
from neuralize.network import Neuralized
from neuralize.propagate import Layer, Ledger, propagating
from neuralize.score_map import ScoreMap
from neuralize.svdd import SVDD

__all__ = [
    "LRP",
    "SVDD",
    "AmplificationWarning",
    "Attribution",
    "Coverage",
    "InputError",
    "KernelKMeans",
    "Layer",
    "Ledger",
    "Neuralized",
    "NoRuleError",
    "ScoreMap",
    "Trace",
    "UnfittedModelError",
    "UnsupportedModelError",
    "XaiError",
    "coverage",
    "gaussian_mixture",
    "isolation_forest",
    "kernel_density",
    "kernel_pca",
    "local_outlier_factor",
    "mahalanobis",
    "module",
    "neighbors",
    "neuralize",
    "one_class_svm",
    "pca",
    "pipeline",
    "propagating",
    "register_converter",
    "register_operation",
]
