r"""Relevance against a reference cell: what a cell says beyond what the average cell says.

A phenotype is a one-hot code, and its zero is no cell at all. Adding a vector ``v`` to the
encoder's weights of every phenotype and taking it from the bias, ``W + v 1^T`` and ``b - v``,
leaves the network as it is on all cells with a phenotype, and changes the relevance of each:
without a reference, how ``W`` and ``b`` share a constant counts. With a reference cell ``m``

    ``R_i = (x_i - m) . W^T s,   s = R / stab(z),   z = W x + b``,

and ``b + W m``, what the reference cell would have given, is absorbed as bias: it no longer depends
on ``v``, if the phenotypes of ``m`` add up to 1. It is the shift of Montavon et al., Pattern
Recognition 65, 2017 (a root point), in the first layer only.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from graphs.cell_graph import CellGraph
from neuralize.composites import Composite
from neuralize.engine.affine import AffineCall
from neuralize.errors import InputError
from neuralize.rules.named import Rule

Array = np.ndarray


@dataclass(frozen=True)
class FromReference(Rule):
    """``R_i = (x_i - m_i) sum_j w_ij s_j``; the bias absorbs ``(b + W m) . s``.

    Attributes
    ----------
    reference
        ``m``, one number per input.
    """

    reference: tuple[float, ...]
    epsilon: float = 1e-6

    def split(self, call: AffineCall, relevance: Tensor) -> Tensor:
        m = torch.tensor(self.reference, dtype=call.x.dtype, device=call.x.device)
        if m.shape[0] != call.x.shape[-1]:
            raise InputError(
                f"Expected a reference of {call.x.shape[-1]} numbers, one per feature of a cell, "
                f"got {m.shape[0]}."
            )
        z = call.z
        absorbed = call.forward(m, call.weights.own, call.bias(()))
        s = call.share(relevance, z, absorbed, self.epsilon)
        return call.linear_transposed(s) * (call.x - m)


def mean_cell(graph: CellGraph) -> Array:
    """Mean features of the cells with a phenotype ``(f,)``: every patient counts the same.

    Raises
    ------
    InputError
        No cell has a phenotype.

    Examples
    --------
    >>> cells = CellGraph(np.zeros((4, 2)), np.array([0, 1, -1, 0]), ("a", "b"),
    ...                   np.array([0, 0, 0, 1]), ("1", "2"), ("p", "q"))
    >>> mean_cell(cells).tolist()
    [0.75, 0.25]
    """
    known = graph.phenotypes >= 0
    if not known.any():
        raise InputError("Expected cells with phenotypes, got none whose phenotype is known.")
    patients = graph.patient_of_cell[known]
    inputs = graph.inputs()[known].astype(np.float64)
    counts = np.bincount(patients)
    weights = 1 / counts[patients] / (counts > 0).sum()
    mean: Array = weights @ inputs
    return mean


def against(composite: Composite, reference: Array) -> Composite:
    """A composite whose cells are compared with a reference cell ``(f,)`` in the encoder.

    Examples
    --------
    >>> from graphs import graph_composite
    >>> against(graph_composite(0.1), np.array([0.75, 0.25])).name
    'GraphGamma(0.1) against a reference cell'
    """
    from dataclasses import replace

    values = np.asarray(reference, np.float64)
    if values.ndim != 1 or not np.isfinite(values).all():
        raise InputError(f"Expected a reference (f,) of finite numbers, got shape {values.shape}.")
    rule = FromReference(tuple(values.tolist()))
    named = replace(composite, name=f"{composite.name} against a reference cell")
    return named.with_rules(name_map=[(["*encoder"], rule)])
