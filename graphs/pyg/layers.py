"""PyG's layers as relevance sees them: one sum per convolution, held statistics, held gates.

Operation by operation the engine has a rule for most of what PyG computes. Some layers say the same
in an order in which the rule would not be the one of the literature, and are put in order here,
with the value of their output as it was up to rounding:

* ``GCNConv`` multiplies by ``W``, then sums over neighbours; gamma belongs to the whole sum
  ``z_kb = sum_j A_kj sum_a h_ja w_ab`` (Schnake et al., TPAMI 2021): neighbours are summed first.
* ``SAGEConv`` and ``GraphConv`` add two linear maps, ``W_1 (A h) + W_2 h``: one sum, one share.
* ``GraphNorm`` and ``LayerNorm`` over graphs: mean and standard deviation are held constant, and
  what the mean takes is absorbed as ``"graph mean"``; else every cell would explain every other.
* ``TopKPooling`` and ``SAGPooling`` multiply what they keep with its score, which is held constant.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import handle_torch_function, has_torch_function_unary

from neuralize.engine.mode import aside
from neuralize.engine.registry import Call, register_operation
from neuralize.engine.rows import Rows
from neuralize.engine.run import Run
from neuralize.engine.steps import Same, Shares, Step, share_of
from neuralize.rules.named import Epsilon

CENTRE = "graph mean"


# -- a gate ----------------------------------------------------------------------------------------


def gate(score: Tensor) -> Tensor:
    """``score`` itself, held constant wherever it multiplies a signal."""
    if has_torch_function_unary(score):
        found: Tensor = handle_torch_function(gate, (score,), score)
        return found
    return score


def _gate(call: Call) -> Any:
    step = Same(lambda x: x.view_as(x), call.x.shape)
    return call.apply(step, gate="gate", nonnegative=call.tag.nonnegative)


register_operation(gate, _gate)


def sent(x: Tensor) -> Tensor:
    """``x`` itself, on its way along edges: a signal, to which constants add what they have to say.

    To the raw input, a constant that is added counts as a change of its units and takes no share.
    """
    if has_torch_function_unary(x):
        found: Tensor = handle_torch_function(sent, (x,), x)
        return found
    return x


def _sent(call: Call) -> Any:
    step = Same(lambda x: x.view_as(x), call.x.shape)
    return call.apply(step, gate=call.tag.gate, nonnegative=call.tag.nonnegative)


register_operation(sent, _sent)


# -- normalisation over graphs ---------------------------------------------------------------------


class Held(Step):
    """``y = a x + c + b`` with all but ``x`` constant: ``R_i = a x_i s_i``, ``s = R / stab(y)``."""

    def __init__(
        self, y: Tensor, scale: Tensor, centre: Tensor, bias: Tensor | None, name: str, rows: Rows,
        epsilon: float,
    ) -> None:  # fmt: skip
        self.y, self.scale, self.centre, self.bias = y, scale, centre, bias
        self.name, self.rows, self.epsilon = name, rows, epsilon
        self.sinks = ("stabilizer", CENTRE, *(() if bias is None else (name,)))
        self.x: Tensor | None = None

    def compute(self, *inputs: Tensor) -> Tensor:
        (self.x,) = inputs
        return self.y.clone()

    def split(self, relevance: Tensor) -> tuple[list[Tensor | None], Shares]:
        assert self.x is not None
        s, lost = share_of(relevance, self.y, self.epsilon, self.rows)
        shares = {"stabilizer": lost, CENTRE: self.rows.sum(s * self.centre)}
        if self.bias is not None:
            shares[self.name] = self.rows.sum(s * self.bias)
        return [s * self.scale * self.x], shares

    def release(self) -> None:
        self.x = None


def held(x: Tensor, y: Tensor, scale: Tensor, bias: Tensor | None) -> Tensor:
    """``y = scale x + centre + bias``, of which only ``x`` carries relevance."""
    if has_torch_function_unary(x):
        found: Tensor = handle_torch_function(held, (x,), x, y, scale, bias)
        return found
    return y


def _held(call: Call) -> Any:
    x, y, scale, bias = call.args
    rule = call.rule(nn.LayerNorm)
    epsilon = rule.epsilon if isinstance(rule, Epsilon) else 1e-6
    with torch.no_grad():
        centre = y - scale * x.detach()
        name = call.run.constant_name(bias)
        if bias is not None:
            bias = bias.detach()
            centre = centre - bias
    step = Held(y.detach(), scale, centre, bias, name, call.tag.rows, epsilon)
    return call.apply(step, [x], rule)


register_operation(held, _held)


def normalized(norm: Any, args: tuple[Any, ...], kwargs: dict[str, Any], y: Any) -> Any:
    """The output of a GraphNorm, or of a LayerNorm over graphs, with its statistics held."""
    from torch_geometric.nn import GraphNorm
    from torch_geometric.utils import scatter

    given = dict(zip(("x", "batch", "batch_size"), args, strict=False)) | kwargs
    x, batch = given["x"], given.get("batch")
    with aside(), torch.no_grad():
        h = x.detach()
        eps = float(norm.eps)
        alone = batch is None
        if batch is None:
            batch = torch.zeros(len(h), dtype=torch.int64, device=h.device)
        size = given.get("batch_size") or (int(batch.max()) + 1 if len(batch) else 0)

        def mean(values: Tensor) -> Tensor:
            found: Tensor = scatter(values, batch, 0, size, reduce="mean")
            return found

        if isinstance(norm, GraphNorm):
            centred = h - mean(h)[batch] * norm.mean_scale
            spread = (mean(centred**2) + eps).sqrt()
        else:
            centred = h - mean(h).mean(-1, keepdim=True)[batch]
            square = mean(centred**2).mean(-1, keepdim=True)
            spread = square.sqrt() + eps if alone else (square + eps).sqrt()
        scale = 1 / spread[batch]
        if norm.weight is not None:
            scale = scale * norm.weight
    return held(x, y, scale.expand_as(h), norm.bias)


# -- convolutions as one sum -----------------------------------------------------------------------


def joined(conv: Any, x: Any, summed: Any) -> Any:
    """``SAGEConv`` and ``GraphConv``: ``[W_1, W_2] [A h, h] + b``."""
    names = ("lin_l", "lin_r") if hasattr(conv, "lin_l") else ("lin_rel", "lin_root")
    first: Any = getattr(conv, names[0])
    second: Any = getattr(conv, names[1], None)
    own = x[1] if isinstance(x, tuple | list) else x
    if second is None or own is None or not isinstance(summed, Tensor):
        return None
    with torch.no_grad():
        weight = torch.cat([first.weight, second.weight], 1)
    y = F.linear(torch.cat([summed, own], -1), weight, first.bias)
    return F.normalize(y, dim=-1) if getattr(conv, "normalize", False) else y


def summed_first(conv: Any, x: Any, given: tuple[Any, dict[str, Any]]) -> Any:
    """``GCNConv``: ``W (A h) + b``."""
    if conv.aggr not in ("add", "sum", "mean"):
        return None
    edge_index, kwargs = given
    summed = conv.propagate(edge_index, **{**kwargs, "x": x})
    return F.linear(summed, conv.lin.weight, conv.bias)


class Layers:
    """Hooks that put the layers of one model in order during one forward pass."""

    def __init__(self) -> None:
        self.run: Run | None = None
        self._summed: dict[int, Any] = {}
        self._sent: dict[int, tuple[Any, dict[str, Any]]] = {}
        self._again: set[int] = set()

    def begin(self, run: Run, data: Any) -> None:
        """The forward pass begins: what of the graph is constant gets a name."""
        self.run = run
        for name, value in data.to_dict().items():
            if isinstance(value, Tensor) and value.is_floating_point() and name != "x":
                run.constants[value] = NAMES.get(name, name)

    def attach(self, model: nn.Module) -> list[Any]:
        """The hooks' handles."""
        from torch_geometric.nn import (
            GCNConv,
            GraphConv,
            GraphNorm,
            LayerNorm,
            MessagePassing,
            SAGEConv,
        )
        from torch_geometric.nn.pool.select import SelectTopK

        handles: list[Any] = []
        for module in model.modules():
            conv: Any = module
            if isinstance(module, GraphNorm) or (
                isinstance(module, LayerNorm) and module.mode == "graph"
            ):
                handles.append(module.register_forward_hook(self._norm, with_kwargs=True))
            elif isinstance(module, SelectTopK):
                handles.append(module.register_forward_hook(_select))
            elif type(module) in (SAGEConv, GraphConv):
                handles.append(conv.register_propagate_forward_hook(self._note_sum))
                handles.append(conv.register_forward_hook(self._join, with_kwargs=True))
            elif type(module) is GCNConv:
                handles.append(conv.register_propagate_forward_pre_hook(self._note_sent))
                handles.append(conv.register_forward_hook(self._sum_first, with_kwargs=True))
            if isinstance(module, MessagePassing):
                handles.append(module.register_message_forward_pre_hook(self._raw_is_sent))
                handles += [m.register_forward_hook(self._name) for m in module.children()]
        return handles

    def done(self) -> None:
        """The forward pass is over."""
        self.run = None
        self._summed.clear()
        self._sent.clear()

    @contextmanager
    def _inside(self, module: nn.Module) -> Iterator[None]:
        """Operations in a hook after a module belong to it, as far as rules and names go."""
        assert self.run is not None
        self.run.stack.append(module)
        try:
            yield
        finally:
            self.run.stack.pop()

    def _raw_is_sent(self, conv: nn.Module, given: Any) -> Any:
        assert self.run is not None
        tags = {k: self.run.tag(v) for k, v in given[0].items() if isinstance(v, Tensor)}
        raw = [k for k, tag in tags.items() if tag is not None and tag.raw]
        return ({**given[0], **{k: sent(given[0][k]) for k in raw}},) if raw else None

    def _norm(self, norm: nn.Module, args: Any, kwargs: Any, y: Any) -> Any:
        with self._inside(norm):
            return normalized(norm, args, kwargs, y)

    def _note_sum(self, conv: nn.Module, given: Any, summed: Any) -> None:
        self._summed[id(conv)] = summed

    def _join(self, conv: nn.Module, args: Any, kwargs: Any, y: Any) -> Any:
        with self._inside(conv):
            return joined(conv, args[0] if args else kwargs["x"], self._summed.pop(id(conv), None))

    def _note_sent(self, conv: nn.Module, given: Any) -> None:
        edge_index, _, kwargs = given
        if id(conv) not in self._again:
            self._sent[id(conv)] = (edge_index, kwargs)

    def _sum_first(self, conv: nn.Module, args: Any, kwargs: Any, y: Any) -> Any:
        self._again.add(id(conv))
        try:
            with self._inside(conv):
                x = args[0] if args else kwargs["x"]
                return summed_first(conv, x, self._sent.pop(id(conv)))
        finally:
            self._again.discard(id(conv))

    def _name(self, module: nn.Module, args: Any, output: Any) -> None:
        """What a layer makes of edge features is edge features."""
        run = self.run
        if run is None or not isinstance(output, Tensor) or run.tag(output) is not None:
            return
        names = {run.constants.get(t) for t in args if isinstance(t, Tensor)} - {None}
        if len(names) == 1 and output not in run.constants:
            run.constants[output] = names.pop()


NAMES = {"edge_attr": "edge features", "edge_weight": "edge weights", "pos": "positions"}
"""What constants of a graph are called when they absorb a share."""


def _select(select: nn.Module, args: Any, chosen: Any) -> Any:
    if isinstance(chosen.weight, Tensor):
        chosen.weight = gate(chosen.weight)
    return chosen
