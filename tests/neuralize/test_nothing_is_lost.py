"""Relevance of any kind adds up, also where an output is zero and a rule sends some there."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from neuralize.composites import Composite, epsilon, epsilon_gamma_box, epsilon_plus_flat
from neuralize.lrp import LRP
from neuralize.rules import AlphaBeta, Flat, Gamma, TakeMost, WSquare, ZBox, ZPlus
from tests.neuralize.gradient_oracle import Written, random
from tests.neuralize.test_operations import CASES


def account(model: nn.Module, x: Tensor, composite: Composite) -> tuple[Tensor, dict[str, Tensor]]:
    """What is missing per row, relative, for relevance that knows nothing of the outputs."""
    trace = LRP(model, composite).trace(x)
    seed = random(2, *trace.output.shape)
    values, absorbed = trace.relevance(seed)
    kept = values.reshape(len(x), -1)
    missing = seed.reshape(len(x), -1).sum(1) - kept.sum(1) - sum(absorbed.values())
    return missing.abs() / kept.abs().sum(1).clamp(min=1), absorbed


@pytest.mark.parametrize("name", CASES)
def test_every_operation_accounts_for_any_relevance(name: str) -> None:
    case = CASES[name]
    constants = {k: random(7 + i, *shape) for i, (k, shape) in enumerate(case.constants.items())}
    factors = {k: random(17 + i, *shape) for i, (k, shape) in enumerate(case.factors.items())}
    model = Written(case.model, {**constants, **factors}, case.shape[-1])
    missing, _ = account(model, random(1, *case.shape), epsilon(1e-9))
    assert float(missing.max()) < 1e-9


class Padded(nn.Module):
    """Zeros in front of a layer that is not told of them."""

    def __init__(self, how: str, layer: nn.Module) -> None:
        super().__init__()
        self.how, self.layer = how, layer

    def forward(self, x: Tensor) -> Tensor:
        if self.how == "F.pad":
            x = F.pad(x, (0, 1, 2, 1))
        elif self.how == "masked_fill":
            x = x.masked_fill(torch.arange(x.shape[-1]) < 2, 0)
        elif self.how == "unfold":
            n, c, height, width = x.shape
            x = F.unfold(x, 3, padding=1).reshape(n, c * 9, height, width)[:, :c]
        return self.layer(x)  # type: ignore[no-any-return]


FIRST = {
    "flat": Flat(),
    "w-square": WSquare(),
    "z-box": ZBox(-3.0, 3.0),
    "gamma": Gamma(),
    "z-plus": ZPlus(),
    "alpha-beta": AlphaBeta(),
}


@pytest.mark.parametrize("rule", FIRST)
@pytest.mark.parametrize("how", ["F.pad", "masked_fill", "unfold"])
def test_zeros_around_the_input_absorb_what_a_rule_gives_them(how: str, rule: str) -> None:
    torch.manual_seed(0)
    model = Padded(how, nn.Conv2d(2, 4, 3, bias=False)).double()
    composite = epsilon().with_rules(layer_map=[(nn.Conv2d, FIRST[rule])])
    missing, absorbed = account(model, random(1, 3, 2, 6, 6), composite)
    assert float(missing.max()) < 1e-9
    # the box's bounds and the squares give zeros a share, products with them do not
    assert ("padding" in absorbed) == (rule in ("flat", "w-square", "z-box"))


def test_what_the_padding_takes_is_the_share_of_its_pixels() -> None:
    torch.manual_seed(0)
    layer = nn.Conv2d(2, 4, 3, bias=False).double()
    x = random(1, 3, 2, 6, 6)
    seed = random(2, 3, 4, 7, 5)
    composite = epsilon_plus_flat()
    values, absorbed = LRP(Padded("F.pad", layer), composite).trace(x).relevance(seed)
    whole, _ = LRP(layer, composite).trace(F.pad(x, (0, 1, 2, 1))).relevance(seed)
    torch.testing.assert_close(values, whole[..., 2:8, :6])
    outside = whole.sum((1, 2, 3)) - values.sum((1, 2, 3))
    torch.testing.assert_close(absorbed["padding"], outside)


def test_zeros_in_the_window_of_a_pool_that_takes_most() -> None:
    model = Padded("F.pad", nn.MaxPool2d(2)).double()
    composite = epsilon().with_rules(layer_map=[(nn.MaxPool2d, TakeMost(1.0))])
    missing, absorbed = account(model, random(1, 3, 2, 6, 6), composite)
    assert float(missing.max()) < 1e-9
    assert bool(absorbed["padding"].abs().min() > 0)


def test_several_targets_at_once() -> None:
    torch.manual_seed(0)
    model = Padded("F.pad", nn.Conv2d(2, 4, 3)).double()
    trace = LRP(model, epsilon_gamma_box(-3.0, 3.0)).trace(random(1, 3, 2, 6, 6), keep=True)
    seeds = random(2, 5, *trace.output.shape)
    values, absorbed = trace.batched(seeds)
    for k, seed in enumerate(seeds):
        one, shares = trace.relevance(seed)
        torch.testing.assert_close(values[k], one)
        torch.testing.assert_close(absorbed["padding"][k], shares["padding"])
