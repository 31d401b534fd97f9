"""eoe (Liznerski et al., Exposing Outlier Exposure, TMLR 2022): ``snapshots/*.pt``.

``{"net", "opt", "sched", "epoch", "ds_statistics"}``: weights, and mean and standard deviation per
channel of the training data (``mode`` 0), or the extremes of its contrast (``mode`` 1), written as
``mean = low`` and ``std = high - low``. The objective is not in the file:

- a head ``linear`` with one output was trained by BCE or the focal loss, score: its logit;
- else the representation was trained by HSC, or Deep SAD around zero, both of which eoe scores by
  ``1 - exp(-h)``; score: the pseudo-Huber norm ``h``;
- or by Deep SVDD, whose centre eoe keeps to itself: ``objective="dsvdd"`` and ``center=``.

The head has no activation before it, so that ``fc2`` and ``linear`` are one affine map; they are
multiplied out.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch

from neuralize.deep.binary import BinaryClassifier
from neuralize.deep.deep_svdd import DeepSVDD
from neuralize.deep.detector import DeepDetector
from neuralize.deep.hypersphere import HypersphereClassifier
from neuralize.deep.readers.assemble import Source
from neuralize.deep.readers.content import State, sizes, state_of
from neuralize.deep.readers.given import Given
from neuralize.deep.readers.lenet import placed, plan_of
from neuralize.deep.readers.ruff import sphere
from neuralize.errors import CheckpointError, InputError

USES = ("network", "input_shape", "objective", "center", "normalize", "contrast", "units",
        "threshold")  # fmt: skip

CONTRAST_MODE = 1


def is_eoe(content: Any) -> bool:
    """Whether this is a snapshot with statistics of the data."""
    return isinstance(content, Mapping) and {"net", "ds_statistics"} <= set(content)


def read_eoe(content: Any, given: Given, source: Source) -> DeepDetector:
    """A fitted detector of the objective."""
    state = state_of(content["net"], source.path, "net")
    if given.normalize is None and given.contrast is None:
        given = _with_statistics(content["ds_statistics"], given, source)
    return exposed(state, given, source)


def exposed(state: State, given: Given, source: Source) -> DeepDetector:
    """A detector of the given objective, or of the one that the head tells."""
    head = "linear.weight" in state
    objective = given.objective or ("bce" if head else "hsc")
    if head != (objective in ("bce", "focal")) and given.network is None:
        raise InputError(
            f"Expected objective {'bce or focal' if head else 'hsc, dsad or dsvdd'} for a network "
            f"with{'' if head else 'out'} a head of one output, got {objective!r}."
        )
    if (given.center is not None) != (objective == "dsvdd"):
        raise InputError(
            "Deep SVDD needs center=, which eoe does not store (its mean representation of the "
            "normal training rows in an initial pass); the other objectives have none."
        )
    if objective == "dsvdd":
        center = given.center_of(_width(state, given, source)).float()
        svdd = DeepSVDD(preprocessing=given.preprocessing)
        sphere(svdd, state, center, given, source)
        return svdd
    detector: HypersphereClassifier | BinaryClassifier
    if objective in ("bce", "focal"):
        detector = BinaryClassifier(
            objective="focal" if objective == "focal" else "bce", preprocessing=given.preprocessing
        )
        if given.network is None:
            state = multiplied_out(state, source)
    else:
        detector = HypersphereClassifier(preprocessing=given.preprocessing)
    plan = None if given.network is not None else plan_of(state, given, source)
    placed(detector, {}, state, plan, given, source)
    return detector


def multiplied_out(state: State, source: Source) -> State:
    """The dense layer below the head, and the head, as one layer in the place of the former.

    Examples
    --------
    >>> from pathlib import Path
    >>> two = {"fc1.weight": torch.eye(2), "linear.weight": torch.tensor([[1.0, 2.0]])}
    >>> multiplied_out(two, Source(Path("snapshot.pt"), "eoe"))["fc1.weight"].tolist()
    [[1.0, 2.0]]
    """
    layers = sorted(
        (n for n in state if n.startswith("fc") and n.endswith(".weight")),
        key=lambda n: ("final" in n, n),
    )
    if not layers:
        raise CheckpointError(f"{source.path}: expected a dense layer below the head, found none.")
    last = layers[-1].removesuffix(".weight")
    rows, inner = sizes(state, "linear.weight", 2, source.path)
    if (rows, inner) != (1, sizes(state, f"{last}.weight", 2, source.path)[0]):
        raise CheckpointError(
            f"{source.path}: expected a head linear of one output on top of {last}, got shape "
            f"{(rows, inner)}."
        )
    w = state["linear.weight"].double()
    merged = {n: t for n, t in state.items() if not n.startswith("linear.")}
    merged[f"{last}.weight"] = (w @ state[f"{last}.weight"].double()).float()
    bias = torch.zeros(1, dtype=torch.float64)
    for name, factor in (("linear.bias", None), (f"{last}.bias", w)):
        if name in state:
            (wide,) = sizes(state, name, 1, source.path)
            if wide != (1 if factor is None else inner):
                raise CheckpointError(f"{source.path}: {name} has {wide} numbers, too many or few.")
            b = state[name].double()
            bias = bias + (b if factor is None else factor @ b)
    if "linear.bias" not in state:
        return merged
    for name in merged:
        if f"{last}.bias" not in state and name.endswith(".weight"):  # only the head had a bias
            own = name.removesuffix("weight") + "bias"
            merged = merged | {own: torch.zeros(len(merged[name]))}
    return merged | {f"{last}.bias": bias.float()}


def _width(state: State, given: Given, source: Source) -> int:
    if given.network is not None:
        return int(torch.as_tensor(given.center).numel())
    return plan_of(state, given, source).architecture.rep_dim


def _with_statistics(statistics: Any, given: Given, source: Source) -> Given:
    """The statistics of the file as what the caller could have given."""
    if statistics is None:
        return given
    if not isinstance(statistics, Mapping) or not {"mean", "std"} <= set(statistics):
        raise CheckpointError(
            f"{source.path}: expected mean and std in ds_statistics, got {statistics!r:.100}."
        )
    try:
        mean, std = (
            tuple(torch.as_tensor(statistics[name]).double().reshape(-1).tolist())
            for name in ("mean", "std")
        )
    except (TypeError, ValueError, RuntimeError) as error:
        raise CheckpointError(f"{source.path}: numbers in ds_statistics: {error}") from error
    if not all(map(math.isfinite, mean + std)) or not std or min(std) <= 0:
        raise CheckpointError(
            f"{source.path}: expected finite numbers in ds_statistics and std above 0, got mean "
            f"{mean}, std {std}."
        )
    if statistics.get("mode", 0) == CONTRAST_MODE:
        if len(set(mean)) != 1 or len(set(std)) != 1:
            raise CheckpointError(f"{source.path}: expected one contrast for all channels.")
        return replace(given, contrast=(mean[0], mean[0] + std[0]))
    return replace(given, normalize=(mean, std))
