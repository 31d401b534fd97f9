"""Receptive fields of the units of a convolutional map, found by running the network once.

A unit at position ``i`` of a map sees ``r`` input pixels around ``s + i j``. From the input
(``j = r = 1``, ``s = 0``) each convolution or pool with kernel ``k``, stride ``t``, padding ``p``
makes (Liznerski et al., Explainable Deep One-Class Classification, ICLR 2021)

    ``n' = (n + 2p - k) / t + 1``, ``j' = j t``, ``r' = r + (k - 1) j``,
    ``s' = s + ((k - 1) / 2 - p) j``.

Operations are met where they happen, so functional calls, padding layers and residual branches
count as well: where branches meet, the field is the smallest one that covers both.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from neuralize.encoder import evaluating
from neuralize.engine.operations.elementwise import ACTIVATIONS, GATES
from neuralize.engine.registry import operation_name
from neuralize.errors import InputError

POINTWISE = {
    *ACTIVATIONS, *GATES, "pow", "add", "sub", "rsub", "mul", "div", "rdiv", "maximum", "minimum",
    "batch_norm", "dropout", "dropout2d", "feature_dropout", "contiguous", "clone", "detach", "to",
    "float", "double", "type_as", "channel_shuffle", "native_channel_shuffle", "where",
}  # fmt: skip
"""Operations whose output at a pixel depends on their inputs at that pixel alone."""


@dataclass(frozen=True)
class ReceptiveField:
    """What the units of a map see, per axis (down, right).

    Attributes
    ----------
    n
        Units.
    j
        Input pixels from one unit to the next.
    r
        Input pixels that a unit sees, as the side of a box.
    s
        Centre of the first unit's box, in pixels; 0 is the centre of the first pixel.
    """

    n: tuple[int, int]
    j: tuple[int, int]
    r: tuple[int, int]
    s: tuple[float, float]

    @property
    def first(self) -> tuple[int, int]:
        """First pixel of the first unit's box; negative where it lies in the padding."""
        return tuple(round(s - (r - 1) / 2) for s, r in zip(self.s, self.r, strict=True))  # type: ignore[return-value]

    def after(self, size: Pair, kernel: Pair, stride: Pair, before: Pair) -> ReceptiveField:
        """Behind windows of ``kernel`` every ``stride``, with ``before`` rows of padding first.

        ``size`` is that of the new map.
        """
        each = list(zip(self.j, self.r, self.s, kernel, stride, before, strict=True))
        return ReceptiveField(
            size,
            _pair([j * t for j, _, _, _, t, _ in each]),
            _pair([r + (k - 1) * j for j, r, _, k, _, _ in each]),
            _pair([s + ((k - 1) / 2 - p) * j for j, _, s, k, _, p in each]),
        )

    def joined(self, other: ReceptiveField, place: str) -> ReceptiveField:
        """The smallest field that covers both, where two maps meet unit by unit."""
        if self.j != other.j or self.n != other.n:
            raise InputError(
                f"{place} joins maps whose units lie {self.j} and {other.j} pixels apart "
                f"({self.n} and {other.n} units); there is no common receptive field."
            )
        low = [min(a, b) for a, b in zip(self.first, other.first, strict=True)]
        ends = zip(self.first, self.r, other.first, other.r, strict=True)
        high = [max(a + p, b + q) for a, p, b, q in ends]
        r = [b - a for a, b in zip(low, high, strict=True)]
        center = [a + (k - 1) / 2 for a, k in zip(low, r, strict=True)]
        return ReceptiveField(self.n, self.j, _pair(r), _pair(center))


Pair = tuple[int, int]


def receptive_field(network: nn.Module, input_shape: Sequence[int]) -> ReceptiveField:
    """Field of the units of what ``network`` returns for pictures of ``input_shape`` ``(c, h, w)``.

    Raises
    ------
    InputError
        An operation that moves pixels otherwise than convolutions and pools do, named; an output
        that is no map.

    Examples
    --------
    >>> receptive_field(nn.Sequential(nn.Conv2d(1, 4, 5, padding=2), nn.MaxPool2d(2)), (1, 28, 28))
    ReceptiveField(n=(14, 14), j=(2, 2), r=(6, 6), s=(0.5, 0.5))
    """
    return receptive_fields(network, input_shape)["output"]


def receptive_fields(network: nn.Module, input_shape: Sequence[int]) -> dict[str, ReceptiveField]:
    """Fields behind every convolution and pool in order, by module path; the last is ``output``."""
    if len(input_shape) != 3:
        raise InputError(
            f"Expected the shape of a picture (c, h, w), got {tuple(input_shape)}: rows of a table "
            "have no receptive fields."
        )
    like = next(iter(network.parameters()), torch.zeros(()))
    x = torch.zeros(1, *input_shape, dtype=like.dtype, device=like.device)
    tracing = _Tracing(network, x)
    with torch.no_grad(), evaluating(network):
        try:
            with tracing:
                y = network(x)
        finally:
            tracing.close()
    if not isinstance(y, Tensor) or tracing.field(y) is None:
        raise InputError(
            "Expected the network to return one map (n, c, h, w) made from its input, got "
            f"{type(y).__name__} {tuple(getattr(y, 'shape', ()))}."
        )
    found = dict(tracing.layers)
    found["output"] = tracing.known(y)
    return found


class _Tracing(TorchFunctionMode):
    """Follows maps through the operations of one forward pass."""

    def __init__(self, network: nn.Module, x: Tensor) -> None:
        super().__init__()
        n = _pair(x.shape[-2:])
        self.fields = {id(x): ReceptiveField(n, (1, 1), (1, 1), (0.0, 0.0))}
        self.kept = [x]  # numbers of objects are reused once these are gone
        self.layers: dict[str, ReceptiveField] = {}
        self.path = [""]
        self.hooks = [
            hook
            for name, module in network.named_modules()
            for hook in (
                module.register_forward_pre_hook(lambda *_, name=name: self.path.append(name)),
                module.register_forward_hook(lambda *_: self._leave()),
            )
        ]

    def _leave(self) -> None:
        self.path.pop()

    def close(self) -> None:
        for hook in self.hooks:
            hook.remove()

    def field(self, t: Any) -> ReceptiveField | None:
        return self.fields.get(id(t)) if isinstance(t, Tensor) else None

    def known(self, t: Tensor) -> ReceptiveField:
        return self.fields[id(t)]

    @property
    def place(self) -> str:
        return self.path[-1] or "the network"

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        y = func(*args, **kwargs)
        name = operation_name(func)
        maps = [f for t in _flat([*args, *kwargs.values()]) if (f := self.field(t)) is not None]
        if not maps or not isinstance(y, Tensor):
            return y
        name = name.rstrip("_").removesuffix("_with_indices")
        if name in WINDOWS:
            self._set(y, WINDOWS[name](maps[0], y, args, kwargs))
            self.layers[self._fresh(name)] = self.known(y)
        elif name == "getitem":
            self._set(y, _sliced(maps[0], args[0], args[1], y, self.place))
        elif name in ("expand", "repeat", "expand_as") and _same_places(y, maps[0]):
            self._set(y, maps[0])
        elif (name in POINTWISE or _along_channels(name, args, kwargs)) and y.ndim >= 3:
            for other in maps[1:]:
                maps[0] = maps[0].joined(other, f"{name} in {self.place}")
            self._set(y, maps[0])
        else:
            raise InputError(
                f"No receptive field is known behind {name!r} in {self.place}: Gaussian upsampling "
                "needs a network of convolutions, pools and operations pixel by pixel. Cut the "
                "network before it."
            )
        return y

    def _set(self, y: Tensor, field: ReceptiveField) -> None:
        self.fields[id(y)] = field
        self.kept.append(y)

    def _fresh(self, name: str) -> str:
        path = self.path[-1] or name
        number = sum(known.partition(" #")[0] == path for known in self.layers)
        return f"{path} #{number + 1}" if number else path


def _conv(field: ReceptiveField, y: Tensor, args: Any, kwargs: Any) -> ReceptiveField:
    weight, stride, padding, dilation = _arguments(
        ("input", "weight", "bias", "stride", "padding", "dilation"), args, kwargs,
        ("weight", "stride", "padding", "dilation"), {"stride": 1, "padding": 0, "dilation": 1},
    )  # fmt: skip
    d = _twice(dilation)
    kernel = _pair([d[i] * (weight.shape[2 + i] - 1) + 1 for i in (0, 1)])
    if padding == "same":  # an odd row more goes to the end
        padding = _pair([(k - 1) // 2 for k in kernel])
    before = (0, 0) if padding == "valid" else _twice(padding)
    return field.after(_pair(y.shape[-2:]), kernel, _twice(stride), before)


def _pool(field: ReceptiveField, y: Tensor, args: Any, kwargs: Any) -> ReceptiveField:
    maximum = "dilation" in kwargs or (len(args) > 4 and not isinstance(args[4], bool))
    names = ("input", "kernel_size", "stride", "padding", *(("dilation",) if maximum else ()))
    size, stride, padding, dilation = _arguments(
        names, args, kwargs, ("kernel_size", "stride", "padding", "dilation"),
        {"padding": 0, "dilation": 1},
    )  # fmt: skip
    d, k = _twice(dilation), _twice(size)
    kernel = _pair([d[i] * (k[i] - 1) + 1 for i in (0, 1)])
    stride = k if stride is None or stride == [] else _twice(stride)
    return field.after(_pair(y.shape[-2:]), kernel, stride, _twice(padding))


def _pad(field: ReceptiveField, y: Tensor, args: Any, kwargs: Any) -> ReceptiveField:
    (pad,) = _arguments(("input", "pad"), args, kwargs, ("pad",), {})
    left, top = pad[0], pad[2] if len(pad) > 2 else 0
    return field.after(_pair(y.shape[-2:]), (1, 1), (1, 1), (top, left))


WINDOWS: dict[str, Callable[[ReceptiveField, Tensor, Any, Any], ReceptiveField]] = {
    "conv2d": _conv, "max_pool2d": _pool, "avg_pool2d": _pool, "lp_pool2d": _pool, "pad": _pad,
}  # fmt: skip


def _sliced(field: ReceptiveField, x: Tensor, index: Any, y: Tensor, place: str) -> ReceptiveField:
    index = index if isinstance(index, tuple) else (index,)
    if Ellipsis in index:
        at = index.index(Ellipsis)
        index = (*index[:at], *[slice(None)] * (x.ndim - len(index) + 1), *index[at + 1 :])
    spatial = (*index, *[slice(None)] * (x.ndim - len(index)))[-2:]
    if y.ndim < 3 or not all(isinstance(i, slice) for i in spatial):
        raise InputError(f"No receptive field is known behind indexing with {index} in {place}.")
    cuts = [i.indices(size) for i, size in zip(spatial, x.shape[-2:], strict=True)]
    before, stride = _pair([-start for start, _, _ in cuts]), _pair([step for _, _, step in cuts])
    return field.after(_pair(y.shape[-2:]), (1, 1), stride, before)


def _same_places(y: Tensor, field: ReceptiveField) -> bool:
    return y.ndim >= 3 and tuple(y.shape[-2:]) == field.n


def _along_channels(name: str, args: Any, kwargs: Any) -> bool:
    """Whether an operation with ``dim`` leaves rows and columns apart."""
    if name not in ("cat", "mean", "sum", "amax", "amin", "softmax", "chunk", "split", "squeeze",
                    "unsqueeze", "logsumexp"):  # fmt: skip
        return False
    default = 0 if name == "cat" else None
    dim = kwargs.get("dim", args[1] if len(args) > 1 else default)
    dims = dim if isinstance(dim, list | tuple) else [dim]
    return all(d in (0, 1, -3, -4) for d in dims)


def _arguments(
    order: Sequence[str], args: Any, kwargs: Any, names: Sequence[str], default: dict[str, Any]
) -> list[Any]:
    given = dict(zip(order, args, strict=False)) | kwargs
    return [given.get(name, default.get(name)) for name in names]


def _flat(values: Sequence[Any]) -> list[Any]:
    found: list[Any] = []
    for value in values:
        found += _flat(value) if isinstance(value, list | tuple) else [value]
    return found


def _pair(values: Sequence[Any]) -> Any:
    first, second = values
    return first, second


def _twice(value: Any) -> Pair:
    if isinstance(value, int):
        return value, value
    return (value[0], value[0]) if len(value) == 1 else (value[0], value[1])
