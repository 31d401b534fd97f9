"""Filters of an early layer that see an artefact, zeroed where the artefact lies.

The repair of CLIP in Kauffmann et al., Explainable AI reveals Clever Hans effects in unsupervised
learning models, Nature Machine Intelligence 7, 2025: an encoder that matches on logos gets the few
filters that answer to a logo set to zero at the logo's place. How the paper ranked filters is not
public. Here: pictures with the artefact against the *same* pictures without, by the distance
between the means of a filter's activation at the place, in standard deviations of the pictures
without it.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import ArrayLike
from torch import Tensor, nn

from neuralize.deep.patch_features import PatchFeatures
from neuralize.encoder import evaluating
from xai.errors import InputError
from xai.mitigate.given import Array

PICTURES_AT_ONCE = 2**20
"""Input numbers that go through the encoder together."""


@dataclass(frozen=True, eq=False)
class RankedFilters:
    """Filters, those that answer most to the artefact first.

    Attributes
    ----------
    channels
        ``(c,)``.
    separation
        Of each, in the same order, in standard deviations ``(c,)``; negative where the artefact
        silences the filter.
    reach
        Cells of the layer that the artefact reaches ``(h, w)``: a filter whose window touches it
        answers beside it, too. The place to prune.
    """

    channels: Array
    separation: Array
    reach: Array


def rank_filters(
    encoder: nn.Module,
    layer: str,
    with_artefact: ArrayLike,
    without: ArrayLike,
    where: ArrayLike | None = None,
) -> RankedFilters:
    """Rank the channels of a layer by how far they tell pictures with the artefact from without.

    Parameters
    ----------
    encoder
        Any network over pictures; left as it is.
    layer
        Path of a module whose output is a feature map ``(n, c, h, w)``.
    with_artefact, without
        The same pictures ``(n, c, h, w)`` with the artefact and without.
    where
        Where activations are compared ``(h, w)``, boolean, in pixels of the pictures or of the
        layer; wherever the artefact reaches when missing.

    Raises
    ------
    InputError
        Pictures of two shapes, fewer than two, pairs without a difference, a layer that is not
        there or has no feature map, a place that is empty.

    Examples
    --------
    >>> encoder = nn.Sequential(nn.Conv2d(1, 2, 1, bias=False), nn.ReLU())
    >>> with torch.no_grad():
    ...     encoder[0].weight.copy_(torch.tensor([1.0, -1.0]).reshape(2, 1, 1, 1))
    Parameter containing:
    ...
    >>> pictures = torch.rand(8, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    >>> marked = pictures.clone()
    >>> marked[:, :, :2, :2] = -2.0
    >>> found = rank_filters(encoder, "1", marked, pictures)
    >>> found.channels, int(found.reach.sum())
    (array([1, 0]), 4)
    """
    a = torch.as_tensor(np.asarray(with_artefact), dtype=torch.float32)
    b = torch.as_tensor(np.asarray(without), dtype=torch.float32)
    if a.shape != b.shape or a.ndim != 4 or len(a) < 2:
        raise InputError(
            "Expected the same pictures (n, c, h, w) with the artefact and without, at least two, "
            f"got {tuple(a.shape)} and {tuple(b.shape)}."
        )
    place = None if where is None else as_place(where)
    pairs = _Pairs(encoder, layer, a, b)
    reach = pairs.reach()
    if not bool(reach.any()):
        raise InputError(
            f"Expected pictures that differ where layer {layer!r} sees it, and the layer answers "
            "both alike."
        )
    found, plain = pairs.means(reach if place is None else on_grid(place, reach.shape))
    difference = found.mean(0) - plain.mean(0)
    spread = plain.std(0)
    # A filter that was silent and now answers has no spread of its own.
    floor = 1e-3 * float(torch.cat([found, plain]).std()) or 1.0
    separation = (difference / spread.clamp_min(floor)).double().numpy()
    order = np.argsort(-np.abs(separation), kind="stable")
    return RankedFilters(order, separation[order], reach.numpy())


class _Pairs:
    """Feature maps of pictures with the artefact beside those of the same pictures without."""

    def __init__(self, encoder: nn.Module, layer: str, a: Tensor, b: Tensor) -> None:
        self.taps = PatchFeatures(encoder, [layer], pool=1)
        self.a, self.b = a, b

    def _maps(self) -> Iterator[tuple[Tensor, Tensor]]:
        rows = max(1, PICTURES_AT_ONCE // self.a[0].numel())
        with torch.no_grad(), evaluating(self.taps):
            for a, b in zip(self.a.split(rows), self.b.split(rows), strict=True):
                yield self.taps.outputs(a)[0], self.taps.outputs(b)[0]

    def reach(self) -> Tensor:
        """Cells in which any channel of any picture differs."""
        return torch.stack([(a != b).any(1).any(0) for a, b in self._maps()]).any(0)

    def means(self, grid: Tensor) -> tuple[Tensor, Tensor]:
        """Mean activation of every channel over the cells ``(n, c)``, with and without."""
        parts = [(a[:, :, grid].mean(2), b[:, :, grid].mean(2)) for a, b in self._maps()]
        with_it, without = zip(*parts, strict=True)
        return torch.cat(with_it), torch.cat(without)


def as_place(where: ArrayLike) -> Tensor:
    """A place ``(h, w)`` as booleans.

    Raises
    ------
    InputError
        Of another shape or type, or empty.
    """
    place = np.asarray(where)
    if place.ndim != 2 or place.dtype != bool or not place.any():
        raise InputError(
            f"Expected a place (h, w) of booleans, some of them true, got {place.shape} of "
            f"{place.dtype}."
        )
    return torch.from_numpy(place.copy())


def on_grid(place: Tensor, size: Sequence[int]) -> Tensor:
    """The place on a layer's grid: a cell belongs to it if any of its pixels does.

    Examples
    --------
    >>> on_grid(torch.eye(4, dtype=torch.bool), (2, 2)).tolist()
    [[True, False], [False, True]]
    """
    if tuple(place.shape) == tuple(size):
        return place
    return F.adaptive_max_pool2d(place[None].float(), tuple(size))[0] > 0


class PrunedFilters(nn.Module):
    """An encoder in which some channels of a layer are zero, at a place or everywhere.

    The encoder is copied; its weights stay what they are, and are saved with the channels and the
    place.

    Parameters
    ----------
    encoder
        Any network over pictures.
    layer
        Path of the module whose output loses channels.
    channels
        Which, e.g. the first of :func:`rank_filters`.
    where
        Where ``(h, w)``, boolean, in pixels of the pictures or of the layer, e.g. the ranking's
        ``reach``; everywhere when missing.

    Raises
    ------
    InputError
        A layer that is not there, channels that are no whole numbers or repeat, an empty place; by
        ``forward``, channels that the layer does not have.

    Examples
    --------
    >>> encoder = nn.Sequential(nn.Conv2d(1, 3, 1), nn.ReLU(), nn.Flatten())
    >>> pruned = PrunedFilters(encoder, "1", [0, 2])
    >>> pruned(torch.ones(1, 1, 2, 2)).reshape(3, 4)[[0, 2]].abs().sum().item()
    0.0
    """

    channels: Tensor
    place: Tensor | None

    def __init__(
        self,
        encoder: nn.Module,
        layer: str,
        channels: ArrayLike,
        where: ArrayLike | None = None,
    ) -> None:
        super().__init__()
        if layer not in dict(encoder.named_modules()):
            PatchFeatures(encoder, [layer])  # says what is near
        chosen = np.asarray(channels)
        if chosen.size == 0:
            chosen = chosen.astype(np.int64)
        if chosen.ndim != 1 or chosen.dtype.kind not in "iu" or (chosen < 0).any():
            raise InputError(f"Expected channels as whole numbers from 0 on, got {channels!r}.")
        if len(np.unique(chosen)) != len(chosen):
            raise InputError(f"Expected channels that differ, got {chosen.tolist()}.")
        self.layer = layer
        self.register_buffer("channels", torch.from_numpy(chosen.astype(np.int64)))
        self.register_buffer("place", None if where is None else as_place(where))
        self.encoder = copy.deepcopy(encoder)
        # A bound method, so that a copy of this module hooks its own encoder.
        self.encoder.get_submodule(layer).register_forward_hook(self._prune)

    def _prune(self, module: nn.Module, args: Any, output: Any) -> Tensor:
        if not isinstance(output, Tensor) or output.ndim != 4:
            shape = tuple(output.shape) if isinstance(output, Tensor) else type(output)
            raise InputError(
                f"Expected a feature map (n, c, h, w) from layer {self.layer!r}, got {shape}."
            )
        c = output.shape[1]
        if len(self.channels) and int(self.channels.max()) >= c:
            raise InputError(
                f"Expected channels below {c}, which layer {self.layer!r} has, got "
                f"{int(self.channels.max())}."
            )
        of_channels = torch.zeros(c, dtype=torch.bool, device=output.device)
        of_channels[self.channels] = True
        gone = of_channels[:, None, None]
        if self.place is not None:
            gone = gone & on_grid(self.place, output.shape[2:])
        # Filled, not multiplied by zero: what is not there can take no relevance by any rule.
        return output.masked_fill(gone, 0.0)

    def forward(self, x: Tensor) -> Tensor:
        """What the encoder answers without these filters."""
        answer: Tensor = self.encoder(x)
        return answer
