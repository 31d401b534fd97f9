"""Files of repaired models.

A manifest (JSON) and tensors (safetensors) beside it, and a ``.skops`` where the head is a model of
scikit-learn or PyOD. The old checkpoint is named by its digest. It is read only where something of
it is still needed, the weights of a backbone or an encoder, and never written.
"""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict
from sklearn.cluster import KMeans, MiniBatchKMeans
from torch import Tensor, nn

from neuralize.deep import DeepDetector
from neuralize.errors import CheckpointError
from neuralize.sealed import MANIFEST, WEIGHTS, Sealed, read_sealed, versions, write_sealed
from xai.digest import digest, file_digest
from xai.errors import InputError
from xai.repaired import Repaired, frozen_backbone
from xai.repairs import Repair, Where, described, rebuilt

KIND = "repaired model"
SKOPS = ".skops"


class RepairEntry(BaseModel):
    """One repair in the manifest."""

    model_config = ConfigDict(extra="forbid")

    kind: str
    options: dict[str, Any]
    where: Where
    suspect: str


class Original(BaseModel):
    """The checkpoint that was repaired: its name beside the new one, its digest, how to read it."""

    model_config = ConfigDict(extra="forbid")

    name: str
    sha256: str
    reading: dict[str, Any]


class RepairedManifest(Sealed):
    """What a repaired checkpoint is."""

    kind: Literal["repaired model"] = "repaired model"
    original: Original
    repairs: list[RepairEntry]
    head: Literal["centroids", "detector", "skops"]
    head_sha256: str = ""
    threshold: float | None = None
    config: dict[str, Any] | None = None
    encoder_sha256: str = ""
    input_shape: tuple[int, ...]
    feature_names: tuple[str, ...] | None = None


def save_repaired(
    repaired: Repaired,
    path: Path | str,
    original: Path | str,
    *,
    reading: Mapping[str, Any] | None = None,
    overwrite: bool = False,
) -> list[Path]:
    """Write a repaired model as a new checkpoint; the files.

    Parameters
    ----------
    repaired
        What to write.
    path
        A name ending in ``.json`` or ``.safetensors``; both are written.
    original
        The checkpoint that was repaired; never written to.
    reading
        Options of :func:`xai.checkpoint.read_checkpoint` that the original was read with.
    overwrite
        Whether files that are there may be replaced, but never the original.

    Raises
    ------
    InputError
        A name with another suffix, files that are there already, or the original's own.
    """
    path, original = Path(path), Path(original)
    if path.suffix not in (MANIFEST, WEIGHTS):
        raise InputError(f"Expected a name ending in {MANIFEST} or {WEIGHTS}, got {path}.")
    weights = path.with_suffix(WEIGHTS)
    head, state, extra = _head(repaired)
    files = [weights, path.with_suffix(MANIFEST)]
    files += [path.with_suffix(SKOPS)] if head == "skops" else []
    require_new(files, original, overwrite=overwrite)
    entries = []
    for i, repair in enumerate(repaired.repairs):
        kind, options = described(repair.module)
        entries.append(
            RepairEntry(kind=kind, options=options, where=repair.where, suspect=repair.suspect)
        )
        state |= {f"repair.{i}.{n}": t for n, t in repair.module.state_dict().items()}
    if head == "skops":
        extra["head_sha256"] = _dump(repaired.model, path.with_suffix(SKOPS))
    names = repaired.feature_names_in_
    manifest = RepairedManifest(
        versions=versions(),
        original=Original(
            name=original.name, sha256=original_digest(original), reading=dict(reading or {})
        ),
        repairs=entries,
        head=head,
        input_shape=repaired.input_shape_,
        feature_names=None if names is None else tuple(map(str, names)),
        encoder_sha256=_encoder_digest(repaired.features),
        **extra,
    )
    write_sealed(weights, state, manifest)
    return files


def require_new(files: Sequence[Path], original: Path, *, overwrite: bool = False) -> None:
    """Refuse to write onto the original, or without leave onto anything.

    Raises
    ------
    InputError
        One of the files is (a part of) the original, lies in it, or is there.
    """
    for file in files:
        for own in _halves(original):
            same = file.exists() and own.exists() and file.samefile(own)
            if same or file.resolve() == own.resolve() or own.resolve() in file.resolve().parents:
                raise InputError(
                    f"{file} is the checkpoint that is repaired, which is never written to; write "
                    "to another place."
                )
    there = [str(file) for file in files if file.exists()]
    if there and not overwrite:
        raise InputError(f"Already there: {', '.join(there)}. Pass --overwrite to replace.")


def load_repaired(
    path: Path | str,
    original: Path | str | DeepDetector | None = None,
    *,
    features: nn.Module | None = None,
    trust: bool = False,
) -> Repaired:
    """Read a repaired model, without running code from its files.

    Parameters
    ----------
    path
        One of its files.
    original
        The checkpoint it was made from, or the detector read from it; looked for beside ``path``
        when missing. Only needed where something of it is.
    features
        The encoder, where it was given as a module.
    trust
        As of :func:`xai.model_files.read_model`.

    Raises
    ------
    CheckpointError
        Files that are missing, damaged, of something else, or of another original.
    """
    path = Path(path)
    state, manifest = read_sealed(path, RepairedManifest, KIND)
    repairs = []
    for i, entry in enumerate(manifest.repairs):
        own = _below(state, f"repair.{i}.")
        try:
            module = rebuilt(entry.kind, entry.options, own)
        except InputError as error:
            raise CheckpointError(f"{path}: {error}") from error
        repairs.append(Repair(module, entry.where, entry.suspect))
    wants_encoder = manifest.encoder_sha256 and features is None
    base: Any = original
    if (manifest.head == "detector" or wants_encoder) and not isinstance(original, DeepDetector):
        base = _read_original(path, manifest, original, trust)
    elif isinstance(original, str | Path):
        _verified(Path(original), manifest)
    if wants_encoder:
        features = base
    if _encoder_digest(features) != manifest.encoder_sha256:
        raise CheckpointError(
            f"{path}: the encoder is not the one that was repaired; its weights are others."
        )
    model: Any
    if manifest.head == "centroids":
        model = state["head.centroids"].numpy().astype(np.float64)
    elif manifest.head == "skops":
        model = _load(path.with_suffix(SKOPS), manifest.head_sha256, trust)
    else:
        if not isinstance(base, DeepDetector):
            raise CheckpointError(
                f"{path}: expected the original to be a detector, got {type(base).__name__}."
            )
        model = _overlaid(base, _below(state, "head."), manifest)
    return Repaired(model, repairs, manifest.input_shape, features, manifest.feature_names)


def is_repaired(path: Path | str) -> bool:
    """Whether a file is one of a repaired model's, by its manifest."""
    import json

    beside = Path(path).with_suffix(MANIFEST)
    if Path(path).suffix not in (MANIFEST, WEIGHTS) or not beside.is_file():
        return False
    try:
        found = json.loads(beside.read_bytes())
    except (ValueError, RecursionError):
        return False
    return isinstance(found, dict) and found.get("kind") == KIND


def original_digest(path: Path) -> str:
    """SHA-256 of a checkpoint: of its file, its folder, or its two halves.

    Raises
    ------
    CheckpointError
        Nothing there.
    """
    halves = [file for file in _halves(path) if file.exists()]
    if not halves:
        raise CheckpointError(f"Expected the checkpoint that was repaired at {path}, found none.")
    if len(halves) == 1:
        return file_digest(halves[0])
    return hashlib.sha256("".join(map(file_digest, halves)).encode()).hexdigest()


def _halves(path: Path) -> list[Path]:
    if path.suffix in (MANIFEST, WEIGHTS):
        return [path.with_suffix(WEIGHTS), path.with_suffix(MANIFEST)]
    return [path]


def _head(repaired: Repaired) -> tuple[Any, dict[str, Tensor], dict[str, Any]]:
    """Kind, tensors, and what else the manifest says of the head."""
    model = repaired.model
    if isinstance(model, DeepDetector):
        tensors = {f"head.{n}": t for n, t in _changed(model).items()}
        return "detector", tensors, {"threshold": model.threshold_, "config": model.config_}
    if isinstance(model, np.ndarray | KMeans | MiniBatchKMeans):
        centroids = model if isinstance(model, np.ndarray) else model.cluster_centers_
        exact = torch.from_numpy(np.array(centroids, np.float64))
        return "centroids", {"head.centroids": exact}, {}
    return "skops", {}, {}


def _changed(model: DeepDetector) -> dict[str, Tensor]:
    """Tensors of the fitted module but those of a frozen backbone, which the original has."""
    backbone = frozen_backbone(model)
    held = {id(t) for t in backbone.state_dict(keep_vars=True).values()} if backbone else set()
    state = model.module_.state_dict(keep_vars=True)
    return {name: t.detach() for name, t in state.items() if id(t) not in held}


def _overlaid(
    base: DeepDetector, tensors: Mapping[str, Tensor], manifest: RepairedManifest
) -> DeepDetector:
    """The original detector with the tensors that were fitted again."""
    model = copy.copy(base)
    model.module_ = copy.deepcopy(base.module_)
    known = set(model.module_.state_dict())
    if unknown := sorted(set(tensors) - known):
        raise CheckpointError(
            f"The original has no tensors {', '.join(unknown[:5])}: it is another detector."
        )
    for name, tensor in tensors.items():
        path, _, attribute = name.rpartition(".")
        owner = model.module_.get_submodule(path)
        if attribute in owner._parameters:
            owner._parameters[attribute] = nn.Parameter(tensor, requires_grad=False)
        else:
            owner._buffers[attribute] = tensor
    model.threshold_, model.config_ = manifest.threshold, dict(manifest.config or {})
    if "patch_threshold" in model.config_:
        model.module_.patch_threshold = model.config_["patch_threshold"]
    model.input_shape_ = manifest.input_shape
    return model


def _read_original(
    path: Path, manifest: RepairedManifest, original: Path | str | None, trust: bool
) -> Any:
    from xai.checkpoint import read_checkpoint

    there = path.parent / manifest.original.name if original is None else Path(original)
    _verified(there, manifest)
    return read_checkpoint(there, trust=trust, **manifest.original.reading).model


def _verified(original: Path, manifest: RepairedManifest) -> None:
    if original_digest(original) != manifest.original.sha256:
        raise CheckpointError(
            f"{original} is not the checkpoint that was repaired: its digest is another one."
        )


def _encoder_digest(features: nn.Module | None) -> str:
    if features is None:
        return ""
    return digest(dict(features.state_dict()))


def _below(state: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {n.removeprefix(prefix): t for n, t in state.items() if n.startswith(prefix)}


def _dump(model: Any, path: Path) -> str:
    import skops.io

    from xai.storage import replacing

    content = skops.io.dumps(model)
    with replacing(path) as file:
        file.write(content)
    return hashlib.sha256(content).hexdigest()


def _load(path: Path, sha256: str, trust: bool) -> Any:
    from xai.model_files import read_model

    if not path.is_file() or file_digest(path) != sha256:
        raise CheckpointError(f"{path} is missing or damaged: its digest is another one.")
    return read_model(path, trust=trust).model
