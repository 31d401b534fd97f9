"""Weights as safetensors and, beside them, a manifest in JSON that says what they are of.

A bare state dict cannot be used later: nobody knows the architecture, nor what its input was. The
manifest holds that, and the digest of the weights, so that halves of two files are told apart.
"""

from __future__ import annotations

import hashlib
import os
import platform
import tempfile
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from neuralize.errors import CheckpointError

FORMAT = 1
WEIGHTS, MANIFEST = ".safetensors", ".json"


class Sealed(BaseModel):
    """What every manifest holds; subclasses add what their weights are of.

    Attributes
    ----------
    format
        Of the manifest.
    weights_sha256
        Digest of the weights' file.
    versions
        Of what it was made with.
    """

    model_config = ConfigDict(extra="forbid")

    format: int = FORMAT
    weights_sha256: str = ""
    versions: dict[str, str] = Field(default_factory=dict)


SealedT = TypeVar("SealedT", bound=Sealed)


def versions() -> dict[str, str]:
    """Versions of this installation.

    Examples
    --------
    >>> sorted(versions())
    ['numpy', 'python', 'torch', 'unsupervised-xai']
    """
    found = {name: version(name) for name in ("unsupervised-xai", "torch", "numpy")}
    return found | {"python": platform.python_version()}


def write_sealed(path: Path, state: Mapping[str, Tensor], manifest: Sealed) -> Path:
    """Write ``path`` and its manifest, each complete or not at all; the weights' path.

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
    _replace(path.with_suffix(MANIFEST), (sealed.model_dump_json(indent=2) + "\n").encode())
    _replace(path, weights)
    return path


def read_sealed(path: Path, kind: type[SealedT], what: str) -> tuple[dict[str, Tensor], SealedT]:
    """Weights and manifest from either of the two files.

    Parameters
    ----------
    kind
        The manifest's class.
    what
        What is stored, for errors: ``"detector"``.

    Raises
    ------
    CheckpointError
        One of the files is missing, damaged, of something else or of another version.
    """
    weights, beside = path.with_suffix(WEIGHTS), path.with_suffix(MANIFEST)
    for file in (weights, beside):
        if not file.is_file():
            raise CheckpointError(
                f"Expected {file.name} beside its other half in {file.parent}, found no such file. "
                f"A {what} is stored as weights and a manifest; move both."
            )
    try:
        manifest = kind.model_validate_json(beside.read_bytes())
    except (ValidationError, UnicodeDecodeError) as error:
        raise CheckpointError(f"{beside} is not a {what}'s manifest: {error}") from error
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
