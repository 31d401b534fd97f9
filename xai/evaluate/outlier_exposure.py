r"""How few outliers suffice, and what in them: outlier exposure by size and by frequency.

Liznerski, Ruff, Vandermeulen, Franks, Mueller, Kloft. Exposing Outlier Exposure: What Can Be
Learned From Few, One, and Zero Outlier Images (TMLR 2022, arXiv 2205.11474). A detector is trained
anew on the same normal rows with 1, 2, 4, ... outliers; or with outliers whose fine structure is
taken away: of an image's frequencies, in cycles per pixel, only those below a cut-off are kept,

- ``"dct"``: all coefficients of the discrete cosine transform with
  :math:`\sqrt{(u/2h)^2 + (v/2w)^2} \le f`, and no others;
- ``"gaussian"``: a blur of :math:`\sigma = \sqrt{\ln 2 / 2} / (\pi f)` pixels, which halves the
  amplitude at :math:`f`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any, Literal, get_args

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy.fft import dctn, idctn
from scipy.ndimage import gaussian_filter
from sklearn.base import clone
from sklearn.metrics import roc_auc_score
from tqdm import tqdm

from neuralize.deep import Training
from xai.errors import InputError

Array = NDArray[Any]
Filter = Literal["dct", "gaussian"]


def few_outliers(
    detector: Any,
    normals: ArrayLike,
    outliers: ArrayLike,
    x_test: ArrayLike,
    y_test: ArrayLike,
    *,
    sizes: Sequence[int] | None = None,
    repeats: int = 3,
    seed: int = 0,
    progress: bool = True,
) -> pd.DataFrame:
    """AUROC of a detector that is trained with few outliers, by their number.

    Repeat ``r`` draws an order of the outliers, and size ``k`` takes its first ``k``: larger sets
    contain the smaller ones, and every detector given the same seed sees the same sets. The
    training's own seed moves on with the repeat.

    Parameters
    ----------
    detector
        Unfitted, with ``fit(X, y)``, ``y`` 0 normal and 1 outlier; cloned for every training.
    normals, outliers
        Training rows ``(n, ...)`` and ``(m, ...)``.
    x_test, y_test
        Rows the AUROC is measured on, and whether each is anomalous.
    sizes
        Numbers of outliers; powers of two up to ``m``, and ``m``, when missing.
    repeats
        Trainings per size.
    seed
        Of the orders.
    progress
        Whether to show a bar when it takes longer than two seconds.

    Returns
    -------
    DataFrame
        One line per ``size``: ``mean`` and ``sem`` (standard error over the repeats, NaN if there
        is one) of the AUROC, and ``repeats``.

    Raises
    ------
    InputError
        Sizes there are not enough outliers for, or labels of one kind.

    Examples
    --------
    >>> from neuralize.deep import HypersphereClassifier
    >>> rng = np.random.default_rng(0)
    >>> normals, outliers = rng.normal(size=(40, 3)), rng.normal(0, 4, (5, 3))
    >>> x = np.concatenate([rng.normal(size=(20, 3)), rng.normal(0, 4, (20, 3))])
    >>> detector = HypersphereClassifier(training=Training(epochs=2, batch_size=20))
    >>> table = few_outliers(detector, normals, outliers, x, [0] * 20 + [1] * 20, repeats=2)
    >>> table.index.tolist(), table.columns.tolist()
    ([1, 2, 4, 5], ['mean', 'sem', 'repeats'])
    """
    outliers = np.asarray(outliers)
    chosen = _sizes(len(outliers)) if sizes is None else list(sizes)
    if not chosen or min(chosen) < 1 or max(chosen) > len(outliers):
        raise InputError(
            f"Expected sizes between 1 and the {len(outliers)} outliers there are, got {chosen}."
        )
    orders = [np.random.default_rng(seed + r).permutation(len(outliers)) for r in range(repeats)]
    sets = {size: [outliers[order[:size]] for order in orders] for size in chosen}
    return _table("size", sets, detector, normals, x_test, y_test, progress)


def low_pass_ablation(
    detector: Any,
    normals: ArrayLike,
    outliers: ArrayLike,
    x_test: ArrayLike,
    y_test: ArrayLike,
    *,
    cutoffs: Sequence[float] = (0.02, 0.05, 0.1, 0.2, math.inf),
    kind: Filter = "dct",
    repeats: int = 3,
    progress: bool = True,
) -> pd.DataFrame:
    """AUROC of a detector whose outliers are low-pass filtered before training, by cut-off.

    Normal and test images stay as they are. Where the AUROC falls with the cut-off, it was the
    fine structure of the outliers that taught the detector.

    Parameters
    ----------
    detector, normals, outliers, x_test, y_test, progress
        As in :func:`few_outliers`; images ``(n, h, w)`` or ``(n, c, h, w)``.
    cutoffs
        Frequencies in cycles per pixel; infinity leaves the outliers alone.
    kind
        ``"dct"`` or ``"gaussian"``, see :func:`low_pass`.
    repeats
        Trainings per cut-off, with other seeds.

    Returns
    -------
    DataFrame
        One line per ``cutoff``, as in :func:`few_outliers`.
    """
    sets = {cutoff: [low_pass(outliers, cutoff, kind)] * repeats for cutoff in cutoffs}
    return _table("cutoff", sets, detector, normals, x_test, y_test, progress)


def low_pass(images: ArrayLike, cutoff: float, kind: Filter = "dct") -> Array:
    """Images without their frequencies above ``cutoff`` cycles per pixel.

    Not clipped to the range they had: that would bring fine structure back.

    Parameters
    ----------
    images
        ``(n, h, w)`` or ``(n, c, h, w)``.
    cutoff
        Cycles per pixel, above 0; 0.5 is one dark, one bright; infinity changes nothing.
    kind
        ``"dct"``: none beyond is left. ``"gaussian"``: half of the amplitude at the cut-off.

    Raises
    ------
    InputError
        Something other than images, a cut-off that is not positive, an unknown kind.

    Examples
    --------
    >>> stripes = np.tile([0.0, 1.0], (1, 4, 2))
    >>> low_pass(stripes, 0.1).round(3)[0, 0].tolist()
    [0.5, 0.5, 0.5, 0.5]
    """
    x = np.asarray(images, dtype=np.float64)
    if x.ndim not in (3, 4):
        raise InputError(f"Expected images (n, h, w) or (n, c, h, w), got shape {x.shape}.")
    if kind not in get_args(Filter):
        raise InputError(f"Expected kind 'dct' or 'gaussian', got {kind!r}.")
    if not cutoff > 0:
        raise InputError(f"Expected a cut-off above 0 cycles per pixel, got {cutoff}.")
    if kind == "gaussian":
        sigma = math.sqrt(math.log(2) / 2) / (math.pi * cutoff)
        smooth: Array = gaussian_filter(x, (0,) * (x.ndim - 2) + (sigma, sigma))
        return smooth
    h, w = x.shape[-2:]
    frequency = np.hypot(np.arange(h)[:, None] / (2 * h), np.arange(w) / (2 * w))
    kept: Array = idctn(
        dctn(x, axes=(-2, -1), norm="ortho") * (frequency <= cutoff), axes=(-2, -1), norm="ortho"
    )
    return kept


def exposed_auroc(
    detector: Any,
    normals: ArrayLike,
    outliers: ArrayLike,
    x_test: ArrayLike,
    y_test: ArrayLike,
    *,
    repeat: int = 0,
) -> float:
    """AUROC of a clone of the detector, trained on these normal rows and these outliers.

    ``repeat`` is added to the training's seed.
    """
    a, b = np.asarray(normals), np.asarray(outliers)
    if a.shape[1:] != b.shape[1:]:
        raise InputError(
            f"Expected outliers of the normal rows' shape {a.shape[1:]}, got {b.shape[1:]}."
        )
    truth = np.asarray(y_test).astype(bool)
    if truth.all() or not truth.any():
        raise InputError("Expected test rows of both kinds, got labels of one.")
    model = clone(detector)
    training = getattr(model, "training", None)
    if isinstance(training, Training):
        model.set_params(training=replace(training, seed=training.seed + repeat))
    model.fit(np.concatenate([a, b]), np.repeat([0, 1], [len(a), len(b)]))
    return float(roc_auc_score(truth, model.decision_function(x_test)))


def _table(
    name: str,
    sets: dict[Any, list[Array]],
    detector: Any,
    normals: ArrayLike,
    x_test: ArrayLike,
    y_test: ArrayLike,
    progress: bool,
) -> pd.DataFrame:
    runs = [(key, r, rows) for key, repeats in sets.items() for r, rows in enumerate(repeats)]
    if not runs:
        raise InputError(f"Expected at least one {name} and one repeat, got none.")
    bar: Iterable[Any] = tqdm(runs, delay=2, disable=not progress, desc=f"AUROC by {name}")
    areas = [exposed_auroc(detector, normals, rows, x_test, y_test, repeat=r) for _, r, rows in bar]
    areas_of = pd.Series(areas, pd.Index([key for key, _, _ in runs], name=name)).groupby(level=0)
    return pd.DataFrame(
        {"mean": areas_of.mean(), "sem": areas_of.sem(), "repeats": areas_of.count()}
    )


def _sizes(m: int) -> list[int]:
    return sorted({2**k for k in range(m.bit_length()) if 2**k <= m} | {m})
