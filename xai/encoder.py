"""A network as an encoder: pictures from 0 to 1, or rows, to features ``(n, q)``."""

from __future__ import annotations

import difflib
import threading
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from neuralize.deep.patch_features import ChannelNormalize
from neuralize.encoder import evaluating
from neuralize.errors import InputError

Numbers = float | Sequence[float]
Normalize = tuple[Numbers, Numbers]


class _Reached(Exception):
    """The layer has answered; what lies above is not needed."""


class Encoder(nn.Module):
    """Normalisation, a network up to one of its layers, and pooling over whatever is not features.

    Parameters
    ----------
    network
        Kept as it is, in evaluation mode.
    name
        What reports call it.
    layer
        Path of the module whose output is taken; the network's own output when missing.
    normalize
        Mean and standard deviation by channel; None for a network that takes its input as it is.
    channels, size
        Of its pictures; None where it takes several sizes, or rows.
    described
        What was done to the checkpoint's weights, for provenance.

    Examples
    --------
    >>> network = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU())
    >>> encoder = Encoder(network, "small", normalize=(0.5, 0.5), channels=3)
    >>> encoder(torch.zeros(2, 3, 9, 9)).shape
    torch.Size([2, 8])
    """

    def __init__(
        self,
        network: nn.Module,
        name: str,
        *,
        layer: str | None = None,
        normalize: Normalize | None = None,
        channels: int | None = None,
        size: tuple[int, int] | None = None,
        described: str = "",
    ) -> None:
        super().__init__()
        self.network = network.requires_grad_(False).eval()
        self.name, self.layer, self.described = name, layer, described
        self.channels, self.size = channels, size
        self.normalize = None if normalize is None else _normalisation(normalize, channels)
        if layer is not None:
            _require_layer(network, layer)

    def train(self, mode: bool = True) -> Encoder:
        """As everywhere, but the network stays in evaluation mode."""
        super().train(mode)
        self.network.eval()
        return self

    def forward(self, x: Tensor) -> Tensor:
        """Features ``(n, q)``: maps are averaged over places, tokens over the sequence."""
        if self.normalize is not None:
            x = self.normalize(x)
        found = self.network(x) if self.layer is None else self._at_layer(x)
        if not isinstance(found, Tensor) or found.ndim < 2:
            got = tuple(found.shape) if isinstance(found, Tensor) else type(found).__name__
            raise InputError(
                f"Expected features (n, ...) from {self.place}, got {got}. Name a layer that gives "
                "some with --layer."
            )
        if found.ndim > 3:
            return found.flatten(2).mean(2)
        return found.mean(1) if found.ndim == 3 else found

    @property
    def place(self) -> str:
        """Where features are taken, in words."""
        return self.name if self.layer is None else f"layer {self.layer} of {self.name}"

    def probe(self, shape: Sequence[int]) -> int:
        """How many features there are, found by a picture of zeros.

        Raises
        ------
        InputError
            The network does not take such pictures, or gives no features.
        """
        try:
            with torch.no_grad(), evaluating(self):
                return int(self(torch.zeros(1, *shape)).shape[1])
        except (RuntimeError, ValueError, IndexError, AssertionError, TypeError) as error:
            if isinstance(error, InputError):
                raise
            reason = (str(error) or type(error).__name__).splitlines()[0]
            raise InputError(
                f"{self.name} does not take inputs of shape {tuple(shape)}: {reason}. Say which it "
                "takes with --size."
            ) from error

    def _at_layer(self, x: Tensor) -> Any:
        assert self.layer is not None
        found: list[Any] = []
        here = threading.get_ident()

        def keep(module: nn.Module, args: Any, output: Any) -> None:
            if threading.get_ident() == here:
                found.append(output)
                raise _Reached

        handle = self.network.get_submodule(self.layer).register_forward_hook(keep)
        try:
            self.network(x)
        except _Reached:
            return found[0]
        finally:
            handle.remove()
        raise InputError(f"Layer {self.layer!r} did not run in the forward pass of {self.name}.")


def _normalisation(normalize: Normalize, channels: int | None) -> ChannelNormalize:
    """Constants by channel, single numbers repeated."""
    mean, std = ((v,) if isinstance(v, int | float) else tuple(v) for v in normalize)
    wanted = channels or max(len(mean), len(std))
    mean, std = (v * wanted if len(v) == 1 else v for v in (mean, std))
    if len(mean) != wanted or len(std) != wanted:
        raise InputError(
            f"Expected a mean and a std for each of {wanted} channels in --normalize, got {mean} "
            f"and {std}."
        )
    return ChannelNormalize(mean, std)


def _require_layer(network: nn.Module, layer: str) -> None:
    known = [name for name, _ in network.named_modules() if name]
    if layer not in known:
        near = difflib.get_close_matches(layer, known, 3) or known[-5:]
        raise InputError(
            f"No layer {layer!r} in {type(network).__name__}; did you mean "
            f"{', '.join(map(repr, near))}?"
        )
