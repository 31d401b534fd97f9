"""Fifteen corruptions of grey pictures, as anomalies whose truth is known pixel by pixel.

The list is that of MNIST-C (Mu, Gilmer. MNIST-C: a robustness benchmark for computer vision,
arXiv 1906.02337); the operations are written from their definitions, with strengths of their own.
Lengths are shares of the picture's side, so other sizes than 28 x 28 work. The truth of an anomaly
is :func:`difference`, ``(clean - corrupted)^2``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from xai.corruptions.blur import glass_blur, motion_blur
from xai.corruptions.geometry import rotate, scale, shear, translate
from xai.corruptions.marks import dotted_line, stripe, zigzag
from xai.corruptions.noise import impulse_noise, shot_noise
from xai.corruptions.tone import brightness, canny_edges
from xai.corruptions.weather import fog, spatter
from xai.errors import InputError

Array = NDArray[Any]
Corruption = Callable[[Array, int, np.random.Generator], Array]

CORRUPTIONS: dict[str, Corruption] = {
    "shot_noise": shot_noise,
    "impulse_noise": impulse_noise,
    "glass_blur": glass_blur,
    "motion_blur": motion_blur,
    "shear": shear,
    "scale": scale,
    "rotate": rotate,
    "brightness": brightness,
    "translate": translate,
    "stripe": stripe,
    "fog": fog,
    "spatter": spatter,
    "dotted_line": dotted_line,
    "zigzag": zigzag,
    "canny_edges": canny_edges,
}
"""All corruptions by name, each ``(picture, severity, generator) -> picture``."""

SEVERITIES = (1, 2, 3, 4, 5)
SMALLEST = 8
"""Sides below which a line or a blur has no room."""


def corrupt(images: ArrayLike, name: str, *, severity: int = 3, seed: int = 0) -> Array:
    """Corrupted copies of pictures.

    Parameters
    ----------
    images
        ``(n, h, w)``, grey from 0 to 1, at least 8 x 8; left as they are.
    name
        One of :data:`CORRUPTIONS`.
    severity
        From 1 (slight) to 5.
    seed
        Row ``i`` is drawn with ``(seed, i)``, so that batches do not matter.

    Returns
    -------
    Array
        ``(n, h, w)``, float64 from 0 to 1.

    Raises
    ------
    InputError
        An unknown corruption or severity, pictures of another shape or range.

    Examples
    --------
    >>> clean = np.full((2, 8, 8), 0.5)
    >>> dark = corrupt(clean, "impulse_noise", seed=1)
    >>> dark.shape, sorted(set(dark.ravel().tolist())), bool((clean == 0.5).all())
    ((2, 8, 8), [0.0, 0.5, 1.0], True)
    """
    if name not in CORRUPTIONS:
        raise InputError(f"Expected one of {', '.join(map(repr, CORRUPTIONS))}, got {name!r}.")
    if severity not in SEVERITIES:
        raise InputError(f"Expected a severity of 1, 2, 3, 4 or 5, got {severity!r}.")
    if seed < 0:
        raise InputError(f"Expected a seed >= 0, got {seed}.")
    clean = np.asarray(images, dtype=np.float64)
    if clean.ndim != 3 or min(clean.shape[1:]) < SMALLEST:
        raise InputError(
            f"Expected grey pictures (n, h, w) of at least {SMALLEST} x {SMALLEST}, got shape "
            f"{clean.shape}."
        )
    if not ((clean >= 0) & (clean <= 1)).all():
        raise InputError(
            "Expected grey values from 0 to 1, got "
            f"{np.nanmin(clean, initial=0):.4g} to {np.nanmax(clean, initial=0):.4g} or NaN. "
            "Divide 8-bit pictures by 255."
        )
    change = CORRUPTIONS[name]
    corrupted = [
        change(picture.copy(), severity, np.random.default_rng((seed, row)))
        for row, picture in enumerate(clean)
    ]
    return np.clip(np.stack(corrupted), 0.0, 1.0) if corrupted else clean.copy()


def difference(clean: ArrayLike, corrupted: ArrayLike) -> Array:
    """Where a corruption acted: ``(clean - corrupted)^2``, of the pictures' shape.

    Raises
    ------
    InputError
        Shapes that differ.

    Examples
    --------
    >>> difference([[0.0, 1.0]], [[0.0, 0.5]]).tolist()
    [[0.0, 0.25]]
    """
    a, b = np.asarray(clean, dtype=np.float64), np.asarray(corrupted, dtype=np.float64)
    if a.shape != b.shape:
        raise InputError(f"Expected pictures of one shape, got {a.shape} and {b.shape}.")
    squared: Array = (a - b) ** 2
    return squared


__all__ = ["CORRUPTIONS", "SEVERITIES", "Corruption", "corrupt", "difference"]
