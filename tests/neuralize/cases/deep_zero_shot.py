"""Zero-shot detectors on tables, against a numpy tower with its length held constant."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from neuralize.deep import ZeroShot
from tests.neuralize.cases.data import Cases, load
from tests.neuralize.cases.deep_base import deep_subject, weights_of
from tests.neuralize.oracles.base import Oracle, Shares
from tests.subject import Array, Subject

Q = 6


def words(prompts: list[str]) -> Tensor:
    """A text tower: random features by the prompt's letters."""
    seeds = [sum(map(ord, prompt)) for prompt in prompts]
    return torch.stack([torch.randn(Q, generator=torch.Generator().manual_seed(s)) for s in seeds])


class DenseTower(Oracle):
    """``min_j s <u / ||u||, t - t_j>`` of a tower with one hidden layer."""

    def __init__(self, net: Any) -> None:
        w = weights_of(net)
        self.first = w["tower.0.weight"], w["tower.0.bias"]
        self.last = w["tower.2.weight"], w["tower.2.bias"]
        self.directions = 20.0 * (w["anomaly"] - w["normal"])

    def _pass(self, x: Array) -> tuple[Array, Array, Array]:
        h = x @ self.first[0].T + self.first[1]
        u = np.maximum(h, 0) @ self.last[0].T + self.last[1]
        return h, u, (u @ self.directions.T) / np.linalg.norm(u, axis=1)[:, None]

    def evidence(self, x: Array) -> Array:
        return self._pass(x)[2].min(1)

    def relevance(self, x: Array, target: Array | None) -> Shares:
        h, u, logits = self._pass(x)
        force = self.directions[logits.argmin(1)] / np.linalg.norm(u, axis=1)[:, None]
        bias = force @ self.last[1]
        force = force @ self.last[0] * (h > 0)
        bias = bias + force @ self.first[1]
        return Shares(force @ self.first[0] * x, {"bias": bias})

    def gap(self, x: Array, target: Array | None) -> Array:
        logits = np.sort(self._pass(x)[2], 1)
        if logits.shape[1] == 1:
            return np.full(len(x), np.inf)
        return (logits[:, 1] - logits[:, 0]) / np.abs(logits).max(1)


def zero_shot(normal: Any, contamination: float | None) -> Subject:
    data = load("wine")
    torch.manual_seed(0)
    tower = nn.Sequential(nn.Linear(13, 10), nn.ReLU(), nn.Linear(10, Q))
    model = ZeroShot(
        tower, words, normal=normal, template="a glass of {}", input_shape=(13,), mean=None,
        scale=20.0, contamination=contamination,
    ).fit(data.fit)  # fmt: skip
    options: dict[str, Any] = {}
    if isinstance(normal, str):
        options["native"] = lambda m, x: 1 / (1 + np.exp(-DenseTower(_double(m)).evidence(x)))

    def refit(m: ZeroShot, x: Array) -> None:
        m.anomaly = "something else"
        m.fit(x)

    return deep_subject(model, data, DenseTower, refit=refit, **options)


def _double(model: ZeroShot) -> Any:
    class Net:
        network = model.module_

    return Net


ZERO_SHOT: Cases = {
    "zero-shot": partial(zero_shot, "wine", None),
    "zero-shot-leave-one-out": partial(zero_shot, ("wine", "port", "mead"), 0.1),
}
