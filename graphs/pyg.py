"""PyTorch Geometric models, explained by the engine that explains every other network.

    ``output[index, target] = sum_i R_i + sum_g absorbed_g``

``R`` is relevance of the node features; with a partition of the nodes, only of walks that stay in
their part, for all parts in one pass (:mod:`graphs.routes`). What PyG's layers are to the rules is
in :mod:`graphs.pyg_layers`; an operation without a rule is an error that names it.
"""

from __future__ import annotations

import copy
import inspect
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from graphs.pyg_layers import Layers
from graphs.pyg_messages import Messages, fused
from neuralize.composites import Composite
from neuralize.errors import InputError, UnsupportedModelError
from neuralize.lrp import LRP
from neuralize.rules.named import Epsilon, Gamma, Rule

CallModel = Callable[[nn.Module, Tensor, Any], Any]
"""How a model is called: ``(model, x, data) -> output``."""

Index = int | Sequence[int] | Tensor | None


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


# -- rules -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ConvComposite(Composite):
    """A composite with a rule of its own for the linear maps inside convolutions.

    Attributes
    ----------
    convolutions
        Paths of the convolutions.
    in_convolutions
        Their rule.
    """

    convolutions: tuple[str, ...] = ()
    in_convolutions: Rule = field(default_factory=Gamma)

    def rule(self, path: str, module: nn.Module, kind: type[nn.Module], first: bool) -> Rule | None:
        """As for any composite, but inside convolutions."""
        if issubclass(kind, nn.Linear) and any(
            path == conv or path.startswith(f"{conv}.") for conv in self.convolutions
        ):
            return self.in_convolutions
        return super().rule(path, module, kind, first)


def pyg_composite(model: nn.Module, gamma: float = 0.25, epsilon: float = 1e-6) -> Composite:
    """Gamma in the convolutions' linear maps, Epsilon in all others, as for cell graphs.

    Examples
    --------
    >>> conv = required_pyg().nn.GCNConv(2, 2)
    >>> pyg_composite(nn.ModuleList([conv, nn.Linear(2, 1)])).convolutions
    ('0',)
    """
    MessagePassing = required_pyg().nn.MessagePassing
    paths = tuple(n for n, m in model.named_modules() if isinstance(m, MessagePassing))
    return ConvComposite(
        f"GraphGamma({gamma:g})",
        ((nn.Linear, Epsilon(epsilon)),),
        convolutions=paths,
        in_convolutions=Gamma(gamma, epsilon),
    )


# -- calling the model -----------------------------------------------------------------------------


class Called(nn.Module):
    """A model as a batch of one row, ``(1, n, f) -> output``, under its modules' own names."""

    def __init__(self, model: nn.Module, call: CallModel, data: Any, layers: Layers) -> None:
        super().__init__()
        # not as a submodule: paths in errors, rules and shares are those of the model itself
        self.__dict__.update(model=model, call=call, data=data, layers=layers)

    def forward(self, x: Tensor) -> Any:
        """What the model returns for features ``x`` ``(1, n, f)``."""
        given = self.__dict__
        given["layers"].begin(x._lrp.run, given["data"])  # type: ignore[attr-defined]
        return given["call"](given["model"], x[0], given["data"])

    def named_modules(self, *args: Any, **kwargs: Any) -> Iterator[tuple[str, nn.Module]]:
        """Those of the model."""
        return self.__dict__["model"].named_modules(*args, **kwargs)  # type: ignore[no-any-return]

    def named_parameters(self, *args: Any, **kwargs: Any) -> Iterator[tuple[str, nn.Parameter]]:
        """Those of the model."""
        found: Iterator[tuple[str, nn.Parameter]]
        found = self.__dict__["model"].named_parameters(*args, **kwargs)
        return found

    def named_buffers(self, *args: Any, **kwargs: Any) -> Iterator[tuple[str, Tensor]]:
        """Those of the model."""
        return self.__dict__["model"].named_buffers(*args, **kwargs)  # type: ignore[no-any-return]

    def train(self, mode: bool = True) -> Called:
        """The model's mode."""
        self.__dict__["model"].train(mode)
        return self


def called_by_name(model: nn.Module, x: Tensor, data: Any) -> Any:
    """``model(x, edge_index, ...)`` with what of ``data`` its forward names, or ``model(data)``.

    Raises
    ------
    InputError
        A forward that takes neither.
    """
    parameters = inspect.signature(model.forward).parameters
    names = list(parameters)
    if "x" in names and "edge_index" in names:
        given = {k: data[k] for k in names if k in data and k not in ("x", "edge_index")}
        return model(x=x, edge_index=data.edge_index, **given)
    required = [n for n, p in parameters.items() if p.default is inspect.Parameter.empty]
    if len(required) == 1 and required[0] not in ("x", "args", "kwargs"):
        data = copy.copy(data)
        data.x = x
        return model(data)
    raise InputError(
        "Expected a model called as model(x, edge_index, ...) or model(data), got "
        f"{type(model).__name__}({', '.join(names)}). Say how: "
        "call=lambda model, x, data: model(x, data.edge_index)."
    )


@contextmanager
def met(model: nn.Module, layers: Layers, messages: Messages) -> Iterator[None]:
    """While inside, layers run in the order that rules want, and messages are met."""
    handles: list[Any] = []
    try:
        # layers first: some send once more after they ran
        handles += layers.attach(model)
        handles += messages.attach(model)
        yield
    finally:
        for handle in handles:
            handle.remove()


_CACHES = ("_cached_edge_index", "_cached_adj_t", "_cached_x", "_cached_h")


@contextmanager
def caches_kept(model: nn.Module) -> Iterator[None]:
    """What convolutions remember of the first graph they see is afterwards as it was."""
    before = [
        (module, name, module.__dict__[name])
        for module in model.modules()
        for name in _CACHES
        if name in module.__dict__
    ]
    try:
        yield
    finally:
        for module, name, value in before:
            setattr(module, name, value)


# -- what comes in ---------------------------------------------------------------------------------


def required_pyg() -> Any:
    """``torch_geometric``.

    Raises
    ------
    ImportError
        It is not installed.
    """
    try:
        with warnings.catch_warnings():
            # PyG 2.8 scripts a class when it is imported, which torch 2.13 deprecates
            warnings.filterwarnings("ignore", "`torch.jit", DeprecationWarning)
            import torch_geometric.nn
    except ImportError as error:
        raise ImportError(
            'PyG models need torch_geometric: pip install "unsupervised-xai[pyg]".'
        ) from error
    return torch_geometric


def plain_data(data: Any) -> Any:
    """A graph whose features and edges can be explained.

    Raises
    ------
    InputError
        No such graph: other types, features that are no finite numbers, edges out of range.
    UnsupportedModelError
        Heterogeneous graphs, sparse adjacency matrices.
    """
    pyg = required_pyg()
    if isinstance(data, pyg.data.HeteroData):
        raise UnsupportedModelError(
            "Heterogeneous graphs are not explained yet; expected torch_geometric.data.Data."
        )
    if not isinstance(data, pyg.data.Data):
        raise InputError(f"Expected torch_geometric.data.Data, got {type(data).__name__}.")
    x, edge_index = data.get("x"), data.get("edge_index")
    if data.get("adj_t") is not None or pyg.utils.is_sparse(edge_index):
        raise fused("The graph")
    if not isinstance(x, Tensor) or x.ndim != 2 or not len(x) or not x.is_floating_point():
        raise InputError(f"Expected data.x (n, f) of floats, got {_described(x)}.")
    if not bool(torch.isfinite(x).all()):
        raise InputError("Expected finite data.x, got NaN or infinity.")
    if not isinstance(edge_index, Tensor) or edge_index.ndim != 2 or edge_index.shape[0] != 2:
        raise InputError(f"Expected data.edge_index (2, e), got {_described(edge_index)}.")
    if isinstance(edge_index, pyg.EdgeIndex):
        data = copy.copy(data)
        data.edge_index = edge_index = edge_index.as_tensor()
    if edge_index.numel() and not 0 <= int(edge_index.min()) <= int(edge_index.max()) < len(x):
        raise InputError(
            f"Expected edges between nodes 0 to {len(x) - 1}, got {int(edge_index.min())} to "
            f"{int(edge_index.max())}."
        )
    return data


def _described(value: Any) -> str:
    if isinstance(value, Tensor):
        return f"{value.dtype} of shape {tuple(value.shape)}"
    return type(value).__name__


def part_codes(parts: Any, data: Any) -> Tensor:
    """Parts as a tensor beside the features.

    Raises
    ------
    InputError
        Not one whole number from 0 per node.
    """
    codes = torch.as_tensor(parts, device=data.x.device)
    whole = not (codes.is_floating_point() or codes.is_complex() or codes.dtype == torch.bool)
    if codes.shape != (len(data.x),) or not whole or bool((codes < 0).any()):
        raise InputError(
            f"Expected parts ({len(data.x)},) of whole numbers from 0, got {_described(codes)}."
        )
    return codes.long()


def chosen(output: Tensor, index: Index, target: int | None) -> Tensor:
    """Ones where the output ``(m,)`` or ``(m, K)`` is to be explained, zeros elsewhere.

    Raises
    ------
    InputError
        Index or target out of range, or no target where there are several.
    """
    weights = torch.zeros_like(output)
    if output.ndim == 0:
        return torch.ones_like(output)
    m = len(output)
    rows = torch.arange(m) if index is None else torch.as_tensor(index).reshape(-1).long()
    if len(rows) == 0 or int(rows.min()) < -m or int(rows.max()) >= m:
        raise InputError(f"Expected an index among the {m} rows of the output, got {index}.")
    if output.ndim == 1 or (output.ndim == 2 and output.shape[1] == 1 and target is None):
        if target not in (None, 0):
            raise InputError(f"Expected no target for one output per row, got {target}.")
        weights[rows] = 1
        return weights
    if output.ndim != 2:
        raise InputError(f"Expected outputs (m,) or (m, K), got {tuple(output.shape)}.")
    k = output.shape[1]
    if target is None or not -k <= target < k:
        raise InputError(f"Expected a target among the {k} outputs, got {target}.")
    weights[rows, target] = 1
    return weights
