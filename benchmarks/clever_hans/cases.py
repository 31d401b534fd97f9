"""Cases: a model fitted on data with a planted artefact, other data to audit, and the truth."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from artefacts import ACQUIRED, PLACED
from models import MODELS, shallow
from sklearn.cluster import KMeans
from sklearn.datasets import load_breast_cancer, load_digits, load_wine
from sklearn.mixture import GaussianMixture
from sklearn.neighbors import KernelDensity
from sklearn.svm import OneClassSVM
from torch import Tensor, nn

from neuralize import Neuralized
from xai.datasets import fashion_mnist

Array = np.ndarray

N_FIT, N_AUDIT = 600, 500
ANOMALIES = 0.2
LEAST = 0.05
"""An artefact has to be found if it changes the decision of more than this share of the rows."""


@dataclass(frozen=True)
class Case:
    """What is audited, and what is to be found.

    Attributes
    ----------
    net, data, labels
        Passed to the audit.
    sites
        Where every row comes from, if the artefact comes from a device; else None.
    carries
        Which audited rows have the artefact ``(n,)``.
    place
        Where it is ``(h, w)``; None for one without a place.
    column
        The leaking column; None elsewhere.
    effect
        Share of the audited rows whose decision changes if they lose, or get, the artefact: the
        planting undone exactly, not what the audit makes of it.
    """

    net: Neuralized
    data: Array
    labels: Array
    sites: Array | None
    carries: Array
    place: Array | None
    column: int | None
    effect: float


class Blank(nn.Module):
    """Sees a place as grey."""

    keep: Tensor

    def __init__(self, place: Array) -> None:
        super().__init__()
        self.register_buffer("keep", torch.from_numpy(~place).float())

    def forward(self, x: Tensor) -> Tensor:
        return x * self.keep


class Coarse(nn.Module):
    """Sees blocks of four by four pixels."""

    def forward(self, x: Tensor) -> Tensor:
        small = nn.functional.avg_pool2d(x, 4)
        return nn.functional.interpolate(small, scale_factor=4.0, mode="nearest")


class RedOnly(nn.Module):
    """Sees one channel."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([x[:, :1]] * 3, 1)


def pictures(coloured: bool, shared: Path | None, seed: int) -> tuple[Array, Array]:
    """Pictures ``(n, h, w, c)`` of four classes drawn at random, and their names."""
    rng = np.random.default_rng(seed)
    if coloured:
        assert shared is not None
        with np.load(shared / "cifar10_test2000" / "cifar10_test2000.npz") as z:
            x, y, names = z["x"], z["y"], z["classes"]
        x = (x if x.shape[-1] == 3 else np.moveaxis(x, 1, -1)) / 255.0
    else:
        clothes = fashion_mnist("train")
        x, y, names = clothes.images[..., None], clothes.labels, np.array(clothes.classes)
    classes = rng.choice(10, 6 if coloured else 4, replace=False)
    rows = rng.permutation(np.flatnonzero(np.isin(y, classes)))
    # The first class is the normal one of detectors, and the one that has the artefact.
    rank = np.argsort(classes)[np.searchsorted(np.sort(classes), y[rows])]
    return x[rows], np.array([f"{r} {names[c]}" for r, c in zip(rank, y[rows], strict=True)])


def picture_case(
    model: str,
    artefact: str | None,
    strong: bool,
    share: float,
    seed: int,
    *,
    ignored: bool = False,
    shared: Path | None = None,
) -> Case:
    """One case with pictures; without an artefact a clean control."""
    recipe = MODELS[model]
    rng = np.random.default_rng(seed)
    x, y = pictures(recipe.coloured, shared, seed)
    normal = np.char.startswith(y, "0 ")
    if recipe.outlier:
        first, rest = np.flatnonzero(normal), np.flatnonzero(~normal)
        half = len(first) // 2
        fit, outliers = first[:half][:N_FIT], rest[: len(rest) // 2][:N_FIT]
        odd = rest[len(rest) // 2 :][: round(ANOMALIES * half)]
        looked = rng.permutation(np.concatenate([first[half:], odd]))[:N_AUDIT]
    else:
        fit, looked = np.arange(len(x))[:N_FIT], np.arange(len(x))[N_FIT:][:N_AUDIT]
        outliers = fit[:0]
    planted = x
    place = None
    if artefact is not None:
        made = {**PLACED, **ACQUIRED}[artefact](x, strong, rng)
        planted, place = made.pictures, made.place
    # A shortcut: mostly in the first class, now and then elsewhere.
    chance = np.where(normal, share, share / 5)
    carries = (rng.random(len(x)) < chance) & (artefact is not None)
    kept = np.where(carries[:, None, None, None], planted, x).astype(np.float32)
    other = np.where(carries[:, None, None, None], x, planted).astype(np.float32)
    front: nn.Module | None = None
    if ignored:
        front = Blank(place) if place is not None else Coarse()
        front = RedOnly() if artefact == "colour cast" else front
    net = recipe.fit(_first(kept[fit]), _first(x[outliers]), y[fit], front, seed)
    data = _first(kept[looked])
    sites = None
    if artefact in ACQUIRED:
        sites = np.where(carries[looked], "site B", "site A")
    return Case(
        net,
        data,
        y[looked],
        sites,
        carries[looked],
        place,
        None,
        0.0 if artefact is None else _changed(net, data, _first(other[looked])),
    )


def _first(x: Array) -> Array:
    """Channels first, as networks have them."""
    return np.ascontiguousarray(np.moveaxis(x, -1, 1), dtype=np.float32)


def _changed(net: Neuralized, data: Array, other: Array) -> float:
    """Share of rows with another decision on the other data."""
    with torch.no_grad():
        before, after = (net(torch.from_numpy(d)).numpy() for d in (data, other))
    if net.kind != "outlier":
        return float((before.argmax(1) != after.argmax(1)).mean())
    threshold = net.threshold
    if threshold is None:
        threshold = np.quantile(before, 0.9)
    return float(((before > threshold) != (after > threshold)).mean())


# -- tables ---------------------------------------------------------------------------------------

TABLES: dict[str, Callable[[], object]] = {
    "wine": load_wine,
    "breast cancer": load_breast_cancer,
    "digits": load_digits,
}

USUAL = 0.9
"""Columns with the same value in more of the rows are left out."""

TABLE_MODELS: dict[str, tuple[Callable[..., Neuralized], bool]] = {
    "k-means": (
        shallow(lambda x, s: KMeans(4, n_init=3, random_state=s), torch.float64),
        False,
    ),
    # With the default 1e-6, components collapse onto columns that are constant within them.
    "GMM": (
        shallow(
            lambda x, s: GaussianMixture(3, covariance_type="diag", reg_covar=0.01, random_state=s),
            torch.float64,
        ),
        False,
    ),
    "KDE": (shallow(lambda x, s: KernelDensity(bandwidth=1.0), torch.float64), True),
    "OC-SVM": (shallow(lambda x, s: OneClassSVM(nu=0.1, gamma="scale"), torch.float64), True),
}


def table_case(
    model: str, table: str, artefact: str | None, strong: bool, seed: int, *, ignored: bool = False
) -> Case:
    """One case with a table: a column that gives the label away, or a batch that is off."""
    rng = np.random.default_rng(seed)
    data = TABLES[table]()
    x, y = np.asarray(data.data, np.float64), np.asarray(data.target)
    rows = rng.permutation(len(x))[:1000]
    x, y = x[rows], y[rows]
    # Scaled to unit variance, a column that hardly varies is an artefact of its own.
    x = x[:, [np.unique(column, return_counts=True)[1].max() <= USUAL * len(x) for column in x.T]]
    x = (x - x.mean(0)) / x.std(0)
    carries = np.zeros(len(x), dtype=bool)
    column, other = None, x
    planted = x
    if artefact == "leaking column":
        code = (y - y.mean()) / y.std()
        leak = (3.0 if strong else 1.5) * code + 0.05 * rng.normal(size=len(x))
        planted, other = np.column_stack([x, leak]), np.column_stack([x, rng.permutation(leak)])
        column = x.shape[1]
        carries[:] = True
    elif artefact == "batch offset":
        carries = rng.random(len(x)) < 0.4
        offset = (2.0 if strong else 1.0) * rng.choice([-1, 1], x.shape[1])
        offset[rng.random(x.shape[1]) < 0.5] = 0
        planted = x + carries[:, None] * offset
        other = x + ~carries[:, None] * offset
    half = len(x) // 2
    make = TABLE_MODELS[model][0]
    keep = np.ones(planted.shape[1])
    if ignored and column is not None:
        keep[column] = 0
    if ignored and artefact == "batch offset":
        keep = (offset == 0).astype(float)
    seen = Columns(keep)
    first, audited = planted[:half], planted[half:]  # in float64, as tables are
    net = make(first, first[:0], first[:0], seen if ignored else None, seed)
    return Case(
        net,
        audited,
        y[half:],
        np.where(carries[half:], "batch B", "batch A") if artefact == "batch offset" else None,
        carries[half:],
        None,
        column,
        0.0 if artefact is None else _changed(net, audited, other[half:]),
    )


class Columns(nn.Module):
    """Sees some columns, the others as zeros."""

    keep: Tensor

    def __init__(self, keep: Array) -> None:
        super().__init__()
        self.register_buffer("keep", torch.from_numpy(keep).double())

    def forward(self, x: Tensor) -> Tensor:
        return x * self.keep
