"""PyTorch Geometric models, explained by the engine that explains every other network.

    ``output[index, target] = sum_i R_i + sum_g absorbed_g``

``R`` is relevance of the node features; with a partition of the nodes, only of walks that stay in
their part, for all parts in one pass (:mod:`graphs.routes`). What PyG's layers are to the rules is
in :mod:`graphs.pyg_layers`; an operation without a rule is an error that names it.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from graphs.pyg.calling import Called, CallModel, caches_kept, called_by_name, met
from graphs.pyg.composite import pyg_composite
from graphs.pyg.inputs import Index, chosen, part_codes, plain_data
from graphs.pyg.layers import Layers
from graphs.pyg.messages import Messages
from neuralize.composites import Composite
from neuralize.lrp import LRP, unwrapped


@dataclass(frozen=True, eq=False)
class PyGRelevance:
    """Relevance of a graph's nodes for outputs of a PyG model.

    ``evidence = values.sum() + sum of absorbed + conservation_error``.

    Attributes
    ----------
    values
        Relevance of every feature of every node ``(n, f)``.
    evidence
        What was explained: the chosen output, or the sum of those chosen.
    output
        All the model returned.
    absorbed
        What no node carries, by name: ``bias``, names of parameters, ``edge features``,
        ``stabilizer``, and with parts ``across parts``.
    edges
        Relevance that went along each edge, summed over the layers ``(e,)``, if asked for.
    parts
        Part of every node ``(n,)``, or None.
    composite
        Which rules.
    """

    values: Tensor
    evidence: float
    output: Tensor
    absorbed: dict[str, float]
    edges: Tensor | None = None
    parts: Tensor | None = None
    composite: str = ""

    @property
    def nodes(self) -> Tensor:
        """Relevance of every node ``(n,)``."""
        return self.values.sum(1)

    @property
    def of_parts(self) -> Tensor:
        """Relevance of every part ``(g,)``; one part without a partition."""
        codes = torch.zeros(len(self.values), dtype=torch.int64)
        codes = codes.to(self.values.device) if self.parts is None else self.parts
        size = int(codes.max()) + 1 if len(codes) else 0
        return self.nodes.new_zeros(size).index_add(0, codes, self.nodes)

    @property
    def conservation_error(self) -> float:
        """What is explained too little or too much."""
        return self.evidence - float(self.values.double().sum()) - sum(self.absorbed.values())


def explain_pyg(
    model: nn.Module,
    data: Any,
    *,
    index: Index = None,
    target: int | None = None,
    parts: Any = None,
    edges: bool = False,
    composite: Composite | str | None = None,
    call: CallModel | None = None,
    dtype: torch.dtype | None = None,
) -> PyGRelevance:
    """Relevance of nodes for what a PyG model says of a graph, a batch of graphs, or of nodes.

    Parameters
    ----------
    model
        Called as ``model(x, edge_index, ...)`` with what else of ``data`` its ``forward`` names
        (``batch``, ``edge_attr``, ...), as ``model(data)`` if ``data`` is all it takes, or by
        ``call``.
    data
        A ``torch_geometric.data.Data`` or ``Batch`` with ``x`` ``(n, f)`` and ``edge_index``
        ``(2, e)``.
    index
        Which rows of the output, graphs or nodes, are explained, as one sum; None: all.
    target
        Which column, where the output has several.
    parts
        Part of every node ``(n,)``, from 0: relevance crosses no edge between parts, and what would
        is absorbed as ``"across parts"``.
    edges
        Whether to note what goes along every edge.
    composite
        Rules, :func:`pyg_composite` by default.
    call
        ``(model, x, data) -> output``, for models that are called in another way.
    dtype
        ``torch.float64`` explains a copy of model and data in double precision.

    Raises
    ------
    InputError
        Data, parts, index or target that do not fit.
    UnsupportedModelError
        Sparse adjacency matrices, whose fused products form no messages; pooling that loses track
        of the nodes, where parts or edges are asked for.
    NoRuleError
        An operation of the model without a rule; with parts, nodes that see one another beside the
        edges.

    Examples
    --------
    >>> from graphs.pyg import required_pyg
    >>> pyg = required_pyg()
    >>> class Net(nn.Module):
    ...     def __init__(self):
    ...         super().__init__()
    ...         self.gnn, self.head = pyg.nn.GIN(2, 8, num_layers=2), nn.Linear(8, 3)
    ...     def forward(self, x, edge_index, batch=None):
    ...         return self.head(pyg.nn.global_add_pool(self.gnn(x, edge_index), batch))
    >>> edge_index = torch.tensor([[0, 1, 2, 3], [1, 0, 3, 2]])
    >>> data = pyg.data.Data(torch.rand(4, 2), edge_index)
    >>> found = explain_pyg(Net(), data, target=1, parts=[0, 0, 1, 1], dtype=torch.float64)
    >>> found.values.shape, found.of_parts.shape, found.absorbed["across parts"]
    (torch.Size([4, 2]), torch.Size([2]), 0.0)
    >>> abs(found.conservation_error) < 1e-12
    True
    """
    data = plain_data(data)
    codes = None if parts is None else part_codes(parts, data)

    def weigh(output: Tensor) -> Tensor:
        return chosen(output, index, target)

    return relevance_of(model, data, weigh, codes, edges, composite, call, dtype)


def relevance_of(
    model: nn.Module,
    data: Any,
    weigh: Callable[[Tensor], Tensor],
    parts: Tensor | None = None,
    edges: bool = False,
    composite: Composite | str | None = None,
    call: CallModel | None = None,
    dtype: torch.dtype | None = None,
) -> PyGRelevance:
    """Relevance for the sum of the model's outputs times ``weigh(output)``, in their shape."""
    model = unwrapped(model)
    if dtype is not None:
        model = copy.deepcopy(model).to(dtype)
        data = copy.copy(data).apply(lambda t: t.to(dtype) if t.is_floating_point() else t)
    x, edge_index = data.x, data.edge_index
    layers, messages = Layers(), Messages(edge_index, len(x), parts, edges)
    rules = composite if composite is not None else pyg_composite(model)
    lrp = LRP(Called(model, call or called_by_name, data, layers), rules)
    with met(model, layers, messages), caches_kept(model):
        trace = lrp.trace(x[None])
    seed = weigh(trace.output).to(trace.output) * trace.output
    relevance, absorbed = trace.relevance(seed)
    return PyGRelevance(
        relevance[0],
        float(seed.double().sum()),
        trace.output,
        {name: float(share.detach()) for name, share in absorbed.items()},
        messages.per_edge().to(relevance.dtype) if edges else None,
        parts,
        lrp.composite.name,
    )
