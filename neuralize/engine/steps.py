"""Steps: one operation of a running network together with the rule its backward follows.

A step's output is the operation's own, unchanged; its backward turns the relevance of the output
into the relevance of its inputs. What is absorbed leaves as the gradient of a *sink*, a leaf with
one number per row: so shares of many targets batch like everything else, and threads share nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from neuralize.engine.affine import plain
from neuralize.engine.rows import Rows
from neuralize.rules.base import stabilize

Shares = dict[str, Tensor]


class Step:
    """One operation with its rule.

    Attributes
    ----------
    rows, rows_in
        Rows of the output, and of the first input.
    sinks
        Names of what may be absorbed; the order of the sinks among the inputs.
    """

    sinks: tuple[str, ...] = ()
    record: Record | None = None
    keep = False

    def compute(self, *inputs: Tensor) -> Tensor:
        """The operation's output."""
        raise NotImplementedError

    def split(self, relevance: Tensor) -> tuple[Sequence[Tensor | None], Shares]:
        """Relevance of the inputs and the absorbed shares ``(n,)`` by name."""
        raise NotImplementedError

    def kept(self, z: Tensor) -> None:
        """Called with the (detached) output; a step whose rule needs it keeps it."""

    def rectified(self, y: Tensor) -> None:
        """A ReLU follows, with output ``y``: all that need be kept of this step's output."""

    def release(self) -> None:
        """Forget tensors: the backward ran and will not run again."""


class Record:
    """What coverage wants to know of one operation: filled in by its backward."""

    def __init__(self, path: str, operation: str, rule: str) -> None:
        self.path, self.operation, self.rule = path, operation, rule
        self.incoming = self.outgoing = 0.0
        self.magnitude_in = self.magnitude_out = 0.0
        self.absorbed: dict[str, float] = {}
        self.not_finite = 0
        self.visited = False

    def note(self, relevance: Tensor, inputs: Sequence[Tensor | None], shares: Shares) -> None:
        """``relevance`` came in from above, ``inputs`` went on below, ``shares`` stayed."""
        self.visited = True
        r = plain(relevance)
        self.incoming += float(r.double().sum())
        self.magnitude_in += float(r.double().abs().sum())
        for part in inputs:
            if part is not None:
                p = plain(part)
                self.outgoing += float(p.double().sum())
                self.magnitude_out += float(p.double().abs().sum())
                self.not_finite += int((~p.isfinite()).sum())
        for name, share in shares.items():
            self.absorbed[name] = self.absorbed.get(name, 0.0) + float(plain(share).double().sum())


class Carry(torch.autograd.Function):
    """Lets autograd carry relevance through a step."""

    @staticmethod
    def forward(ctx: Any, step: Step, count: int, *tensors: Tensor) -> Tensor:
        ctx.step = step
        ctx.set_materialize_grads(False)
        z = step.compute(*(t.detach() for t in tensors[:count]))
        step.kept(z.detach())
        return z

    @staticmethod
    def backward(ctx: Any, *relevance: Tensor | None) -> tuple[Tensor | None, ...]:
        step: Step = ctx.step
        (r,) = relevance
        if r is None:
            return (None,) * len(ctx.needs_input_grad)
        inputs, shares = step.split(r)
        if step.record is not None:
            step.record.note(r, inputs, shares)
        if not step.keep:
            step.release()
        unknown = set(shares) - set(step.sinks)
        assert not unknown, f"{type(step).__name__} absorbs {unknown} without a sink"
        return (None, None, *inputs, *(shares.get(name) for name in step.sinks))


def share(r: Tensor, z: Tensor, epsilon: float) -> Tensor:
    """``R / stab(z)``; with ``epsilon = 0``, nothing where ``z = 0``."""
    if epsilon:
        return r / stabilize(z, epsilon)
    return r / torch.where(z == 0, torch.full_like(z, torch.inf), z)


def share_of(r: Tensor, z: Tensor, epsilon: float, rows: Rows) -> tuple[Tensor, Tensor]:
    """``s = R / stab(z)``, and what the stabilizer takes of ``R``, per row ``(n,)``."""
    if not epsilon:
        s = share(r, z, epsilon)
        return s, rows.sum(r) - rows.sum(s * z)
    shift = torch.copysign(torch.as_tensor(epsilon, dtype=z.dtype, device=z.device), z)
    s = r / (z + shift)
    return s, rows.dot(s, shift)


def fold_to(r: Tensor, shape: torch.Size) -> Tensor:
    """Sum over the dimensions in which a tensor of ``shape`` was broadcast."""
    return r if r.shape == shape else r.sum_to_size(shape)


def transpose_of(f: Callable[..., Tensor], *xs: Tensor) -> Callable[[Tensor], tuple[Tensor, ...]]:
    """``s -> (df/dx)^T s`` for each of the inputs; works for batches of targets."""
    transposed: Callable[[Tensor], tuple[Tensor, ...]] = torch.func.vjp(f, *xs)[1]
    return transposed


class Same(Step):
    """Pass: element-wise operations of one input; also with constants that only scale it."""

    def __init__(self, f: Callable[[Tensor], Tensor], shape: torch.Size) -> None:
        self.f, self.shape = f, shape

    def compute(self, *inputs: Tensor) -> Tensor:
        return self.f(inputs[0])

    def split(self, relevance: Tensor) -> tuple[Sequence[Tensor | None], Shares]:
        return [fold_to(relevance, self.shape)], {}


class Absorb(Step):
    """A constant that enters beside relevance (a class token): its share stays here, by name."""

    def __init__(self, constant: Tensor, rows: Rows, name: str) -> None:
        self.constant, self.rows, self.name = constant, rows, name
        self.sinks = (name,)

    def compute(self, *inputs: Tensor) -> Tensor:
        return self.constant

    def split(self, relevance: Tensor) -> tuple[Sequence[Tensor | None], Shares]:
        return [], {self.name: self.rows.sum(relevance)}


class Stop(Step):
    """Ignore: nothing goes on below."""

    sinks = ("ignored",)

    def __init__(self, f: Callable[..., Tensor], count: int, rows: Rows) -> None:
        self.f, self.count, self.rows = f, count, rows

    def compute(self, *inputs: Tensor) -> Tensor:
        return self.f(*inputs)

    def split(self, relevance: Tensor) -> tuple[Sequence[Tensor | None], Shares]:
        return [None] * self.count, {"ignored": self.rows.sum(relevance)}


class Euler(Step):
    """Any homogeneous operation of degree ``k``: ``R_i = (1/k) x_i dz/dx_i R / stab(z)``.

    Parameters
    ----------
    f
        The operation, in its inputs that carry relevance.
    degree
        ``k``, in all of them together.
    """

    sinks = ("stabilizer",)

    def __init__(self, f: Callable[..., Tensor], degree: int, rows: Rows, epsilon: float) -> None:
        self.f, self.degree, self.rows, self.epsilon = f, degree, rows, epsilon
        self.xs: tuple[Tensor, ...] = ()
        self.z: Tensor | None = None

    def compute(self, *inputs: Tensor) -> Tensor:
        self.xs = inputs
        return self.f(*inputs)

    def kept(self, z: Tensor) -> None:
        self.z = z

    def split(self, relevance: Tensor) -> tuple[Sequence[Tensor | None], Shares]:
        assert self.z is not None
        s, lost = share_of(relevance, self.z, self.epsilon, self.rows)
        own = transpose_of(self.f, *self.xs)(s if self.degree == 1 else s / self.degree)
        # not in place: the transpose of a sum or a view is no memory of its own
        parts = [g * x for x, g in zip(self.xs, own, strict=True)]
        return parts, {"stabilizer": lost}

    def release(self) -> None:
        self.xs, self.z = (), None


class Sum(Step):
    """Norm on an addition: ``R_a = a R / stab(z)``, of ``z = a + b (+ constant)``.

    Constants take their share by name.
    """

    def __init__(
        self,
        rows: Rows,
        epsilon: float,
        signs: tuple[float, ...],
        constant: Tensor | None = None,
        name: str = "",
    ) -> None:
        self.rows, self.epsilon, self.signs = rows, epsilon, signs
        self.constant, self.name = constant, name
        self.sinks = ("stabilizer",) if constant is None else ("stabilizer", name)
        self.xs: tuple[Tensor, ...] = ()
        self.z: Tensor | None = None
        self.y: Tensor | None = None

    def compute(self, *inputs: Tensor) -> Tensor:
        self.xs = inputs
        z = inputs[0] if self.signs[0] == 1 else inputs[0] * self.signs[0]
        if len(inputs) == 2:
            z = torch.add(z, inputs[1], alpha=self.signs[1])
        if self.constant is not None:
            z = z + self.constant
        return z

    def kept(self, z: Tensor) -> None:
        self.z = z

    def rectified(self, y: Tensor) -> None:
        self.z, self.y = None, y

    def _output(self, relevance: Tensor) -> Tensor:
        if self.z is not None:
            return self.z
        if self.y is not None and not bool((plain(relevance).ne(0) & (self.y <= 0)).any()):
            return self.y
        return self.compute(*self.xs)

    def split(self, relevance: Tensor) -> tuple[Sequence[Tensor | None], Shares]:
        s, lost = share_of(relevance, self._output(relevance), self.epsilon, self.rows)
        shares = {"stabilizer": lost}
        if self.constant is not None:
            shares[self.name] = self.rows.sum(s * self.constant)
        parts = [
            fold_to(s * x if sign == 1 else s * x * sign, x.shape)
            for x, sign in zip(self.xs, self.signs, strict=True)
        ]
        return parts, shares

    def release(self) -> None:
        self.xs, self.z, self.y = (), None, None


class Product(Step):
    """A product of two signals, degree two: half of the relevance to each."""

    def __init__(self, f: Callable[..., Tensor], shapes: tuple[torch.Size, torch.Size]) -> None:
        self.f, self.shapes = f, shapes

    def compute(self, *inputs: Tensor) -> Tensor:
        return self.f(*inputs)

    def split(self, relevance: Tensor) -> tuple[Sequence[Tensor | None], Shares]:
        half = relevance / 2
        return [fold_to(half, shape) for shape in self.shapes], {}


class Meter:
    """What arrives above and leaves below a module that carries relevance in its own way."""

    def __init__(self, rows: Rows, name: str) -> None:
        self.rows = self.rows_above = rows
        self.name = name
        self.arrived: Tensor | None = None


class MeterAbove(Step):
    """Notes what arrives at the module's output."""

    def __init__(self, meter: Meter) -> None:
        self.meter = meter

    def compute(self, *inputs: Tensor) -> Tensor:
        return inputs[0].clone()

    def split(self, relevance: Tensor) -> tuple[Sequence[Tensor | None], Shares]:
        self.meter.arrived = self.meter.rows_above.sum(relevance)
        return [relevance], {}


class MeterBelow(Step):
    """Reports what the module kept of it."""

    def __init__(self, meter: Meter) -> None:
        self.meter = meter
        self.sinks = (meter.name,)

    def compute(self, *inputs: Tensor) -> Tensor:
        return inputs[0].clone()

    def split(self, relevance: Tensor) -> tuple[Sequence[Tensor | None], Shares]:
        meter = self.meter
        arrived, meter.arrived = meter.arrived, None
        if arrived is None:
            return [relevance], {}
        return [relevance], {meter.name: arrived - meter.rows.sum(relevance)}
