"""Masks as a folder of pictures with the names of those they belong to."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from xai.errors import InputError
from xai.file_formats import listed
from xai.picture_folders import picture_names, printable, read_pictures
from xai.relevance import Array

INSIDE = 0.5
"""Brightness, of 0 to 1, from which on a pixel is inside."""


def read_mask_pictures(folder: Path, names: Sequence[str], size: Sequence[int]) -> Array:
    """Masks ``(n, h, w)`` of pictures ``names``: bright pixels of the pictures called the same.

    Parameters
    ----------
    folder
        Masks lie where the pictures lie in theirs; endings may differ (``a/1.jpg``, ``a/1.png``).
    names
        Paths of the pictures.
    size
        Their height and width, to which masks are resized.

    Raises
    ------
    InputError
        A picture without a mask, or with two.
    FileFormatError
        What is refused of pictures.

    Examples
    --------
    >>> import numpy as np
    >>> from PIL import Image
    >>> from tempfile import TemporaryDirectory
    >>> with TemporaryDirectory() as where:
    ...     Image.fromarray(np.array([[0, 255]], np.uint8)).save(Path(where, "a.png"))
    ...     read_mask_pictures(Path(where), ["a.jpg"], (1, 2)).tolist()
    [[[False, True]]]
    """
    files: dict[str, list[str]] = {}
    for file in picture_names(folder):
        files.setdefault(_bare(printable(file)), []).append(file)
    found = [files.get(_bare(name), []) for name in names]
    missing = [name for name, there in zip(names, found, strict=True) if not there]
    if missing:
        raise InputError(
            f"{folder} has no mask for {len(missing)} of {len(names)} pictures: "
            f"{listed(missing, most=3)}."
        )
    twice = next((there for there in found if len(there) > 1), None)
    if twice is not None:
        raise InputError(f"Expected one mask per picture in {folder}, got {listed(twice)}.")
    height, width = size
    pictures = read_pictures(
        folder, [there[0] for there in found], size=(height, width), channels=1
    )
    masks: Array = pictures.x[:, 0] >= INSIDE
    return masks


def _bare(name: str) -> str:
    """The path without its ending."""
    return PurePosixPath(name).with_suffix("").as_posix()
