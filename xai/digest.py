"""Digests of objects, to tell whether something is still what it was when an answer was saved.

Nothing is pickled: an object is walked through its arrays, texts and numbers. What cannot be looked
into (a lock, an open file) counts by its type.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Set
from enum import Enum
from functools import cache
from pathlib import Path
from types import CodeType, FunctionType, MethodType
from typing import Any

import numpy as np
import torch
from torch import nn

PACKAGES = ("neuralize", "graphs", "xai")


def digest(*values: Any) -> str:
    """SHA-256 of what the values hold, the same in every process.

    Examples
    --------
    >>> digest([1, "x"]) == digest([1, "x"]), digest([1, "x"]) == digest([1.0, "x"])
    (True, False)
    """
    found = _Digest()
    for value in values:
        found.add(value)
    return found.hash.hexdigest()


def file_digest(path: Path) -> str:
    """SHA-256 of a file, or of the names and contents of a folder's files."""
    if path.is_dir():
        found = hashlib.sha256()
        for file in sorted(p for p in path.rglob("*") if p.is_file()):
            found.update(f"{file.relative_to(path)}\0{file_digest(file)}\0".encode())
        return found.hexdigest()
    with path.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


@cache
def code_digest() -> str:
    """SHA-256 of the source of this distribution: another line of code may answer otherwise."""
    found = hashlib.sha256()
    root = Path(__file__).parents[1]
    for package in PACKAGES:
        for file in sorted((root / package).rglob("*.py")):
            found.update(f"{file.relative_to(root)}\0".encode() + file.read_bytes())
    return found.hexdigest()


class _Digest:
    """Adds one value after another; an object met twice counts by where it was met first."""

    def __init__(self) -> None:
        self.hash = hashlib.sha256()
        self.met: dict[int, int] = {}
        self.kept: list[Any] = []  # what is met must live on, or its id may come back

    def add(self, value: Any) -> None:
        self._text(f"{type(value).__module__}.{type(value).__qualname__}")
        if value is None or isinstance(value, bool | int | float | complex | str):
            self._text(repr(value))
        elif isinstance(value, bytes):
            self._bytes(value)
        elif isinstance(value, np.ndarray):
            self._array(value)
        elif isinstance(value, np.generic):
            self._array(np.asarray(value))
        elif isinstance(value, torch.Tensor):
            self._tensor(value)
        elif isinstance(value, type):
            self._text(f"{value.__module__}.{value.__qualname__}")
        elif isinstance(value, Enum | torch.dtype | torch.device | Path | slice | range):
            self._text(str(value))
        elif isinstance(value, tuple | frozenset):
            self._parts(value)  # equal ones may be one object in one process and two in another
        elif id(value) in self.met:
            self._text(f"met {self.met[id(value)]}")
        else:
            self.met[id(value)] = len(self.met)
            self.kept.append(value)
            self._parts(value)

    def _parts(self, value: Any) -> None:
        if isinstance(value, Mapping):
            self._items(dict(value))
        elif isinstance(value, Set):
            self._text(", ".join(sorted(digest(entry) for entry in value)))
        elif isinstance(value, list | tuple):
            self._text(str(len(value)))
            for entry in value:
                self.add(entry)
        elif isinstance(value, FunctionType):
            self._text(f"{value.__module__}.{value.__qualname__}")
            self._code(value.__code__)
            self.add([cell.cell_contents for cell in value.__closure__ or () if _filled(cell)])
            self.add([value.__defaults__, value.__kwdefaults__])
        elif isinstance(value, MethodType):
            self.add(value.__func__)
            self.add(value.__self__)
        elif isinstance(value, nn.Module):
            self._items({k: v for k, v in vars(value).items() if "_hooks" not in k})
        else:
            self._object(value)

    def _object(self, value: Any) -> None:
        """By what it would be pickled as, or by its attributes where it refuses."""
        try:
            reduced = value.__reduce_ex__(4)
        except Exception:  # locks, handles, some C types
            reduced = getattr(value, "__dict__", None)
        if isinstance(reduced, tuple):
            # Of five entries the last two are iterators, over items of lists and mappings.
            reduced = [list(part) if hasattr(part, "__next__") else part for part in reduced]
        self.add(reduced)

    def _code(self, code: CodeType) -> None:
        self._bytes(code.co_code)
        self._text(repr(code.co_names))
        for constant in code.co_consts:
            if isinstance(constant, CodeType):
                self._code(constant)
            else:
                self.add(constant)

    def _items(self, items: dict[Any, Any]) -> None:
        self._text(str(len(items)))
        for name, entry in items.items():
            self.add(name)
            self.add(entry)

    def _array(self, array: np.ndarray[Any, Any]) -> None:
        self._text(f"{array.dtype.str} {array.shape}")
        if array.dtype.hasobject:
            self.add(array.ravel().tolist())
            return
        for part in _pieces(array):
            self.hash.update(np.ascontiguousarray(part).tobytes())

    def _tensor(self, tensor: torch.Tensor) -> None:
        plain = tensor.detach().cpu()
        if plain.layout != torch.strided:
            plain = plain.to_dense()
        self._text(str(plain.dtype))
        if plain.dtype == torch.bfloat16:
            plain = plain.to(torch.float32)
        self._array(plain.numpy())

    def _text(self, text: str) -> None:
        self._bytes(text.encode("utf-8", "surrogatepass"))

    def _bytes(self, content: bytes) -> None:
        self.hash.update(len(content).to_bytes(8, "big") + content)


def _filled(cell: Any) -> bool:
    try:
        _ = cell.cell_contents
    except ValueError:
        return False
    return True


def _pieces(array: np.ndarray[Any, Any]) -> list[np.ndarray[Any, Any]]:
    """The array in parts, so that one that is mapped from a file is never copied as a whole."""
    if array.ndim == 0:
        return [array]
    step = max(1, 2**24 // max(1, array[:1].nbytes))
    return [array[i : i + step] for i in range(0, len(array), step)]
