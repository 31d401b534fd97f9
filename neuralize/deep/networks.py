"""Network architectures by configuration, so that a manifest can rebuild them.

The convolutional ones are those of Deep SVDD and Deep SAD (Ruff et al. 2018, 2020): per stage a
5 x 5 convolution, batch normalisation, leaky ReLU and 2 x 2 max-pooling, then dense layers; the
decoder mirrors them. Without biases and affine normalisation there is no trivial solution.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any, Literal

import torch
import torch.nn.functional as F
from pydantic import BaseModel, ConfigDict
from torch import Tensor, nn

from neuralize.deep.cbam_resnet import CBAMResNet
from neuralize.errors import InputError

EPS = 1e-4
"""Of the batch normalisations, as in the authors' networks."""

ACTIVATIONS = {"leaky_relu": F.leaky_relu, "elu": F.elu}


class Architecture(BaseModel):
    """What a network is built from; JSON in a manifest.

    Attributes
    ----------
    kind
        ``"lenet"`` or ``"cbam_resnet"`` (:mod:`neuralize.deep.cbam_resnet`) for pictures,
        ``"mlp"`` for rows.
    input_shape
        Of one row, ``(c, h, w)`` or ``(d,)``.
    channels
        Of the convolutions.
    dense
        Widths of the hidden dense layers.
    rep_dim
        Width of the representation.
    bias, affine
        Whether layers have biases, and normalisations weights.
    normalize
        Whether there are batch normalisations.
    activation
        ``"leaky_relu"`` or ``"elu"``, in encoders.
    squash
        Whether decoded pictures lie in 0 to 1, by a sigmoid; else they are unbounded.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["lenet", "cbam_resnet", "mlp"]
    input_shape: tuple[int, ...]
    channels: tuple[int, ...] = ()
    dense: tuple[int, ...] = ()
    rep_dim: int = 32
    bias: bool = False
    affine: bool = False
    normalize: bool = True
    activation: Literal["leaky_relu", "elu"] = "leaky_relu"
    squash: bool = True

    def build(self) -> nn.Module:
        """The network, with fresh weights."""
        if self.kind == "cbam_resnet":
            return CBAMResNet(self)
        return LeNet(self) if self.kind == "lenet" else MLP(self)

    def decoder(self) -> nn.Module:
        """What maps the representation back to inputs.

        Raises
        ------
        InputError
            A kind that none is known for.
        """
        if self.kind == "cbam_resnet":
            raise InputError("No decoder is known for a cbam_resnet; train without pretraining.")
        return LeNetDecoder(self) if self.kind == "lenet" else MLPDecoder(self)


PRESETS: dict[str, dict[str, Any]] = {
    "mnist_lenet": {"channels": (8, 4), "rep_dim": 32},
    "fmnist_lenet": {"channels": (16, 32), "dense": (128,), "rep_dim": 64},
    "cifar10_lenet": {"channels": (32, 64, 128), "rep_dim": 128},
    "mlp": {"dense": (32, 16), "rep_dim": 8},
}


def architecture(name: str, input_shape: Sequence[int], **changes: Any) -> Architecture:
    """One of the published networks for rows of ``input_shape``; ``"auto"`` picks by the shape.

    Raises
    ------
    InputError
        An unknown name, or a shape the network does not take.

    Examples
    --------
    >>> architecture("auto", (1, 28, 28)).channels
    (16, 32)
    >>> architecture("auto", (13,), rep_dim=4).rep_dim
    4
    """
    shape = tuple(map(int, input_shape))
    if name == "auto":
        name = "mlp" if len(shape) == 1 else "cifar10_lenet" if shape[0] > 1 else "fmnist_lenet"
    if name not in PRESETS:
        known = ", ".join(map(repr, ("auto", *PRESETS)))
        raise InputError(f"Expected network {known} or an nn.Module, got {name!r}.")
    kind: Literal["lenet", "mlp"] = "mlp" if name == "mlp" else "lenet"
    if len(shape) != (1 if kind == "mlp" else 3):
        want = "rows (n, d)" if kind == "mlp" else "pictures (n, c, h, w) or (n, h, w)"
        raise InputError(f"Network {name!r} takes {want}, got rows of shape {shape}.")
    return Architecture(kind=kind, input_shape=shape, **{**PRESETS[name], **changes})


def planned(
    network: str | Architecture | nn.Module, input_shape: Sequence[int], **changes: Any
) -> tuple[nn.Module, Architecture | None]:
    """A detector's network with fresh weights, and its plan; the user's own module has none.

    ``changes`` apply to named networks only: an :class:`Architecture` says everything itself.

    Raises
    ------
    InputError
        As :func:`architecture`, and for an architecture of another input shape.
    """
    if isinstance(network, str):
        network = architecture(network, input_shape, **changes)
    if not isinstance(network, Architecture):
        return network, None
    return fitting(network, input_shape).build(), network


def fitting(plan: Architecture, input_shape: Sequence[int]) -> Architecture:
    """The architecture itself.

    Raises
    ------
    InputError
        It is for rows of another shape.
    """
    if plan.input_shape != tuple(input_shape):
        raise InputError(
            f"Expected an architecture for rows of shape {tuple(input_shape)}, got one for "
            f"{plan.input_shape}."
        )
    return plan


def rebuilt(plan: dict[str, Any] | str, network: nn.Module | None) -> nn.Module:
    """The network of a manifest's ``plan``, or the user's own, which has to be passed.

    Raises
    ------
    InputError
        The plan says ``"custom"``, and no network came.
    """
    if not isinstance(plan, str):
        return Architecture(**plan).build()
    if network is None:
        raise InputError(
            "The detector was fitted on a network of the user's own; pass it as network=."
        )
    return network


def as_json(plan: Architecture | None) -> dict[str, Any] | str:
    """What a manifest says of a network: its architecture, or ``"custom"``."""
    return "custom" if plan is None else plan.model_dump(mode="json")


class LeNet(nn.Module):
    """``(n, c, h, w) -> (n, rep_dim)``."""

    def __init__(self, a: Architecture) -> None:
        super().__init__()
        c, h, w = a.input_shape
        widths = (c, *a.channels)
        self.convs = nn.ModuleList(
            nn.Conv2d(i, o, 5, padding=2, bias=a.bias) for i, o in itertools.pairwise(widths)
        )
        self.norms = nn.ModuleList(_norm2d(o, a) for o in a.channels)
        shrink = 2 ** len(a.channels)
        if min(h, w) < shrink:
            raise InputError(f"Expected pictures of at least {shrink} x {shrink}, got {h} x {w}.")
        flat = a.channels[-1] * (h // shrink) * (w // shrink)
        widths = (flat, *a.dense, a.rep_dim)
        self.dense = nn.ModuleList(
            nn.Linear(i, o, bias=a.bias) for i, o in itertools.pairwise(widths)
        )
        self.dense_norms = nn.ModuleList(_norm1d(o, a) for o in a.dense)
        self.activation = ACTIVATIONS[a.activation]

    def forward(self, x: Tensor) -> Tensor:
        """Representation of pictures ``(n, c, h, w)``."""
        for conv, norm in zip(self.convs, self.norms, strict=True):
            x = F.max_pool2d(self.activation(norm(conv(x))), 2)
        x = x.flatten(1)
        for layer, norm in zip(self.dense, self.dense_norms, strict=False):
            x = self.activation(norm(layer(x)))
        return self.dense[-1](x)  # type: ignore[no-any-return]


class LeNetDecoder(nn.Module):
    """``(n, rep_dim) -> (n, c, h, w)``, in 0 to 1 where the architecture says so."""

    def __init__(self, a: Architecture) -> None:
        super().__init__()
        self.shape, self.squash = a.input_shape, a.squash
        c, h, w = a.input_shape
        shrink = 2 ** len(a.channels)
        self.grid = (-(-h // shrink), -(-w // shrink))
        widths = (a.rep_dim, *reversed(a.dense), a.channels[-1] * self.grid[0] * self.grid[1])
        self.dense = nn.ModuleList(
            nn.Linear(i, o, bias=a.bias) for i, o in itertools.pairwise(widths)
        )
        self.dense_norms = nn.ModuleList(_norm1d(o, a) for o in widths[1:])
        widths = (*reversed(a.channels), c)
        self.convs = nn.ModuleList(
            nn.ConvTranspose2d(i, o, 5, padding=2, bias=a.bias)
            for i, o in itertools.pairwise(widths)
        )
        self.norms = nn.ModuleList(_norm2d(o, a) for o in widths[1:-1])

    def forward(self, z: Tensor) -> Tensor:
        """Reconstructions ``(n, c, h, w)``."""
        for layer, norm in zip(self.dense, self.dense_norms, strict=True):
            z = F.leaky_relu(norm(layer(z)))
        x = z.reshape(len(z), -1, *self.grid)
        for i, conv in enumerate(self.convs):
            x = conv(F.interpolate(x, scale_factor=2.0))
            if i < len(self.norms):
                x = F.leaky_relu(self.norms[i](x))
        x = x[:, :, : self.shape[1], : self.shape[2]]
        return torch.sigmoid(x) if self.squash else x


class MLP(nn.Module):
    """``(n, d) -> (n, rep_dim)``."""

    def __init__(self, a: Architecture) -> None:
        super().__init__()
        widths = (a.input_shape[0], *a.dense, a.rep_dim)
        self.dense = nn.ModuleList(
            nn.Linear(i, o, bias=a.bias) for i, o in itertools.pairwise(widths)
        )
        self.norms = nn.ModuleList(_norm1d(o, a) for o in a.dense)
        self.activation = ACTIVATIONS[a.activation]

    def forward(self, x: Tensor) -> Tensor:
        """Representation of rows ``(n, d)``."""
        for layer, norm in zip(self.dense, self.norms, strict=False):
            x = self.activation(norm(layer(x)))
        return self.dense[-1](x)  # type: ignore[no-any-return]


class MLPDecoder(nn.Module):
    """``(n, rep_dim) -> (n, d)``, unbounded."""

    def __init__(self, a: Architecture) -> None:
        super().__init__()
        widths = (a.rep_dim, *reversed(a.dense), a.input_shape[0])
        self.dense = nn.ModuleList(
            nn.Linear(i, o, bias=a.bias) for i, o in itertools.pairwise(widths)
        )
        self.norms = nn.ModuleList(_norm1d(o, a) for o in widths[1:-1])

    def forward(self, z: Tensor) -> Tensor:
        """Reconstructions ``(n, d)``."""
        for layer, norm in zip(self.dense, self.norms, strict=False):
            z = F.leaky_relu(norm(layer(z)))
        return self.dense[-1](z)  # type: ignore[no-any-return]


def _norm2d(width: int, a: Architecture) -> nn.Module:
    return nn.BatchNorm2d(width, eps=EPS, affine=a.affine) if a.normalize else nn.Identity()


def _norm1d(width: int, a: Architecture) -> nn.Module:
    return nn.BatchNorm1d(width, eps=EPS, affine=a.affine) if a.normalize else nn.Identity()
