"""Networks of the Deep SVDD family by their key names: LeNets, MLPs, ResNets with attention.

Shared by Deep-SVDD-PyTorch, Deep-SAD-PyTorch, fcdd's HSC and eoe: ``conv1, conv2, ...`` of 5 x 5
with ``bn1`` or ``bn2d1, ...``, then ``fc1, ...`` with ``bn1d1, ...`` between them; the last dense
layer is ``fc2`` or ``fc_final``. MLPs are ``hidden.0.linear``, ``hidden.0.bn``, ..., ``code``.
eoe's ResNets with attention have the names of :mod:`neuralize.deep.cbam_resnet`.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
from torch import nn

from neuralize.deep.cbam_resnet import REDUCTION
from neuralize.deep.detector import load_strictly
from neuralize.deep.networks import Architecture, as_json
from neuralize.deep.preprocessing import inner_shape
from neuralize.deep.readers.assemble import Source, assemble
from neuralize.deep.readers.content import State, count, sizes
from neuralize.deep.readers.given import Given
from neuralize.errors import CheckpointError, InputError

PIXELS = 224
"""That eoe's ResNets take: their last pool is 7 x 7."""


class Plan(NamedTuple):
    """An architecture, and what the file calls each key of its network."""

    architecture: Architecture
    names: dict[str, str]


def plan_of(state: State, given: Given, source: Source) -> Plan:
    """The network that a state dict is of.

    Raises
    ------
    CheckpointError
        Keys or shapes of another network.
    """
    if "hidden.0.linear.weight" in state:
        return _mlp(state, given, source)
    if "layer1.0.cbam.ChannelGate.mlp.1.weight" in state:
        return _cbam_resnet(state, given, source)
    if "conv1.weight" in state:
        return _lenet(state, given, source)
    raise CheckpointError(
        f"{source.path}: expected the layers of a LeNet (conv1, ..., fc1) or an MLP (hidden.0, "
        f"..., code), got {', '.join(sorted(state)[:6])} and others. Pass the module they belong "
        "to as network=."
    )


def complete(state: State, plan: Plan) -> State:
    """The state with the counters that files of torch before 0.4.1 do not have."""
    counters = {
        theirs: torch.zeros((), dtype=torch.long)
        for ours, theirs in plan.names.items()
        if ours.endswith("num_batches_tracked") and theirs not in state
    }
    return state | counters


def placed(
    detector: Any, config: dict[str, Any], state: State, plan: Plan | None, given: Given,
    source: Source,
) -> nn.Module:  # fmt: skip
    """The detector's scoring module with these weights in its network.

    ``plan`` is that of the file's network; None for a network of the user's own.

    Raises
    ------
    CheckpointError, InputError
        Weights or a shape of one row that do not fit.
    """
    names = None
    config = {"preprocessing": given.preprocessing, "network": "custom", **config}
    if plan is None:
        if given.input_shape is None:
            raise InputError("A network of your own needs input_shape=, the shape of one row.")
        shape = given.input_shape
        detector.network = given.network
    else:
        config["network"] = as_json(plan.architecture)
        shape = row_shape(plan.architecture.input_shape, given)
        state, names = complete(state, plan), plan.names
        detector.network = plan.architecture
    module: Any = assemble(detector, config, shape, given, source)
    given.fill(module.preprocessing, shape)
    load_strictly(module.network, state, source.path, names)
    return module  # type: ignore[no-any-return]


def row_shape(state_shape: tuple[int, ...], given: Given) -> tuple[int, ...]:
    """The caller's shape of one row, if the network takes it; else the network's.

    Raises
    ------
    InputError
        A shape that the network does not take.
    """
    shape = given.input_shape
    if shape is None:
        return state_shape
    if inner_shape(shape) != state_shape:
        raise InputError(f"The network takes rows of shape {state_shape}, got input_shape={shape}.")
    return shape


def _lenet(state: State, given: Given, source: Source) -> Plan:
    path = source.path
    n = count(state, "conv{}.weight")
    convs = [sizes(state, f"conv{i + 1}.weight", 4, path) for i in range(n)]
    if any(shape[2:] != (5, 5) for shape in convs):
        raise CheckpointError(
            f"{path}: expected convolutions of 5 x 5, as in the LeNets of Deep SVDD, got "
            f"{', '.join(f'{s[2]} x {s[3]}' for s in convs)}. Pass the module as network=."
        )
    dense = [f"fc{i + 1}" for i in range(count(state, "fc{}.weight"))]
    if "fc_final.weight" in state:
        dense.append("fc_final")
    if not dense:
        raise CheckpointError(f"{path}: expected dense layers fc1, ..., found none.")
    widths = [sizes(state, f"{name}.weight", 2, path) for name in dense]
    architecture = Architecture(
        kind="lenet",
        input_shape=_picture(convs, widths[0][1], given, source),
        channels=tuple(shape[0] for shape in convs),
        dense=tuple(shape[0] for shape in widths[:-1]),
        rep_dim=widths[-1][0],
        **_options(state, "conv1.bias", "bn2d1.weight" if "bn2d1.weight" in state else "bn1.weight",
                   given),
    )  # fmt: skip
    short = "bn2d" if "bn2d1.running_mean" in state else "bn"
    layers = {f"convs.{i}": f"conv{i + 1}" for i in range(n)}
    layers |= {f"norms.{i}": f"{short}{i + 1}" for i in range(n)}
    layers |= {f"dense.{i}": name for i, name in enumerate(dense)}
    layers |= {f"dense_norms.{i}": f"bn1d{i + 1}" for i in range(len(dense) - 1)}
    return Plan(architecture, _renamed(architecture, layers))


def _cbam_resnet(state: State, given: Given, source: Source) -> Plan:
    """Eoe's network for 224 pixels; its names are ours."""
    stem = sizes(state, "conv1.weight", 4, source.path)
    stages = count(state, "layer{}.0.conv1.weight")
    widths = [sizes(state, f"layer{i + 1}.0.conv1.weight", 4, source.path)[0]
              for i in range(stages)]  # fmt: skip
    if stem[0] != widths[0] or any(width < REDUCTION for width in widths):
        raise CheckpointError(
            f"{source.path}: expected a stem as wide as the first stage, and stages of at least "
            f"{REDUCTION} channels, got {stem[0]} and {widths}. Pass the module as network=."
        )
    architecture = Architecture(
        kind="cbam_resnet",
        input_shape=(stem[1], PIXELS, PIXELS),
        channels=tuple(widths),
        rep_dim=sizes(state, "fc.weight", 2, source.path)[0],
        bias=True,
        affine=True,
    )
    return Plan(architecture, {name: name for name in architecture.build().state_dict()})


def _mlp(state: State, given: Given, source: Source) -> Plan:
    n = count(state, "hidden.{}.linear.weight", 0)
    hidden = [sizes(state, f"hidden.{i}.linear.weight", 2, source.path) for i in range(n)]
    architecture = Architecture(
        kind="mlp",
        input_shape=(hidden[0][1],),
        dense=tuple(shape[0] for shape in hidden),
        rep_dim=sizes(state, "code.weight", 2, source.path)[0],
        **_options(state, "hidden.0.linear.bias", "hidden.0.bn.weight", given),
    )
    layers = {f"dense.{i}": f"hidden.{i}.linear" for i in range(n)} | {f"dense.{n}": "code"}
    layers |= {f"norms.{i}": f"hidden.{i}.bn" for i in range(n)}
    return Plan(architecture, _renamed(architecture, layers))


def _options(state: State, bias: str, scale: str, given: Given) -> dict[str, Any]:
    found: dict[str, Any] = {"bias": bias in state, "affine": scale in state}
    if given.activation is not None:
        found["activation"] = given.activation
    return found


def _renamed(architecture: Architecture, layers: dict[str, str]) -> dict[str, str]:
    """What the file calls each key of the architecture's network."""
    names = {}
    for key in architecture.build().state_dict():
        layer, _, entry = key.rpartition(".")
        names[key] = f"{layers[layer]}.{entry}"
    return names


def _picture(
    convs: list[tuple[int, ...]], flat: int, given: Given, source: Source
) -> tuple[int, ...]:
    """Shape of the pictures: square where nobody says otherwise."""
    shrink = 2 ** len(convs)
    if given.input_shape is not None and len(given.input_shape) in (2, 3):
        c, h, w = inner_shape(given.input_shape)
        fits = c == convs[0][1] and convs[-1][0] * (h // shrink) * (w // shrink) == flat
        if fits:
            return c, h, w
    side = math.isqrt(flat // convs[-1][0])
    if given.input_shape is None and side and convs[-1][0] * side * side == flat:
        return convs[0][1], side * shrink, side * shrink
    raise CheckpointError(
        f"{source.path}: its first dense layer takes {flat} numbers, {convs[-1][0]} channels of "
        f"h/{shrink} x w/{shrink}, and its first convolution {convs[0][1]} channels; that is not "
        f"input_shape={given.input_shape}."
        if given.input_shape is not None
        else f"{source.path}: its first dense layer takes {flat} numbers, which are no square of "
        f"{convs[-1][0]} channels. Pass input_shape=(channels, height, width)."
    )
