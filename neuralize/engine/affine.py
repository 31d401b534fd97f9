"""One call of an affine map ``z = W x + b`` as its rule sees it: linear layers, convolutions.

The rule's arithmetic is in :mod:`neuralize.rules.named`; here are the maps it is made of, the
modified weights (made once per weight and context) and the accounts of what is absorbed.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch._C import _functorch

from neuralize.engine.rows import Rows


def is_batched(t: Tensor) -> bool:
    """Whether ``t`` carries several targets at once (inside a batched backward)."""
    batched: bool = _functorch.is_batchedtensor(t)
    return batched


def plain(t: Tensor) -> Tensor:
    """The tensor below a batch of targets, for looks at its values."""
    while is_batched(t):
        t = _functorch.get_unwrapped(t)
    return t


@dataclass(frozen=True)
class Map:
    """A bilinear map of weight and input: how an affine operation applies and transposes."""

    kind: str
    """``linear``, ``conv1d`` ... ``conv3d``, ``conv_transpose1d`` ... ``conv_transpose3d``."""
    stride: tuple[int, ...] = ()
    padding: tuple[int, ...] = ()
    dilation: tuple[int, ...] = ()
    output_padding: tuple[int, ...] = ()
    groups: int = 1

    @property
    def is_linear(self) -> bool:
        return self.kind == "linear"

    @property
    def is_transposed(self) -> bool:
        return self.kind.startswith("conv_transpose")

    def forward(self, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        """``W x + b``."""
        if self.is_linear:
            return F.linear(x, weight, bias)
        return torch.convolution(
            x, weight, bias, self.stride, self.padding, self.dilation, self.is_transposed,
            self.output_padding, self.groups,
        )  # fmt: skip

    def transposed(self, s: Tensor, weight: Tensor, shape: torch.Size) -> Tensor:
        """``W^T s``, in the shape of the input."""
        if self.is_linear:
            return s @ weight
        like = s.new_empty(1).expand(shape)
        grad: Tensor = torch.ops.aten.convolution_backward(
            s, like, weight, None, self.stride, self.padding, self.dilation, self.is_transposed,
            self.output_padding, self.groups, (True, False, False),
        )[0]  # fmt: skip
        return grad

    def channel_dim(self, z: Tensor) -> int:
        """Dimension of the output that the bias belongs to."""
        return z.ndim - 1 if self.is_linear else z.ndim - (int(self.kind[-2]) + 1)

    def scaled(self, weight: Tensor, scale: Tensor) -> Tensor:
        """Weights whose output channels are multiplied by ``scale`` ``(c,)``."""
        if not self.is_transposed:
            return weight * scale.reshape(-1, *[1] * (weight.ndim - 1))
        # (in, out / groups, ...): the channels of group g belong to its slice of inputs
        grouped = weight.reshape(self.groups, -1, *weight.shape[1:])
        factors = scale.reshape(self.groups, 1, -1, *[1] * (weight.ndim - 2))
        return (grouped * factors).reshape(weight.shape)


class Weights:
    """A weight and a bias with their modified copies, each made when first asked for.

    With ``scale`` ``(c,)``, the weight is that of a map merged with the BatchNorm after it. It is
    made only for modified copies: as it is, it is the own weight and a factor for every channel.
    """

    def __init__(
        self, map: Map, weight: Tensor, bias: Tensor | None, scale: Tensor | None = None
    ) -> None:
        self._map = map
        self.own = weight
        self.scale = scale
        self.bias = bias
        self._made: dict[str, Tensor] = {}

    def modified(self, name: str, make: Callable[[Tensor], Tensor], *, keep: bool = True) -> Tensor:
        """``make(weight)``, found again by ``name`` unless it is not worth the memory."""
        if name in self._made:
            return self._made[name]
        made = make(self.own if self.scale is None else self._map.scaled(self.own, self.scale))
        if keep:
            self._made[name] = made
        return made

    def modified_bias(self, name: str, make: Callable[[Tensor], Tensor]) -> Tensor:
        """``make(bias)``, found again by ``name``."""
        assert self.bias is not None
        key = f"bias {name}"
        if key not in self._made:
            self._made[key] = make(self.bias)
        return self._made[key]


class WeightCache:
    """:class:`Weights` for the life of a context, found again by the tensors they were made of.

    Weak in the tensors: weights that a parametrization computes anew in each call do not pile up.
    """

    def __init__(self) -> None:
        self._known: dict[tuple[int, ...], tuple[Weights, list[Any], tuple[Any, ...]]] = {}

    @property
    def kept_bytes(self) -> int:
        """Memory of the modified weights."""
        made = [t for weights, _, _ in self._known.values() for t in weights._made.values()]
        return sum(t.numel() * t.element_size() for t in made)

    def get(self, sources: list[Tensor | None], make: Callable[[], Weights]) -> Weights:
        key = tuple(id(t) for t in sources)
        versions = tuple(state_of(t) for t in sources)
        found = self._known.get(key)
        if (
            found is not None
            and found[2] == versions
            and all(
                (ref is None) == (t is None) and (ref is None or ref() is t)
                for ref, t in zip(found[1], sources, strict=True)
            )
        ):
            return found[0]
        weights = make()

        def forget(_: Any, key: tuple[int, ...] = key) -> None:
            self._known.pop(key, None)

        refs = [None if t is None else weakref.ref(t, forget) for t in sources]
        self._known[key] = (weights, refs, versions)
        return weights


def state_of(t: Tensor | None) -> Any:
    """What changes when a weight does: writes through ``.data`` do not even raise its version."""
    if t is None:
        return None
    version = 0 if t.is_inference() else t._version
    return version, t.data_ptr(), t.dtype, t.device, float(t.detach().sum())


@dataclass
class AffineCall:
    """One call: input, map, weights, and what rules may ask about the output."""

    map: Map
    weights: Weights
    x: Tensor
    rows: Rows
    known_nonnegative: bool = False
    saved_z: Tensor | None = None
    rectified: Tensor | None = None
    """``max(z, 0)``, kept instead of ``z`` where a ReLU follows."""
    shares: dict[str, Tensor] = field(default_factory=dict)
    _nonnegative: bool | None = None

    # -- weights -----------------------------------------------------------------------------

    @property
    def w_plus(self) -> Tensor:
        return self.weights.modified("+", lambda w: w.clamp(min=0))

    @property
    def w_minus(self) -> Tensor:
        return self.weights.modified("-", lambda w: w.clamp(max=0))

    @property
    def w_squared(self) -> Tensor:
        return self.weights.modified("2", lambda w: w**2)

    @property
    def w_ones(self) -> Tensor:
        return self.weights.modified("1", torch.ones_like)

    def gamma_plus(self, gamma: float) -> Tensor:
        """``P(W) = W + gamma W+``."""
        return self.weights.modified(f"+{gamma}", lambda w: w + gamma * w.clamp(min=0))

    def gamma_minus(self, gamma: float) -> Tensor:
        """``N(W) = W + gamma W-``; rarely needed in networks of ReLUs, so not kept."""
        return self.weights.modified(
            f"-{gamma}", lambda w: w + gamma * w.clamp(max=0), keep=not self.nonnegative
        )

    def bias(self, zero_params: tuple[str, ...], form: str = "") -> Tensor | None:
        """The bias in the form a rule needs: ``""``, ``"+"``, ``"-"``, ``"2"``, ``"+0.25"``."""
        b = self.weights.bias
        if b is None or "bias" in zero_params:
            return None
        if not form:
            return b
        if form == "2":
            return self.weights.modified_bias(form, lambda b: b**2)
        sign = {"min": 0} if form[0] == "+" else {"max": 0}
        if len(form) == 1:
            return self.weights.modified_bias(form, lambda b: b.clamp(**sign))
        gamma = float(form[1:])
        return self.weights.modified_bias(form, lambda b: b + gamma * b.clamp(**sign))

    # -- the map -----------------------------------------------------------------------------

    def forward(self, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        return self.map.forward(x, weight, bias)

    def transposed(self, s: Tensor, weight: Tensor) -> Tensor:
        return self.map.transposed(s, weight, self.x.shape)

    def linear(self) -> Tensor:
        """``W x``, of the merged weight."""
        z = self.forward(self.x, self.weights.own)
        return z if self.weights.scale is None else z * self._per_channel(z, self.weights.scale)

    def linear_transposed(self, s: Tensor) -> Tensor:
        """``W^T s``, of the merged weight."""
        if self.weights.scale is not None:
            s = s * self._per_channel(s, self.weights.scale)
        return self.transposed(s, self.weights.own)

    def _per_channel(self, z: Tensor, values: Tensor) -> Tensor:
        """``values`` ``(c,)`` so that they broadcast over the output ``z``."""
        return values.reshape(-1, *[1] * (z.ndim - 1 - self.map.channel_dim(z)))

    def times_x(self, own: Tensor) -> Tensor:
        """``x * own``, in place where ``own`` is ours and not a batch of targets."""
        return own * self.x if is_batched(own) else own.mul_(self.x)

    @property
    def z(self) -> Tensor:
        """The output; computed again where it was not kept."""
        if self.saved_z is None:
            z, bias = self.linear(), self.weights.bias
            self.saved_z = z if bias is None else z.add_(self._per_channel(z, bias))
        return self.saved_z

    @property
    def nonnegative(self) -> bool:
        """Whether no input is negative; looked up once."""
        if self._nonnegative is None:
            known = self.known_nonnegative or not self.x.numel()
            self._nonnegative = known or bool(self.x.amin() >= 0)
        return self._nonnegative

    def z_for(self, relevance: Tensor) -> Tensor:
        """The output, or its rectified copy where no relevance arrives at the rest."""
        y = self.rectified
        if self.saved_z is None and y is not None and not self._any(relevance, y <= 0):
            return y
        return self.z

    def by_sign(self, relevance: Tensor) -> tuple[Tensor, Tensor | None]:
        """Relevance where ``z > 0`` and where ``z < 0``; None for the latter if there is none.

        Under a ReLU there is none, and a look saves two passes. What arrives where ``z = 0`` has no
        direction to go, and the stabilizer takes it.
        """
        y = self.rectified
        if self.saved_z is None and y is not None and not self._any(relevance, y <= 0):
            return relevance, None
        z = self.z
        above = relevance * (z > 0)
        below = relevance - above
        if int(torch.count_nonzero(z)) < z.numel():
            undecided = below * (z == 0)
            self._add("stabilizer", self.rows.sum(undecided))
            below = below - undecided
        return above, below if bool(plain(below).any()) else None

    @staticmethod
    def _any(relevance: Tensor, mask: Tensor) -> bool:
        """Whether any relevance arrives where ``mask``, for any of the targets."""
        return bool((plain(relevance).ne(0) & mask).any())

    def one_row_of_ones(self) -> Tensor:
        """Ones in the shape of one row: the answer is the same for all."""
        shape = (1, *self.x.shape[1:]) if self.x.ndim > 1 else self.x.shape
        return torch.ones(shape, dtype=self.x.dtype, device=self.x.device)

    def bound(self, value: Any) -> Tensor:
        """A bound of the input box, as a tensor that broadcasts over one row."""
        b = torch.as_tensor(value, dtype=self.x.dtype, device=self.x.device)
        row = (1, *self.x.shape[1:])
        if b.ndim == 1 and not self.map.is_linear:
            b = b.reshape(1, -1, *[1] * (self.x.ndim - 2))
        try:
            return b.expand(row) if b.ndim <= len(row) else b
        except RuntimeError as error:
            if b.shape == self.x.shape:
                return b
            raise ValueError(
                f"Expected bounds of the input box that broadcast to {row}, got {tuple(b.shape)}."
            ) from error

    # -- accounts ----------------------------------------------------------------------------

    def share(
        self,
        relevance: Tensor,
        d: Tensor,
        bias: Tensor | None,
        epsilon: float,
        factor: float = 1.0,
        *,
        fresh: bool = False,
        sign: int = 0,
    ) -> Tensor:
        """``s = factor R / stab(d)``, noting what bias and stabilizer take of it.

        ``fresh`` promises that ``d`` is no one else's, so that its memory may be used; ``sign``
        that ``d`` is positive, or negative, wherever relevance arrives.
        """
        if not epsilon:
            s = relevance / torch.where(d == 0, torch.full_like(d, torch.inf), d)
            s = s if factor == 1 else s * factor
            self._add("stabilizer", self.rows.sum(relevance) * factor - self.rows.sum(s * d))
            self._note_bias(s, bias)
            return s
        # What the stabilizer takes is sum s * shift, with shift = eps sign(d).
        shift: Tensor | None = None
        if sign and fresh:
            d = d.clamp_(min=0).add_(epsilon) if sign > 0 else d.clamp_(max=0).sub_(epsilon)
        else:
            shift = torch.copysign(torch.as_tensor(epsilon, dtype=d.dtype, device=d.device), d)
            d = d.add_(shift) if fresh else d + shift
        if is_batched(relevance) or d.shape != relevance.shape:
            s = relevance / d
        else:
            s = torch.div(relevance, d, out=d)
        if factor != 1:
            s = s * factor
        summed = self._note_bias(s, bias)
        if shift is not None:
            self._add("stabilizer", self.rows.dot(s, shift))
        else:
            total = self.rows.sum(s) if summed is None else summed.sum(1)
            self._add("stabilizer", total * (epsilon * sign))
        return s

    def _note_bias(self, s: Tensor, bias: Tensor | None) -> Tensor | None:
        """What the bias takes; returns the sums per row and channel ``(n, c)`` if it made them."""
        if bias is None:
            return None
        channel = self.map.channel_dim(s)
        if self.rows.dim == 0 and self.rows.groups == 1 and channel > 0 and s.numel():
            n, c = s.shape[0], s.shape[channel]
            summed = s.reshape(n, -1, c).sum(1) if self.map.is_linear else s.flatten(2).sum(2)
            self._add("bias", summed @ bias)
            return summed
        self._add("bias", self.rows.sum(s * self._per_channel(s, bias)))
        return None

    def ignore(self, relevance: Tensor) -> None:
        """All of it stays here."""
        self._add("ignored", self.rows.sum(relevance))

    def _add(self, name: str, share: Tensor) -> None:
        self.shares[name] = self.shares[name] + share if name in self.shares else share
