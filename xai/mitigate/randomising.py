"""Retraining with the artefact shown at random, so that it tells nothing of the content."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike
from sklearn.base import BaseEstimator, clone
from torch import nn

from neuralize.encoder import evaluating
from xai.errors import InputError, UnsupportedModelError
from xai.mitigate.given import Array

ENCODED_AT_ONCE = 64


def randomise_artefact(
    rows: ArrayLike,
    entries: ArrayLike,
    content: ArrayLike,
    *,
    usual: ArrayLike | None = None,
    p: float = 0.5,
    rng: np.random.Generator | None = None,
) -> tuple[Array, Array]:
    """Give a share ``p`` of the rows, drawn at random, the artefact, and take it from the others.

    Parameters
    ----------
    rows
        Pictures or rows ``(n, ...)``.
    entries
        Where the artefact lies, boolean, in the shape of a row, or ``(h, w)`` for pictures
        ``(n, c, h, w)``.
    content
        What it looks like, in the shape of a row; or ``(k, ...)``, of which each row gets one.
    usual
        What the other rows hold there from then on, in the shape of a row. When missing they are
        left alone, which is right only if none has the artefact already.
    p
        Share that shows it.
    rng
        A fresh one with seed 0 when missing.

    Returns
    -------
    tuple
        The new rows, and which of them show the artefact ``(n,)``.

    Raises
    ------
    InputError
        Shapes that do not fit, or a share that is not between 0 and 1.

    Examples
    --------
    >>> x = np.zeros((6, 2))
    >>> shown, which = randomise_artefact(x, [False, True], [0.0, 9.0], p=0.5)
    >>> shown[:, 1].tolist() == (9.0 * which).tolist(), int(which.sum())
    (True, 3)
    """
    x = np.asarray(rows)
    where = np.asarray(entries)
    shape = x.shape[1:]
    if where.dtype != bool or not where.any():
        raise InputError(
            f"Expected entries as booleans, some of them true, got {int(where.sum())} of "
            f"{where.dtype}."
        )
    if where.shape != shape and not (where.ndim == 2 and where.shape == shape[-2:]):
        raise InputError(f"Expected entries in the shape of a row, {shape}, got {where.shape}.")
    if not 0 <= p <= 1:
        raise InputError(f"Expected p as a share, got {p}.")
    looks = np.asarray(content)
    looks = looks[None] if looks.shape == shape else looks
    if looks.shape[1:] != shape or not len(looks):
        raise InputError(
            f"Expected content in the shape of a row, {shape}, or several of them, got "
            f"{looks.shape}."
        )
    if usual is not None and np.shape(usual) != shape:
        raise InputError(
            f"Expected usual content in the shape of a row, {shape}, got {np.shape(usual)}."
        )
    rng = np.random.default_rng(0) if rng is None else rng
    which = np.zeros(len(x), dtype=bool)
    which[rng.permutation(len(x))[: round(p * len(x))]] = True
    there = np.broadcast_to(where, shape)
    out = x.copy() if usual is None else np.where(there, np.asarray(usual, x.dtype), x)
    chosen = looks[rng.integers(len(looks), size=int(which.sum()))].astype(x.dtype)
    out[which] = np.where(there, chosen, x[which])
    return out, which


def encoded(features: nn.Module, rows: ArrayLike) -> Array:
    """What an encoder makes of rows ``(n, ...)``: features ``(n, q)``.

    Examples
    --------
    >>> encoded(nn.Flatten(), np.zeros((3, 2, 2))).shape
    (3, 4)
    """
    x = torch.as_tensor(np.asarray(rows))
    kind = next((t.dtype for t in features.parameters() if t.is_floating_point()), None)
    x = x if kind is None else x.to(kind)
    with torch.no_grad(), evaluating(features):
        parts = [features(part) for part in x.split(ENCODED_AT_ONCE)]
    found: Array = torch.cat(parts).numpy()
    return found


def refit(model: Any, rows: ArrayLike, y: Any = None, *, features: nn.Module | None = None) -> Any:
    """A copy of the model, with the same settings, fitted to other rows.

    Parameters
    ----------
    model
        A scikit-learn or PyOD estimator, or a detector of :mod:`neuralize.deep`; left as it is.
    rows
        ``(n, ...)``; this package's detectors get pictures as they are, other models flat.
    y
        Labels, for models that take some.
    features
        Encoder below the model.

    Raises
    ------
    UnsupportedModelError
        Something that cannot be fitted again: a network, an array.

    Examples
    --------
    >>> from sklearn.cluster import KMeans
    >>> fitted = KMeans(2, n_init=1, random_state=0).fit([[0.0], [1.0]])
    >>> sorted(refit(fitted, [[4.0], [7.0]]).cluster_centers_.ravel().tolist())
    [4.0, 7.0]
    """
    from neuralize.deep import DeepDetector, Ensemble

    if not isinstance(model, BaseEstimator) and not hasattr(model, "get_params"):
        raise UnsupportedModelError(
            f"Expected a model that can be fitted again (scikit-learn, PyOD, neuralize.deep), got "
            f"{type(model).__name__}."
        )
    x = np.asarray(rows) if features is None else encoded(features, rows)
    pictures = isinstance(model, DeepDetector | Ensemble)
    fresh = clone(model)
    if y is None:
        return fresh.fit(x if pictures else x.reshape(len(x), -1))
    return fresh.fit(x if pictures else x.reshape(len(x), -1), y)
