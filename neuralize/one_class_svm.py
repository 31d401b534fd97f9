"""One-class SVM and SVDD with a Gaussian kernel as a network (arXiv 1805.06230).

Both decide by ``g(x) = sum_j alpha_j exp(-gamma ||x - u_j||^2)`` against a constant, so with ``a =
alpha / sum alpha`` the outlier score is the soft minimum of squared distances to the support
vectors, ``o = -(1/gamma) log sum_j a_j exp(-gamma h_j)``, and ``x`` is an outlier iff ``o >
theta``, ``theta = -(1/gamma) log(rho / sum alpha)``.
"""

from __future__ import annotations

import math

from sklearn.svm import OneClassSVM

from neuralize.convert import as_tensor, register_converter, require_fitted
from neuralize.errors import UnsupportedModelError
from neuralize.kernel_density import gaussian_layers
from neuralize.outlier import OutlierNetwork
from neuralize.score_map import ScoreMap
from neuralize.svdd import SVDD

EVIDENCE = "soft minimum of the squared distance to the support vectors"


@register_converter(OneClassSVM)
def convert_one_class_svm(model: OneClassSVM) -> OutlierNetwork:
    """One-class SVM with ``kernel="rbf"``."""
    require_fitted(model)
    if model.kernel != "rbf":
        raise UnsupportedModelError(
            f"OneClassSVM with kernel={model.kernel!r} has no soft-min form, since its kernel is "
            "not a function of a distance. Nearest supported: kernel='rbf'."
        )
    alpha = as_tensor(model.dual_coef_, "dual coefficients")[0]
    support = as_tensor(model.support_vectors_, "support vectors")
    total, gamma = float(alpha.sum()), float(model._gamma)
    offset = float(model.offset_[0])
    score_map = ScoreMap("decision_function", scale=total, offset=-offset, rate=-gamma)
    return OutlierNetwork(
        gaussian_layers(support, gamma, alpha / total),
        n_features=support.shape[1],
        evidence_name=EVIDENCE,
        score_map=score_map,
        threshold=score_map.inverse(0.0),
        width=len(support),
        model_name="OneClassSVM",
    )


@register_converter(SVDD)
def convert_svdd(model: SVDD) -> OutlierNetwork:
    """SVDD with a Gaussian kernel."""
    require_fitted(model)
    a = as_tensor(model.dual_coef_, "dual coefficients")
    support = as_tensor(model.support_vectors_, "support vectors")
    # R^2 - ||phi(x) - c||^2 = R^2 - 1 - |c|^2 + 2 sum_j a_j k(x, u_j)
    offset = float(model.radius_squared_ - 1 - model.center_norm_squared_)
    score_map = ScoreMap("decision_function", scale=2.0, offset=offset, rate=-float(model.gamma_))
    threshold = score_map.inverse(0.0)
    if not math.isfinite(threshold):
        raise UnsupportedModelError(
            "This SVDD's sphere holds the whole feature space, so it decides nothing. "
            f"Refit with a larger nu than {model.nu}."
        )
    return OutlierNetwork(
        gaussian_layers(support, float(model.gamma_), a / a.sum()),
        n_features=support.shape[1],
        evidence_name=EVIDENCE,
        score_map=score_map,
        threshold=threshold,
        width=len(support),
        model_name="SVDD",
    )
