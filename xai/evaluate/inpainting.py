"""Harmonic inpainting: removed pixels become the smoothest picture that fits the kept ones."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

TOLERANCE = 1e-8
"""Norm of the residual at which a solution is taken, relative to the largest pixel value."""


def harmonic_inpainting(pictures: Array, removed: Array, start: Array | None = None) -> Array:
    r"""Solve Laplace's equation on the removed pixels, with the kept ones as boundary values.

    Every removed pixel becomes the mean of its neighbours above, below, left and right (those that
    exist), with ``M`` the removed pixels:

    .. math:: \deg(p) \, u_p - \sum_{q \sim p, q \in M} u_q = \sum_{q \sim p, q \notin M} x_q.

    The matrix is positive definite as soon as one pixel is kept; all pictures are solved together
    by conjugate gradients with the degree as preconditioner.

    Parameters
    ----------
    pictures
        ``(n, h, w, channels)``.
    removed
        Boolean ``(n, h, w)``; at least one pixel of every picture kept.
    start
        First guess ``(n, h, w, channels)``, e.g. the solution for fewer removed pixels.

    Returns
    -------
    Array
        The pictures ``(n, h, w, channels)`` with removed pixels filled in.

    Raises
    ------
    ValueError
        A picture with nothing kept, for which the equation has no unique solution.

    Examples
    --------
    >>> row = np.array([0.0, 9.0, 9.0, 3.0]).reshape(1, 1, 4, 1)
    >>> removed = np.array([[[False, True, True, False]]])
    >>> harmonic_inpainting(row, removed).ravel().round(6).tolist()
    [0.0, 1.0, 2.0, 3.0]
    """
    if removed.all(axis=(1, 2)).any():
        raise ValueError("Expected at least one kept pixel in every picture.")
    n, h, w, channels = pictures.shape
    # Every channel is a picture of its own, (n * channels, h, w).
    x = np.moveaxis(pictures, 3, 1).reshape(-1, h, w)
    mask = np.repeat(removed, channels, axis=0)
    # By the whole picture, not by what is kept of it: that may be black, and the limit zero.
    largest = np.abs(x).max(axis=(1, 2))
    u = x
    if start is not None:
        u = np.moveaxis(start, 3, 1).reshape(-1, h, w)
        largest = np.maximum(largest, np.abs(u).max(axis=(1, 2)))
    limit = ((TOLERANCE * largest) ** 2)[:, None, None]
    inside = mask.astype(x.dtype)
    degree = _neighbor_sum(np.ones((1, h, w)))
    weight = 1.0 / np.maximum(degree, 1.0)
    u = np.where(mask, u, x)
    residual = (_neighbor_sum(u) - degree * u) * inside
    direction = residual * weight
    energy = _dot(residual, direction)
    while (_dot(residual, residual) > limit).any():
        image = degree * direction - _neighbor_sum(direction)
        image *= inside
        length = _ratio(energy, _dot(direction, image))
        u += length * direction
        image *= length
        residual -= image
        scaled = residual * weight
        before, energy = energy, _dot(residual, scaled)
        direction *= _ratio(energy, before)
        direction += scaled
    return np.moveaxis(u.reshape(n, channels, h, w), 1, 3)


def _neighbor_sum(u: Array) -> Array:
    total = np.zeros_like(u)
    total[:, 1:] += u[:, :-1]
    total[:, :-1] += u[:, 1:]
    total[:, :, 1:] += u[:, :, :-1]
    total[:, :, :-1] += u[:, :, 1:]
    return total


def _dot(a: Array, b: Array) -> Array:
    product: Array = np.einsum("nhw,nhw->n", a, b)[:, None, None]
    return product


def _ratio(a: Array, b: Array) -> Array:
    # A picture that has converged to the last digit has nothing left to divide.
    return np.divide(a, b, out=np.zeros_like(a), where=b != 0)
