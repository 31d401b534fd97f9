"""Bare weights from files: tensors by name, read without running code in them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from neuralize.deep.readers.content import State, read_content, state_of
from neuralize.errors import CheckpointError
from xai.file_formats import is_pickle, listed, require_file

SAFETENSORS = (".safetensors",)
TORCH = (".pt", ".pth", ".bin", ".ckpt", ".tar")
WEIGHTS = SAFETENSORS + TORCH

WRAPPERS = ("state_dict", "model_state_dict", "model")
"""Where training loops put the weights among other things."""


def read_weights(path: Path, *, trust: bool = False) -> State:
    """Tensors by name from ``.safetensors`` or from what ``torch.save`` wrote.

    Of a training loop's file, the weights under ``state_dict``, ``model_state_dict`` or ``model``.

    Raises
    ------
    CheckpointError
        A file that is damaged, claims more numbers than it holds, or holds something else.
    UntrustedCheckpointError
        It holds objects of classes, and ``trust`` is not set.

    Examples
    --------
    >>> import torch
    >>> from tempfile import TemporaryDirectory
    >>> with TemporaryDirectory() as folder:
    ...     path = Path(folder, "net.pt")
    ...     torch.save({"epoch": 3, "state_dict": {"module.a": torch.ones(2)}}, path)
    ...     read_weights(path)
    {'a': tensor([1., 1.])}
    """
    path = require_file(path)
    suffix = path.suffix.lower()
    if suffix not in WEIGHTS:
        raise CheckpointError(
            f"Expected weights as {', '.join(WEIGHTS)}, got {path} ({suffix or 'no suffix'})."
        )
    if suffix in SAFETENSORS:
        if is_pickle(path):
            raise CheckpointError(
                f"{path} is a pickle, not safetensors. Save the weights with "
                "safetensors.torch.save_file."
            )
        try:
            return _widened(state_of(load_file(path), path, "the file"))
        except (SafetensorError, OSError, ValueError, KeyError) as error:
            raise CheckpointError(f"Cannot read {path} as safetensors: {error}") from error
    return _widened(_unwrapped(read_content(path, trust=trust), path))


def _widened(state: State) -> State:
    """Half precision and less as float32, in which networks are explained."""
    return {
        name: t.float() if t.is_floating_point() and t.element_size() < 4 else t
        for name, t in state.items()
    }


def _unwrapped(content: Any, path: Path) -> State:
    if not isinstance(content, Mapping):
        return state_of(content, path, "the file")
    if any(isinstance(value, Tensor) for value in content.values()):
        return state_of(content, path, "the file")
    found = [name for name in WRAPPERS if isinstance(content.get(name), Mapping)]
    if len(found) != 1:
        raise CheckpointError(
            f"{path}: expected tensors by name, or such under one of {listed(WRAPPERS)}, got "
            f"{listed(list(content), most=5)}."
        )
    return state_of(content[found[0]], path, found[0])
