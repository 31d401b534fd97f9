"""Every supported model against every check, and every check against a network that is wrong."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch

from neuralize import Attribution, Neuralized, neuralize
from tests.conformance import CHECKS, check_conformance
from tests.neuralize.cases import SUBJECTS
from tests.subject import Subject


@cache
def subject(name: str) -> Subject:
    """Fitted once per process; the checks leave it as it was."""
    return SUBJECTS[name]()


@pytest.mark.parametrize("check", CHECKS)
@pytest.mark.parametrize("name", SUBJECTS)
def test_conformance(name: str, check: str) -> None:
    CHECKS[check](subject(name))


# -- networks with one thing wrong ---------------------------------------------------------------

Break = Callable[[Neuralized], None]
BREAKS: dict[str, tuple[str, Break]] = {}


def caught_by(check: str) -> Callable[[Break], Break]:
    def register(fault: Break) -> Break:
        BREAKS[fault.__name__] = (check, fault)
        return fault

    return register


def patch_relevance(net: Neuralized, change: Callable[[torch.Tensor, Attribution], Any]) -> None:
    original = net.relevance

    def relevance(x: torch.Tensor, *args: Any, **options: Any) -> Any:
        return change(x, original(x, *args, **options))

    net.relevance = relevance  # type: ignore[method-assign]


def patch_evidence(net: Neuralized, change: Callable[[torch.Tensor], torch.Tensor]) -> None:
    original = net.all_evidence
    net.all_evidence = lambda z: change(original(z))  # type: ignore[method-assign]


@caught_by("forward")
def evidence_off_by_a_millionth(net: Neuralized) -> None:
    patch_evidence(net, lambda o: o * (1 + 1e-6))


@caught_by("score_map")
def sign_of_the_original_turned(net: Neuralized) -> None:
    net.score_map = replace(net.score_map, scale=-net.score_map.scale)


@caught_by("predict")
def threshold_moved(net: Neuralized) -> None:
    assert net.threshold is not None
    net.threshold *= 1.3


@caught_by("conservation")
def a_feature_forgotten(net: Neuralized) -> None:
    def change(x: torch.Tensor, result: Attribution) -> Attribution:
        values = result.values.clone()
        values[:, 2] = 0
        return replace(result, values=values)

    patch_relevance(net, change)


@caught_by("conservation")
def absorbed_shares_hidden(net: Neuralized) -> None:
    patch_relevance(net, lambda x, result: replace(result, absorbed={}))


@caught_by("values")
def features_in_the_wrong_order(net: Neuralized) -> None:
    patch_relevance(net, lambda x, result: replace(result, values=result.values.flip(1)))


@caught_by("values-float32")
def values_in_half_precision(net: Neuralized) -> None:
    patch_relevance(net, lambda x, r: replace(r, values=r.values.half().to(r.values.dtype)))


@caught_by("batches")
def scores_relative_to_the_batch(net: Neuralized) -> None:
    patch_evidence(net, lambda o: o - o.mean())


@caught_by("margin")
def margin_like_the_score(net: Neuralized) -> None:
    original = net.relevance
    net.relevance = (  # type: ignore[method-assign]
        lambda x, target=None, *, output="score", composite=None: original(x, target)
    )


@caught_by("gradient")
def gradient_cut(net: Neuralized) -> None:
    patch_evidence(net, lambda o: 0.5 * o + 0.5 * o.detach())


@caught_by("state")
def constants_moved_by_explaining(net: Neuralized) -> None:
    def change(x: torch.Tensor, result: Attribution) -> Attribution:
        for buffer in net.buffers():
            buffer += 1e-9
        return result

    patch_relevance(net, change)


@caught_by("state")
def input_overwritten(net: Neuralized) -> None:
    def change(x: torch.Tensor, result: Attribution) -> Attribution:
        x *= 1.001
        return result

    patch_relevance(net, change)


@caught_by("special_points")
def division_by_a_distance_of_zero(net: Neuralized) -> None:
    def change(x: torch.Tensor, result: Attribution) -> Attribution:
        taken = sum(result.absorbed.values(), torch.zeros_like(result.evidence))
        values = torch.where(taken[:, None] != 0, torch.nan, result.values)
        return replace(result, values=values)

    patch_relevance(net, change)


@pytest.mark.parametrize("name", BREAKS)
def test_a_wrong_network_is_caught(name: str) -> None:
    check, fault = BREAKS[name]
    sound = subject("one-class-svm-wine")
    CHECKS[check](sound)

    def broken(model: Any) -> Neuralized:
        net = neuralize(model)
        fault(net)
        return net

    with pytest.raises(AssertionError):
        CHECKS[check](replace(sound, net_factory=broken, _answers={}))


class FollowsTheModel:
    """Relevance from the model as it is now, as if its arrays had not been copied."""

    def __init__(self, model: np.ndarray) -> None:
        self.model = model

    def __call__(self, x: torch.Tensor, *args: Any, **options: Any) -> Attribution:
        return neuralize(self.model, stiffness=0.05).relevance(x, *args, **options)


def test_memory_shared_with_the_model_is_caught() -> None:
    sound = subject("centroids-breast_cancer")

    def shared(centroids: np.ndarray) -> Neuralized:
        net = neuralize(centroids, stiffness=0.05)
        net.relevance = FollowsTheModel(centroids)  # type: ignore[method-assign]
        return net

    with pytest.raises(AssertionError):
        CHECKS["state"](replace(sound, net_factory=shared, _answers={}))


def test_all_failed_checks_are_reported_together() -> None:
    sound = subject("one-class-svm-wine")
    arguments = (sound.model, neuralize, sound.x_seen, sound.x_unseen, sound.reference())
    check_conformance(*arguments, x_refit=sound.x_refit)

    def broken(model: Any) -> Neuralized:
        net = neuralize(model)
        threshold_moved(net)
        features_in_the_wrong_order(net)
        return net

    with pytest.raises(ExceptionGroup, match="conformance checks failed") as failure:
        check_conformance(sound.model, broken, *arguments[2:], x_refit=sound.x_refit)
    notes = [note for error in failure.value.exceptions for note in error.__notes__]
    assert {"in check 'predict'", "in check 'values'"} <= set(notes)
