"""Relevance per unit of a tensor inside a network: the context ``c = R / a``, zeros included."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from neuralize import InputError, Neuralized
from neuralize.attribution import Attribution
from neuralize.composites import Composite
from neuralize.engine.steps import Same
from neuralize.lrp import LRP, Trace
from neuralize.module import NeuralizedModule
from neuralize.rules.named import Epsilon, Flat, Rule, WSquare, ZBox
from neuralize.zennit_composites import ZennitComposite

LIFT = {torch.float64: 1e-60}
"""What stands for zero, in units of the row's largest value (1e-20 for other types): it changes no
output, and relevance per unit has a value there. Stabilizers are far larger, so a neuron that sees
nothing but zeros stays out."""

ZERO_INPUTS = "relevance at zero inputs"
PAST = "past the layer"

NOT_PROPORTIONAL = (Flat, WSquare, ZBox)


@dataclass(frozen=True)
class HiddenInput(Composite):
    """A composite for a network that has the inverse transform as its first layer.

    Its input is then hidden, so the rules that are for input layers (``first_map``; Flat, WSquare
    and ZBox anywhere) give way to what the composite has for hidden layers.
    """

    of: Composite | None = None
    hides_input: ClassVar[bool] = True

    def rule(self, path: str, module: nn.Module, kind: type[nn.Module], first: bool) -> Rule | None:
        assert self.of is not None
        rule = self.of.rule(path, module, kind, False)
        if first and isinstance(rule, NOT_PROPORTIONAL):
            if isinstance(self.of, ZennitComposite):
                # asked for a module that is not its first
                rule = self.of.ask(path, kind)
                return Epsilon() if rule is None or _for_input(rule) else rule
            hidden = Composite("", tuple(p for p in self.of.layer_map if not _for_input(p[1])))
            return hidden.rule(path, module, kind, False) or Epsilon()
        return rule


def _for_input(rule: Rule) -> bool:
    return isinstance(rule, NOT_PROPORTIONAL)


def hidden_input(composite: Composite) -> Composite:
    """The composite as it is below a virtual layer."""
    return HiddenInput(composite.name, foreign=composite.foreign, of=composite,
                       unmapped=composite.unmapped)  # fmt: skip


@dataclass
class Context:
    """What arrives at a tensor ``a`` inside a network, for one batch.

    ``evidence = (a * c).sum() + absorbed``.

    Attributes
    ----------
    a, c
        Activation and context, ``(n, ...)`` each; ``R = a * c``.
    evidence, target, absorbed
        As in an :class:`~neuralize.network.Attribution`, counted at ``a``.
    trace
        The pass it came from, to go on down.
    tensor
        ``a`` in autograd's graph.
    """

    a: Tensor
    c: Tensor
    evidence: Tensor
    target: Tensor | None
    absorbed: dict[str, Tensor]
    trace: Trace
    tensor: Tensor

    def below(self, relevance: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Relevance of ``a`` sent on to the input, with what is absorbed on the way."""
        if self.tensor is self.trace.leaf:
            return relevance, {}
        return _gradient(self.trace, [self.tensor], [relevance])


def context_of(
    net: Neuralized, x: Tensor, target: Any, composite: Any, layer: str | None
) -> Context:
    """Context of the input, or of the output of the module ``layer``, for one batch."""
    network = net.network if isinstance(net, NeuralizedModule) else net.features
    assert network is not None
    lrp = LRP(network, composite)
    if not x.is_floating_point():
        raise InputError(f"Expected numbers to write in another basis, got {x.dtype}.")
    x = net._cast(x).detach()
    if layer is None:
        lrp.composite = hidden_input(lrp.composite)
        zero, lifted = lift(x)
        trace = _traced(net, lrp, lifted)
        tensor = trace.leaf
    else:
        with _captured(network, layer) as caught:
            trace = _traced(net, lrp, x)
        if len(caught) != 1:
            raise InputError(
                f"Expected {layer!r} to run once with one tensor as its output, met "
                f"{len(caught)} such calls; choose another layer."
            )
        tensor, zero, lifted = caught[0]
    head = _head(net, trace, target)
    values, shares = _gradient(trace, [trace.result], [head.values], (tensor,))
    if layer is not None:
        arrived, whole = values
        below, low = _gradient(trace, [tensor], [arrived])
        shares = {n: s - low[n] if n in low else s for n, s in shares.items()}
        past = (whole - below).flatten(1).sum(1)
        if bool((past.abs() > 0).any()):
            shares[PAST] = past
    else:
        arrived = values[0]
    a = torch.where(zero, torch.zeros_like(lifted), lifted)
    # Relevance in proportion to the input is as small as what stands for zero.
    stray = zero & (arrived.abs() > 1e-10 * _largest(arrived))
    c = torch.where(stray, torch.zeros_like(a), arrived / lifted.masked_fill(lifted == 0, 1))
    absorbed = dict(head.absorbed) | shares
    if bool(stray.any()):
        absorbed[ZERO_INPUTS] = (arrived * stray).flatten(1).sum(1)
    return Context(a, c, head.evidence, head.target, absorbed, trace, tensor)


def lift(a: Tensor) -> tuple[Tensor, Tensor]:
    """Where ``a`` is zero, and ``a`` with something immeasurably small there."""
    tiny = LIFT.get(a.dtype, 1e-20) * _largest(a)
    zero = a.abs() <= tiny
    return zero, torch.where(zero, tiny.to(a.dtype), a)


def _largest(a: Tensor) -> Tensor:
    return a.abs().flatten(1).amax(1).reshape(-1, *[1] * (a.ndim - 1))


def _traced(net: Neuralized, lrp: LRP, x: Tensor) -> Trace:
    select = net.select if isinstance(net, NeuralizedModule) else None
    return lrp.trace(x, keep=True, select=select)


@contextmanager
def _captured(network: nn.Module, layer: str) -> Iterator[list[tuple[Tensor, Tensor, Tensor]]]:
    """While inside, the outputs of ``layer`` are caught, and handed on with zeros lifted."""
    modules = dict(network.named_modules())
    if layer not in modules:
        raise InputError(f"No module {layer!r}; there are {', '.join(map(repr, modules))}.")
    caught: list[tuple[Tensor, Tensor, Tensor]] = []

    def hook(module: nn.Module, args: Any, output: Any) -> Any:
        tag = getattr(output, "_lrp", None)
        if tag is None:
            return None
        with torch._C.DisableTorchFunction():
            output = tag.run.resolve(output)
            tag = output._lrp
            if tag.rows.n > 1 and (tag.rows.dim != 0 or tag.rows.groups != 1):
                raise InputError(f"The rows of {layer!r} are folded; choose another layer.")
            zero, lifted = lift(output.detach())
            step = Same(lambda t: lift(t)[1], output.shape)
            fresh = tag.run.apply(
                step, [output], "lift", "Pass", rows=tag.rows, raw=tag.raw,
                nonnegative=tag.nonnegative, gate=tag.gate, origin=tag.origin,
            )  # fmt: skip
        caught.append((fresh, zero, lifted))
        return fresh

    handle = modules[layer].register_forward_hook(hook)
    try:
        yield caught
    finally:
        handle.remove()


def _head(net: Neuralized, trace: Trace, target: Any) -> Attribution:
    """Relevance that starts at what the network returned, and its accounts."""
    if not isinstance(net, NeuralizedModule):
        return net._head_relevance(net._features_of(trace.output), target, "score")
    outputs = net._two_dimensional(trace.output)
    chosen = net._chosen(outputs, target)[:, None]
    evidence = outputs.gather(1, chosen)
    seed = torch.zeros_like(outputs).scatter(1, chosen, evidence).reshape(trace.output.shape)
    return Attribution(seed, evidence[:, 0], {}, chosen[:, 0])


def _gradient(
    trace: Trace, of: list[Tensor], seeds: list[Tensor], at: tuple[Tensor, ...] = ()
) -> tuple[Any, dict[str, Tensor]]:
    """Relevance of the tensors ``at`` (and of the input), and absorbed shares by name."""
    names = list(trace.run.sinks)
    places = [*(t for t in at if t is not trace.leaf), trace.leaf]
    found = torch.autograd.grad(
        of, [*places, *(trace.run.sinks[name] for name in names)],
        [seed.to(t.dtype) for seed, t in zip(seeds, of, strict=True)],
        allow_unused=True, retain_graph=True,
    )  # fmt: skip
    values = [
        torch.zeros_like(t) if r is None else r.detach()
        for t, r in zip(places, found[: len(places)], strict=True)
    ]
    if at and found[0] is None:
        raise InputError(
            "No relevance arrives at this layer's output: what comes after it does not use it, or "
            "is merged with it (a BatchNorm after a convolution); choose the layer after it."
        )
    shares = {
        name: share.detach().to(trace.leaf.dtype)
        for name, share in zip(names, found[len(places) :], strict=True)
        if share is not None
    }
    return (values if at else values[0]), shares
