"""Repaired models: what was put in front of an old model, and the head fitted again."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

from neuralize import Neuralized, neuralize, register_converter
from neuralize.deep import DeepDetector
from xai.errors import UnsupportedModelError
from xai.repairs import Repair


@dataclass(eq=False)
class Repaired:
    """A model behind its repairs; :func:`neuralize.neuralize` takes it as any fitted model.

    Attributes
    ----------
    model
        The head: an estimator, ``(K, q)`` centroids, or a detector of :mod:`neuralize.deep`.
    repairs
        What goes in front of it, in this order.
    input_shape_
        Of one row.
    features
        The encoder below the head, if there is one; left as it is.
    feature_names_in_
        Columns of a row, where they have names.

    Examples
    --------
    >>> import numpy as np
    >>> import torch
    >>> from xai.mitigate import Replaced
    >>> front = Repair(Replaced([True, False], [0.0, 0.0]), "rows", "a flag")
    >>> net = Repaired(np.array([[0.0, 0.0], [0.0, 4.0]]), (front,), (2,)).network()
    >>> net(torch.tensor([[9.0, 1.0]])).argmax(1).item()
    0
    """

    model: Any
    repairs: Sequence[Repair]
    input_shape_: tuple[int, ...]
    features: nn.Module | None = None
    feature_names_in_: Sequence[str] | None = field(default=None)

    def network(self) -> Neuralized:
        """The network equal to the repaired model's decision.

        Raises
        ------
        UnsupportedModelError
            A repair of features where there are none.
        """
        fronts = [copy.deepcopy(r.module) for r in self.repairs if r.where == "rows"]
        behind = [copy.deepcopy(r.module) for r in self.repairs if r.where == "features"]
        name = f"{type(self.model).__name__} with {len(self.repairs)} repair(s)"
        if isinstance(self.model, DeepDetector):
            if behind or self.features is not None:
                raise UnsupportedModelError(
                    f"{type(self.model).__name__} has its encoder inside; repair its rows."
                )
            net = neuralize(self.model)
            if fronts:
                assert isinstance(net.network, nn.Module)
                net.network = nn.Sequential(*fronts, net.network)
        else:
            encoder = nn.Flatten() if self.features is None else copy.deepcopy(self.features)
            below = nn.Sequential(*fronts, InPrecision(encoder), *behind).eval()
            net = neuralize(self.model, features=below)
            net.encoder_rows = 256 if self.features is None else net.encoder_rows
            net.input_shape = self.input_shape_  # type: ignore[assignment]
        net.model_name = name
        names = self.feature_names_in_
        net.feature_names = None if names is None else tuple(names)
        return net


class InPrecision(nn.Module):
    """An encoder that gets rows in the precision of its weights."""

    def __init__(self, encoder: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, x: Tensor) -> Tensor:
        """Features of rows."""
        weights = (t for t in self.encoder.parameters() if t.is_floating_point())
        kind = next(weights, x).dtype
        found: Tensor = self.encoder(x.to(kind))
        return found


@register_converter(Repaired)
def convert_repaired(model: Repaired) -> Neuralized:
    """The network of the head behind its repairs."""
    return model.network()


def frozen_backbone(model: DeepDetector) -> nn.Module | None:
    """The network inside a detector that fitting does not change, if there is one."""
    found = getattr(getattr(model.module_, "features", None), "backbone", None)
    if found is None:
        network = getattr(model.module_, "network", None)
        found = getattr(network, "backbone", None) or getattr(network, "inner", None)
    return found if isinstance(found, nn.Module) else None
