"""What lies in a torch file, read without running code in it.

``torch.load(weights_only=True)`` restores tensors and plain Python values and refuses everything
else. A file that holds more is read only if the caller trusts it; then classes whose libraries are
not installed become empty stand-ins, because only tensors and numbers are looked at.
"""

from __future__ import annotations

import pickle
import re
import warnings
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from neuralize.archives import archive_fault
from neuralize.errors import CheckpointError, UntrustedCheckpointError

State = dict[str, Tensor]


def read_content(path: Path, *, trust: bool = False) -> Any:
    """Tensors and plain values of a file that ``torch.save`` wrote, on the CPU.

    Raises
    ------
    CheckpointError
        A file that is missing, damaged, or was not written by torch.
    UntrustedCheckpointError
        The file holds objects of classes; restoring them could run code.
    """
    if not path.is_file():
        raise CheckpointError(f"No such file: {path}")
    if fault := archive_fault(path, stored=True):
        raise CheckpointError(f"{path} is no checkpoint that torch.save wrote: {fault}.")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about pickle protocols
            if not trust:
                return torch.load(path, map_location="cpu", weights_only=True)
            return torch.load(path, "cpu", pickle_module=_LENIENT, weights_only=False)
    except MemoryError:
        raise
    except Exception as error:  # a damaged or crafted file can trip torch in many ways
        found = re.search(r"GLOBAL ([\w.]+)", str(error))
        if found and not trust:
            raise UntrustedCheckpointError(
                f"{path} holds more than tensors and plain values ({found[1]}), and restoring that "
                "could run code in the file. Pass trust=True (--trust on the command line) if you "
                "know where the file comes from."
            ) from error
        reason = str(error).splitlines()[0] if str(error) else "it ends too early"
        raise CheckpointError(
            f"Cannot read {path} as a torch checkpoint: {type(error).__name__}: {reason[:200]}. "
            "The file is damaged, or something else than torch.save wrote it."
        ) from error


def state_of(content: Any, source: Path, what: str) -> State:
    """A state dict as it is, checked to be one; a common ``module.`` prefix is left out.

    Raises
    ------
    CheckpointError
        Anything but dense tensors by name.
    """
    if not isinstance(content, Mapping) or not content:
        raise CheckpointError(
            f"{source}: expected tensors by name in {what}, got "
            f"{'nothing' if content is None or content == {} else type(content).__name__}."
        )
    odd = [
        str(name)
        for name, value in content.items()
        if not (
            isinstance(name, str)
            and isinstance(value, Tensor)
            and value.layout == torch.strided
            and not value.is_complex()
            and not value.is_quantized
            and value.device.type == "cpu"
        )
    ]
    if odd:
        raise CheckpointError(
            f"{source}: expected dense tensors by name in {what}, got {len(odd)} entries that are "
            f"something else ({', '.join(odd[:5])})."
        )
    large = [name for name, t in content.items() if _bytes(t) > t.untyped_storage().nbytes()]
    if large:
        raise CheckpointError(
            f"{source}: {len(large)} tensors in {what} claim more numbers than the file holds "
            f"({', '.join(f'{name} {tuple(content[name].shape)}' for name in large[:5])})."
        )
    prefix = "module." if all(name.startswith("module.") for name in content) else ""
    return {name.removeprefix(prefix): value for name, value in content.items()}


def _bytes(t: Tensor) -> int:
    """What a tensor would take if every number of it were stored."""
    return t.numel() * t.element_size()


def below(state: State, prefix: str) -> State:
    """Entries whose names start with ``prefix``, without it.

    Examples
    --------
    >>> list(below({"net.a": torch.ones(1), "b": torch.ones(1)}, "net."))
    ['a']
    """
    return {n.removeprefix(prefix): t for n, t in state.items() if n.startswith(prefix)}


def sizes(state: State, name: str, ndim: int, source: Path) -> tuple[int, ...]:
    """Shape of an entry that an architecture is read off.

    Raises
    ------
    CheckpointError
        Missing, of another number of axes, or empty.
    """
    if name not in state:
        raise CheckpointError(
            f"{source}: expected the key {name}, found {', '.join(sorted(state)[:5])} and others."
        )
    shape = tuple(state[name].shape)
    if len(shape) != ndim or 0 in shape:
        raise CheckpointError(f"{source}: expected {name} with {ndim} axes, got shape {shape}.")
    return shape


def count(state: State, stem: str, first: int = 1) -> int:
    """How many layers ``stem.format(first)``, ``stem.format(first + 1)``, ... there are.

    Examples
    --------
    >>> count({"fc1.weight": torch.ones(1), "fc2.weight": torch.ones(1)}, "fc{}.weight")
    2
    """
    n = 0
    while stem.format(n + first) in state:
        n += 1
    return n


class _StandIn:
    """In place of an object whose class cannot be imported."""

    def __new__(cls, *_: Any, **__: Any) -> _StandIn:
        return object.__new__(cls)

    def __init__(self, *_: Any, **__: Any) -> None:
        pass

    def __setstate__(self, state: Any) -> None:
        pass

    def __setitem__(self, name: Any, value: Any) -> None:
        pass

    def append(self, value: Any) -> None:
        """Pickles of lists call this."""

    def extend(self, values: Any) -> None:
        """Pickles of lists call this."""


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str, /) -> Any:
        try:
            return super().find_class(module, name)
        except Exception:  # importing runs foreign code, which may raise anything
            return type(name, (_StandIn,), {})


def _load(file: Any, **options: Any) -> Any:
    return _Unpickler(file, **options).load()


_LENIENT = ModuleType("lenient_pickle")
vars(_LENIENT).update(Unpickler=_Unpickler, load=_load)
