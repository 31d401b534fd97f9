"""Subspaces of a layer that relevance flows through: PRCA and DRSA.

Relevance at a layer is ``R = a^T c``, activation times context. Behind a virtual layer with
orthonormal columns ``U`` the subspace gets ``(U^T a)^T (U^T c)``. PRCA takes the ``U`` that gets
most; DRSA splits the space so that each part takes much of the relevance of some of the samples
(Chormai et al., Disentangled explanations of neural network predictions by finding relevant
subspaces, arXiv 2212.14855).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import trange

from neuralize import Neuralized, neuralize
from neuralize.module import NeuralizedModule
from xai.errors import InputError
from xai.relevance import Array
from xai.rows import to_rows
from xai.virtual_layers.bases import LinearBasis
from xai.virtual_layers.context import context_of


@dataclass(frozen=True, eq=False)
class LayerSample:
    """Activations and contexts of a layer, ``R = a * c``.

    Attributes
    ----------
    activations, contexts
        ``(N, d)`` each; of maps ``(n, c, h, w)`` every place is a sample of ``c`` numbers, of
        tokens ``(n, t, d)`` every token.
    dim
        Where the ``d`` numbers are in a batch of the layer's output.
    layer
        Name of the module; None for the input.
    """

    activations: Array
    contexts: Array
    dim: int | None
    layer: str | None


def layer_sample(
    model: Any,
    x: Any,
    layer: str | None = None,
    target: Any = None,
    composite: Any = None,
    *,
    places: int | None = None,
    batch_size: int = 16,
    seed: int = 0,
) -> LayerSample:
    """Activation and context at a layer, for learning subspaces from.

    Parameters
    ----------
    model, x, target, composite, layer, batch_size
        As in :func:`~xai.in_basis`.
    places
        How many places (of maps) or tokens to draw from each row; all when missing.
    seed
        Of that draw.

    Examples
    --------
    >>> from torch import nn
    >>> net = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
    >>> sample = layer_sample(net, np.ones((5, 3), dtype=np.float32), "1")
    >>> sample.activations.shape, sample.dim
    ((5, 4), None)
    """
    net = model if isinstance(model, Neuralized) else neuralize(model)
    if net.features is None and not isinstance(net, NeuralizedModule):
        raise InputError(f"{net.model_name} has no network below it, so no layers.")
    rows, generator = to_rows(x)[0], torch.Generator().manual_seed(seed)
    goals = None if target is None or isinstance(target, int) else torch.as_tensor(target)
    found: list[tuple[Tensor, Tensor]] = []
    dim: int | None = None
    for start in range(0, len(rows), batch_size):
        goal = target if goals is None else goals[start : start + batch_size]
        at = context_of(net, rows[start : start + batch_size], goal, composite, layer)
        a, c = at.a.detach(), at.c
        dim = {2: None, 3: -1}.get(a.ndim, 1)
        if dim == 1:
            a, c = a.movedim(1, -1), c.movedim(1, -1)
        a, c = (t.reshape(len(t), -1, t.shape[-1]) for t in (a, c))
        if places is not None and places < a.shape[1]:
            chosen = torch.stack(
                [torch.randperm(a.shape[1], generator=generator)[:places] for _ in a]
            ).to(a.device)
            index = chosen[:, :, None].expand(-1, -1, a.shape[2])
            a, c = a.gather(1, index), c.gather(1, index)
        found.append((a.flatten(0, 1).cpu(), c.flatten(0, 1).cpu()))
    a, c = (torch.cat(list(parts)) for parts in zip(*found, strict=True))
    return LayerSample(a.numpy(), c.numpy(), dim, layer)


def prca(sample: LayerSample, n_components: int | None = None) -> LinearBasis:
    """Principal relevant component analysis: the directions that take most of the relevance.

    ``U`` maximises ``E[(U^T a)^T (U^T c)]`` with ``U^T U = 1``: the leading eigenvectors of
    ``E[a c^T + c a^T]``. Trailing ones take negative relevance.

    Parameters
    ----------
    sample
        From :func:`layer_sample`.
    n_components
        How many directions; all when missing. What the others take is then reported.

    Examples
    --------
    >>> a = np.array([[1.0, 9.0], [1.0, -9.0]])
    >>> c = np.array([[2.0, 0.0], [2.0, 0.0]])
    >>> prca(LayerSample(a, c, None, None), 1).matrix.abs().tolist()
    [[1.0, 0.0]]
    """
    a, c = _pairs(sample)
    if n_components is not None and not 1 <= n_components <= a.shape[1]:
        raise InputError(f"Expected 1 to {a.shape[1]} components, got {n_components}.")
    cross = a.T @ c / len(a)
    _, vectors = torch.linalg.eigh(cross + cross.T)
    leading = vectors.flip(1)[:, :n_components].T.contiguous()
    return LinearBasis(leading, None, sample.dim, None, "PRCA")


def drsa(
    sample: LayerSample,
    n_subspaces: int = 4,
    size: int | None = None,
    *,
    steps: int = 500,
    restarts: int = 3,
    seed: int = 0,
    progress: bool = True,
) -> LinearBasis:
    """Disentangled relevant subspace analysis.

    With ``r_nk = max(0, (U_k^T a_n)^T (U_k^T c_n))``, maximises

        ``J = softmin_k softmax_n r_nk``, ``softmax_n = (mean_n r^2)^(1/2)``,
        ``softmin_k = (mean_k r^(1/2))^2``

    over orthogonal ``U = (U_1 ... U_K)``: gradient steps, each followed by the nearest orthogonal
    matrix, from several random starts, of which the best counts. A step that lowers ``J`` is taken
    back and halved.

    Parameters
    ----------
    sample
        From :func:`layer_sample`.
    n_subspaces, size
        ``K``, and the dimensions of each; as many as fit when missing.
    steps, restarts, seed
        Of the optimisation.
    progress
        Whether to show a bar on work that takes longer than two seconds.

    Returns
    -------
    LinearBasis
        Components of subspace ``k`` have ``groups == k``; ``bands()`` and ``maps()`` of what
        :func:`~xai.in_basis` returns are per subspace.

    Examples
    --------
    >>> a = np.eye(4)[[0, 1, 2, 3]]
    >>> drsa(LayerSample(a, a, None, None), 2, 2, steps=5, restarts=1).groups
    (0, 0, 1, 1)
    """
    a, c = _pairs(sample)
    d = a.shape[1]
    size = d // n_subspaces if size is None else size
    if n_subspaces < 1 or size < 1 or n_subspaces * size > d:
        raise InputError(
            f"Expected subspaces that fit into {d} dimensions, got {n_subspaces} of size {size}."
        )
    if steps < 1 or restarts < 1:
        raise InputError(f"Expected steps and restarts >= 1, got {steps} and {restarts}.")
    # one unit for every layer and model: the relevance of a typical sample
    unit = (a * c).sum(1).square().mean().sqrt()
    if not bool(unit > 0):
        raise InputError("No relevance arrives at this layer, so there is none to split.")
    c = c / unit
    generator = torch.Generator().manual_seed(seed)
    best, found = -torch.inf, None
    with trange(steps * restarts, delay=2, disable=not progress, desc="drsa") as bar:
        for _ in range(restarts):
            u = _orthogonal(torch.randn(d, n_subspaces * size, generator=generator).double())
            objective, slope = _objective(u, a, c, n_subspaces)
            rate = 1.0
            for _ in range(steps):
                bar.update()
                moved = _orthogonal(u + rate * slope)
                higher, steeper = _objective(moved, a, c, n_subspaces)
                if higher > objective:
                    u, objective, slope, rate = moved, higher, steeper, 1.2 * rate
                else:
                    rate /= 2
            if objective > best:
                best, found = objective, u
    assert found is not None
    groups = tuple(int(g) for g in np.repeat(np.arange(n_subspaces), size))
    return LinearBasis(found.T.contiguous(), None, sample.dim, groups, "DRSA")


def _objective(u: Tensor, a: Tensor, c: Tensor, k: int) -> tuple[float, Tensor]:
    """``J`` and its gradient."""
    with torch.enable_grad():
        u = u.detach().requires_grad_()
        shares = ((a @ u) * (c @ u)).reshape(len(a), k, -1).sum(2).clamp(min=0)
        # the roots have no slope at zero, where a subspace takes nothing at all
        largest = (shares.square().mean(0) + 1e-24).sqrt()
        j = largest.sqrt().mean() ** 2
        (slope,) = torch.autograd.grad(j, u)
    return float(j.detach()), slope


def _orthogonal(u: Tensor) -> Tensor:
    """The nearest matrix with orthonormal columns, ``U (U^T U)^(-1/2)``."""
    left, _, right = torch.linalg.svd(u, full_matrices=False)
    nearest: Tensor = left @ right
    return nearest


def _pairs(sample: LayerSample) -> tuple[Tensor, Tensor]:
    a, c = (torch.as_tensor(t).double() for t in (sample.activations, sample.contexts))
    if a.ndim != 2 or a.shape != c.shape or not len(a):
        raise InputError(
            "Expected activations and contexts of one shape (N, d), got "
            f"{tuple(a.shape)} and {tuple(c.shape)}."
        )
    return a, c
