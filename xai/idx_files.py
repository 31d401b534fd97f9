"""IDX files, as MNIST and Fashion-MNIST come in: a header with the shape, then bytes."""

from __future__ import annotations

import gzip
import math
import re
import zlib
from pathlib import Path

import numpy as np

from neuralize.archives import LARGEST
from xai.errors import FileFormatError
from xai.relevance import Array

TYPES = {8: "u1", 9: "i1", 11: ">i2", 12: ">i4", 13: ">f4", 14: ">f8"}
MOST_AXES = 8


def is_idx(path: Path) -> bool:
    """Whether a file has the name of an IDX file.

    Examples
    --------
    >>> is_idx(Path("t10k-images-idx3-ubyte.gz")), is_idx(Path("x.idx")), is_idx(Path("x.gz"))
    (True, True, False)
    """
    return re.search(r"([.-]idx\d?-ubyte|\.idx\d?)(\.gz)?$", path.name.lower()) is not None


def read_idx(path: Path) -> Array:
    """The array in an IDX file, gzipped or not; never more of it than its header says.

    Raises
    ------
    FileFormatError
        Damaged, cut off, or longer than it says.

    Examples
    --------
    >>> from tempfile import TemporaryDirectory
    >>> with TemporaryDirectory() as folder:
    ...     path = Path(folder, "labels-idx1-ubyte")
    ...     _ = path.write_bytes(bytes([0, 0, 8, 1, 0, 0, 0, 2, 7, 9]))
    ...     read_idx(path)
    array([7, 9], dtype=uint8)
    """
    try:
        with gzip.open(path) if path.suffix.lower() == ".gz" else path.open("rb") as file:
            start = file.read(4)
            kind = TYPES.get(start[2]) if start[:2] == b"\0\0" and len(start) == 4 else None
            if kind is None or not 0 < start[3] <= MOST_AXES:
                raise ValueError("it does not start like one")
            sizes = file.read(4 * start[3])
            shape = tuple(np.frombuffer(sizes, ">i4").tolist())
            dtype = np.dtype(kind)
            wanted = math.prod(shape) * dtype.itemsize
            if len(shape) != start[3] or min(shape) < 0 or wanted > LARGEST:
                raise ValueError(f"it claims the shape {shape}")
            content = file.read(wanted)
            if len(content) < wanted or file.read(1):
                raise ValueError(f"it does not hold what it claims, an array of shape {shape}")
    except (OSError, EOFError, ValueError, zlib.error) as error:
        raise FileFormatError(f"Cannot read {path} as IDX: {error}") from error
    found: Array = np.frombuffer(content, dtype).reshape(shape).astype(dtype.newbyteorder("="))
    return found
