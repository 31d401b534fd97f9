"""Deep detectors as subjects: their own numbers in float64, and LRP without stabiliser."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from neuralize import Neuralized, neuralize
from neuralize.composites import AVERAGES, LINEAR, Composite
from neuralize.deep import DeepDetector, Training
from neuralize.engine.operations.elementwise import SumKind
from neuralize.rules.named import Epsilon, Norm
from tests.neuralize.cases.data import Split, subject
from tests.subject import Array, Oracle, Subject

SHORT = Training(epochs=8, batch_size=32, progress=False)

# LRP-0 up to rounding; sums share like dense layers do.
TINY = Epsilon(1e-13)
EXACT = Composite("LRP-0", ((LINEAR, TINY), (AVERAGES, Norm(1e-13)), (SumKind, TINY)))


def exact_network(model: DeepDetector) -> Any:
    """The detector's network; its rules are LRP-0 up to rounding, so that oracles are simple."""
    net: Any = neuralize(model, dtype=torch.float64)
    net.composite = EXACT
    return net


def own_scores(model: DeepDetector, x: Array) -> Array:
    """The detector's scoring module, called plainly, in float64."""
    module = copy.deepcopy(model.module_).double().eval()
    with torch.no_grad():
        scores: Array = module(torch.from_numpy(np.asarray(x, dtype=np.float64))).numpy()
    return scores


def own_outliers(model: DeepDetector, x: Array) -> Array:
    return own_scores(model, x) > model.threshold_


def refit(model: DeepDetector, x: Array) -> None:
    model.fit(x[len(x) // 8 :] + 1)


def deep_subject(
    model: DeepDetector, data: Split, oracle: Callable[[Neuralized], Oracle], **options: Any
) -> Subject:
    """A fitted detector against an oracle that is made from its network in float64."""
    given = {"native": own_scores, "outliers": own_outliers, "refit": refit, **options}
    return subject(model, given.pop("net_factory", exact_network), data, oracle, **given)


def weights_of(net: Any) -> dict[str, Array]:
    """Everything the scoring module holds, in float64, by its name in the state dict."""
    state = net.network.state_dict()
    return {name: tensor.double().numpy() for name, tensor in state.items()}


def fitted(model: DeepDetector, data: Split, y: Any = None) -> DeepDetector:
    """Fitted on ``data.fit``; small networks on few rows may warn of collapse."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return model.fit(data.fit, y)
