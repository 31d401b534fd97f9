"""Real images that ship with the package, and a mark to plant in them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import as_file, files
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike

from xai.errors import InputError
from xai.relevance import Array

Corner = Literal["top left", "top right", "bottom left", "bottom right"]
CORNERS: tuple[Corner, ...] = ("top left", "top right", "bottom left", "bottom right")


@dataclass(frozen=True, eq=False)
class Images:
    """Grey pictures with their classes.

    Attributes
    ----------
    images
        ``(n, h, w)``, grey from 0 to 1, float64.
    labels
        Class of every picture ``(n,)``, a number.
    classes
        Name of every class number.
    """

    images: Array
    labels: Array
    classes: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.images)

    @property
    def names(self) -> Array:
        """Class of every picture ``(n,)``, by name."""
        return np.array(self.classes)[self.labels]


def fashion_mnist(
    split: Literal["train", "test"] = "train",
    *,
    classes: Sequence[str] | None = None,
) -> Images:
    """A balanced subset of Fashion-MNIST: 600 training or 100 test pictures of each class, 28 x 28.

    Xiao, Rasul, Vollgraf, arXiv 1708.07747. MIT licence, copyright 2017 Zalando SE; its text lies
    beside the data in the package.

    Parameters
    ----------
    split
        ``"train"`` or ``"test"``.
    classes
        Only these, by name; all ten when missing.

    Raises
    ------
    InputError
        An unknown split or class.

    Examples
    --------
    >>> clothes = fashion_mnist("test", classes=["Dress", "Bag"])
    >>> clothes.images.shape, sorted(set(clothes.names.tolist()))
    ((200, 28, 28), ['Bag', 'Dress'])
    """
    if split not in ("train", "test"):
        raise InputError(f"Expected split 'train' or 'test', got {split!r}.")
    with (
        as_file(files("xai") / "data" / "fashion_mnist.npz") as path,
        np.load(path, allow_pickle=False) as arrays,
    ):
        images, labels = arrays[f"x_{split}"] / 255.0, arrays[f"y_{split}"].astype(np.int64)
        known = tuple(map(str, arrays["classes"]))
    if classes is None:
        return Images(images, labels, known)
    unknown = sorted(set(classes) - set(known))
    if unknown or not classes:
        raise InputError(f"Expected classes among {', '.join(known)}, got {list(classes)}.")
    chosen = np.isin(labels, [known.index(name) for name in classes])
    return Images(images[chosen], labels[chosen], known)


def plant_mark(
    images: ArrayLike,
    rows: ArrayLike,
    *,
    size: int = 4,
    corner: Corner = "bottom right",
    margin: int = 1,
    value: float = 1.0,
) -> tuple[Array, Array]:
    """Copies of the images with a small square in a corner of some of them.

    Parameters
    ----------
    images
        ``(n, h, w)``; left as they are.
    rows
        Which get the mark ``(k,)``.
    size, margin
        Side of the square and its distance from the edges, in pixels.
    corner
        Where.
    value
        Its grey.

    Returns
    -------
    marked, place
        The images ``(n, h, w)``, and where the mark is ``(h, w)``.

    Raises
    ------
    InputError
        A mark that does not fit, an unknown corner, rows that do not exist.

    Examples
    --------
    >>> marked, place = plant_mark(np.zeros((2, 5, 5)), [1], size=2)
    >>> marked.sum((1, 2)).tolist(), np.argwhere(place).tolist()
    ([0.0, 4.0], [[2, 2], [2, 3], [3, 2], [3, 3]])
    """
    marked = np.array(images, dtype=np.float64)
    if marked.ndim != 3:
        raise InputError(f"Expected images (n, h, w), got shape {marked.shape}.")
    n, h, w = marked.shape
    chosen = np.asarray(rows, dtype=np.int64)
    if chosen.size and not (chosen.min() >= 0 and chosen.max() < n):
        raise InputError(f"Expected rows 0 to {n - 1}, got {chosen.min()} to {chosen.max()}.")
    if corner not in CORNERS:
        raise InputError(f"Expected a corner of {', '.join(CORNERS)}, got {corner!r}.")
    if size < 1 or margin < 0 or size + margin > min(h, w):
        raise InputError(
            f"Expected a mark that fits into {h} x {w}, got size {size} and margin {margin}."
        )
    vertical, horizontal = corner.split()
    top = margin if vertical == "top" else h - margin - size
    left = margin if horizontal == "left" else w - margin - size
    place = np.zeros((h, w), dtype=bool)
    place[top : top + size, left : left + size] = True
    marked[np.ix_(chosen, *map(np.flatnonzero, (place.any(1), place.any(0))))] = value
    return marked, place
