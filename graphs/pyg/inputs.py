"""What of PyG's comes in: the library itself, graphs, parts, and which outputs are explained."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from graphs.pyg.messages import fused
from neuralize.errors import InputError, UnsupportedModelError

Index = int | Sequence[int] | Tensor | None


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
