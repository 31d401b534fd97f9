"""Random polytopes on tables, against loops over facets."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import numpy as np
import torch

from neuralize import neuralize
from neuralize.deep.polytope import AT_CENTER, RandomPolytope
from tests.neuralize.cases.data import Cases, load, subject
from tests.neuralize.cases.deep_base import own_outliers, own_scores, refit
from tests.neuralize.oracles.base import Oracle, Shares
from tests.subject import Array, Subject


class Facets(Oracle):
    """``min_k max_i <u_i, x - c_k> / h_ki``, one facet after the other."""

    def __init__(self, model: RandomPolytope, stiffness: float) -> None:
        state = {n: t.double().numpy() for n, t in model.module_.state_dict().items()}
        self.mean, self.std = state.get("preprocessing.0.mean", 0), 1
        if "preprocessing.0.std" in state:
            self.std = state["preprocessing.0.std"]
        self.u, self.c = state["gauge.directions"], state["gauge.centers"]
        self.h, self.stiffness = state["gauge.offsets"], stiffness

    def scales(self, x: Array) -> Array:
        """``(n, K, m)``."""
        z = (x - self.mean) / self.std
        found = np.zeros((len(x), *self.h.shape))
        for k, (center, offsets) in enumerate(zip(self.c, self.h, strict=True)):
            for i, (direction, offset) in enumerate(zip(self.u, offsets, strict=True)):
                found[:, k, i] = ((z - center) * direction).sum(1) / offset
        return found

    def evidence(self, x: Array) -> Array:
        return self.scales(x).max(2).min(1)

    def relevance(self, x: Array, target: Array | None) -> Shares:
        scales, values, lost = self.scales(x), np.zeros_like(x), np.zeros(len(x))
        for row in range(len(x)):
            k = scales[row].max(1).argmin()
            s = scales[row, k]
            weights = np.where(np.arange(len(s)) == s.argmax(), 1.0, 0.0)
            if math.isfinite(self.stiffness) and s.max() > 0:
                weights = np.where(s > 0, np.exp(self.stiffness * (s - s.max())), 0)
            delta = (x[row] - self.mean) / self.std - self.c[k]
            for i, w in enumerate(weights / weights.sum()):
                values[row] += w * self.u[i] * delta / self.h[k, i]
            values[row] *= s.max() / (weights / weights.sum() @ s)
        return Shares(values, {AT_CENTER: lost})

    def gap(self, x: Array, target: Array | None) -> Array:
        scales = self.scales(x)
        largest = np.sort(scales, 2)
        facets = (largest[..., -1] - largest[..., -2]).min(1) / np.abs(largest[..., -1]).min(1)
        if scales.shape[1] == 1:
            return facets
        polytopes = np.sort(scales.max(2), 1)
        return np.minimum(facets, (polytopes[:, 1] - polytopes[:, 0]) / np.abs(polytopes[:, 0]))


def polytope(
    name: str, *, stiffness: float = math.inf, classes: int = 1, raw: bool = False, **options: Any
) -> Subject:
    data = load(name, raw=raw)
    labels = None if classes == 1 else np.arange(len(data.fit)) % classes
    model = RandomPolytope(n_facets=200, **options).fit(data.fit, labels)

    def shifted(model: RandomPolytope, x: Array) -> None:
        if labels is None:
            refit(model, x)
        else:
            model.fit(x + np.arange(x.shape[1]), labels)

    return subject(
        model,
        partial(neuralize, stiffness=stiffness, dtype=torch.float64),
        data,
        lambda net: Facets(model, stiffness),
        native=own_scores,
        outliers=own_outliers,
        refit=shifted,
    )


POLYTOPES: Cases = {
    "polytope-wine": partial(polytope, "wine", preprocessing=None),
    "polytope-wine-raw": partial(polytope, "wine", raw=True),
    "polytope-digits": partial(polytope, "digits", rank=1, preprocessing=None),
    "polytope-boundary": partial(polytope, "breast_cancer", rank=1, threshold="boundary"),
    "polytope-soft": partial(polytope, "breast_cancer", rank=3, stiffness=4.0),
    "polytope-classes": partial(polytope, "wine", classes=3),
    "polytope-classes-soft": partial(polytope, "digits", classes=2, stiffness=20.0),
}
