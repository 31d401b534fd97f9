"""Arrays of pictures or rows as an encoder takes them."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from xai.checkpoint import Checkpoint
from xai.errors import InputError
from xai.relevance import Array


def encoder_input(x: Any, checkpoint: Checkpoint, size: tuple[int, int] | None) -> Array:
    """Pictures ``(n, c, h, w)`` or rows ``(n, d)`` as an encoder takes them, float32.

    Bytes become numbers from 0 to 1, channels move to the front, grey becomes as many channels as
    the encoder has, and pictures are resized where a ``size`` was asked for.

    Raises
    ------
    InputError
        Numbers outside of 0 to 1 where the encoder normalises pictures itself, or other channels.
    """
    array = np.asarray(x)
    if array.dtype == np.uint8 and array.ndim > 2:
        array = array.astype(np.float32) / 255
    array = array.astype(np.float32, copy=False)
    if array.ndim == 2 or checkpoint.channels is None:
        return array
    if array.ndim == 3:
        array = array[:, None]
    c = checkpoint.channels
    if array.ndim == 4 and array.shape[1] not in (1, c) and array.shape[3] in (1, c):
        array = np.moveaxis(array, 3, 1)
    if array.ndim != 4 or array.shape[1] not in (1, c):
        raise InputError(
            f"Expected pictures (n, h, w) or (n, {c}, h, w) for {checkpoint.model.name}, got shape "
            f"{np.shape(x)}."
        )
    if checkpoint.in_units and len(array) and (array.min() < 0 or array.max() > 1):
        raise InputError(
            f"Expected pixels from 0 to 1, or bytes, which {checkpoint.model.name} normalises "
            f"itself, got {array.min():.4g} to {array.max():.4g}. If they are normalised already, "
            "say --normalize none."
        )
    if size is not None and array.shape[2:] != size:
        array = F.interpolate(
            torch.from_numpy(np.ascontiguousarray(array)), size, mode="bilinear", antialias=True
        ).numpy()
    return np.ascontiguousarray(np.repeat(array, c, 1) if array.shape[1] != c else array)
