"""Files of a header and named arrays, NPZ or JSON, that read back equal to the last bit.

The header is an object of plain values; nothing in such a file can run code. What is wrong with one
is said with the built-in errors, mostly ``ValueError``; the caller knows what it should have held.
"""

from __future__ import annotations

import json
import zipfile
import zlib
from typing import IO, Any

import numpy as np

from xai.relevance import Array

KINDS = "biuf"
"""Kinds of numbers an array may hold: booleans, integers, floating."""


def write_npz(header: dict[str, Any], arrays: dict[str, Array], file: IO[bytes]) -> None:
    """Write an archive; ``header`` in it is a text."""
    # A text array, which loads without pickle and reads with `str(archive["header"])`.
    parts: dict[str, Any] = {"header": np.array(json.dumps(header)), **arrays}
    np.savez(file, **parts)


def read_npz(file: IO[bytes]) -> tuple[Any, dict[str, Array]]:
    """The header and the arrays of an archive."""
    try:
        archive = np.load(file, allow_pickle=False)
        if not isinstance(archive, np.lib.npyio.NpzFile):
            raise ValueError("it is a single array")
        arrays = {name: archive[name] for name in archive.files}
    except (zipfile.BadZipFile, zlib.error, EOFError, OSError, NotImplementedError) as error:
        raise ValueError(str(error)) from error
    return json.loads(str(arrays.pop("header"))), arrays


def write_json(header: dict[str, Any], arrays: dict[str, Array], file: IO[bytes]) -> None:
    """Write one object: the header's values, and ``arrays`` by name."""
    document = {**header, "arrays": {name: _listed(array) for name, array in arrays.items()}}
    file.write(json.dumps(document, allow_nan=False).encode())


def read_json(file: IO[bytes]) -> tuple[Any, dict[str, Array]]:
    """The header and the arrays of such an object."""
    document = json.loads(file.read())
    listed: Any = document.get("arrays") if isinstance(document, dict) else None
    if not isinstance(listed, dict):
        raise ValueError("there are no arrays")
    arrays = {}
    for name, entry in listed.items():
        dtype = np.dtype(entry["dtype"])
        if dtype.kind not in KINDS:
            raise ValueError(f"{name} holds {dtype}, not numbers")
        arrays[name] = np.array(entry["data"], dtype=dtype).reshape(entry["shape"])
    return document, arrays


def _listed(array: Array) -> dict[str, Any]:
    """An array for JSON: Python writes each float so that it reads back to the last bit."""
    data = array.astype(object)
    if array.dtype.kind == "f":
        # JSON has no infinity; these texts are what Python's and NumPy's float() understand.
        special = ~np.isfinite(array)
        data[special] = [str(value) for value in data[special]]
    return {"dtype": array.dtype.str, "shape": array.shape, "data": data.tolist()}
