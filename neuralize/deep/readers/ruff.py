"""Deep-SVDD-PyTorch and Deep-SAD-PyTorch (Ruff et al. 2018, 2020): ``model.tar``.

``{"R", "c", "net_dict", "ae_net_dict"}``, without ``R`` for Deep SAD: radius (not squared), centre
as a list, weights of the network and of the autoencoder it was pretrained with, which scores
nothing and is left out. Score: ``||phi(x) - c||^2``, minus ``R^2`` with a soft boundary, which is
where ``R > 0``. The files hold neither architecture nor preprocessing nor a threshold.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from neuralize.deep.deep_sad import DeepSAD
from neuralize.deep.deep_svdd import DeepSVDD, SphereScore
from neuralize.deep.readers.assemble import Source
from neuralize.deep.readers.content import State, state_of
from neuralize.deep.readers.given import Given
from neuralize.deep.readers.lenet import placed, plan_of
from neuralize.errors import CheckpointError

USES = ("network", "input_shape", "normalize", "contrast", "units", "activation", "threshold")


def is_deep_svdd(content: Any) -> bool:
    """Whether this is a ``model.tar`` with a radius."""
    return isinstance(content, Mapping) and {"net_dict", "c", "R"} <= set(content)


def is_deep_sad(content: Any) -> bool:
    """Whether this is a ``model.tar`` without a radius."""
    return isinstance(content, Mapping) and {"net_dict", "c"} <= set(content)


def read_deep_svdd(content: Any, given: Given, source: Source) -> DeepSVDD:
    """A fitted :class:`DeepSVDD`."""
    radius = _radius(content["R"], source)
    detector = DeepSVDD(
        objective="soft-boundary" if radius else "one-class", preprocessing=given.preprocessing
    )
    module = _sphere(detector, content, given, source)
    module.radius_squared.fill_(radius**2)
    if radius and given.threshold is None:
        detector.threshold_ = 0.0  # outside the sphere
    return detector


def read_deep_sad(content: Any, given: Given, source: Source) -> DeepSAD:
    """A fitted :class:`DeepSAD`."""
    detector = DeepSAD(preprocessing=given.preprocessing)
    _sphere(detector, content, given, source)
    return detector


def sphere(
    detector: DeepSVDD | DeepSAD, state: State, center: Tensor, given: Given, source: Source
) -> SphereScore:
    """The scoring module of a detector, with weights and centre."""
    plan = None if given.network is not None else plan_of(state, given, source)
    if plan is not None and len(center) != plan.architecture.rep_dim:
        raise CheckpointError(
            f"{source.path}: expected a centre of {plan.architecture.rep_dim} numbers, as wide as "
            f"the network's representation, got {len(center)}."
        )
    module = placed(detector, {"rep_dim": len(center)}, state, plan, given, source)
    assert isinstance(module, SphereScore)
    module.center.copy_(center)
    return module


def _sphere(
    detector: DeepSVDD | DeepSAD, content: Any, given: Given, source: Source
) -> SphereScore:
    state = state_of(content["net_dict"], source.path, "net_dict")
    return sphere(detector, state, _center(content["c"], source), given, source)


def _center(c: Any, source: Source) -> Tensor:
    try:
        center = torch.as_tensor(c, dtype=torch.float32)
    except (TypeError, ValueError, RuntimeError) as error:
        raise CheckpointError(
            f"{source.path}: expected numbers as the centre c: {error}"
        ) from error
    if center.ndim != 1 or not len(center) or not bool(torch.isfinite(center).all()):
        raise CheckpointError(
            f"{source.path}: expected finite numbers (q,) as the centre c, got "
            f"{'shape ' + str(tuple(center.shape)) if center.ndim != 1 else 'NaN or nothing'}."
        )
    return center


def _radius(value: Any, source: Source) -> float:
    try:
        radius = float(value)
    except (TypeError, ValueError, RuntimeError) as error:
        raise CheckpointError(f"{source.path}: expected a number as R, got {value!r}.") from error
    if not (math.isfinite(radius) and radius >= 0):
        raise CheckpointError(f"{source.path}: expected a radius R of at least 0, got {radius}.")
    return radius
