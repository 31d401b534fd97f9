"""What a checkpoint of others does not say, and its user has to."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from neuralize.deep.preprocessing import ContrastNormalize, Standardize, inner_shape
from neuralize.deep.readers.published import IMAGENET, contrast_of
from neuralize.errors import InputError

Numbers = float | Sequence[float]
Exposure = Literal["hsc", "bce", "focal", "dsvdd", "dsad"]
Activation = Literal["leaky_relu", "elu"]


@dataclass(frozen=True)
class Given:
    """The caller's part; see :func:`neuralize.deep.import_detector` for what the fields are."""

    network: nn.Module | None = None
    input_shape: tuple[int, ...] | None = None
    normalize: str | tuple[Numbers, Numbers] | None = None
    contrast: str | tuple[float, float] | None = None
    units: float | None = None
    activation: Activation | None = None
    objective: Exposure | None = None
    center: Numbers | Tensor | None = None
    layers: tuple[str, ...] | None = None
    neighbors: int | None = None
    threshold: float | None = None

    def __post_init__(self) -> None:
        if self.network is not None and not isinstance(self.network, nn.Module):
            raise InputError(
                f"Expected an nn.Module as network, got {type(self.network).__name__}."
            )
        _choice("activation", self.activation, get_args(Activation))
        _choice("objective", self.objective, get_args(Exposure))
        _number("threshold", self.threshold)
        _number("units", self.units)
        if self.units is not None and self.units <= 0:
            raise InputError(f"Expected units above 0, got {self.units}.")
        k = self.neighbors
        if k is not None and (isinstance(k, bool) or not isinstance(k, int) or k < 1):
            raise InputError(f"Expected neighbors of at least 1, got {k!r}.")
        shape = self.input_shape
        if shape is not None and not (shape and all(isinstance(n, int) and n > 0 for n in shape)):
            raise InputError(f"Expected input_shape like (28, 28) or (3, 32, 32), got {shape!r}.")
        if self.normalize is not None and self.contrast is not None:
            raise InputError("Expected normalize or contrast, got both.")

    def require_only(self, used: Sequence[str], format_name: str) -> None:
        """Raise :class:`InputError` for what was given and has no use with this format."""
        given = {field.name for field in fields(self) if getattr(self, field.name) is not None}
        idle = sorted(given - set(used))
        if idle:
            raise InputError(
                f"{format_name} checkpoints have no use for {', '.join(idle)}; what they may lack "
                f"is {', '.join(used)}."
            )

    def with_normalize(self, normalize: str | tuple[Numbers, Numbers]) -> Given:
        """The same with that normalisation."""
        return replace(self, normalize=normalize)

    @property
    def preprocessing(self) -> str | None:
        """Name of the preprocessing that :meth:`fill` puts numbers into."""
        if self.contrast is not None:
            return "contrast"
        return None if self.normalize is None and self.units in (None, 1) else "standardize"

    def mean_and_std(self, channels: int) -> tuple[Tensor, Tensor]:
        """Constants of the normalisation ``(channels,)``, in the user's units."""
        given = self.normalize
        if isinstance(given, str):
            if given != "imagenet":
                raise InputError(f"Expected normalize as (mean, std) or 'imagenet', got {given!r}.")
            given = IMAGENET
        if given is None:
            given = (0.0, 1.0)
        if not isinstance(given, Sequence) or len(given) != 2:
            raise InputError(f"Expected normalize as (mean, std), got {given!r}.")
        found = []
        for what, numbers in zip(("mean", "std"), given, strict=True):
            values = _vector(numbers, f"{what} of normalize")
            if len(values) not in (1, channels):
                raise InputError(
                    f"Expected one {what} or {channels}, one for each channel or column, got "
                    f"{len(values)}."
                )
            found.append(values.expand(channels) * (self.units or 1.0))
        mean, std = found
        if not bool((std > 0).all()):
            raise InputError(f"Expected a std above 0, got {std.min():g}.")
        return mean, std

    def fill(self, steps: nn.Module, input_shape: Sequence[int]) -> None:
        """Put the numbers into preprocessing ``steps`` that were built by its name."""
        for step in steps.children():
            if isinstance(step, Standardize):
                mean, std = self.mean_and_std(inner_shape(input_shape)[0])
                step.mean.copy_(mean.reshape(step.mean.shape))
                step.std.copy_(std.reshape(step.std.shape))
            elif isinstance(step, ContrastNormalize):
                contrast = self.contrast
                low, high = contrast_of(contrast) if isinstance(contrast, str) else _pair(contrast)
                step.low.fill_(low)
                step.high.fill_(high)

    def center_of(self, width: int) -> Tensor:
        """The given centre ``(width,)``."""
        assert self.center is not None
        center = _vector(self.center, "center")
        if len(center) not in (1, width):
            raise InputError(f"Expected a center of {width} numbers, got {len(center)}.")
        return center.expand(width)


def _vector(numbers: Any, what: str) -> Tensor:
    """One number or several, as float64 ``(k,)``."""
    try:
        values = torch.as_tensor(numbers, dtype=torch.float64).reshape(-1)
    except (TypeError, ValueError, RuntimeError) as error:
        raise InputError(f"Expected numbers as {what}, got {numbers!r}.") from error
    if not len(values) or not bool(torch.isfinite(values).all()):
        raise InputError(f"Expected finite numbers as {what}, got {numbers!r}.")
    return values


def _pair(contrast: Any) -> tuple[float, float]:
    values = _vector(contrast, "contrast")
    if len(values) != 2 or values[0] >= values[1]:
        raise InputError(f"Expected contrast as (low, high), low < high, got {contrast!r}.")
    return float(values[0]), float(values[1])


def _choice(name: str, value: Any, known: Sequence[str]) -> None:
    if value is not None and value not in known:
        raise InputError(f"Expected {name} {', '.join(map(repr, known))}, got {value!r}.")


def _number(name: str, value: Any) -> None:
    if value is None:
        return
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise InputError(f"Expected {name} as a finite number, got {value!r}.")
