"""Checkpoints of detectors: sealed weights, and what a detector is besides its weights.

A bare state dict cannot be explained later: nobody knows the architecture, what was done to the
input, or where the threshold lay.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from neuralize.sealed import Sealed, read_sealed, versions


class Manifest(Sealed):
    """What a checkpoint is of.

    Attributes
    ----------
    detector, parameters
        Class and hyper-parameters.
    config
        Architecture and preprocessing: what an empty module is built from.
    input_shape, feature_names
        Of one row.
    threshold
        Outlier iff the score is larger; None where nobody knows.
    data_sha256
        Digest of the training rows, as float32.
    history
        Mean losses per epoch, by phase.
    """

    detector: str
    parameters: dict[str, Any]
    config: dict[str, Any]
    input_shape: tuple[int, ...]
    feature_names: tuple[str, ...] | None = None
    threshold: float | None
    data_sha256: str
    history: dict[str, list[float]] = Field(default_factory=dict)

    @classmethod
    def of(cls, **fields: Any) -> Self:
        """A manifest with the versions of this installation."""
        return cls(versions=versions(), **fields)


def read_checkpoint(path: Path) -> tuple[dict[str, Tensor], Manifest]:
    """Weights and manifest from either of the two files.

    Raises
    ------
    CheckpointError
        One of them is missing, damaged, or of another checkpoint.
    """
    return read_sealed(path, Manifest, "detector")


def digest(x: Tensor) -> str:
    """SHA-256 of rows and their shape."""
    found = hashlib.sha256(json.dumps(list(x.shape)).encode())
    found.update(np.ascontiguousarray(x.detach().cpu().to(torch.float32).numpy()).tobytes())
    return found.hexdigest()
