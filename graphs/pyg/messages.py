"""Messages of PyG models: borders that relevance does not cross, and what every edge carries.

PyG forms one message per edge before it sums them. There relevance passes edge by edge: at a border
between parts it is absorbed (see :mod:`graphs.routes` for why one pass is then right for all
parts), and what each edge carries can be noted. Forward values stay as they are.

Which cells an edge connects is followed through pooling by the edges a layer is given, or by their
number; where neither tells, it is an error, as is a border around which cells see one another in
another way than by messages (a virtual node, a mean that is handed back).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import handle_torch_function, has_torch_function_unary
from torch.utils.weak import WeakIdKeyDictionary

from graphs.routes import ACROSS
from neuralize.engine.registry import Call, register_operation
from neuralize.engine.rows import Rows
from neuralize.engine.steps import Shares, Step
from neuralize.errors import InputError, NoRuleError, UnsupportedModelError


@dataclass
class Messages:
    """What is known of the messages of one forward pass.

    Parameters
    ----------
    edge_index
        Edges of the graph ``(2, e)``.
    n
        Its number of cells.
    parts
        Part of every cell ``(n,)``, or None for no borders.
    noting
        Whether to note what every edge carries.
    """

    edge_index: Tensor
    n: int
    parts: Tensor | None = None
    noting: bool = False
    carried: list[tuple[Tensor, Tensor]] = field(default_factory=list)
    """Per layer: edges ``(m,)``, -1 for self-loops that a layer adds, and their relevance."""

    def __post_init__(self) -> None:
        self._levels = [torch.arange(self.n, device=self.edge_index.device)]
        self._of_edges: Any = WeakIdKeyDictionary()
        self._of_edges[self.edge_index] = 0
        self._running: list[tuple[nn.Module, int | None]] = []
        self._sent: dict[int, tuple[Tensor, Tensor]] = {}
        self._sizes = {self.n, self.edge_index.shape[1]}
        self._local: set[Any] = set()

    @property
    def needed(self) -> bool:
        """Whether messages have to be met at all."""
        return self.noting or self.parts is not None

    def attach(self, model: nn.Module) -> list[Any]:
        """Hooks of the convolutions and pools; their handles."""
        from torch_geometric.nn import MessagePassing, SAGPooling, TopKPooling

        handles: list[Any] = []
        for path, module in model.named_modules():
            if isinstance(module, MessagePassing):
                handles.append(
                    module.register_message_and_aggregate_forward_pre_hook(partial(_fused, path))
                )
                handles.append(module.register_propagate_forward_pre_hook(partial(_sparse, path)))
            if not self.needed:
                continue
            if isinstance(module, MessagePassing):
                handles += [
                    module.register_forward_pre_hook(self._enter, with_kwargs=True),
                    module.register_propagate_forward_pre_hook(self._sends),
                    module.register_message_forward_hook(self._met),
                    module.register_forward_hook(self._leave),
                ]
            elif isinstance(module, TopKPooling | SAGPooling):
                handles.append(module.register_forward_hook(self._pooled, with_kwargs=True))
        return handles

    def _enter(self, conv: nn.Module, args: Any, kwargs: Any) -> None:
        self.enter(conv, (*args, *kwargs.values()))

    def _leave(self, conv: nn.Module, args: Any, output: Any) -> None:
        self.leave(conv)

    def _sends(self, conv: nn.Module, given: Any) -> None:
        edge_index, size, kwargs = given
        self.sends(conv, edge_index, _sizes(conv, size, kwargs))

    def _met(self, conv: nn.Module, given: Any, messages: Any) -> Any:
        return self.met(conv, messages)

    def _pooled(self, pool: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
        given = dict(zip(("x", "edge_index"), args, strict=False)) | kwargs
        n = len(given["x"])
        self.pooled(pool, given["edge_index"], n, output[1], output[4])

    def done(self) -> None:
        """The forward pass is over: nothing of it is needed any more but what will be carried."""
        # nodes of autograd's graph would keep all activations alive
        self._local.clear()
        self._sent.clear()
        self._running.clear()

    # -- called by the hooks -----------------------------------------------------------------

    def enter(self, conv: nn.Module, given: Sequence[Any]) -> None:
        """A layer begins: the edges it was given say which cells it sees."""
        known = [self._of_edges[t] for t in given if isinstance(t, Tensor) and t in self._of_edges]
        self._running.append((conv, known[0] if known else None))

    def leave(self, conv: nn.Module) -> None:
        """A layer ends."""
        if self._running and self._running[-1][0] is conv:
            self._running.pop()

    def pooled(self, pool: nn.Module, edges: Any, n: int, new_edges: Tensor, kept: Tensor) -> None:
        """A layer has kept some of its cells."""
        level = self._of_edges.get(edges) if isinstance(edges, Tensor) else None
        cells = self._cells(pool, level, n)
        self._levels.append(cells[kept])
        self._of_edges[new_edges] = len(self._levels) - 1
        self._sizes |= {len(kept), new_edges.shape[1]}

    def sends(self, conv: nn.Module, edge_index: Any, sizes: tuple[int, int]) -> None:
        """A layer sends messages along ``edge_index`` ``(2, m)``."""
        level = next((known for c, known in reversed(self._running) if c is conv), None)
        if sizes[0] != sizes[1]:
            raise UnsupportedModelError(
                f"{type(conv).__name__} sends from {sizes[0]} to {sizes[1]} nodes: borders and "
                "edges are known for messages among the nodes of one graph only."
            )
        cells = self._cells(conv, level, sizes[0])
        self._sent[id(conv)] = (cells[edge_index[0]], cells[edge_index[1]])
        self._sizes.add(edge_index.shape[1])

    def met(self, conv: nn.Module, messages: Any) -> Any:
        """The messages ``(m, f)`` or ``(m, heads, f)``, along which relevance is met."""
        if not isinstance(messages, Tensor):
            raise NoRuleError(f"{type(conv).__name__} sends no tensor of messages: no rule.")
        return message(messages, self, conv)

    def _cells(self, module: nn.Module, level: int | None, n: int) -> Tensor:
        """Which cells of the graph a layer's ``n`` nodes are."""
        if level is not None and len(self._levels[level]) == n:
            return self._levels[level]
        fitting = [cells for cells in self._levels if len(cells) == n]
        if fitting and all(torch.equal(cells, fitting[-1]) for cells in fitting):
            return fitting[-1]
        problem = (
            "several selections of that size were made, and its edges are of none of them"
            if fitting
            else "known are " + ", ".join(str(len(cells)) for cells in self._levels)
        )
        raise UnsupportedModelError(
            f"Cannot tell which nodes of the graph the {n} nodes of {type(module).__name__} are: "
            f"{problem}. Pool with TopKPooling or SAGPooling and hand on its edge_index, or "
            "explain without parts and edges."
        )

    # -- what is made of it ------------------------------------------------------------------

    def inside(self, conv: nn.Module) -> Tensor | None:
        """Which messages stay in their part ``(m,)``."""
        if self.parts is None:
            return None
        senders, receivers = self._sent[id(conv)]
        return self.parts[senders] == self.parts[receivers]

    def numbers(self, conv: nn.Module) -> Tensor:
        """The edge of the graph that each message goes along ``(m,)``; -1 for added self-loops.

        An edge given several times is told by its order.
        """
        senders, receivers = self._sent[id(conv)]
        known = _keys(self.edge_index[0], self.edge_index[1], self.n)
        asked = _keys(senders, receivers, self.n)
        known_order, asked_order = known.argsort(stable=True), asked.argsort(stable=True)
        first, mine = known[known_order], asked[asked_order]
        place = torch.searchsorted(first, mine)
        place += torch.arange(len(mine), device=mine.device) - torch.searchsorted(mine, mine)
        there = place < len(first)
        there &= first[place.clamp(max=max(len(first) - 1, 0))] == mine if len(first) else there
        found = torch.full_like(asked, -1)
        found[asked_order[there]] = known_order[place[there]]
        return found

    def per_edge(self) -> Tensor:
        """Relevance that went along every edge, summed over the layers ``(e,)``."""
        e = self.edge_index.shape[1]
        total = torch.zeros(e, dtype=torch.float64, device=self.edge_index.device)
        for numbers, relevance in self.carried:
            mine = numbers >= 0
            total.index_add_(0, numbers[mine], relevance[mine].to(total.dtype))
        return total

    def require_local(self, messages: Tensor, conv: nn.Module) -> None:
        """Refuse messages made of anything that more than one cell went into but by messages."""
        open_nodes = [messages.grad_fn]
        while open_nodes:
            node: Any = open_nodes.pop()
            if node is None or node in self._local or not node.next_functions:
                continue
            self._local.add(node)
            for shape in (meta.shape for meta in node._input_metadata):
                # one per node or edge, perhaps several times (ARMAConv stacks in front)
                if not {*shape[:1], *shape[-2 : -1 if len(shape) > 2 else -2]} & self._sizes:
                    raise NoRuleError(
                        f"{type(conv).__name__} sends what was made of values of shape "
                        f"{tuple(shape)}, not one per node: nodes see one another beside the edges "
                        "(a mean handed back, a virtual node), so no border can part them. Explain "
                        "without parts."
                    )
            open_nodes.extend(parent for parent, _ in node.next_functions)


def _sizes(conv: Any, size: Any, kwargs: dict[str, Any]) -> tuple[int, int]:
    """Numbers of senders and receivers."""
    found: list[int | None] = [None, None] if size is None else list(size)
    for value in kwargs.values():
        pair = value if isinstance(value, tuple | list) else (value, value)
        for k, t in enumerate(pair[:2]):
            if found[k] is None and isinstance(t, Tensor) and t.ndim:
                found[k] = t.shape[conv.node_dim]
    senders, receivers = found
    senders = receivers if senders is None else senders
    if senders is None:
        raise UnsupportedModelError(f"{type(conv).__name__} sends nothing of its nodes.")
    return senders, senders if receivers is None else receivers


def _fused(path: str, conv: nn.Module, given: Any) -> None:
    raise fused(f"{path!r} ({type(conv).__name__})")


def _sparse(path: str, conv: nn.Module, given: Any) -> None:
    if type(given[0]) is not Tensor or given[0].layout != torch.strided:
        raise fused(f"{path!r} ({type(conv).__name__})")


def fused(where: str) -> UnsupportedModelError:
    """The error for an adjacency whose products form no messages."""
    return UnsupportedModelError(
        f"{where} has a sparse adjacency matrix, and its fused product forms no messages that "
        "relevance could be met at. Give edge_index (2, e): torch_geometric.utils.to_edge_index."
    )


def _keys(senders: Tensor, receivers: Tensor, n: int) -> Tensor:
    return senders * n + receivers


def message(h: Tensor, session: Messages, conv: nn.Module) -> Tensor:
    """The messages themselves, at the place where relevance along edges is met."""
    if has_torch_function_unary(h):
        found: Tensor = handle_torch_function(message, (h,), h, session, conv)
        return found
    return h


class Along(Step):
    """Passes relevance along edges within parts; notes what goes along each."""

    def __init__(
        self, inside: Tensor | None, numbers: Tensor | None, carried: list[tuple[Tensor, Tensor]],
        dim: int, rows: Rows,
    ) -> None:  # fmt: skip
        self.inside, self.numbers, self.carried = inside, numbers, carried
        self.dim, self.rows = dim, rows
        self.sinks = () if inside is None else (ACROSS,)

    def compute(self, *inputs: Tensor) -> Tensor:
        return inputs[0].view_as(inputs[0])

    def split(self, relevance: Tensor) -> tuple[list[Tensor | None], Shares]:
        passed, shares = relevance, {}
        if self.inside is not None:
            shape = [1] * relevance.ndim
            shape[self.dim] = -1
            passed = relevance * self.inside.reshape(shape)
            shares = {ACROSS: self.rows.sum(relevance) - self.rows.sum(passed)}
        if self.numbers is not None:
            each = passed.movedim(self.dim, 0).flatten(1).sum(1)
            self.carried.append((self.numbers, each.detach()))
        return [passed], shares


def _message(call: Call) -> Any:
    h, session, conv = call.args
    dim = conv.node_dim % h.ndim
    inside, sent = session.inside(conv), session._sent[id(conv)][0]
    if h.shape[dim] != len(sent):
        raise InputError(
            f"Expected {len(sent)} messages of {type(conv).__name__}, one per edge, got "
            f"{tuple(h.shape)}."
        )
    if inside is not None:
        session.require_local(h, conv)
    numbers = session.numbers(conv) if session.noting else None
    step = Along(inside, numbers, session.carried, dim, call.tag.rows)
    return call.apply(step, [h], nonnegative=call.tag.nonnegative, gate=call.tag.gate)


register_operation(message, _message)
