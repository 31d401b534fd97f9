"""Keeping relevance: pictures to look at, tables to work with, NPZ and JSON to read back equal."""

from __future__ import annotations

import math
import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import numpy as np
import pandas as pd
from matplotlib import rc_context

from xai.errors import FileFormatError, InputError
from xai.header_files import read_json, read_npz, write_json, write_npz
from xai.plot.figure import png
from xai.relevance import Array, Relevance

FORMAT = "unsupervised-xai relevance"
VERSION = 1

ARRAYS = ("values", "evidence", "inputs")
OPTIONAL_ARRAYS = ("target", "original")
TEXTS = ("kind", "evidence_name", "model_name", "method", "output", "score_map")
NAMES = ("feature_names", "row_names")


def save(relevance: Relevance, path: str | Path) -> Path:
    """Write relevance in the format the suffix names; see :meth:`xai.relevance.Relevance.save`."""
    path = Path(path)
    write = WRITERS.get(path.suffix.lower())
    if write is None:
        raise FileFormatError(
            f"Expected a file name ending in {', '.join(WRITERS)}, got {path.name!r}."
        )
    with replacing(path) as file:
        write(relevance, file)
    return path


def load(path: str | Path) -> Relevance:
    """Read relevance from NPZ or JSON; see :meth:`xai.relevance.Relevance.load`."""
    path = Path(path)
    read = READERS.get(path.suffix.lower())
    if read is None:
        raise FileFormatError(
            f"Expected a file name ending in {' or '.join(READERS)}, got {path.name!r}; the other "
            "formats are for looking and for other programs."
        )
    with path.open("rb") as file:
        try:
            return from_parts(*read(file))
        except (KeyError, TypeError, ValueError, OverflowError, RecursionError) as error:
            raise FileFormatError(
                f"Expected relevance saved by this package in {str(path)!r}, but it cannot be read "
                f"as that: {error}"
            ) from error


@contextmanager
def replacing(path: Path) -> Iterator[IO[bytes]]:
    """A file that takes its place at ``path`` when the block ends well, and leaves nothing if not.

    Raises
    ------
    FileNotFoundError
        The folder does not exist.
    """
    if not path.parent.is_dir():
        raise FileNotFoundError(
            f"Expected an existing folder to write into, got {str(path.parent)!r}; create it first."
        )
    temporary = path.with_name(f".{secrets.token_hex(8)}.part")
    try:
        with temporary.open("xb") as file:
            yield file
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


# -- one document for NPZ and JSON: a header of plain values, and arrays by name -----------------


def to_parts(relevance: Relevance) -> tuple[dict[str, Any], dict[str, Array]]:
    """Header and arrays; absorbed shares are numbered, their names are in the header.

    Raises
    ------
    InputError
        An array that is not of booleans, integers or floating numbers up to 64 bits.
    """
    arrays = {name: getattr(relevance, name) for name in ARRAYS}
    for name in OPTIONAL_ARRAYS:
        if getattr(relevance, name) is not None:
            arrays[name] = getattr(relevance, name)
    for i, share in enumerate(relevance.absorbed.values()):
        arrays[f"absorbed_{i}"] = share
    for name, array in arrays.items():
        if array.dtype.kind not in "biuf" or array.dtype.itemsize > 8:
            raise InputError(f"Expected numbers of up to 64 bits in {name}, got {array.dtype}.")
    header: dict[str, Any] = {"format": FORMAT, "version": VERSION}
    header |= {name: getattr(relevance, name) for name in TEXTS}
    threshold = relevance.threshold
    finite = threshold is None or math.isfinite(threshold)
    header["threshold"] = threshold if finite else str(threshold)  # JSON has no infinity
    header["composite"] = relevance.composite
    for name in NAMES:
        names = getattr(relevance, name)
        header[name] = None if names is None else list(names)
    header["absorbed"] = list(relevance.absorbed)
    header["provenance"] = dict(relevance.provenance)
    return header, arrays


def from_parts(header: Any, arrays: dict[str, Array]) -> Relevance:
    """Relevance from what :func:`to_parts` gave, checked; errors are the built-in ones."""
    _expect(isinstance(header, dict) and header.get("format") == FORMAT, f"no {FORMAT!r} header")
    _expect(header["version"] == VERSION, f"version {header['version']!r} is not {VERSION}")
    texts = {name: header[name] for name in TEXTS}
    for name, text in texts.items():
        _expect(isinstance(text, str), f"{name} is not a text")
    _expect(texts["kind"] in ("cluster", "outlier", "output"), f"unknown kind {texts['kind']!r}")
    composite, provenance = header["composite"], header["provenance"]
    _expect(composite is None or isinstance(composite, str), "composite is not a text")
    _expect(
        isinstance(provenance, dict) and _texts(list(provenance.values())),
        "provenance is not a mapping of texts",
    )
    absorbed = header["absorbed"]
    _expect(_texts(absorbed) and len(set(absorbed)) == len(absorbed), "absorbed is not names")
    values, n = arrays["values"], len(arrays["values"])
    _expect(values.ndim >= 2, f"values have shape {values.shape}")
    _expect(arrays["inputs"].shape == values.shape, "inputs and values differ in shape")
    for name, array in arrays.items():
        _expect(array.dtype.kind in "biuf", f"{name} holds {array.dtype}, not numbers")
        if name not in ("values", "inputs"):
            _expect(array.shape == (n,), f"{name} has shape {array.shape}, not {(n,)}")
    lengths = {"feature_names": int(np.prod(values.shape[1:])), "row_names": n}
    for name, length in lengths.items():
        names = header[name]
        _expect(
            names is None or (_texts(names) and len(names) == length),
            f"{name} is not a list of {length} texts",
        )
    threshold = header["threshold"]
    fields: dict[str, Any] = {name: arrays[name] for name in ARRAYS}
    fields |= {name: arrays.get(name) for name in OPTIONAL_ARRAYS}
    fields |= {name: None if header[name] is None else tuple(header[name]) for name in NAMES}
    fields |= texts
    return Relevance(
        **fields,
        absorbed={name: arrays[f"absorbed_{i}"] for i, name in enumerate(absorbed)},
        threshold=None if threshold is None else float(threshold),
        composite=composite,
        provenance=provenance,
    )


def _expect(holds: bool, complaint: str) -> None:
    if not holds:
        raise ValueError(complaint)


def _texts(names: Any) -> bool:
    return isinstance(names, list) and all(isinstance(name, str) for name in names)


# -- formats -------------------------------------------------------------------------------------


def _write_npz(relevance: Relevance, file: IO[bytes]) -> None:
    write_npz(*to_parts(relevance), file)


def _write_json(relevance: Relevance, file: IO[bytes]) -> None:
    write_json(*to_parts(relevance), file)


def _write_csv(relevance: Relevance, file: IO[bytes]) -> None:
    _table(relevance).to_csv(file, mode="wb")


def _write_parquet(relevance: Relevance, file: IO[bytes]) -> None:
    _table(relevance).to_parquet(file)


def _table(relevance: Relevance) -> pd.DataFrame:
    frame = relevance.to_frame().rename_axis(index="row")
    names = pd.Index([*frame.columns, "row"])
    repeated = names[names.duplicated()].unique()
    if len(repeated):
        raise InputError(
            "Expected every column to have its own name, but these are taken twice: "
            f"{', '.join(map(repr, repeated))}. Rename the features, or save as .npz or .json."
        )
    return frame


def _write_png(relevance: Relevance, file: IO[bytes]) -> None:
    file.write(png(relevance.plot(), dpi=150))


def _write_svg(relevance: Relevance, file: IO[bytes]) -> None:
    # Fixed ids and no date: the same relevance gives the same file.
    with rc_context({"svg.hashsalt": FORMAT}):
        relevance.plot().savefig(file, format="svg", metadata={"Date": None})


WRITERS: dict[str, Callable[[Relevance, IO[bytes]], None]] = {
    ".png": _write_png,
    ".svg": _write_svg,
    ".npz": _write_npz,
    ".csv": _write_csv,
    ".parquet": _write_parquet,
    ".json": _write_json,
}
READERS: dict[str, Callable[[IO[bytes]], tuple[Any, dict[str, Array]]]] = {
    ".npz": read_npz,
    ".json": read_json,
}
