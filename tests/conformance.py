"""The checks every :class:`neuralize.Neuralized` must pass, for this package and for third parties.

A converter of your own passes when this does not raise::

    from tests.conformance import check_conformance

    check_conformance(model, neuralize, x_seen, x_unseen, oracle)

``oracle`` re-implements the model slowly and plainly (:class:`tests.subject.Oracle`). The checks
compare the network with the oracle and with the model's own methods, and test what needs neither:
conservation, batches, gradients, and that nothing is changed by being explained.
"""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from typing import Any

import joblib
import numpy as np
import pytest
import torch

from neuralize import InputError, Neuralized, UnsupportedModelError
from tests.comparison import (
    EVIDENCE_TOLERANCE,
    KINK,
    TIE,
    VALUES_TOLERANCE,
    as_array,
    as_input,
    assert_close,
    assert_conserves,
    assert_same_state,
    cancelling,
    explain,
    nearer,
    pick,
    rounded,
    scale_like,
    shares_of,
    state,
    typical,
)
from tests.subject import Array, Oracle, Shares, Subject


def check_forward(subject: Subject, dtype: torch.dtype) -> None:
    """Evidence is the oracle's."""
    x, net = subject.x, subject.net(dtype)
    # A step function may stay in float64, where no rounding can carry a row across a step.
    assert net.dtype == dtype or not net.differentiable
    expected = subject.answer("evidence")
    found = net(as_input(x, dtype))
    assert found.dtype == net.dtype
    scale = np.maximum(cancelling(subject), typical(expected))
    if dtype == torch.float32:
        expected = nearer(as_array(found), expected, subject.reference().evidence(rounded(x)))
    assert_close(as_array(found), expected, EVIDENCE_TOLERANCE[dtype], scale, "evidence")


def check_score_map(subject: Subject, dtype: torch.dtype) -> None:
    """The evidence maps onto the number the model itself prints, and back."""
    net, x = subject.net(dtype), subject.x
    score_map = net.score_map

    def original(rows: Array) -> Array:
        if subject.native is not None:
            return subject.native(subject.model, rows)
        if score_map.name == "evidence":
            return subject.reference().evidence(rows)
        return np.asarray(getattr(subject.model, score_map.name)(rows), dtype=float)

    native = original(x)
    evidence = net(as_input(x, dtype))
    found = as_array(score_map(evidence))
    if dtype == torch.float32:
        native = nearer(found, native, original(rounded(x)))
    slope = abs(score_map.scale) * (
        1.0 if score_map.rate is None else np.abs(score_map.rate * (native - score_map.offset))
    )
    scale = np.maximum(typical(native), abs(score_map.offset)) + slope * cancelling(subject)
    assert_close(found, native, EVIDENCE_TOLERANCE[dtype], scale, score_map.name)
    if dtype == torch.float64 and evidence.ndim == 1:
        row = int(np.argmin(np.abs(found - np.median(found))))
        back = score_map.inverse(float(found[row]))
        np.testing.assert_allclose(back, float(evidence[row]), rtol=1e-6)


def check_predict(subject: Subject) -> None:
    """The decision is the model's own, except where a row sits on the boundary itself."""
    net, x = subject.net(), subject.x
    evidence = subject.answer("evidence")
    if net.kind == "cluster":
        expected = (
            np.asarray(subject.model.predict(x))
            if not isinstance(subject.model, np.ndarray)
            else evidence.argmax(1)
        )
        ordered = np.sort(evidence, 1)
        decided = ordered[:, -1] - ordered[:, -2] > 1e-9 * np.abs(ordered).max(1)
    elif net.threshold is None:
        with pytest.raises(UnsupportedModelError, match="threshold"):
            net.predict(as_input(x))
        return
    else:
        expected = subject.outliers(subject.model, x)
        # One-class machines stop at a tolerance: their margin vectors are on the boundary.
        decided = np.abs(evidence - net.threshold) > 1e-9 * max(abs(net.threshold), 1e-3)
    found = net.predict(as_input(x)).numpy()
    assert decided.mean() >= 0.5
    np.testing.assert_array_equal(found[decided], expected[decided])


def check_conservation(subject: Subject, dtype: torch.dtype) -> None:
    """Evidence = values + absorbed, for every target, and ``evidence(x, target)`` is its column."""
    net, x = subject.net(dtype), subject.x
    forward = as_array(net(as_input(x, net.dtype)))
    for target in subject.targets():
        result = explain(net, x, target)
        assert result.values.dtype == net.dtype and result.values.shape == x.shape
        assert_conserves(result, f"target {target}")
        _, magnitude = shares_of(result)
        expected = pick(forward, target)
        scale = np.maximum(magnitude, typical(expected))
        t = None if target is None else torch.from_numpy(target)
        single = as_array(net.evidence(as_input(x, net.dtype), t))
        tolerance = EVIDENCE_TOLERANCE[dtype]
        assert_close(single, expected, tolerance, scale, "evidence(x, target)")
        assert_close(as_array(result.evidence), expected, tolerance, scale, "explained evidence")
    if subject.targets()[0] is not None:
        assigned = explain(net, x).target
        assert assigned is not None
        np.testing.assert_array_equal(assigned.numpy(), net.predict(as_input(x, net.dtype)).numpy())


def check_values(subject: Subject, dtype: torch.dtype) -> None:
    """Values and absorbed shares are the oracle's, relative to the largest of the row."""
    net, x = subject.net(dtype), subject.x
    compared, rows = 0, 0
    for target in subject.targets():
        shares: Shares = subject.answer("relevance", target)
        if shares.values is None:
            continue
        result = explain(net, x, target)
        clear = subject.answer("gap", target) > TIE[dtype]
        compared, rows = compared + clear.sum(), rows + len(clear)
        sizes = [np.abs(shares.values), *(np.abs(a)[:, None] for a in shares.absorbed.values())]
        largest = np.concatenate(sizes, 1).max(1)[clear]
        tolerance = VALUES_TOLERANCE[dtype]
        scale = np.broadcast_to(largest[:, None], shares.values[clear].shape)
        found = as_array(result.values)[clear]
        assert_close(found, shares.values[clear], tolerance, scale, f"values, target {target}")
        for name in {*shares.absorbed, *result.absorbed}:
            nothing = np.zeros(len(x))
            found = as_array(result.absorbed.get(name, torch.zeros(len(x))))[clear]
            expected = shares.absorbed.get(name, nothing)[clear]
            assert_close(found, expected, tolerance, largest, f"absorbed {name!r}")
    assert compared >= 0.5 * rows, f"only {compared} of {rows} rows are away from ties"


def check_batches(subject: Subject) -> None:
    """Rows do not notice how they are chunked, nor in which order they come."""
    net, x = subject.net(), subject.x
    whole, forward = explain(net, x), net(as_input(x))
    _, magnitude = shares_of(whole)
    scale = np.maximum(magnitude, typical(magnitude))
    order = np.random.default_rng(0).permutation(len(x))
    shuffled, shuffled_forward = explain(net, x[order]), net(as_input(x[order]))
    net.chunk_bytes = 1
    pieces, forward_pieces = explain(net, x), net(as_input(x))
    for other, result, rows in (
        (forward_pieces, pieces, np.arange(len(x))),
        (shuffled_forward, shuffled, order),
    ):
        wide = (
            scale[rows] if forward.ndim == 1 else np.repeat(scale[rows, None], forward.shape[1], 1)
        )
        assert_close(as_array(other), as_array(forward)[rows], 1e-11, wide, "evidence")
        clear = subject.reference().gap(x, subject.targets()[0])[rows] > TIE[torch.float64]
        found, expected = as_array(result.values)[clear], as_array(whole.values)[rows][clear]
        wide = np.repeat(scale[rows, None], x.shape[1], 1)[clear]
        assert_close(found, expected, 1e-10, wide, "values")
        assert set(result.absorbed) == set(whole.absorbed)
    if net.row_independent:
        alone = torch.cat([net(as_input(row[None])) for row in x[:3]])
        wide = scale_like(forward, scale[:3])
        assert_close(as_array(alone), as_array(forward)[:3], 1e-11, wide, "single rows")


def check_margin(subject: Subject) -> None:
    """The margin explains evidence - threshold, with zero at the decision boundary."""
    net, x = subject.net(), subject.x
    if net.threshold is None:
        with pytest.raises(InputError, match="threshold"):
            explain(net, x, output="margin")
        net.threshold = float(np.median(subject.answer("evidence")))
    score, margin = explain(net, x), explain(net, x, output="margin")
    expected = as_array(score.evidence) - net.threshold
    scale = np.abs(as_array(score.evidence)) + abs(net.threshold)
    assert_close(as_array(margin.evidence), expected, 1e-12, scale, "margin")
    assert_conserves(margin, "margin")
    away = np.abs(as_array(score.evidence)) > 1e-6 * scale
    if net.homogeneous:
        factor = (expected / np.where(away, as_array(score.evidence), 1))[away]
        found, values = as_array(margin.values)[away], as_array(score.values)[away]
        wide = np.repeat(np.abs(values).max(1, keepdims=True), values.shape[1], 1)
        wide = wide * np.abs(factor)[:, None]
        assert_close(found, values * factor[:, None], 1e-9, wide, "margin's proportions")
    else:
        np.testing.assert_array_equal(as_array(margin.absorbed["threshold"]), -net.threshold)
        np.testing.assert_allclose(as_array(margin.values), as_array(score.values))


def check_gradient(subject: Subject) -> None:
    """Autograd of the evidence is finite, and its derivative by central differences off kinks."""
    net = subject.net()
    if not net.differentiable:
        return
    x = subject.x
    rows = as_input(x).requires_grad_()
    target = net.resolve_target(rows, None)
    (gradient,) = torch.autograd.grad(net.evidence(rows, target).sum(), rows)
    forward = net(rows) if target is None else net(rows).gather(1, target[:, None])
    (column,) = torch.autograd.grad(forward.sum(), rows)
    assert bool(torch.isfinite(gradient).all()), "the gradient is not finite"
    torch.testing.assert_close(gradient, column, rtol=1e-9, atol=1e-12)

    # On a kink central differences agree with themselves, and with neither side's gradient.
    gap = subject.reference().kink(x, None if target is None else target.numpy())
    chosen = np.flatnonzero(gap > KINK)[:: max(1, len(x) // 6)]
    assert len(chosen), "every row is next to a kink"
    x, found = x[chosen], as_array(gradient)[chosen]
    target = None if target is None else target[chosen]
    scale = np.std(subject.x, 0) + 1e-3 * np.std(subject.x)

    def slope(i: int, size: float) -> Array:
        step = np.zeros_like(x)
        step[:, i] = size * scale[i]
        ahead = net.evidence(as_input(x + step), target)
        behind = net.evidence(as_input(x - step), target)
        return as_array(ahead - behind) / (2 * size)

    coarse = np.stack([slope(i, 4e-5) for i in range(x.shape[1])], 1)
    fine = np.stack([slope(i, 2e-5) for i in range(x.shape[1])], 1)
    found = found * scale
    size = np.abs(found).max(1, keepdims=True)
    wide = np.broadcast_to(np.maximum(size, np.median(size)), found.shape)
    smooth = np.abs(coarse - fine) <= 1e-4 * wide
    assert smooth.mean() > 0.7, "finite differences agree with themselves almost nowhere"
    assert_close(found[smooth], fine[smooth], 1e-4, wide[smooth], "gradient")


def check_state(subject: Subject) -> None:
    """Explaining changes nothing; copies and pickles work; a later refit does not reach the net."""
    x = subject.x
    fingerprint = joblib.hash(subject.model)
    net = subject.net()
    rows = as_input(x)
    before, rows_before = state(net), rows.clone()
    first = net.relevance(rows)
    with torch.no_grad():
        second = net.relevance(rows)
    assert_same_state(net, before)
    assert torch.equal(rows, rows_before) and rows.grad is None
    assert not first.values.requires_grad and not first.evidence.requires_grad
    assert torch.equal(first.values, second.values)
    assert all(parameter.grad is None for parameter in net.parameters())
    assert joblib.hash(subject.model) == fingerprint, "explaining changed the model"

    for twin in (copy.deepcopy(net), pickle.loads(pickle.dumps(net))):
        again = twin.relevance(rows)
        assert torch.equal(again.values, first.values)
        assert torch.equal(again.evidence, first.evidence)
        assert (twin.threshold, twin.score_map) == (net.threshold, net.score_map)

    model = copy.deepcopy(subject.model)
    net = subject.net_factory(model)
    subject.refit(model, subject.x if subject.x_refit is None else subject.x_refit)
    assert joblib.hash(model) != fingerprint, "the refit changed nothing"
    assert torch.equal(net.relevance(rows).values, first.values)


def check_special_points(subject: Subject) -> None:
    """Points on centroids, support points and the decision boundary: finite and conserving."""
    nets = [subject.net()] + ([subject.net(torch.float32)] if subject.single_precision else [])
    points = subject.x_seen[:4] if subject.special is None else subject.special[:8]
    points = np.concatenate([points, [(points[0] + points[-1]) / 2]])
    for net in nets:
        for target in subject.targets(points):
            result = explain(net, points, target)
            assert bool(torch.isfinite(result.values).all()), "relevance is not finite"
            assert_conserves(result, "special points")
        if net.kind == "outlier":
            evidence = net(as_input(points, net.dtype))
            for threshold in (float(evidence[0]), float(evidence.abs().max()) + 1):
                net.threshold = threshold
                margin = explain(net, points, output="margin")
                assert bool(torch.isfinite(margin.values).all()), "relevance is not finite"
                assert_conserves(margin, "margin at special points")


Check = Callable[[Subject], None]


def _in(check: Callable[[Subject, torch.dtype], None], dtype: torch.dtype) -> Check:
    def run(subject: Subject) -> None:
        if dtype != torch.float32 or subject.single_precision:
            check(subject, dtype)

    run.__doc__ = check.__doc__
    return run


CHECKS: dict[str, Check] = {
    "forward": _in(check_forward, torch.float64),
    "forward-float32": _in(check_forward, torch.float32),
    "score_map": _in(check_score_map, torch.float64),
    "score_map-float32": _in(check_score_map, torch.float32),
    "predict": check_predict,
    "conservation": _in(check_conservation, torch.float64),
    "conservation-float32": _in(check_conservation, torch.float32),
    "values": _in(check_values, torch.float64),
    "values-float32": _in(check_values, torch.float32),
    "batches": check_batches,
    "margin": check_margin,
    "gradient": check_gradient,
    "state": check_state,
    "special_points": check_special_points,
}
"""Every check by name, for ``pytest.mark.parametrize``."""


def check_conformance(
    model: Any,
    net_factory: Callable[[Any], Neuralized],
    x_seen: Array,
    x_unseen: Array,
    oracle: Oracle | Callable[[Neuralized], Oracle],
    **options: Any,
) -> None:
    """Run every check of :data:`CHECKS`.

    Parameters
    ----------
    model, net_factory
        A fitted model and the function that rewrites it, usually ``neuralize``.
    x_seen, x_unseen
        Rows it was fitted on ``(n, d)``, and others ``(m, d)``.
    oracle
        An :class:`Oracle`, or a function that makes one for the network.
    options
        The other attributes of :class:`tests.subject.Subject`.

    Raises
    ------
    ExceptionGroup
        Of the failed checks, each naming its check.
    """
    make = oracle if callable(oracle) else (lambda net: oracle)
    subject = Subject(model, net_factory, x_seen, x_unseen, make, **options)
    failed = []
    for name, check in CHECKS.items():
        try:
            check(subject)
        except Exception as error:
            error.add_note(f"in check {name!r}")
            failed.append(error)
    if failed:
        raise ExceptionGroup(f"{len(failed)} of {len(CHECKS)} conformance checks failed", failed)
