"""Folders of pictures, from files that nobody vouches for.

Files are told by content, decoded one at a time and only once their size is known, and must lie in
the folder: nothing a file says of itself is taken for true before it is checked.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image, UnidentifiedImageError
from tqdm import tqdm

from neuralize.archives import LARGEST
from xai.errors import FileFormatError, InputError
from xai.relevance import Array

SUFFIXES = (
    ".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp", ".gif", ".ppm", ".pgm",
)  # fmt: skip
FORMATS = ("PNG", "JPEG", "BMP", "TIFF", "WEBP", "GIF", "PPM")
"""What is decoded, by content: formats whose decoders start no other program."""

MOST_PIXELS = 2**26
"""Of one picture, before it is resized."""

Size = tuple[int, int]


class Pictures(NamedTuple):
    """Pictures ``(n, c, h, w)`` from 0 to 1, float32, and their names: paths in the folder."""

    x: Array
    names: tuple[str, ...]


def picture_names(folder: Path) -> tuple[str, ...]:
    """Paths of all pictures below ``folder``, relative to it and in order; hidden ones left out.

    Raises
    ------
    FileFormatError
        No picture, or a link that leads out of the folder.
    """
    names = tuple(sorted(path.relative_to(folder).as_posix() for path in _walk(folder)))
    if not names:
        raise FileFormatError(
            f"Expected pictures ({', '.join(SUFFIXES)}) in the directory {folder}, found none."
        )
    return names


def read_pictures(
    folder: Path,
    names: Sequence[str],
    *,
    size: Size | None = None,
    channels: int | None = None,
) -> Pictures:
    """Decode pictures of a folder, in colour or grey, and resize them.

    Parameters
    ----------
    folder, names
        The folder, and which of :func:`picture_names` to read.
    size
        Height and width; what is larger is resized with antialiasing and without cropping, so that
        nothing in it gets lost. Where missing, all pictures must have one size.
    channels
        3 for colour, 1 for grey; when missing, grey if the first picture is.

    Raises
    ------
    FileFormatError
        A file that is no picture, is damaged, or larger than :data:`MOST_PIXELS`.
    InputError
        Pictures of different sizes where no ``size`` is given, or more than memory should hold.
    """
    if channels not in (1, 3, None):
        raise InputError(f"Pictures have 1 or 3 channels, and the model takes {channels}.")
    x: Array | None = None
    for i, name in enumerate(tqdm(names, delay=2, desc="reading pictures")):
        picture = _decoded(folder / name, size, channels)
        if x is None:
            channels, first = len(picture), picture.shape
            _require_room(len(names), first)
            x = np.empty((len(names), *first), np.float32)
        if picture.shape != first:
            raise InputError(
                f"Expected pictures of one size, got {first[1]}x{first[2]} ({names[0]}) and "
                f"{picture.shape[1]}x{picture.shape[2]} ({name}); say which with --size."
            )
        x[i] = picture
    assert x is not None
    return Pictures(x, tuple(printable(name) for name in names))


def printable(name: str) -> str:
    r"""A file's name as text that can be written anywhere.

    Examples
    --------
    >>> printable("sl\udcffde.png"), printable("a\nb")
    ('sl\\udcffde.png', 'a\\nb')
    """
    text = name.encode("utf-8", "backslashreplace").decode()
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def _walk(folder: Path) -> Iterator[Path]:
    root = folder.resolve()
    for where, folders, files in os.walk(folder):
        here = Path(where)
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in folders:
            if (here / name).is_symlink():
                raise FileFormatError(
                    f"{printable(str(here / name))} is a link to another folder, and links are not "
                    "followed; name the folder itself, or copy it."
                )
        for name in files:
            path = here / name
            if name.startswith(".") or path.suffix.lower() not in SUFFIXES:
                continue
            if not Path(os.path.realpath(path)).is_relative_to(root):
                raise FileFormatError(
                    f"{printable(str(path))} leads out of the folder; copy the picture into it."
                )
            if not path.is_file():
                raise FileFormatError(f"{printable(str(path))} is no file.")
            yield path


def _decoded(path: Path, size: Size | None, channels: int | None) -> Array:
    """One picture ``(c, h, w)``."""
    shown = printable(str(path))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of odd metadata, and of sizes refused below
            with Image.open(path, formats=FORMATS) as image:
                if image.width * image.height > MOST_PIXELS:
                    raise FileFormatError(
                        f"{shown} says it has {image.width}x{image.height} pixels; at most "
                        f"{MOST_PIXELS} are read. Cut it into tiles."
                    )
                return _as_array(image, shown, size, channels)
    except FileFormatError:
        raise
    except Image.DecompressionBombError as error:
        raise FileFormatError(f"{shown} says it has absurdly many pixels: {error}") from error
    except UnidentifiedImageError as error:
        raise FileFormatError(
            f"{shown} is no picture of a known format ({', '.join(FORMATS)}), whatever its name."
        ) from error
    except MemoryError:
        raise
    except Exception as error:  # a damaged or crafted picture can trip a decoder in many ways
        raise FileFormatError(
            f"Cannot read the picture {shown}, it is damaged: {type(error).__name__}: {error}"
        ) from error


def _as_array(image: Image.Image, shown: str, size: Size | None, channels: int | None) -> Array:
    mode = image.mode
    if mode in ("I", "F"):
        raise FileFormatError(
            f"{shown} has pixels of 32 bits, whose range nobody knows; save it with 8 or 16."
        )
    if mode.startswith("I;16"):
        grey = Image.fromarray(np.asarray(image).astype(np.float32) / 65535)
        planes = np.asarray(_resized(grey, size))[None]
        return np.repeat(planes, channels or 1, 0).clip(0, 1)
    if channels is None:
        channels = 1 if mode in ("1", "L", "LA") else 3
    plain = _resized(image.convert("L" if channels == 1 else "RGB"), size)
    planes = np.asarray(plain, np.float32) / 255
    return planes[None] if channels == 1 else np.moveaxis(planes, -1, 0)


def _resized(image: Image.Image, size: Size | None) -> Image.Image:
    if size is None or (image.height, image.width) == size:
        return image
    return image.resize((size[1], size[0]), Image.Resampling.BILINEAR)


def _require_room(n: int, shape: Sequence[int]) -> None:
    room = n * int(np.prod(shape)) * 4
    if room > LARGEST:
        raise InputError(
            f"{n} pictures of {shape[1]}x{shape[2]} take {room / 2**30:.0f} GB, more than "
            f"{LARGEST / 2**30:.0f}; take fewer with --rows or smaller ones with --size."
        )
