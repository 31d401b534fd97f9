"""Heads: what makes an encoder decide, fitted on its features.

An encoder gives features and decides nothing, so that there is nothing to audit until a head is
fitted on them: clusters, distances to what is usual, or similarity.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import ArrayLike
from sklearn.cluster import KMeans
from torch import Tensor, nn
from tqdm import tqdm

from neuralize import Neuralized, neuralize
from neuralize.encoder import evaluating
from neuralize.errors import InputError
from xai.encoder import Encoder
from xai.feature_maps import feature_maps, middle_layers
from xai.relevance import Array

HEADS = ("kmeans", "patchcore", "d2neighbors", "similarity")
DEFAULT = "kmeans:10"
CLUSTERS = 10

INPUTS_AT_ONCE = 2**20
"""Input numbers encoded together."""

EXPLAINED_AT_ONCE = 2**20
"""Input numbers explained together, whose activations are all kept: about a gigabyte."""

PATCHES = 50_000
"""Patches that PatchCore chooses its bank from; pictures beyond are left out at random."""

BANK = 0.05
"""Share of these patches in the bank."""

NEIGHBORS = 2_000
"""Rows that D2Neighbors keeps; rows beyond are left out at random."""


class UnitLength(nn.Module):
    """Features over their norms, which an explanation holds constant: dot products are cosines."""

    def __init__(self, encoder: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, x: Tensor) -> Tensor:
        """Features ``(n, q)`` of length one."""
        return F.normalize(self.encoder(x), dim=1)


def fit_head(
    encoder: Encoder,
    x_fit: ArrayLike,
    kind: str = DEFAULT,
    labels: ArrayLike | None = None,
    seed: int = 0,
    device: torch.device | str = "cpu",
) -> Neuralized:
    """A network that decides by the features of ``encoder``.

    Parameters
    ----------
    encoder
        Kept as it is.
    x_fit
        What to fit on: pictures ``(n, c, h, w)`` or rows ``(n, d)``; other than what is audited.
    kind
        ``"kmeans:K"``: the nearest of ``K`` centroids. ``"similarity:K"``: the same by cosine,
        centroids of the ``labels`` where there are some, else of spherical k-means.
        ``"d2neighbors"``: distances to the rows it was fitted on. ``"patchcore"``: distances of
        patches to those it was fitted on; ``"patchcore:LAYER,LAYER"`` names the layers of the
        network, else the last of the second and third coarsest resolutions.
    labels
        Class of every row ``(n,)``, for ``similarity``.
    seed
        Of everything random.
    device
        Where features are computed and the network will live.

    Raises
    ------
    InputError
        An unknown head, too few rows, or an encoder without what the head needs.

    Examples
    --------
    >>> encoder = Encoder(nn.Flatten(), "pixels")
    >>> x = np.random.default_rng(0).random((40, 3, 4, 4), dtype=np.float32)
    >>> net = fit_head(encoder, x, "kmeans:3")
    >>> net.kind, net(torch.from_numpy(x)).shape
    ('cluster', torch.Size([40, 3]))
    """
    head, _, option = kind.partition(":")
    if head not in HEADS:
        raise InputError(f"Expected a head of {', '.join(HEADS)} (kmeans:10), got {kind!r}.")
    x = np.asarray(x_fit, np.float32)
    if len(x) < 3:
        raise InputError(f"Expected at least 3 rows to fit a head on, got {len(x)}.")
    if head == "patchcore":
        net = _patchcore(encoder, x, option, seed)
    elif head == "d2neighbors":
        net = _d2neighbors(encoder, x, option, seed)
    else:
        encoder = encoder.to(device)
        if head == "kmeans":
            net = _kmeans(encoder, x, _count(kind, option), seed)
        else:
            net = _similarity(encoder, x, option, kind, labels, seed)
    net.model_name = f"{encoder.name} with {kind}"
    net.encoder_rows = max(1, min(net.encoder_rows, EXPLAINED_AT_ONCE // x[0].size))
    return net.to(torch.device(device))


def features_of(encoder: nn.Module, x: Array) -> Array:
    """Features ``(n, q)`` of pictures or rows, float32, in chunks.

    Raises
    ------
    InputError
        Features that are not finite, or not the same number for all rows.
    """
    device = next((p.device for p in encoder.parameters()), torch.device("cpu"))
    at_once = max(1, INPUTS_AT_ONCE // max(1, x[0].size))
    found: Array | None = None
    with torch.no_grad(), evaluating(encoder):
        for start in tqdm(range(0, len(x), at_once), delay=2, desc="features"):
            part = torch.from_numpy(np.ascontiguousarray(x[start : start + at_once]))
            phi = encoder(part.to(device)).cpu().numpy()
            if found is None:
                found = np.empty((len(x), *phi.shape[1:]), np.float32)
            found[start : start + at_once] = phi
    assert found is not None
    if found.ndim != 2 or not np.isfinite(found).all():
        raise InputError(f"The encoder's features are not finite, or of shape {found.shape}.")
    return found


def _count(kind: str, option: str) -> int:
    if not option:
        return CLUSTERS
    if not option.isdecimal() or int(option) < 2:
        raise InputError(f"Expected a number of clusters from 2 on, like kmeans:10, got {kind!r}.")
    return int(option)


def _kmeans(encoder: Encoder, x: Array, k: int, seed: int) -> Neuralized:
    phi = features_of(encoder, x)
    return neuralize(_clusters(phi, k, seed), encoder, data=phi)


def _clusters(phi: Array, k: int, seed: int) -> KMeans:
    different = len(np.unique(phi, axis=0))
    if different < k:
        raise InputError(
            f"Expected at least {k} rows with different features for {k} clusters, got {different} "
            f"among the {len(phi)} that the head is fitted on."
        )
    return KMeans(k, n_init=4, random_state=seed).fit(phi)


def _similarity(
    encoder: Encoder, x: Array, option: str, kind: str, labels: ArrayLike | None, seed: int
) -> Neuralized:
    unit = UnitLength(encoder)
    phi = features_of(unit, x)
    if labels is None:
        k = _count(kind, option)
        centroids, centre = spherical_kmeans(phi, k, seed), "centroid"
    else:
        if option:
            raise InputError(f"{kind!r}: the labels say how many classes there are.")
        classes, number = np.unique(np.asarray(labels), return_inverse=True)
        if len(classes) < 2:
            raise InputError("Expected at least two classes among the labels, got one.")
        centroids, centre = _directions(phi, number, len(classes)), "class"
    net = neuralize(centroids, unit, data=phi)
    net.evidence_name = f"twice the cosine to its own {centre} minus that to the next"
    return net


def spherical_kmeans(phi: Array, k: int, seed: int, steps: int = 100) -> Array:
    """Directions ``(k, q)`` such that rows ``(n, q)`` of length one lie close to one of them.

    Starts from k-means; then each row goes to the direction of the largest cosine, and each
    direction is the normalised mean of its rows (Dhillon and Modha, 2001).

    Examples
    --------
    >>> sorted(spherical_kmeans(np.eye(2)[[0, 0, 1, 1]], 2, seed=0).tolist())
    [[0.0, 1.0], [1.0, 0.0]]
    """
    number = _clusters(phi, k, seed).labels_
    for _ in range(steps):
        directions = _directions(phi, number, k)
        nearest = (phi @ directions.T).argmax(1)
        if np.array_equal(nearest, number) or len(np.unique(nearest)) < k:
            break
        number = nearest
    return directions


def _directions(phi: Array, number: Array, k: int) -> Array:
    """Normalised mean of the rows of every cluster ``(k, q)``."""
    sums = np.zeros((k, phi.shape[1]))
    np.add.at(sums, number, phi)
    norms = np.linalg.norm(sums, axis=1, keepdims=True)
    if not (norms > 0).all():
        raise InputError("The features of a class cancel out, so that it has no direction.")
    directions: Array = sums / norms
    return directions


def _d2neighbors(encoder: Encoder, x: Array, option: str, seed: int) -> Neuralized:
    from neuralize.deep import D2Neighbors

    if option:
        raise InputError(f"d2neighbors takes no option, got {option!r}.")
    return neuralize(D2Neighbors(backbone=encoder).fit(_some(x, NEIGHBORS, seed)))


def _patchcore(encoder: Encoder, x: Array, option: str, seed: int) -> Neuralized:
    from neuralize.deep import PatchCore

    if x.ndim != 4:
        raise InputError(f"patchcore takes pictures (n, c, h, w), got shape {x.shape}.")
    found = feature_maps(encoder, x)
    layers = (
        [name.strip() for name in option.split(",")] if option else middle_layers(found, encoder)
    )
    places = [found[name][0] * found[name][1] for name in layers if name in found]
    pictures = max(3, PATCHES // max(places, default=1))
    detector = PatchCore(
        encoder,
        layers=[f"network.{name}" for name in layers],
        coreset=BANK,
        mean=None,
        std=None,
        seed=seed,
    )
    net = neuralize(detector.fit(_some(x, pictures, seed)))
    net.evidence_name += f" (layers {', '.join(layers)})"
    return net


def _some(x: Array, most: int, seed: int) -> Array:
    """At most so many rows, drawn at random."""
    if len(x) <= most:
        return x
    rows = np.random.default_rng(seed).choice(len(x), most, replace=False)
    some: Array = x[np.sort(rows)]
    return some
