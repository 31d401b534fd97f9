"""fcdd (Liznerski et al., Explainable Deep One-Class Classification, ICLR 2021): ``snapshot.pt``.

``{"net", "opt", "sched", "epoch"}``: weights only, without architecture, picture size or
preprocessing. The key names tell the network:

- ``conv_final`` ends a fully convolutional one, whose map's mean is the score: FCDD. Its layers are
  ``conv1, conv2, [conv25,] conv3, ...`` with ``bn2d1, ...``, or ``features.0, ...`` of VGG11 with
  batch normalisation, cut before its fourth pool;
- ``fc_final`` ends a LeNet trained by HSC: the pseudo-Huber norm is the score;
- ``encoder.`` begins an autoencoder.

In the networks for 28 pixels the second convolution, in the others the last, goes on without
normalisation and activation; networks for 224 pixels pool by 3 x 3 with stride 2. One of them
stores a normalisation ``bn2d3`` that it never uses.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from neuralize.deep.detector import DeepDetector, load_strictly
from neuralize.deep.fcdd import FCDD, MapScore
from neuralize.deep.fully_convolutional import FullyConvolutional
from neuralize.deep.preprocessing import inner_shape
from neuralize.deep.readers.assemble import Source, assemble
from neuralize.deep.readers.content import State, sizes, state_of
from neuralize.deep.readers.eoe import exposed
from neuralize.deep.readers.given import Given
from neuralize.errors import CheckpointError, InputError

USES = ("network", "input_shape", "normalize", "contrast", "units", "threshold")

LEAKY = 0.01
VGG_EPS = 1e-5


def is_fcdd(content: Any) -> bool:
    """Whether this is a snapshot of a training, without statistics of the data."""
    return isinstance(content, Mapping) and {"net", "epoch"} <= set(content)


def read_fcdd(content: Any, given: Given, source: Source) -> DeepDetector:
    """A fitted :class:`FCDD`, or a hypersphere classifier."""
    state = state_of(content["net"], source.path, "net")
    if any(name.startswith("encoder.") for name in state):
        raise CheckpointError(
            f"{source.path} is of an autoencoder (objective ae). Read are FCDD and HSC; for this "
            "one fit neuralize.deep.Autoencoder on your data."
        )
    if given.network is None and "conv_final.weight" not in state:
        return exposed(state, given, source)
    detector = FCDD(preprocessing=given.preprocessing)
    config: dict[str, Any] = {"preprocessing": given.preprocessing, "network": "custom", "width": 1}
    names: dict[str, str] | None = None
    if given.network is not None:
        if given.input_shape is None:
            raise InputError("A network of your own needs input_shape=, the shape of one picture.")
        shape = given.input_shape
        detector.network = given.network
        names = {f"body.{name}": name for name in given.network.state_dict()}
    else:
        plan, names, size = network_of(state, source)
        config["network"] = plan.model_dump(mode="json")
        shape = given.input_shape or (plan.input_channels, size, size)
        if len(shape) not in (2, 3) or inner_shape(shape)[0] != plan.input_channels:
            raise InputError(
                f"The network takes pictures ({plan.input_channels}, h, w), got input_shape="
                f"{given.input_shape}."
            )
        used = set(names.values())
        state = {n: t for n, t in state.items() if n in used or not n.startswith("bn2d3.")}
    module = assemble(detector, config, shape, given, source)
    assert isinstance(module, MapScore)
    given.fill(module.preprocessing, shape)
    load_strictly(module.network, state, source.path, names)
    return detector


def network_of(state: State, source: Source) -> tuple[FullyConvolutional, dict[str, str], int]:
    """Architecture, what the file calls each key, and the pictures' usual size in pixels.

    Raises
    ------
    CheckpointError
        Layers of another network.
    """
    if "features.0.weight" in state:
        convs, norms = _vgg(state)
        style: dict[str, Any] = {
            "pools": (0, 1, 3), "normalize_last": True, "slope": 0.0, "eps": VGG_EPS,
        }  # fmt: skip
        size = 224
    else:
        convs = sorted(
            (n.removesuffix(".weight") for n in state
             if n.startswith("conv") and n.endswith(".weight") and n != "conv_final.weight"),
            key=lambda n: float(f"{n[4:5]}.{n[5:]}0"),
        )  # fmt: skip
        style, size = _style(convs, source)
        last = None if style.get("normalize_last") else len(convs) - 1
        norms = [None if i == last else f"bn2d{n[4:]}" for i, n in enumerate(convs)]
    shapes = [sizes(state, f"{n}.weight", 4, source.path) for n in convs]
    if any(s[2] != s[3] or s[2] % 2 == 0 for s in shapes):
        raise CheckpointError(f"{source.path}: expected square kernels of odd size.")
    kernels = tuple(s[2] for s in shapes)
    plan = FullyConvolutional(
        input_channels=shapes[0][1],
        channels=tuple(s[0] for s in shapes),
        kernel=kernels[0] if len(set(kernels)) == 1 else kernels,
        bias=f"{convs[0]}.bias" in state,
        **style,
    )
    layers = []
    for conv, norm in zip(convs, norms, strict=True):
        layers += [conv] if norm is None else [conv, norm]
    return plan, _renamed(plan, [*layers, "conv_final"]), size


def _style(convs: list[str], source: Source) -> tuple[dict[str, Any], int]:
    known: dict[tuple[str, ...], tuple[dict[str, Any], int]] = {
        ("conv1", "conv2"): ({"pools": (0, 1)}, 28),
        ("conv1", "conv2", "conv3"): ({"pools": (0, 1)}, 32),
        ("conv1", "conv2", "conv25", "conv3"): ({"pools": (0, 2)}, 32),
        ("conv1", "conv2", "conv3", "conv4", "conv5"): ({"pools": (0, 1, 3), "pool": 3}, 224),
    }
    if tuple(convs) not in known:
        raise CheckpointError(
            f"{source.path}: expected the convolutions of one of fcdd's networks, got "
            f"{', '.join(convs[:8])}. Pass the module they belong to as network=."
        )
    return known[tuple(convs)]


def _vgg(state: State) -> tuple[list[str], list[str | None]]:
    convs = [n.removesuffix(".weight") for n, t in state.items()
             if n.startswith("features.") and n.endswith(".weight") and t.ndim == 4]  # fmt: skip
    convs.sort(key=lambda n: int(n.split(".")[1]) if n.split(".")[1].isdecimal() else 0)
    return convs, [f"features.{int(n.split('.')[1]) + 1}" for n in convs]


def _renamed(plan: FullyConvolutional, layers: list[str]) -> dict[str, str]:
    """What the file calls each key: layers with weights or statistics come in the same order."""
    own: dict[str, str] = {}
    for key in plan.build().state_dict():
        own.setdefault(key.split(".")[0], "")
    theirs = dict(zip(own, layers, strict=True))
    return {
        key: f"{theirs[key.split('.')[0]]}.{key.split('.')[1]}" for key in plan.build().state_dict()
    }
