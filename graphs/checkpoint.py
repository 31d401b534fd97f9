"""Networks and ensembles on disk: weights as safetensors, and a manifest that says of what.

The manifest, JSON, holds the architecture, which input column is which, how it was trained, and the
digest of the weights' file: without the names, nobody knows which column of the input was a T cell.
"""

from __future__ import annotations

import hashlib
import os
import platform
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError
from safetensors import SafetensorError
from safetensors.torch import load, save

from graphs.ensemble import GraphEnsemble
from graphs.network import CellGraphNet, GraphConfig
from graphs.training import GraphTraining
from neuralize.errors import CheckpointError, InputError

FORMAT = 1
WEIGHTS, MANIFEST = ".safetensors", ".json"
MADE_WITH = ("unsupervised-xai", "torch", "numpy")


class GraphManifest(BaseModel):
    """What a file is of.

    Attributes
    ----------
    how
        Of an ensemble; None for a single network.
    configs
        Architecture of every member.
    input_names
        Columns of the cells' features.
    unit
        Of the survival times it was trained on.
    training
        How it was trained, if it was said.
    weights_sha256
        Digest of the weights' file.
    versions
        Of what it was made with.
    """

    model_config = ConfigDict(extra="forbid")

    format: int = FORMAT
    kind: Literal["cell graph network"] = "cell graph network"
    how: Literal["mean", "median"] | None
    configs: list[dict[str, Any]]
    input_names: tuple[str, ...]
    unit: str = ""
    training: dict[str, Any] | None = None
    weights_sha256: str = ""
    versions: dict[str, str] = {}


def save_network(
    model: CellGraphNet | GraphEnsemble,
    path: str | Path,
    input_names: Sequence[str],
    *,
    training: GraphTraining | None = None,
    unit: str = "",
) -> Path:
    """Write ``path`` (``.safetensors``) and the manifest beside it; the path.

    Parameters
    ----------
    input_names
        What the columns of the cells' features are: ``graph.input_names``.
    training, unit
        How it was trained, and on times in which unit.

    Raises
    ------
    CheckpointError
        A name with another suffix, or a folder that does not exist.
    InputError
        Another number of names than the network has inputs.
    """
    path = Path(path)
    if path.suffix != WEIGHTS:
        raise CheckpointError(f"Expected a name ending in {WEIGHTS}, got {path}.")
    if not path.parent.is_dir():
        raise CheckpointError(f"Expected an existing folder, got {path.parent}.")
    if len(input_names) != model.config.in_features:
        raise InputError(
            f"Expected {model.config.in_features} input_names, one per feature of a cell, got "
            f"{len(input_names)}."
        )
    nets = model.members if isinstance(model, GraphEnsemble) else [model]
    weights = save(
        {
            f"{k}.{name}": tensor.detach().cpu().contiguous().clone()
            for k, net in enumerate(nets)
            for name, tensor in net.state_dict().items()
        }
    )
    manifest = GraphManifest(
        how=model.how if isinstance(model, GraphEnsemble) else None,
        configs=[asdict(net.config) for net in nets if isinstance(net, CellGraphNet)],
        input_names=tuple(input_names),
        unit=unit,
        training=None if training is None else asdict(training),
        weights_sha256=hashlib.sha256(weights).hexdigest(),
        versions={name: version(name) for name in MADE_WITH}
        | {"python": platform.python_version()},
    )
    _replace(path.with_suffix(MANIFEST), (manifest.model_dump_json(indent=2) + "\n").encode())
    _replace(path, weights)
    return path


def load_network(path: str | Path) -> tuple[CellGraphNet | GraphEnsemble, GraphManifest]:
    """The network or the ensemble, in eval mode, and what is known of it.

    Raises
    ------
    CheckpointError
        A file that is missing, damaged, of another network, or of another version.
    """
    weights, beside = Path(path).with_suffix(WEIGHTS), Path(path).with_suffix(MANIFEST)
    for file in (weights, beside):
        if not file.is_file():
            raise CheckpointError(
                f"Expected {file.name} beside its other half in {file.parent}, found no such file. "
                "A network is stored as weights and a manifest; move both."
            )
    try:
        manifest = GraphManifest.model_validate_json(beside.read_bytes())
    except (ValidationError, UnicodeDecodeError) as error:
        raise CheckpointError(f"{beside} is not a graph network's manifest: {error}") from error
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
        state = load(content)
        nets = [_member(k, config, state) for k, config in enumerate(manifest.configs)]
        if manifest.how is None:
            (model,) = nets
            return model.eval(), manifest
        return GraphEnsemble(nets, manifest.how).eval(), manifest
    except (SafetensorError, RuntimeError, TypeError, ValueError) as error:
        raise CheckpointError(f"{weights} does not fit {beside.name}: {error}") from error


def _member(number: int, config: dict[str, Any], state: dict[str, Any]) -> CellGraphNet:
    fields: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in config.items()}
    net = CellGraphNet(GraphConfig(**fields))
    start = f"{number}."
    own = {name.removeprefix(start): t for name, t in state.items() if name.startswith(start)}
    dtype = next((t.dtype for t in own.values() if t.is_floating_point()), None)
    net.to(dtype)
    net.load_state_dict(own)
    return net


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
