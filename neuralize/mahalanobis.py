"""Covariance models: the squared Mahalanobis distance ``o = (x - mu)^T S^-1 (x - mu)``.

Relevance ``R_i = d_i [S^-1 d]_i`` with ``d = x - mu`` (signed, the default), or along the
eigenvectors of ``S``, ``R_m = (v_m . d)^2 / lambda_m``, and from there to the inputs by ``v_mi^2``
(non-negative).
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from sklearn.covariance import EllipticEnvelope, EmpiricalCovariance
from torch import Tensor

from neuralize.convert import as_tensor, register_converter, require_fitted
from neuralize.errors import InputError
from neuralize.layers import QuadraticForms, WeightedSum
from neuralize.outlier import OutlierNetwork
from neuralize.score_map import ScoreMap

Split = Literal["signed", "nonnegative"]


def eigen_factor(precision: Tensor) -> Tensor:
    """``F`` with ``F^T F`` the precision ``(d, d)`` and its rows scaled eigenvectors."""
    values, vectors = torch.linalg.eigh((precision + precision.T) / 2)
    seen = values > 0  # a singular precision does not see some directions
    factor: Tensor = (vectors[:, seen] * values[seen].sqrt()).T.contiguous()
    return factor


@register_converter(EmpiricalCovariance)
def convert_covariance(model: Any, *, split: Split = "signed") -> OutlierNetwork:
    """EmpiricalCovariance, LedoitWolf, OAS, ShrunkCovariance, MinCovDet, GraphicalLasso."""
    require_fitted(model)
    return mahalanobis_network(model, split, ScoreMap("mahalanobis"), None)


@register_converter(EllipticEnvelope)
def convert_elliptic_envelope(
    model: EllipticEnvelope, *, split: Split = "signed"
) -> OutlierNetwork:
    """EllipticEnvelope: the Mahalanobis distance against ``-offset_``."""
    require_fitted(model)
    offset = float(model.offset_)
    score_map = ScoreMap("decision_function", scale=-1.0, offset=-offset)
    return mahalanobis_network(model, split, score_map, -offset)


def mahalanobis_network(
    model: Any, split: Split, score_map: ScoreMap, threshold: float | None
) -> OutlierNetwork:
    """The network of anything with ``location_`` and ``get_precision()``."""
    if split not in ("signed", "nonnegative"):
        raise InputError(f"Expected split 'signed' or 'nonnegative', got {split!r}.")
    mu = as_tensor(model.location_, "location")
    factor = eigen_factor(as_tensor(model.get_precision(), "precision"))
    forms = QuadraticForms(mu[None], factor[None], nonnegative=split == "nonnegative")
    return OutlierNetwork(
        [forms, WeightedSum(torch.ones(1, dtype=mu.dtype))],
        n_features=len(mu),
        evidence_name="squared Mahalanobis distance",
        score_map=score_map,
        threshold=threshold,
        model_name=type(model).__name__,
    )
