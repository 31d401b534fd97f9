"""Models without an encoder: the inverse transform folded into their first layer, no division.

Their relevance is not proportional to the input (a distance counts from support points, a
clustering from midpoints), so there is no context to speak of. But each of these layers has the
form ``R_i = sum_j w_j [B^+ d_j]_i [B^T d_j]_i`` behind a linear map ``B``, with ``d_j = z - u_j``.
For ``x = S h`` that is ``B = S`` and ``T`` for ``B^+``: exact, whatever is zero. The joint map of
pixels and a band with mask ``m`` takes ``B = 1`` and ``S m T``.
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor

from neuralize import Neuralized, UnsupportedModelError
from neuralize.attribution import Attribution
from neuralize.layers.distances import Fold, QuadraticForms
from neuralize.layers.fronts import Elementwise
from xai.virtual_layers.bases import Basis


def folded_relevance(
    net: Neuralized, h: Tensor, synthesis: Tensor, analysis: Tensor, target: Tensor | None
) -> Attribution:
    """Relevance of ``h`` ``(n, q)`` for the model on ``x = S h``.

    Parameters
    ----------
    synthesis, analysis
        ``S`` ``(d, q)`` and what leads back, ``(q, d)``: ``T``, or another map for messages.

    Raises
    ------
    UnsupportedModelError
        A model whose rules have no form behind a linear map.
    """
    net = copy.deepcopy(net)
    matrix, offset, back = synthesis, synthesis.new_zeros(len(synthesis)), analysis
    for step in net.front:
        if type(step) is not Elementwise or step.limits is not None:
            raise refused(net, f"its preprocessing ({type(step).__name__}) has none")
        center = 0.0 if step.center is None else step.center
        matrix = step.scale[:, None] * matrix
        offset = (offset - center) * step.scale + step.shift
        back = back / step.scale
    net.front = type(net.front)()
    if not net.fold_projection(matrix, offset):
        raise refused(net, "its first layer has none")
    for module in net.modules():
        if isinstance(module, QuadraticForms) and getattr(module, "nonnegative", False):
            raise refused(net, "its split='nonnegative' has none, 'signed' has")
        if isinstance(module, Fold):
            module.inverse = back
    net.n_features = h.shape[1]
    return net.relevance(h, target)


def refused(net: Neuralized, reason: str) -> UnsupportedModelError:
    """Why a model's relevance cannot be written in another basis."""
    return UnsupportedModelError(
        f"Relevance of {net.model_name} in another basis needs rules with an exact form behind a "
        f"linear map, and {reason}."
    )


def head_relevance(
    net: Neuralized, x: Tensor, target: Tensor | None, basis: Basis
) -> tuple[Attribution, Tensor]:
    """Relevance of the coefficients of ``x`` ``(n, *shape)``, flat, in their dense layout."""
    flat = net._cast(x.flatten(1))
    synthesis, analysis = basis.dense(tuple(x.shape[1:]), flat)
    # with no mean taken off: distances count from support points, not from zero
    found = folded_relevance(net, flat @ analysis.T, synthesis, analysis, target)
    return found, found.values


def head_messages(net: Neuralized, x: Tensor, target: Tensor | None, component: Tensor) -> Tensor:
    """Relevance of every pixel that flows through a band ``(n, *shape)``.

    ``component`` ``(d, d)`` takes a row's part in the band, ``S m T``.
    """
    flat = net._cast(x.flatten(1))
    one = torch.eye(flat.shape[1], dtype=flat.dtype, device=flat.device)
    return folded_relevance(net, flat, one, component, target).values.reshape(x.shape)
