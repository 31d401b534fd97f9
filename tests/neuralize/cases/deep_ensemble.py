"""Ensembles on wine, against the members' own oracles, averaged by hand."""

from __future__ import annotations

import copy
from functools import partial
from typing import Any

import numpy as np
import torch
from pyod.models.knn import KNN
from sklearn.covariance import EmpiricalCovariance
from sklearn.neighbors import KernelDensity
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from neuralize import neuralize
from neuralize.deep import DeepSVDD
from neuralize.deep.ensemble import Ensemble
from neuralize.deep.ensemble_network import EnsembleNetwork
from neuralize.deep.score_network import ScoreNetwork
from tests.neuralize import oracles
from tests.neuralize.cases.data import Cases, load, subject
from tests.neuralize.cases.deep_base import EXACT, SHORT, own_scores
from tests.neuralize.cases.deep_one_class import DenseSphere
from tests.neuralize.oracles.base import Oracle, Shares
from tests.subject import Array, Subject


class Average(Oracle):
    """``sum_m w_m (o_m - mu_m) / s_m`` and the same average of the members' shares."""

    def __init__(self, members: dict[str, Oracle], model: Ensemble, reference: Array) -> None:
        self.members, self.weights = members, model.weights_
        self.means, self.scales = model.means_, model.scales_
        for name, member in members.items():  # a deep member computed its scores in float32
            evidence = member.evidence(reference)
            np.testing.assert_allclose(model.means_[name], evidence.mean(), rtol=1e-5)
            np.testing.assert_allclose(model.scales_[name], evidence.std(), rtol=1e-5)

    def evidence(self, x: Array) -> Array:
        total = np.zeros(len(x))
        for name, member in self.members.items():
            z = (member.evidence(x) - self.means[name]) / self.scales[name]
            total += self.weights[name] * z
        return total

    def relevance(self, x: Array, target: Array | None) -> Shares:
        values, absorbed = np.zeros_like(x), {}
        for name, member in self.members.items():
            shares, factor = member.relevance(x, None), self.weights[name] / self.scales[name]
            assert shares.values is not None
            values += factor * shares.values
            for what, share in shares.absorbed.items():
                absorbed[f"{name}: {what}"] = factor * share
            absorbed[f"{name}: offset"] = np.full(len(x), -factor * self.means[name])
        return Shares(values, absorbed)

    def gap(self, x: Array, target: Array | None) -> Array:
        return np.min([member.gap(x, None) for member in self.members.values()], 0)

    def kink(self, x: Array, target: Array | None) -> Array:
        return np.min([member.kink(x, None) for member in self.members.values()], 0)


def exact(model: Ensemble) -> EnsembleNetwork:
    """Its network in float64; deep members under LRP-0 up to rounding."""
    net = neuralize(model, dtype=torch.float64)
    assert isinstance(net, EnsembleNetwork)
    for member in net.members.values():
        if isinstance(member, ScoreNetwork):
            member.composite = EXACT
    return net


def hand_scores(model: Ensemble, x: Array) -> Array:
    """From what every member prints itself; a sign and a scale do not survive standardising."""
    total = np.zeros(len(x))
    for name, member in model.members_.items():
        if isinstance(member, DeepSVDD):
            evidence = own_scores(member, x)
        elif isinstance(member, KernelDensity):
            evidence = -2 * member.bandwidth_**2 * log_kernels(member, x)
        elif isinstance(member, EmpiricalCovariance):
            evidence = member.mahalanobis(x)
        elif isinstance(member, KNN):
            evidence = member.decision_function(x)
        else:
            inner = member[-1]
            evidence = inner.mahalanobis(member[:-1].transform(x))
        total += model.weights_[name] * (evidence - model.means_[name]) / model.scales_[name]
    return total


def log_kernels(model: KernelDensity, x: Array) -> Array:
    """Log density without the Gaussian's normalisation."""
    d = x.shape[1]
    constant = -d / 2 * np.log(2 * np.pi) - d * np.log(model.bandwidth_)
    scores: Array = model.score_samples(x) - constant
    return scores


def ensemble(
    weights: dict[str, float] | None, *, piped: bool = False, raw: bool = False
) -> Subject:
    data = load("wine", raw=raw)
    members: dict[str, Any] = {
        "kde": KernelDensity(bandwidth=1.5),
        "svdd": DeepSVDD(training=SHORT),
        "knn": KNN(n_neighbors=4),
    }
    if piped:
        members = {
            "ellipsoid": make_pipeline(StandardScaler(), EmpiricalCovariance()),
            "svdd": DeepSVDD(training=SHORT),
        }
    model = Ensemble(members, weights=weights).fit(data.fit)

    def oracle(net: Any) -> Oracle:
        parts: dict[str, Oracle] = {"svdd": DenseSphere(net.members["svdd"])}
        if piped:
            scaler, inner = copy.deepcopy(model.members_["ellipsoid"])
            sigma = np.linalg.inv(inner.precision_) * np.outer(scaler.scale_, scaler.scale_)
            center = scaler.mean_ + inner.location_ * scaler.scale_
            parts["ellipsoid"] = oracles.Ellipsoid(center, np.linalg.inv(sigma), "signed")
        else:
            distances = oracles.squared(data.fit)
            kernel = model.members_["kde"]
            parts["kde"] = oracles.SoftNearest(
                distances, np.ones(len(data.fit)), 1 / (2 * kernel.bandwidth_**2)
            )
            parts["knn"] = oracles.Neighbours(oracles.euclidean(data.fit), 4, "largest")
        return Average(parts, model, data.fit)

    return subject(
        model,
        exact,
        data,
        oracle,
        native=hand_scores,
        outliers=lambda m, x: hand_scores(m, x) > m.threshold_,
    )


ENSEMBLES: Cases = {
    "ensemble-wine": partial(ensemble, None),
    "ensemble-weights": partial(ensemble, {"kde": 3, "svdd": 1.5, "knn": 0.5}),
    "ensemble-pipeline": partial(ensemble, None, piped=True, raw=True),
}
