"""Networks and ensembles on disk: weights as safetensors, and a manifest that says of what.

The manifest, JSON, holds the architecture, which input column is which, how it was trained, and the
digest of the weights' file: without the names, nobody knows which column of the input was a T cell.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

from graphs.ensemble import GraphEnsemble
from graphs.network import CellGraphNet, GraphConfig
from graphs.training import GraphTraining
from neuralize.errors import CheckpointError, InputError
from neuralize.sealed import Sealed, read_sealed, versions, write_sealed


class GraphManifest(Sealed):
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
    """

    kind: Literal["cell graph network"] = "cell graph network"
    how: Literal["mean", "median"] | None
    configs: list[dict[str, Any]]
    input_names: tuple[str, ...]
    unit: str = ""
    training: dict[str, Any] | None = None


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
    if len(input_names) != model.config.in_features:
        raise InputError(
            f"Expected {model.config.in_features} input_names, one per feature of a cell, got "
            f"{len(input_names)}."
        )
    nets = model.members if isinstance(model, GraphEnsemble) else [model]
    state = {
        f"{k}.{name}": tensor
        for k, net in enumerate(nets)
        for name, tensor in net.state_dict().items()
    }
    manifest = GraphManifest(
        how=model.how if isinstance(model, GraphEnsemble) else None,
        configs=[asdict(net.config) for net in nets if isinstance(net, CellGraphNet)],
        input_names=tuple(input_names),
        unit=unit,
        training=None if training is None else asdict(training),
        versions=versions(),
    )
    return write_sealed(Path(path), state, manifest)


def load_network(path: str | Path) -> tuple[CellGraphNet | GraphEnsemble, GraphManifest]:
    """The network or the ensemble, in eval mode, and what is known of it.

    Raises
    ------
    CheckpointError
        A file that is missing, damaged, of another network, or of another version.
    """
    state, manifest = read_sealed(Path(path), GraphManifest, "graph network")
    try:
        nets = [_member(k, config, state) for k, config in enumerate(manifest.configs)]
        if manifest.how is None:
            (model,) = nets
            return model.eval(), manifest
        return GraphEnsemble(nets, manifest.how).eval(), manifest
    except (RuntimeError, TypeError, ValueError) as error:
        raise CheckpointError(f"{path} does not fit its manifest: {error}") from error


def _member(number: int, config: dict[str, Any], state: dict[str, Any]) -> CellGraphNet:
    fields: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in config.items()}
    net = CellGraphNet(GraphConfig(**fields))
    start = f"{number}."
    own = {name.removeprefix(start): t for name, t in state.items() if name.startswith(start)}
    dtype = next((t.dtype for t in own.values() if t.is_floating_point()), None)
    net.to(dtype)
    net.load_state_dict(own)
    return net
