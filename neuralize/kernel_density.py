"""Kernel density estimation as a network (Kauffmann, Mueller, Montavon, arXiv 1805.06230).

With a Gaussian kernel of bandwidth ``s`` the outlier score is the soft minimum of squared
distances,

    ``o(x) = -(1/g) log sum_j a_j exp(-g ||x - u_j||^2)``,  ``g = 1 / (2 s^2)``,

which is the negative log density up to scale and offset. The exponential kernel has distances
instead of their squares and ``g = 1 / s``. Relevance: take-most over the support points, then the
distance rule.
"""

from __future__ import annotations

import math

from sklearn.neighbors import KernelDensity
from torch import Tensor, nn

from neuralize.convert import as_tensor, register_converter, require_fitted
from neuralize.errors import UnsupportedModelError
from neuralize.layers import MinkowskiDistances, SoftMinPool, SquaredDistances, SquareRoot
from neuralize.outlier import OutlierNetwork
from neuralize.score_map import ScoreMap


def gaussian_layers(support: Tensor, g: float, weights: Tensor | None = None) -> list[nn.Module]:
    """``-(1/g) log sum_j a_j exp(-g ||x - u_j||^2)``; ``weights`` ``(m,)`` sum to one."""
    log_weights = None if weights is None else weights.log()
    return [SquaredDistances(support), SoftMinPool(g, log_weights)]


@register_converter(KernelDensity)
def convert_kernel_density(model: KernelDensity) -> OutlierNetwork:
    """Gaussian (Euclidean) and exponential (Euclidean or Manhattan) kernels, exactly."""
    require_fitted(model)
    if model.kernel not in ("gaussian", "exponential"):
        raise UnsupportedModelError(
            f"KernelDensity with kernel={model.kernel!r} has no soft-min form: its density is not "
            "an exponential of a distance. Nearest supported: kernel='gaussian'."
        )
    order = _minkowski_order(model)
    if order is None or (_gaussian(model) and order != 2):
        raise UnsupportedModelError(
            f"KernelDensity with kernel={model.kernel!r} and metric={model.metric!r}: a Gaussian "
            "kernel needs the Euclidean distance, an exponential one a Minkowski distance of "
            "finite order. Nearest supported: metric='euclidean'."
        )
    if model.atol != 0 or model.rtol != 0:
        raise UnsupportedModelError(
            f"KernelDensity with atol={model.atol}, rtol={model.rtol} computes its density only "
            "approximately, so no network can equal it. Call model.set_params(atol=0, rtol=0); no "
            "refit is needed."
        )
    tree = model.tree_
    support = as_tensor(tree.data, "training points")
    weights = tree.sample_weight
    a = None
    if weights is not None:
        a = as_tensor(weights, "sample weights")
        support, a = support[a > 0], a[a > 0] / a.sum()
    d, h = support.shape[1], float(model.bandwidth_)
    if _gaussian(model):
        g = 1 / (2 * h**2)
        layers = gaussian_layers(support, g, a)
        log_norm = -d / 2 * math.log(2 * math.pi) - d * math.log(h)
    else:
        g = 1 / h
        distances: list[nn.Module] = [SquaredDistances(support), SquareRoot()]
        if order != 2:
            distances = [MinkowskiDistances(support, order)]
        layers = [*distances, SoftMinPool(g, None if a is None else a.log())]
        # log of the Euclidean kernel's integral, which scikit-learn uses whatever the metric
        log_sphere = math.log(2) + d / 2 * math.log(math.pi) - math.lgamma(d / 2)
        log_norm = -log_sphere - math.lgamma(d) - d * math.log(h)
    unit = "squared distance" if _gaussian(model) else "distance"
    return OutlierNetwork(
        layers,
        n_features=d,
        evidence_name=f"soft minimum of the {unit} to the training points",
        score_map=ScoreMap("score_samples", scale=-g, offset=log_norm),
        width=len(support),
        model_name="KernelDensity",
    )


def _minkowski_order(model: KernelDensity) -> float | None:
    names = {"euclidean": 2.0, "l2": 2.0, "manhattan": 1.0, "l1": 1.0, "cityblock": 1.0}
    params = model.metric_params or {}
    if model.metric == "minkowski" and set(params) <= {"p"} and 1 <= params.get("p", 2) < math.inf:
        return float(params.get("p", 2))
    return names.get(model.metric)


def _gaussian(model: KernelDensity) -> bool:
    return bool(model.kernel == "gaussian")
