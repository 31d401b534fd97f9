"""Arrays and tables as they lie in files, read without ever running code in them."""

from __future__ import annotations

import math
import pickletools
import warnings
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from io import StringIO
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np
import pandas as pd

from neuralize.archives import LARGEST, archive_fault
from xai.errors import FileFormatError, InputError
from xai.relevance import Array

ARRAYS = (".npy", ".npz")
TABLES = (".csv", ".parquet")

_TORCH = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."

# What the readers raise on files that are damaged or are something else.
_DAMAGED = (OSError, ValueError, EOFError, KeyError, RuntimeError, zipfile.BadZipFile, zlib.error)


def require_file(path: Path | str) -> Path:
    """The path, if a file with content is there.

    Raises
    ------
    FileFormatError
        Nothing there, a directory, or an empty file.
    """
    path = Path(path)
    if path.is_dir():
        raise FileFormatError(f"Expected a file, got the directory {path}.")
    if not path.is_file():
        raise FileFormatError(f"No such file: {path}")
    if path.stat().st_size == 0:
        raise FileFormatError(f"{path} is empty.")
    return path


def is_pickle(path: Path) -> bool:
    """Whether the content is a pickle, whatever the name says; nothing of it is run."""
    with path.open("rb") as file:
        start = file.read(2)
        if start[:1] == b"\x80" and start[1:] in (b"\2", b"\3", b"\4", b"\5"):
            return True
        file.seek(0)
        # Protocols 0 and 1 have no such mark, but are a sound program up to the last byte.
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # what is no pickle may look like odd escapes
                pickletools.dis(file, out=StringIO())
            return file.read(1) == b""
        except (ValueError, UnicodeError, OverflowError, MemoryError, KeyError, IndexError):
            return False


def is_torch_file(path: Path) -> bool:
    """Whether ``torch.save`` of before torch 1.6 wrote it: pickles that begin with its mark."""
    with path.open("rb") as file:
        return file.read(len(_TORCH)) == _TORCH


def read_array(path: Path, *, key: str | None = None, names: Sequence[str] = ("x", "X")) -> Array:
    """The array in an ``.npy`` or ``.npz`` file; in an archive, ``key`` or one of ``names``.

    Where none of ``names`` is there, the only array with two or more axes is taken.

    Raises
    ------
    FileFormatError
        Damaged, or holding Python objects, which only a pickle could restore.
    InputError
        An archive in which the choice is not clear.
    """
    if is_pickle(path):
        raise FileFormatError(f"{path} is a pickle, not {path.suffix}; save it with numpy.save.")
    try:
        with path.open("rb") as file:
            start = file.read(2)
            if start not in (b"\x93N", b"PK"):
                raise ValueError("it does not start like one")
            file.seek(0)
            if start == b"PK":
                name = _choose(_headers(path), path, key, names)
                with np.load(file, allow_pickle=False) as archive:
                    return np.asarray(archive[name])
            _header(file, path.stat().st_size)
            file.seek(0)
            return np.asarray(np.load(file, allow_pickle=False))
    except (InputError, FileFormatError):
        raise
    except _DAMAGED as error:
        if "Object arrays" in str(error):
            raise FileFormatError(
                f"{path} holds Python objects, not numbers. Reading them could run code in the "
                "file, so it is never done; save a numeric array."
            ) from error
        raise FileFormatError(f"Cannot read {path} as {path.suffix}: {error}") from error


def array_names(path: Path) -> tuple[str, ...]:
    """Names of the arrays in an ``.npz`` file."""
    return tuple(_headers(path))


class _Header(NamedTuple):
    """What an array's file says of it."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]


def require_sound_archive(path: Path) -> None:
    """Refuse an archive that would unpack to absurd sizes, or whose arrays claim to.

    Raises
    ------
    FileFormatError
        No archive, or one that declares more than it holds or than is taken for real.
    """
    try:
        _headers(path)
    except _DAMAGED as error:
        raise FileFormatError(f"Cannot read {path} as {path.suffix}: {error}") from error


def _headers(path: Path) -> dict[str, _Header]:
    """Arrays of an archive by name, from their headers alone; errors are the built-in ones."""
    if fault := archive_fault(path):
        raise ValueError(fault)
    found = {}
    with zipfile.ZipFile(path) as archive:
        for member in archive.infolist():
            if member.filename.endswith(".npy"):
                with archive.open(member) as file:
                    name = member.filename.removesuffix(".npy")
                    found[name] = _header(file, member.file_size)
    return found


def _header(file: IO[bytes], size: int) -> _Header:
    """What an array's file says of it, if its ``size`` in bytes has room for that."""
    version = np.lib.format.read_magic(file)
    if version not in ((1, 0), (2, 0)):
        raise ValueError(f"its header is of version {'.'.join(map(str, version))}")
    read = getattr(np.lib.format, f"read_array_header_{version[0]}_0")
    shape, _, dtype = read(file)
    if not dtype.hasobject and math.prod(shape) * dtype.itemsize > size:
        raise ValueError(
            f"it claims to hold an array of shape {shape} of {dtype}, and has {size} bytes"
        )
    return _Header(shape, dtype)


def require_numbers(array: Array, path: Path) -> Array:
    """The array, if it holds real numbers.

    Raises
    ------
    FileFormatError
        Text, dates or complex numbers.
    """
    if array.dtype.kind not in "fiub":
        raise FileFormatError(f"Expected an array of real numbers in {path}, got {array.dtype}.")
    return array


def read_table(path: Path) -> pd.DataFrame:
    """A ``.csv`` or ``.parquet`` file as it is, whatever its columns hold.

    A first line of numbers is data, unless they are ``0, 1, 2, ...`` as pandas numbers columns. A
    first column without a name holds the row names, as pandas writes them.

    Raises
    ------
    FileFormatError
        Damaged, ragged, or separated by something else than commas.
    """
    if is_pickle(path):
        raise FileFormatError(f"{path} is a pickle, not {path.suffix}; save it as a table.")
    try:
        if path.suffix.lower() == ".parquet":
            _require_modest_parquet(path)
            return pd.read_parquet(path)
        first = pd.read_csv(path, header=None, nrows=1, dtype=str, keep_default_na=False)
        cells = [cell.strip() for cell in first.iloc[0]]
        header = None if _is_data(cells) else 0
        unnamed = header == 0 and len(cells) > 1 and cells[0] == ""
        with warnings.catch_warnings():
            # Otherwise pandas would only warn that it leaves cells out.
            warnings.simplefilter("error", pd.errors.ParserWarning)
            frame = pd.read_csv(path, header=header, index_col=False, skipinitialspace=True)
    except pd.errors.ParserWarning as error:
        raise FileFormatError(f"Rows of {path} have more cells than its first line.") from error
    except _DAMAGED as error:
        raise FileFormatError(f"Cannot read {path} as {path.suffix}: {error}") from error
    if unnamed:
        frame = frame.set_index(frame.columns[0]).rename_axis(index=None)
    if header is None:
        return frame.set_axis([f"feature {i}" for i in range(frame.shape[1])], axis=1)
    frame.columns = frame.columns.astype(str).str.strip()
    for mark, name in ((";", "semicolons"), ("\t", "tabs")):
        if frame.shape[1] == 1 and mark in frame.columns[0]:
            raise FileFormatError(f"Expected commas between the columns of {path}, got {name}.")
    return frame


def _require_modest_parquet(path: Path) -> None:
    """Refuse what unpacks to absurd sizes: a kilobyte may hold 10^12 equal rows."""
    from pyarrow.parquet import read_metadata

    found = read_metadata(path)
    numbers = found.num_rows * found.num_columns
    unpacked = sum(found.row_group(i).total_byte_size for i in range(found.num_row_groups))
    if max(8 * numbers, unpacked) > LARGEST:
        raise ValueError(
            f"it declares {found.num_rows} rows of {found.num_columns} columns, more than "
            f"{LARGEST / 2**30:.0f} GB in memory"
        )


def listed(names: Sequence[object], most: int = 12) -> str:
    """Names in quotes for a message, the rest counted.

    Examples
    --------
    >>> listed(["hue", "ash", "alcohol"], most=2)
    "'hue', 'ash' and 1 more"
    """
    shown = ", ".join(repr(str(name)) for name in names[:most])
    return shown + (f" and {len(names) - most} more" if len(names) > most else "")


def _choose(
    present: Mapping[str, _Header], path: Path, key: str | None, names: Sequence[str]
) -> str:
    if not present:
        raise FileFormatError(f"{path} is an archive of other files, not of arrays.")
    if key is not None:
        if key in present:
            return key
        raise InputError(f"No array {key!r} in {path}; it has {listed(list(present))}.")
    likely = [name for name in names if name in present]
    if not likely:
        likely = [name for name, header in present.items() if len(header.shape) >= 2]
    if not likely and len(present) == 1:
        likely = list(present)
    if len(likely) == 1:
        return likely[0]
    raise InputError(
        f"Expected one array named {listed(names)} or a single one with two or more axes in "
        f"{path}, which has {listed(list(present))}. Name one with --key."
    )


def _is_data(cells: Sequence[str]) -> bool:
    if list(cells) == [str(i) for i in range(len(cells))]:
        return False
    try:
        [float(cell) for cell in cells]
    except ValueError:
        return False
    return True
