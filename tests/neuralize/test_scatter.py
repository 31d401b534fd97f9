"""Sums, means and extremes over groups, against dense one-hot matrices in float64."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from neuralize.composites import Composite
from neuralize.engine.operations.elementwise import SumKind
from neuralize.errors import NoRuleError
from neuralize.lrp import LRP
from neuralize.rules.named import Ignore, Norm

EXACT = Composite("exact", (((SumKind, nn.AdaptiveAvgPool2d), Norm(0)),))
INDEX = torch.tensor([0, 2, 2, 0, 3, 2])  # place 1 is never reached
GROUPS = 4
BASE = torch.tensor([[1.0], [2.0], [-0.5], [3.0]], dtype=torch.float64).expand(4, 3).contiguous()
VALUES = torch.randn(6, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
SEED = torch.randn(4, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


class Graphwise(nn.Module):
    """``f`` of the only row of the batch."""

    def __init__(self, f: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.f = f

    def forward(self, x: Tensor) -> Tensor:
        return self.f(x[0])


def wide(x: Tensor) -> Tensor:
    return INDEX[:, None].expand_as(x)


def zeros(x: Tensor) -> Tensor:
    return x.new_zeros(GROUPS, x.shape[1])


def explained(f: Callable[[Tensor], Tensor], x: Tensor, seed: Tensor) -> tuple[Tensor, Any]:
    trace = LRP(Graphwise(f), EXACT).trace(x[None])
    assert torch.equal(trace.output, f(x))
    relevance, absorbed = trace.relevance(seed)
    return relevance[0], {name: float(share) for name, share in absorbed.items()}


def summed(weight: np.ndarray, base: np.ndarray) -> np.ndarray:
    """``R_i = w_i x_i R_k / z_k``, one value after the other."""
    x, r = VALUES.numpy(), SEED.numpy()
    z = base.copy()
    for i, k in enumerate(INDEX.tolist()):
        z[k] += weight[i] * x[i]
    out = np.zeros_like(x)
    for i, k in enumerate(INDEX.tolist()):
        out[i] = weight[i] * x[i] * r[k] / z[k]
    return out


ONES = np.ones(6)
MEAN = np.array([1 / 2, 1 / 3, 1 / 3, 1 / 2, 1, 1 / 3])
SUMS: dict[str, tuple[Callable[[Tensor], Tensor], np.ndarray, bool]] = {
    "scatter_add": (lambda x: zeros(x).scatter_add(0, wide(x), x), ONES, False),
    "last dimension": (
        lambda x: x.new_zeros(3, GROUPS).scatter_add(-1, INDEX.expand(3, 6), x.T).T,
        ONES,
        False,
    ),
    "own index per value": (
        lambda x: zeros(x).scatter_add(0, wide(x).contiguous(), x),
        ONES,
        False,
    ),
    "scatter_add_": (lambda x: zeros(x).scatter_add_(0, wide(x), x), ONES, False),
    "index_add": (lambda x: torch.index_add(zeros(x), 0, INDEX, x), ONES, False),
    "index_add alpha": (lambda x: zeros(x).index_add(0, INDEX, x, alpha=1), ONES, False),
    "on a base": (lambda x: BASE.index_add(0, INDEX, x), ONES, True),
    "reduce sum": (lambda x: zeros(x).scatter_reduce(0, wide(x), x, "sum"), ONES, False),
    "reduce mean": (
        lambda x: zeros(x).scatter_reduce(0, wide(x), x, "mean", include_self=False),
        MEAN,
        False,
    ),
    "index_reduce mean": (
        lambda x: zeros(x).index_reduce_(0, INDEX, x, "mean", include_self=False),
        MEAN,
        False,
    ),
}  # fmt: skip


@pytest.mark.filterwarnings("ignore:index_reduce:UserWarning")
@pytest.mark.parametrize("name", SUMS)
def test_a_sum_over_groups_hands_on_what_each_value_adds(name: str) -> None:
    f, weight, on_base = SUMS[name]
    base = BASE.numpy() if on_base else np.zeros((4, 3))
    found, absorbed = explained(f, VALUES, SEED)
    np.testing.assert_allclose(found.numpy(), summed(weight, base), atol=1e-12)
    assert float(found.sum()) + sum(absorbed.values()) == pytest.approx(float(SEED.sum()))
    lost = SEED[1].sum() if not on_base else 0.0  # place 1: nothing there to take it
    assert absorbed.get("stabilizer", 0.0) == pytest.approx(float(lost), abs=1e-12)
    assert ("constants" in absorbed) == on_base


def test_the_weight_of_an_index_add_is_part_of_the_term() -> None:
    found, _ = explained(lambda x: BASE.index_add(0, INDEX, x, alpha=-2), VALUES, SEED)
    np.testing.assert_allclose(found.numpy(), summed(-2 * ONES, BASE.numpy()), atol=1e-12)


def test_signals_there_before_take_their_share() -> None:
    def added(x: Tensor) -> Tensor:
        return x[:4].index_add(0, INDEX[:2], x[4:])

    def plain(x: Tensor) -> Tensor:
        return x[:4] + torch.nn.functional.one_hot(INDEX[:2], 4).to(x).T @ x[4:]

    found, _ = explained(added, VALUES, SEED)
    x = VALUES.clone().requires_grad_()
    z = plain(x)
    (gradient,) = torch.autograd.grad((z * (SEED / z).detach()).sum(), x)
    torch.testing.assert_close(found, gradient * VALUES, atol=1e-12, rtol=0)


def test_constants_added_to_signals_absorb_by_name() -> None:
    found, absorbed = explained(lambda x: x[:4].index_add(0, INDEX, BASE[INDEX]), VALUES, SEED)
    z = VALUES[:4] + torch.nn.functional.one_hot(INDEX, 4).double().T @ BASE[INDEX]
    torch.testing.assert_close(found[:4], VALUES[:4] * SEED / z)
    assert absorbed["constants"] == pytest.approx(float(((z - VALUES[:4]) * SEED / z).sum()))


@pytest.mark.parametrize("kind", ["amax", "amin"])
@pytest.mark.parametrize("include", [False, True])
def test_the_winner_of_a_group_takes_all_and_ties_share(kind: str, include: bool) -> None:
    x = VALUES.clone()
    x[3, 0] = x[0, 0]  # a tie between two values
    base = BASE if include else torch.zeros_like(BASE)
    base = base.clone()
    base[2, 1] = x[1:, 1].amax() if kind == "amax" else x[1:, 1].amin()

    def f(x: Tensor) -> Tensor:
        return base.scatter_reduce(0, wide(x), x, kind, include_self=include)

    found, absorbed = explained(f, x, SEED)
    expected, kept = np.zeros((6, 3)), 0.0
    best = np.max if kind == "amax" else np.min
    for k in range(4):
        for c in range(3):
            mine = [(i, float(x[i, c])) for i in range(6) if INDEX[i] == k]
            if include or not mine:
                mine.append((-1, float(base[k, c])))
            top = best([v for _, v in mine])
            winners = [i for i, v in mine if v == top]
            for i in winners:
                if i < 0:
                    kept += float(SEED[k, c]) / len(winners)
                else:
                    expected[i, c] += float(SEED[k, c]) / len(winners)
    np.testing.assert_allclose(found.numpy(), expected, atol=1e-12)
    assert absorbed["constants"] == pytest.approx(kept)


def test_a_maximum_of_zeros_over_zeros_loses_nothing() -> None:
    """Autograd's own gradient gives half to the place itself, where nothing is."""
    x = -VALUES.abs()

    def f(x: Tensor) -> Tensor:
        return zeros(x).scatter_reduce(0, wide(x), x.relu(), "amax", include_self=False)

    seed = SEED.clone()
    seed[1] = 0
    found, absorbed = explained(f, x, seed)
    assert float(found.sum()) == pytest.approx(float(seed.sum()))
    assert absorbed["constants"] == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("kind", ["sum", "mean", "max", "min"])
def test_segments_are_groups(kind: str) -> None:
    lengths = torch.tensor([2, 3, 1])

    def segments(x: Tensor) -> Tensor:
        return torch.segment_reduce(x, kind, lengths=lengths)

    def groups(x: Tensor) -> Tensor:
        parts = x.split([2, 3, 1])
        method = {"max": "amax", "min": "amin"}.get(kind, kind)
        return torch.stack([getattr(part, method)(0) for part in parts])

    found, expected = (explained(f, VALUES, SEED[:3])[0] for f in (segments, groups))
    torch.testing.assert_close(found, expected, atol=1e-12, rtol=0)


def test_many_targets_share_one_pass() -> None:
    def f(x: Tensor) -> Tensor:
        z = zeros(x).scatter_add(0, wide(x), x)
        return z + BASE.scatter_reduce(0, wide(x), x, "amax", include_self=False)

    seeds = torch.stack([SEED, -2 * SEED, SEED.flip(0)])
    many, absorbed = LRP(Graphwise(f), EXACT).trace(VALUES[None]).batched(seeds)
    for k, seed in enumerate(seeds):
        one, shares = explained(f, VALUES, seed)
        torch.testing.assert_close(many[k, 0], one)
        for name, share in shares.items():
            assert float(absorbed[name][k]) == pytest.approx(share, abs=1e-12)


def test_rows_of_a_batch_stay_apart_beside_the_groups() -> None:
    class Static(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.new_zeros(len(x), GROUPS, 3).index_add(1, INDEX, x)

    x = torch.stack([VALUES, 2 * VALUES.flip(0)])
    trace = LRP(Static(), EXACT).trace(x)
    seeds = torch.stack([SEED, SEED])
    relevance, absorbed = trace.relevance(seeds)
    torch.testing.assert_close(relevance.sum((1, 2)) + sum(absorbed.values()), seeds.sum((1, 2)))
    one = LRP(Static(), EXACT).trace(x[1:]).relevance(SEED[None])[0]
    torch.testing.assert_close(relevance[1:], one)


class Mixing(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.new_zeros(2, x.shape[1]).index_add(0, torch.tensor([0, 0]), x)


REFUSED: dict[str, Callable[[Tensor], Tensor]] = {
    "prod": lambda x: zeros(x).scatter_reduce(0, wide(x), x, "prod"),
    "mean": lambda x: zeros(x).scatter_reduce(0, wide(x), x, "mean"),
    "part of the values": lambda x: zeros(x).scatter_add(0, wide(x)[:3], x),
    "first dimension": lambda x: torch.segment_reduce(x, "prod", lengths=torch.tensor([6])),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_has_no_rule_is_refused_by_name(what: str) -> None:
    with pytest.raises(NoRuleError, match=what):
        explained(REFUSED[what], VALUES, SEED)


def test_groups_across_rows_are_refused() -> None:
    with pytest.raises(NoRuleError, match="mixes the rows"):
        LRP(Mixing(), "epsilon").trace(torch.ones(2, 3))


def test_ignore_stops_relevance_at_a_sum() -> None:
    f = SUMS["scatter_add"][0]
    trace = LRP(Graphwise(f), Composite("stop", ((SumKind, Ignore()),))).trace(VALUES[None])
    relevance, absorbed = trace.relevance(SEED)
    assert not relevance.any()
    assert float(absorbed["ignored"]) == pytest.approx(float(SEED.sum()))
