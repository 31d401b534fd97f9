"""Ensembles as folders: one manifest, and one file of its own kind for every member.

This package's detectors are safetensors with their manifest; others are ``.skops``, of which only
types that run nothing when they are restored are read.
"""

from __future__ import annotations

import hashlib
import platform
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, ValidationError
from torch import nn

from neuralize.deep.detector import DeepDetector, load_detector
from neuralize.deep.ensemble import Ensemble, network_of
from neuralize.errors import CheckpointError
from neuralize.harmless_types import HARMLESS
from neuralize.sealed import WEIGHTS

FORMAT = 1
MANIFEST = "ensemble.json"
MADE_WITH = ("unsupervised-xai", "torch", "numpy", "scikit-learn", "skops")
SUFFIX = {"detector": WEIGHTS, "skops": ".skops"}


class MemberEntry(BaseModel):
    """One member: which kind of file, its digest, and its part of the average."""

    model_config = ConfigDict(extra="forbid")

    name: str
    kind: Literal["detector", "skops"]
    sha256: str
    weight: float
    mean: float
    scale: float


class EnsembleManifest(BaseModel):
    """What the folder holds."""

    model_config = ConfigDict(extra="forbid")

    format: int = FORMAT
    members: list[MemberEntry]
    contamination: float
    threshold: float
    input_shape: tuple[int, ...]
    feature_names: tuple[str, ...] | None = None
    data_sha256: str
    versions: dict[str, str]


def save_ensemble(ensemble: Ensemble, path: Path) -> Path:
    """Write ``path``, a new folder, complete or not at all.

    Raises
    ------
    CheckpointError
        A folder that is there already, or a member that cannot be written.
    """
    if path.exists():
        raise CheckpointError(f"Expected a folder that does not exist yet, got {path}.")
    if not path.parent.is_dir():
        raise CheckpointError(f"Expected an existing folder around it, got {path.parent}.")
    work = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}."))
    try:
        entries = [
            _write_member(ensemble, name, work / f"member_{i}")
            for i, name in enumerate(ensemble.members_)
        ]
        names = getattr(ensemble, "feature_names_in_", None)
        manifest = EnsembleManifest(
            members=entries,
            contamination=ensemble.contamination,
            threshold=ensemble.threshold_,
            input_shape=ensemble.input_shape_,
            feature_names=None if names is None else tuple(names),
            data_sha256=ensemble.data_sha256_,
            versions={name: version(name) for name in MADE_WITH}
            | {"python": platform.python_version()},
        )
        (work / MANIFEST).write_text(manifest.model_dump_json(indent=2) + "\n")
        work.chmod(0o755)
        work.rename(path)
    except BaseException:
        shutil.rmtree(work, ignore_errors=True)
        raise
    return path


def load_ensemble(
    path: Path, networks: Mapping[str, nn.Module], trusted: Sequence[str]
) -> Ensemble:
    """The ensemble in a folder; arguments and errors are those of :meth:`Ensemble.load`."""
    try:
        manifest = EnsembleManifest.model_validate_json((path / MANIFEST).read_bytes())
    except OSError as error:
        raise CheckpointError(f"Expected a folder with {MANIFEST}, got {path}: {error}") from error
    except ValidationError as error:
        raise CheckpointError(f"{path / MANIFEST} is not an ensemble's: {error}") from error
    if manifest.format != FORMAT:
        raise CheckpointError(
            f"{path}: expected format {FORMAT}, got {manifest.format}; it was written by another "
            f"version ({manifest.versions.get('unsupervised-xai', 'unknown')})."
        )
    names = [entry.name for entry in manifest.members]
    if unknown := sorted(set(networks) - set(names)):
        raise CheckpointError(f"{path} has no members {unknown}; it has {names}.")
    members = {
        entry.name: _read_member(
            entry, path / f"member_{i}{SUFFIX[entry.kind]}", networks.get(entry.name), trusted
        )
        for i, entry in enumerate(manifest.members)
    }
    ensemble = Ensemble(
        members,
        weights={entry.name: entry.weight for entry in manifest.members},
        prefit=True,
        contamination=manifest.contamination,
    )
    ensemble.members_ = members
    ensemble.weights_ = {entry.name: entry.weight for entry in manifest.members}
    ensemble.means_ = {entry.name: entry.mean for entry in manifest.members}
    ensemble.scales_ = {entry.name: entry.scale for entry in manifest.members}
    ensemble.threshold_ = manifest.threshold
    ensemble.input_shape_ = manifest.input_shape
    ensemble.data_sha256_ = manifest.data_sha256
    if manifest.feature_names is not None:
        ensemble.feature_names_in_ = np.array(manifest.feature_names, dtype=object)
    ensemble.connect({name: network_of(m) for name, m in members.items()}, manifest.threshold)
    return ensemble


def _write_member(ensemble: Ensemble, name: str, stem: Path) -> MemberEntry:
    import skops.io

    member = ensemble.members_[name]
    kind: Literal["detector", "skops"]
    if isinstance(member, DeepDetector):
        kind = "detector"
        file = member.save(stem.with_suffix(WEIGHTS))
    elif isinstance(member, nn.Module | Ensemble):
        raise CheckpointError(
            f"Member {name!r} is a {type(member).__name__}, which has no file of its own. Save the "
            "detector it was made of instead, and put the ensemble together again after loading."
        )
    else:
        kind = "skops"
        file = stem.with_suffix(SUFFIX[kind])
        skops.io.dump(member, file)
    return MemberEntry(
        name=name,
        kind=kind,
        sha256=hashlib.sha256(file.read_bytes()).hexdigest(),
        weight=ensemble.weights_[name],
        mean=ensemble.means_[name],
        scale=ensemble.scales_[name],
    )


def _read_member(
    entry: MemberEntry, file: Path, network: nn.Module | None, trusted: Sequence[str]
) -> Any:
    try:
        content = file.read_bytes()
    except OSError as error:
        raise CheckpointError(f"Member {entry.name!r}: {error}") from error
    if hashlib.sha256(content).hexdigest() != entry.sha256:
        raise CheckpointError(
            f"{file} (member {entry.name!r}) is damaged, or of another ensemble: its digest is "
            "another one."
        )
    if entry.kind == "detector":
        return load_detector(file, network)
    import skops.io

    try:
        types = skops.io.get_untrusted_types(data=content)
    except Exception as error:  # a damaged archive can trip skops in many ways
        raise CheckpointError(f"{file}: {type(error).__name__}: {error}") from error
    unknown = sorted(set(types) - HARMLESS - set(trusted))
    if unknown:
        raise CheckpointError(
            f"{file} (member {entry.name!r}) contains {', '.join(unknown)}, which are not known to "
            "be harmless to restore. Pass their names as trusted=, if you know where it comes from."
        )
    try:
        return skops.io.loads(content, trusted=types)
    except Exception as error:
        raise CheckpointError(
            f"{file} (member {entry.name!r}): {type(error).__name__}: {error}. It needs the "
            "libraries, in about the versions, that it was saved with."
        ) from error
