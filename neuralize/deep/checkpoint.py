"""Checkpoints of detectors: weights as safetensors, and a manifest that says what they are of.

A bare state dict cannot be explained later: nobody knows the architecture, what was done to the
input, or where the threshold lay. The manifest beside it is JSON and holds all that.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, ValidationError
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from neuralize.errors import CheckpointError

FORMAT = 1
WEIGHTS, MANIFEST = ".safetensors", ".json"


class Manifest(BaseModel):
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
    weights_sha256
        Digest of the weights' file.
    versions
        Of what it was made with.
    """

    model_config = ConfigDict(extra="forbid")

    format: int = FORMAT
    detector: str
    parameters: dict[str, Any]
    config: dict[str, Any]
    input_shape: tuple[int, ...]
    feature_names: tuple[str, ...] | None = None
    threshold: float | None
    data_sha256: str
    history: dict[str, list[float]] = {}
    weights_sha256: str = ""
    versions: dict[str, str] = {}

    @classmethod
    def of(cls, **fields: Any) -> Self:
        """A manifest with the versions of this installation."""
        versions = {name: version(name) for name in ("unsupervised-xai", "torch", "numpy")}
        return cls(versions=versions | {"python": platform.python_version()}, **fields)


def write_checkpoint(path: Path, state: dict[str, Tensor], manifest: Manifest) -> Path:
    """Write ``path`` and its manifest, both complete or not at all; the weights' path.

    Raises
    ------
    CheckpointError
        A name with another suffix, or a folder that does not exist.
    """
    if path.suffix != WEIGHTS:
        raise CheckpointError(f"Expected a name ending in {WEIGHTS}, got {path}.")
    if not path.parent.is_dir():
        raise CheckpointError(f"Expected an existing folder, got {path.parent}.")
    weights = save({name: t.detach().cpu().contiguous().clone() for name, t in state.items()})
    sealed = manifest.model_copy(update={"weights_sha256": hashlib.sha256(weights).hexdigest()})
    text = sealed.model_dump_json(indent=2) + "\n"
    _replace(path.with_suffix(MANIFEST), text.encode())
    _replace(path, weights)
    return path


def read_checkpoint(path: Path) -> tuple[dict[str, Tensor], Manifest]:
    """Weights and manifest from either of the two files.

    Raises
    ------
    CheckpointError
        One of them is missing, damaged, or of another checkpoint.
    """
    weights, beside = path.with_suffix(WEIGHTS), path.with_suffix(MANIFEST)
    for file in (weights, beside):
        if not file.is_file():
            raise CheckpointError(
                f"Expected {file.name} beside its other half in {file.parent}, found no such file. "
                "A detector is stored as weights and a manifest; move both."
            )
    try:
        manifest = Manifest.model_validate_json(beside.read_bytes())
    except (ValidationError, UnicodeDecodeError) as error:
        raise CheckpointError(f"{beside} is not a detector's manifest: {error}") from error
    if manifest.format != FORMAT:
        raise CheckpointError(
            f"{beside}: expected format {FORMAT}, got {manifest.format}; it was written by another "
            f"version ({manifest.versions.get('unsupervised-xai', 'unknown')})."
        )
    content = weights.read_bytes()
    if hashlib.sha256(content).hexdigest() != manifest.weights_sha256:
        raise CheckpointError(
            f"{weights} is damaged, or not the file {beside.name} was written for: its digest is "
            "another one."
        )
    try:
        return load(content), manifest
    except SafetensorError as error:
        raise CheckpointError(f"{weights} is damaged: {error}") from error


def digest(x: Tensor) -> str:
    """SHA-256 of rows and their shape."""
    found = hashlib.sha256(json.dumps(list(x.shape)).encode())
    found.update(np.ascontiguousarray(x.detach().cpu().to(torch.float32).numpy()).tobytes())
    return found.hexdigest()


def _replace(path: Path, content: bytes) -> None:
    """Write under a temporary name, then move."""
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
        Path(name).chmod(0o644)
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
