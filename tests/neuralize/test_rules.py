"""Each pure rule against its formula written as dense loops, and its laws under random input."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from neuralize import rules

seeds = st.integers(0, 2**32 - 1)
sizes = st.tuples(st.integers(1, 5), st.integers(1, 6), st.integers(1, 7))


def forall(*strategies: st.SearchStrategy[Any]) -> Callable[[Any], Any]:
    """The same random input in every run, without a time limit per example."""
    run = settings(deadline=None, max_examples=40, derandomize=True)
    return lambda test: run(given(*strategies)(test))


def draws(seed: int, *shapes: tuple[int, ...]) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, generator=generator, dtype=torch.float64) for shape in shapes]


def close(found: Tensor, expected: Tensor, tolerance: float = 1e-10) -> None:
    size = float(expected.abs().max()) if expected.numel() else 0.0
    torch.testing.assert_close(found, expected, rtol=tolerance, atol=tolerance * max(size, 1e-300))


# -- base ----------------------------------------------------------------------------------------


@forall(seeds, st.floats(1e-12, 1.0))
def test_stabilize_moves_away_from_zero(seed: int, epsilon: float) -> None:
    (z,) = draws(seed, (9,))
    z[0], z[1] = 0.0, -0.0
    moved = rules.stabilize(z, epsilon)
    expected = [v + epsilon if v >= 0 else v - epsilon for v in z.tolist()]
    close(moved, torch.tensor(expected, dtype=torch.float64))
    assert bool((moved.abs() >= epsilon).all())


@forall(seeds)
def test_ratio_never_divides_by_zero(seed: int) -> None:
    relevance, z = draws(seed, (8,), (8,))
    z[:3], relevance[0] = 0.0, 0.0
    found = rules.ratio(relevance, z)
    assert found[0] == 1  # relevance equals z
    assert found[1] == found[2] == 0
    close(found[3:] * z[3:], relevance[3:])


# -- pooling -------------------------------------------------------------------------------------


def soft_minimum(h: Tensor, t: float, log_weights: Tensor) -> Tensor:
    """``-(1/t) log sum_j a_j exp(-t h_j)`` row by row."""
    rows = []
    for row in h:
        terms = [math.exp(a) * math.exp(-t * v) for a, v in zip(log_weights, row, strict=True)]
        rows.append(-math.log(sum(terms)) / t)
    return torch.tensor(rows, dtype=torch.float64)


@forall(seeds, sizes, st.floats(0.05, 20))
def test_soft_min_weights_are_the_gradient_of_the_pool(
    seed: int, size: tuple[int, int, int], t: float
) -> None:
    n, m, _ = size
    h, a = draws(seed, (n, m), (m,))
    log_a = torch.log_softmax(a, 0)
    weights = rules.soft_min_weights(h, t, log_a)
    terms = torch.exp(log_a - t * h)
    close(weights, terms / terms.sum(-1, keepdim=True))
    close(weights.sum(-1), torch.ones(n, dtype=torch.float64))
    step = 1e-6
    for j in range(m):
        ahead, behind = h.clone(), h.clone()
        ahead[:, j] += step
        behind[:, j] -= step
        slope = (soft_minimum(ahead, t, log_a) - soft_minimum(behind, t, log_a)) / (2 * step)
        torch.testing.assert_close(weights[:, j], slope, rtol=1e-5, atol=1e-7)


@forall(seeds, sizes, st.floats(0, 50), st.floats(-100, 100))
def test_soft_min_weights_ignore_a_common_shift(
    seed: int, size: tuple[int, int, int], t: float, shift: float
) -> None:
    n, m, _ = size
    (h,) = draws(seed, (n, m))
    close(rules.soft_min_weights(h + shift, t), rules.soft_min_weights(h, t), 1e-9)


@forall(seeds, sizes, st.floats(0, 50))
def test_soft_max_mirrors_soft_min(seed: int, size: tuple[int, int, int], t: float) -> None:
    n, m, _ = size
    h, a = draws(seed, (n, m), (m,))
    close(rules.soft_max_weights(h, t, a), rules.soft_min_weights(-h, t, a))


def test_soft_min_limits() -> None:
    h = torch.tensor([[3.0, 1.0, 1.0, 7.0], [0.0, 1.0, 2.0, 3.0]], dtype=torch.float64)
    hard = rules.soft_min_weights(h, math.inf)
    assert hard.tolist() == [[0, 0.5, 0.5, 0], [1, 0, 0, 0]]
    assert rules.soft_min_weights(h, 0.0).tolist() == [[0.25] * 4] * 2
    close(rules.soft_min_weights(h[1:], 1e4), hard[1:], 1e-12)
    # Far apart and stiff: nothing overflows.
    assert bool(torch.isfinite(rules.soft_min_weights(h * 1e200, 1e100)).all())
    # A value of infinity takes no part, whatever the stiffness.
    h[1, 2] = math.inf
    for t in (0.0, 0.3, math.inf):
        assert rules.soft_min_weights(h, t)[1, 2] == 0
    assert rules.soft_min_weights(h, 0.0)[1].tolist() == [1 / 3, 1 / 3, 0, 1 / 3]


@forall(seeds, sizes, st.floats(0, 20))
def test_take_most_conserves(seed: int, size: tuple[int, int, int], t: float) -> None:
    n, m, _ = size
    h, relevance = draws(seed, (n, m), (n,))
    shares = rules.take_most(rules.soft_min_weights(h, t), relevance)
    assert shares.shape == (n, m)
    close(shares.sum(-1), relevance)
    for row in range(n):
        assert int(shares[row].abs().argmax()) == int(h[row].argmin()) or t < 1e-6


@forall(seeds, sizes)
def test_winner_takes_all(seed: int, size: tuple[int, int, int]) -> None:
    n, m, _ = size
    h, relevance = draws(seed, (n, m), (n,))
    for largest in (False, True):
        shares = rules.winner_take_all(h, relevance, largest=largest)
        for row in range(n):
            winner = int(h[row].argmax() if largest else h[row].argmin())
            expected = [float(relevance[row]) if j == winner else 0.0 for j in range(m)]
            assert shares[row].tolist() == expected


@forall(seeds, sizes, st.floats(0.1, 10))
def test_harmonic_pooling_is_a_ray_root(
    seed: int, size: tuple[int, int, int], offset: float
) -> None:
    n, m, _ = size
    h, a, relevance = draws(seed, (n, m), (m,), (n,))
    h, a = h**2, torch.softmax(a, 0)
    shares = rules.harmonic_pooling(h, relevance, offset, a)
    for row in range(n):
        f = [float(a[j]) / (offset + float(h[row, j])) for j in range(m)]
        expected = [float(relevance[row]) * v / sum(f) for v in f]
        close(shares[row], torch.tensor(expected, dtype=torch.float64))
    uniform = rules.harmonic_pooling(h, relevance, offset)
    same = rules.harmonic_pooling(h, relevance, offset, torch.full((m,), 1 / m).double())
    close(uniform, same)
    # Along the ray towards the root the shares do not change.
    along = rules.harmonic_pooling((h + offset) / 2 - offset, relevance, offset, a)
    close(along, shares)


def test_paper_stiffness() -> None:
    evidence = torch.tensor([[4.0, -4.0], [-2.0, 2.0], [-1.0, 6.0]])
    assert rules.paper_stiffness(evidence) == 1 / 4
    assert rules.paper_stiffness(torch.zeros(3, 2)) == math.inf


# -- distances -----------------------------------------------------------------------------------


def distance_rule(x: Tensor, u: Tensor, w: Tensor, p: float) -> Tensor:
    """``R_i = sum_j w_j |x_i - u_ij|^p``."""
    out = torch.zeros_like(x)
    for row in range(len(x)):
        for j in range(len(u)):
            for i in range(x.shape[1]):
                out[row, i] += w[row, j] * abs(x[row, i] - u[j, i]) ** p
    return out


@forall(seeds, sizes)
def test_l2_distance(seed: int, size: tuple[int, int, int]) -> None:
    n, m, d = size
    x, u, w = draws(seed, (n, d), (m, d), (n, m))
    expected = distance_rule(x, u, w, 2)
    close(rules.l2_distance(x, u, w), expected)
    close(rules.l2_distance(x, u, w, u**2), expected)
    balanced = w - w.mean(-1, keepdim=True)
    expected = distance_rule(x, u, balanced, 2)
    found = rules.l2_distance(x, u, balanced, balanced=True)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-10)


@forall(seeds, sizes)
def test_l2_distance_conserves(seed: int, size: tuple[int, int, int]) -> None:
    n, m, d = size
    x, u, relevance = draws(seed, (n, d), (m, d), (n, m))
    h = torch.cdist(x, u, compute_mode="donot_use_mm_for_euclid_dist") ** 2
    values = rules.l2_distance(x, u, relevance / h)
    torch.testing.assert_close(values.sum(-1), relevance.sum(-1), rtol=1e-8, atol=1e-8)
    positive = rules.l2_distance(x, u, relevance.abs() / h)
    assert bool((positive >= -1e-10).all())


@forall(seeds, sizes)
def test_distance_rules_do_not_see_where_the_origin_is(
    seed: int, size: tuple[int, int, int]
) -> None:
    n, m, d = size
    x, u, w, shift = draws(seed, (n, d), (m, d), (n, m), (d,))
    for rule in (rules.l2_distance, rules.l1_distance):
        torch.testing.assert_close(
            rule(x + shift, u + shift, w), rule(x, u, w), rtol=1e-8, atol=1e-10
        )


@forall(seeds, sizes, st.sampled_from([1.0, 1.5, 2.0, 3.0, 4.0]))
def test_lp_distance(seed: int, size: tuple[int, int, int], p: float) -> None:
    n, m, d = size
    x, u, relevance = draws(seed, (n, d), (m, d), (n, m))
    powers = (x[:, None] - u[None]).abs() ** p
    w = relevance / powers.sum(-1)
    found = rules.lp_distance(x, u, w, p)
    close(found, distance_rule(x, u, w, p))
    torch.testing.assert_close(found.sum(-1), relevance.sum(-1), rtol=1e-9, atol=1e-9)
    if p == 1:
        close(rules.l1_distance(x, u, w), found)


def test_lp_distance_in_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    x, u, w = draws(0, (5, 4), (23, 4), (5, 23))
    whole = rules.lp_distance(x, u, w, 3.0)
    monkeypatch.setattr("neuralize.rules.distance.BLOCK_BYTES", 5 * 4 * 8 * 3)
    close(rules.lp_distance(x, u, w, 3.0), whole)


@forall(seeds, st.tuples(st.integers(1, 4), st.integers(1, 5), st.integers(1, 4)))
def test_metric_distance(seed: int, size: tuple[int, int, int]) -> None:
    """Loops over pairs; the reference of a pair is the point nearest to x that lands on u_j."""
    n, m, q = size
    d = q + 3
    x, u, w, matrix = draws(seed, (n, d), (m, q), (n, m), (q, d))
    inverse = torch.linalg.pinv(matrix)
    z = x @ matrix.T
    expected = torch.zeros(n, d, dtype=torch.float64)
    for row in range(n):
        for j in range(m):
            nearest = x[row] + inverse @ (u[j] - z[row])
            torch.testing.assert_close(matrix @ nearest, u[j], rtol=1e-6, atol=1e-6)
            way = x[row] - nearest
            expected[row] += w[row, j] * way * (matrix.T @ (matrix @ way))
    found = rules.metric_distance(z, u, w, matrix, inverse)
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6)
    total = (w * torch.cdist(z, u, compute_mode="donot_use_mm_for_euclid_dist") ** 2).sum(-1)
    torch.testing.assert_close(found.sum(-1), total, rtol=1e-6, atol=1e-6)


def test_metric_distance_behind_an_orthonormal_basis_is_non_negative() -> None:
    x, u, w, a = draws(1, (6, 7), (4, 3), (6, 4), (7, 3))
    matrix = torch.linalg.qr(a)[0].T
    found = rules.metric_distance(x @ matrix.T, u, w.abs(), matrix, matrix.T)
    assert bool((found >= -1e-12).all())


@forall(seeds, sizes)
def test_mahalanobis_distance(seed: int, size: tuple[int, int, int]) -> None:
    n, _, d = size
    delta, a, w = draws(seed, (n, d), (d, d), (n,))
    precision = a @ a.T + 0.1 * torch.eye(d, dtype=torch.float64)
    eigenvalues, vectors = torch.linalg.eigh(precision)
    factor = eigenvalues.sqrt()[:, None] * vectors.T
    signed, squares = torch.zeros(n, d).double(), torch.zeros(n, d).double()
    for row in range(n):
        for i in range(d):
            signed[row, i] = w[row] * delta[row, i] * (precision[i] @ delta[row])
            for k in range(d):
                along = (vectors[:, k] @ delta[row]) ** 2 * eigenvalues[k]
                squares[row, i] += w[row] * along * vectors[i, k] ** 2
    close(rules.mahalanobis_distance(delta, factor, w), signed, 1e-8)
    close(rules.mahalanobis_distance(delta, factor, w, True), squares, 1e-8)
    close(signed.sum(-1), squares.sum(-1), 1e-8)


# -- linear --------------------------------------------------------------------------------------


@forall(seeds, sizes)
def test_midpoint(seed: int, size: tuple[int, int, int]) -> None:
    n, k, d = size
    x, w, m, relevance = draws(seed, (n, d), (k, d), (k, d), (n, k))
    expected = torch.zeros(n, d, dtype=torch.float64)
    for row in range(n):
        for c in range(k):
            contributions = (x[row] - m[c]) * w[c]
            expected[row] += relevance[row, c] * contributions / contributions.sum()
    found = rules.midpoint(x, w, m, relevance)
    close(found, expected, 1e-8)
    torch.testing.assert_close(found.sum(-1), relevance.sum(-1), rtol=1e-7, atol=1e-7)


def test_midpoint_on_the_midpoint_has_nothing_to_give() -> None:
    m, w = torch.tensor([[1.0, 2.0]]), torch.tensor([[3.0, -1.0]])
    assert rules.midpoint(m, w, m, torch.zeros(1, 1)).tolist() == [[0.0, 0.0]]


@forall(seeds, sizes, st.sampled_from([0.0, 1e-9, 0.3]), st.booleans())
def test_epsilon(seed: int, size: tuple[int, int, int], stabilizer: float, with_bias: bool) -> None:
    n, m, d = size
    x, w, b, relevance = draws(seed, (n, d), (m, d), (m,), (n, m))
    bias = b if with_bias else None
    expected, lost = torch.zeros(n, d).double(), torch.zeros(n).double()
    for row in range(n):
        for j in range(m):
            z = float(w[j] @ x[row]) + (float(b[j]) if with_bias else 0.0)
            stab = z + (stabilizer if z >= 0 else -stabilizer)
            expected[row] += x[row] * w[j] * relevance[row, j] / stab
            kept = float((x[row] * w[j]).sum() * relevance[row, j] / stab)
            lost[row] += relevance[row, j] - kept
    values, absorbed = rules.epsilon(x, w, bias, relevance, stabilizer)
    close(values, expected, 1e-8)
    torch.testing.assert_close(absorbed, lost, rtol=1e-7, atol=1e-7 * float(values.abs().max()))


@forall(seeds, sizes)
def test_wsquare(seed: int, size: tuple[int, int, int]) -> None:
    n, m, d = size
    w, relevance = draws(seed, (m, d), (n, m))
    expected = torch.zeros(n, d, dtype=torch.float64)
    for row in range(n):
        for j in range(m):
            expected[row] += relevance[row, j] * w[j] ** 2 / (w[j] ** 2).sum()
    found = rules.wsquare(w, relevance)
    close(found, expected)
    torch.testing.assert_close(found.sum(-1), relevance.sum(-1))


# -- all of them ---------------------------------------------------------------------------------


@forall(seeds, st.floats(-3, 3))
def test_rules_are_linear_in_the_incoming_relevance(seed: int, factor: float) -> None:
    n, m, d = 3, 4, 5
    x, u, w, a, b = draws(seed, (n, d), (m, d), (m, d), (n, m), (n, m))
    one = torch.ones(m, dtype=torch.float64)
    for rule in (
        lambda r: rules.l2_distance(x, u, r),
        lambda r: rules.l1_distance(x, u, r),
        lambda r: rules.midpoint(x, w, u, r),
        lambda r: rules.epsilon(x, w, one, r)[0],
        lambda r: rules.epsilon(x, w, one, r)[1],
        lambda r: rules.wsquare(w, r),
        lambda r: rules.harmonic_pooling(x**2, r[:, 0], 1.0),
    ):
        expected = rule(a) + factor * rule(b)
        size = float(expected.abs().max() + rule(a).abs().max() + rule(b).abs().max())
        torch.testing.assert_close(rule(a + factor * b), expected, rtol=1e-8, atol=1e-8 * size)


def test_rules_work_in_single_precision() -> None:
    x, u, w = (t.float() for t in draws(3, (4, 6), (5, 6), (4, 5)))
    for found in (
        rules.l2_distance(x, u, w),
        rules.l1_distance(x, u, w),
        rules.soft_min_weights(w, 2.0),
        rules.wsquare(u, w),
        rules.midpoint(x, u, u * 0.5, w),
    ):
        assert found.dtype == torch.float32
    np.testing.assert_allclose(
        rules.l2_distance(x, u, w).numpy(),
        distance_rule(x.double(), u.double(), w.double(), 2).numpy(),
        rtol=1e-4,
        atol=1e-4,
    )
