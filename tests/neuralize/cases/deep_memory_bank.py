"""PatchCore, PaDiM and D2Neighbors on digits, against dense numpy with an explicit conv network."""

from __future__ import annotations

from functools import lru_cache, partial
from typing import Any

import numpy as np
import torch
from sklearn.datasets import load_digits
from torch import nn

from neuralize.deep import D2Neighbors, PaDiM, PatchCore
from tests.neuralize.cases.data import Cases, Split
from tests.neuralize.cases.data import load as load_rows
from tests.neuralize.cases.deep_base import deep_subject, fitted, weights_of
from tests.neuralize.oracles.base import COINCIDENT, Oracle, Shares, logsumexp, softmax
from tests.subject import Array, Subject

SIDE = 6
FINE, COARSE = SIDE**2, (SIDE // 2) ** 2
LAYERS = ("2", "4")


@lru_cache
def pictures() -> Split:
    """The middle of digits as rows; a little noise, so that no two patches are the same."""
    x = load_digits().images[:, 1:7, 1:7].reshape(-1, FINE) / 16
    x = np.random.default_rng(0).permutation(x)[:140]
    x = x + 0.02 * np.random.default_rng(1).normal(size=x.shape)
    far = np.clip(1 - x[130:131], 0, 1) + 0.3 * np.sin(np.arange(float(FINE)))
    return Split(x[:120], x[:6], np.concatenate([x[121:126], far]))


def small_backbone() -> nn.Module:
    """Two convolutions with biases, on rows that it makes pictures of."""
    with torch.random.fork_rng():
        torch.manual_seed(3)
        return nn.Sequential(
            nn.Unflatten(1, (1, SIDE, SIDE)), nn.Conv2d(1, 3, 3, 1, 1), nn.ReLU(),
            nn.Conv2d(3, 4, 3, 2, 1), nn.ReLU(), nn.Flatten(), nn.Linear(4 * COARSE, 2),
        )  # fmt: skip


def apart(h: Array, a: Array, b: Array, p: float = 2) -> Array:
    """Whether points at distance ``h`` differ by more than 32 roundings of float32."""
    size = (np.abs(a) ** p).sum(-1) + (np.abs(b) ** p).sum(-1)
    return h > (32 * 2.0**-23) ** p * size


class ConvOracle(Oracle):
    """The features of :func:`small_backbone` by dense matrices; LRP-0 as gradient times input.

    A subclass says how abnormal patches ``(P, D)`` are, and how the score changes with them: the
    force ``f`` of ``R = z f`` at the patches.
    """

    prefix = "features.backbone."

    def __init__(self, net: Any) -> None:
        w = weights_of(net)
        self.w = w
        first = conv_matrix(w[f"{self.prefix}1.weight"], SIDE, 1)
        second = conv_matrix(w[f"{self.prefix}3.weight"], SIDE, 2)
        self.maps = (first, second)
        self.biases = (
            np.repeat(w[f"{self.prefix}1.bias"], FINE), np.repeat(w[f"{self.prefix}3.bias"], COARSE)
        )  # fmt: skip
        pool = self.pooled()
        fine = np.kron(np.eye(3), pool(SIDE))
        coarse = np.kron(np.eye(4), self.resized() @ pool(SIDE // 2))
        self.to_patches = (fine, coarse)

    def pooled(self) -> Any:
        return average_matrix

    def resized(self) -> Array:
        return bilinear_matrix(SIDE // 2, SIDE)

    def judge(self, z: Array) -> tuple[float, Array, dict[str, float], float]:
        """Score, force, absorbed shares and gap of patches ``(P, D)``."""
        raise NotImplementedError

    def _features(self, x: Array) -> tuple[Array, list[Array]]:
        a1 = self.maps[0] @ x + self.biases[0]
        gates = [(a1 > 0).astype(float)]
        a1 = a1 * gates[0]
        a2 = self.maps[1] @ a1 + self.biases[1]
        gates.append((a2 > 0).astype(float))
        a2 = a2 * gates[1]
        parts = [(m @ a).reshape(-1, FINE) for m, a in zip(self.to_patches, (a1, a2), strict=True)]
        return np.concatenate(parts).T, gates

    def evidence(self, x: Array) -> Array:
        return np.array([self.judge(self._features(row)[0])[0] for row in x])

    def gap(self, x: Array, target: Array | None) -> Array:
        return np.array([self.judge(self._features(row)[0])[3] for row in x])

    def relevance(self, x: Array, target: Array | None) -> Shares:
        values, absorbed = [], []
        for row in x:
            z, gates = self._features(row)
            _, force, shares, _ = self.judge(z)
            to_maps = force.T.reshape(-1)
            g2 = gates[1] * (self.to_patches[1].T @ to_maps[3 * FINE :])
            g1 = gates[0] * (self.to_patches[0].T @ to_maps[: 3 * FINE] + self.maps[1].T @ g2)
            values.append(row * (self.maps[0].T @ g1))
            absorbed.append(shares | {"bias": g1 @ self.biases[0] + g2 @ self.biases[1]})
        names = absorbed[0]
        return Shares(np.array(values), {n: np.array([a[n] for a in absorbed]) for n in names})


class NearestOracle(ConvOracle):
    """PatchCore: every distance one by one."""

    def __init__(self, net: Any, k: int = 1, stiffness: float | None = None, reweight: int = 0,
                 spread: float | None = None, whole: bool = False) -> None:  # fmt: skip
        super().__init__(net)
        self.k, self.stiffness, self.reweight = k, stiffness, reweight
        self.spread, self.whole = spread, whole

    def judge(self, z: Array) -> tuple[float, Array, dict[str, float], float]:
        bank = self.w["bank"]
        d = np.sqrt(((z[:, None] - bank) ** 2).sum(-1))
        order = d.argsort(1)
        near = np.take_along_axis(d, order, 1)
        kept = near[:, : self.k]
        if self.stiffness is None:
            s, p = kept.mean(1), np.full(kept.shape, 1 / self.k)
            weight = kept * p / s[:, None]
        else:
            s = -(logsumexp(-self.stiffness * kept) - np.log(self.k)) / self.stiffness
            weight = softmax(-self.stiffness * kept)
        ranked = np.sort(s)
        m = int(s.argmax())
        scale = 1.0
        if self.reweight:
            around = np.sqrt(((bank[order[m, 0]] - bank) ** 2).sum(-1)).argsort()[: self.reweight]
            scale = 1 - softmax(d[m, around][None])[0, 0]
        share = np.eye(len(s))[m] if self.spread is None else softmax(self.spread * s[None])[0]
        score = float(s.sum() if self.whole else scale * s[m])
        received = s if self.whole else share * score
        force, absorbed, coincident = np.zeros(z.shape), 0.0, 0.0
        for patch in range(len(z)):
            for near_rank in range(self.k):
                b = bank[order[patch, near_rank]]
                delta, own = z[patch] - b, received[patch] * weight[patch, near_rank]
                if not apart(delta @ delta, z[patch], b):
                    coincident += own
                    continue
                force[patch] += own * delta / (delta @ delta)
                absorbed -= own * delta @ b / (delta @ delta)
        tie = np.inf if self.whole or self.spread is not None else 1 - ranked[-2] / ranked[-1]
        looked_at = received > 1e-6 * received.max()
        swap = (near[:, self.k] - near[:, self.k - 1])[looked_at] / near[looked_at][:, self.k]
        shares = {"bank": absorbed, COINCIDENT: coincident}
        return score, force, shares, float(min(tie, swap.min()))


class GaussianOracle(ConvOracle):
    """PaDiM: one Gaussian a position."""

    def pooled(self) -> Any:
        return lambda side: np.eye(side * side)

    def resized(self) -> Array:
        at = np.arange(SIDE) // 2
        one = np.eye(SIDE // 2)[at]
        return np.kron(one, one)

    def judge(self, z: Array) -> tuple[float, Array, dict[str, float], float]:
        dims, center = self.w["dims"].astype(int), self.w["center"]
        d = z[:, dims] - center
        pull = np.stack([p @ row for p, row in zip(self.w["precision"], d, strict=True)])
        s = np.sqrt((d * pull).sum(1))
        m = int(s.argmax())
        force = np.zeros(z.shape)
        force[m, dims] = pull[m] / s[m]
        ranked = np.sort(s)
        absorbed = {"center": float(-(pull[m] @ center[m]) / s[m])}
        return float(s[m]), force, absorbed, float(1 - ranked[-2] / ranked[-1])


class SoftNeighbors(Oracle):
    """D2Neighbors on the rows themselves."""

    def __init__(self, net: Any, p: float) -> None:
        self.w, self.p = weights_of(net), p

    def _parts(self, x: Array) -> Array:
        return np.abs(x[:, None] - self.w["bank"]) ** self.p

    def evidence(self, x: Array) -> Array:
        h, g = self._parts(x).sum(-1), float(self.w["stiffness"])
        return -(logsumexp(-g * h) - np.log(h.shape[1])) / g

    def kink(self, x: Array, target: Array | None) -> Array:
        nearest = np.abs(x[:, None] - self.w["bank"]).min((1, 2))
        return nearest if self.p == 1 else np.full(len(x), np.inf)

    def relevance(self, x: Array, target: Array | None) -> Shares:
        parts, g = self._parts(x), float(self.w["stiffness"])
        h = parts.sum(-1)
        received = softmax(-g * h) * self.evidence(x)[:, None]
        here = ~apart(h, x[:, None], self.w["bank"], self.p)
        shares = np.where(here, 0, received / np.where(here, 1, h))
        return Shares(
            np.einsum("nm,nmd->nd", shares, parts),
            {COINCIDENT: (received * here).sum(1)},
        )


class SoftNeighborsOfFeatures(ConvOracle):
    """D2Neighbors on joined maps: patches as one long row."""

    prefix = "network.backbone."

    def judge(self, z: Array) -> tuple[float, Array, dict[str, float], float]:
        bank, g = self.w["bank"], float(self.w["stiffness"])
        row = z.reshape(-1)
        delta = row - bank
        h = (delta**2).sum(1)
        score = float(-(logsumexp(-g * h[None])[0] - np.log(len(h))) / g)
        received = softmax(-g * h[None])[0] * score
        at = apart(h, row, bank)
        pull = (received[at] / h[at])[:, None] * delta[at]
        shares = {"bank": float(-(pull * bank[at]).sum()),
                  COINCIDENT: float(received[~at].sum())}  # fmt: skip
        return score, pull.sum(0).reshape(z.shape), shares, np.inf


def conv_matrix(kernel: Array, side: int, stride: int) -> Array:
    """A 3x3 convolution with padding 1 as a matrix ``(out h' w', in h w)``."""
    c_out, c_in = kernel.shape[:2]
    small = (side + stride - 1) // stride
    matrix = np.zeros((c_out, small, small, c_in, side, side))
    for i in range(small):
        for j in range(small):
            for a in range(3):
                for b in range(3):
                    y, x = i * stride + a - 1, j * stride + b - 1
                    if 0 <= y < side and 0 <= x < side:
                        matrix[:, i, j, :, y, x] = kernel[:, :, a, b]
    return matrix.reshape(c_out * small * small, c_in * side * side)


def average_matrix(side: int) -> Array:
    """The 3x3 average pool with zeros outside."""
    return conv_matrix(np.full((1, 1, 3, 3), 1 / 9), side, 1)


def bilinear_matrix(small: int, large: int) -> Array:
    """Bilinear resizing of a square grid, pixel centres at halves."""
    one = np.zeros((large, small))
    for i in range(large):
        at = max((i + 0.5) * small / large - 0.5, 0)
        low = int(at)
        high = min(low + 1, small - 1)
        one[i, low] += 1 - (at - low)
        one[i, high] += at - low
    return np.kron(one, one)


PLAIN: dict[str, Any] = {"mean": None, "std": None}


def patchcore(options: dict[str, Any], **oracle: Any) -> Subject:
    model = PatchCore(small_backbone(), layers=LAYERS, coreset=40, **PLAIN, **options)
    fitted(model, pictures())
    return deep_subject(model, pictures(), partial(NearestOracle, **oracle))


def padim() -> Subject:
    model = PaDiM(small_backbone(), layers=LAYERS, dims=5, **PLAIN)
    return deep_subject(fitted(model, pictures()), pictures(), GaussianOracle)


def d2neighbors(name: str, p: float) -> Subject:
    data = load_rows(name, jitter=0.1)
    return deep_subject(fitted(D2Neighbors(p=p), data), data, partial(SoftNeighbors, p=p))


def d2neighbors_features() -> Subject:
    model = D2Neighbors(backbone=small_backbone(), layers=LAYERS)
    return deep_subject(fitted(model, pictures()), pictures(), SoftNeighborsOfFeatures)


MEMORY_BANKS: Cases = {
    "patchcore": partial(patchcore, {}),
    "patchcore-neighbors": partial(patchcore, {"neighbors": 3}, k=3),
    "patchcore-softmin": partial(
        patchcore, {"neighbors": 4, "neighbor_stiffness": 3.0}, k=4, stiffness=3.0
    ),
    "patchcore-reweighted": partial(patchcore, {"reweight": 5}, reweight=5),
    "padim": padim,
    "d2neighbors": partial(d2neighbors, "wine", 2.0),
    "d2neighbors-city-block": partial(d2neighbors, "wine", 1.0),
    "d2neighbors-fourth-power": partial(d2neighbors, "breast_cancer", 4.0),
    "d2neighbors-features": d2neighbors_features,
}
