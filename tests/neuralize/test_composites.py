"""Composites: which rule goes where, and which preset a family of networks gets."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from neuralize import LRP
from neuralize.composites import (
    PRESETS,
    Composite,
    attn_lrp,
    cp_lrp,
    default_composite,
    epsilon,
    epsilon_alpha2_beta1,
    epsilon_alpha2_beta1_flat,
    epsilon_gamma,
    epsilon_gamma_box,
    epsilon_plus,
    epsilon_plus_flat,
    gamma,
    preset,
)
from neuralize.errors import InputError, NoRuleError
from neuralize.rules import (
    CPLRP,
    AlphaBeta,
    AttnLRP,
    Epsilon,
    Flat,
    Gamma,
    Ignore,
    Rule,
    TakeMost,
    WSquare,
    ZBox,
    ZPlus,
)
from xai import coverage


class Net(nn.Module):
    """Convolutions before a dense layer; the second convolution is functional."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3)
        self.weight = nn.Parameter(torch.randn(4, 4, 3, 3))
        self.pool = nn.MaxPool2d(2)
        self.body = nn.Sequential(nn.Conv2d(4, 4, 1), nn.ReLU())
        self.head = nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(F.conv2d(F.relu(self.stem(x)), self.weight))
        return self.head(self.body(self.pool(x)).mean((2, 3)))


@pytest.fixture
def model() -> Net:
    torch.manual_seed(0)
    return Net().eval()


def rules(model: nn.Module, composite: Composite) -> dict[tuple[str, str], str]:
    table = coverage(model, torch.randn(1, 3, 8, 8), composite=composite)
    return {(line.path, line.operation.split(" ")[0]): line.rule for line in table.lines}


ZERO = ("bias",)

EXPECTED: list[tuple[Composite, Rule, Rule, Rule]] = [
    (epsilon(1e-3), Epsilon(1e-3), Epsilon(1e-3), Epsilon(1e-3)),
    (epsilon_plus(), ZPlus(), ZPlus(), Epsilon()),
    (
        epsilon_plus(zero_bias=True),
        ZPlus(zero_params=ZERO), ZPlus(zero_params=ZERO), Epsilon(zero_params=ZERO),
    ),
    (epsilon_plus_flat(), Flat(), ZPlus(), Epsilon()),
    (epsilon_alpha2_beta1(), AlphaBeta(), AlphaBeta(), Epsilon()),
    (epsilon_alpha2_beta1_flat(1e-2), Flat(), AlphaBeta(), Epsilon(1e-2)),
    (epsilon_gamma(), Gamma(0.25), Gamma(0.25), Epsilon()),
    (epsilon_gamma(gamma=1), Gamma(1), Gamma(1), Epsilon()),
    (epsilon_gamma_box(-1, 2, gamma=0.1), ZBox(-1, 2), Gamma(0.1), Epsilon()),
    (gamma(), Gamma(0.05), Gamma(0.05), Gamma(0.05)),
    (attn_lrp(), Gamma(0.25), Gamma(0.25), Gamma(0.05)),
    (cp_lrp(0.1, 0.2), Gamma(0.1), Gamma(0.1), Gamma(0.2)),
]  # fmt: skip


@pytest.mark.parametrize(("composite", "first", "hidden", "dense"), EXPECTED)
def test_presets_put_rules_where_they_say(
    composite: Composite, first: Rule, hidden: Rule, dense: Rule
) -> None:
    at = composite.rule
    assert at("stem", nn.Conv2d(3, 4, 3), nn.Conv2d, True) == first
    assert at("body.0", nn.Conv2d(4, 4, 1), nn.Conv2d, False) == hidden
    assert at("up", nn.ConvTranspose3d(4, 4, 1), nn.ConvTranspose3d, False) == hidden
    assert at("head", nn.Linear(4, 2), nn.Linear, False) == dense


@pytest.mark.parametrize(("composite", "first", "hidden", "dense"), EXPECTED)
def test_the_rules_that_are_run_are_those_of_the_preset(
    composite: Composite, first: Rule, hidden: Rule, dense: Rule, model: Net
) -> None:
    found = rules(model, composite)
    assert found["stem", "conv2d"] == str(first)
    assert found["", "conv2d"] == found["body.0", "conv2d"] == str(hidden)
    assert found["head", "linear"] == str(dense)


def test_rules_by_name_come_before_rules_by_type_and_ones_given_later_before_earlier(
    model: Net,
) -> None:
    composite = epsilon_plus_flat().with_rules(
        name_map=[(["body.*"], WSquare())],
        layer_map=[(nn.Conv2d, Gamma()), (nn.MaxPool2d, TakeMost(3.0))],
    )
    found = rules(model, composite)
    assert found["stem", "conv2d"] == "Flat"
    assert found["", "conv2d"] == "Gamma"
    assert found["body.0", "conv2d"] == "WSquare"
    assert found["pool", "max_pool2d"] == "TakeMost"
    again = composite.with_rules(
        name_map=[(["body.0"], Ignore())], first_map=[(nn.Conv2d, WSquare())]
    )
    found = rules(model, again)
    assert found["body.0", "conv2d"] == "Ignore"
    assert found["stem", "conv2d"] == "WSquare"


def test_patterns_match_whole_paths() -> None:
    composite = epsilon().with_rules(name_map=[(["layer1.?.conv*", "fc"], Flat())])
    names = ["layer1.0.conv1", "layer1.10.conv1", "layer1.0.bn", "fc", "fc2", "head.fc"]
    layer = nn.Linear(1, 1)
    flat = [name for name in names if composite.rule(name, layer, nn.Linear, False) == Flat()]
    assert flat == ["layer1.0.conv1", "fc"]


def test_first_layers_are_all_that_see_the_input() -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.c = (nn.Conv2d(i, 4, 3, padding=1) for i in (3, 3, 4))

        def forward(self, x: Tensor) -> Tensor:
            x = (x - 0.5) / 0.25
            return self.c(F.relu(self.a(x) + self.b(x.flip(-1)))).mean((2, 3))

    torch.manual_seed(0)
    found = rules(Two(), epsilon_plus_flat())
    assert [found[name, "conv2d"] for name in "abc"] == ["Flat", "Flat", "ZPlus"]


def test_a_composite_without_an_entry_is_refused_by_path(model: Net) -> None:
    with pytest.raises(NoRuleError, match=r"conv2d \(Conv2d\) in 'stem' \(Conv2d\)"):
        LRP(model, Composite("Dense", ((nn.Linear, Epsilon()),))).trace(torch.ones(1, 3, 8, 8))


def test_presets_by_name(model: Net) -> None:
    x = torch.randn(2, 3, 8, 8)
    for name in PRESETS:
        options = {"low": -1.0, "high": 1.0} if name == "epsilon_gamma_box" else {}
        composite = preset(name, **options)
        trace = LRP(model, composite).trace(x)
        values, absorbed = trace.relevance(trace.output)
        total = values.flatten(1).sum(1) + sum(absorbed.values())
        torch.testing.assert_close(total.float(), trace.output.sum(1), rtol=1e-4, atol=1e-4)
    with pytest.raises(InputError, match="'epsilon_plus'"):
        preset("epsilonplus")
    with pytest.raises(InputError, match=r"low.*epsilon_gamma_box\(\)"):
        preset("epsilon_gamma_box")


class FunctionalAttention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.qkv = nn.Linear(4, 12)


FAMILIES: list[tuple[list[nn.Module], str]] = [
    ([nn.Conv2d(3, 4, 3), nn.ReLU()], "EpsilonGamma"),
    ([nn.Conv2d(3, 4, 3), nn.ReLU6()], "EpsilonGamma"),
    ([nn.Conv2d(3, 4, 3), nn.PReLU(), nn.LeakyReLU(), nn.RReLU()], "EpsilonGamma"),
    ([nn.Linear(3, 4)], "EpsilonGamma"),
    *[([nn.Conv2d(3, 4, 3), act()], "Gamma")
      for act in (nn.GELU, nn.SiLU, nn.Hardswish, nn.ELU, nn.SELU, nn.CELU, nn.Mish)],
    ([nn.MultiheadAttention(4, 2), nn.GELU()], "AttnLRP"),
    ([nn.Conv2d(3, 4, 3), nn.ReLU(), FunctionalAttention()], "AttnLRP"),
]  # fmt: skip


@pytest.mark.parametrize(("modules", "name"), FAMILIES)
def test_the_default_follows_the_family(modules: list[nn.Module], name: str) -> None:
    assert default_composite(nn.Sequential(*modules)).name == name


def test_attention_of_presets() -> None:
    from neuralize.engine.operations.attention import Attention

    for make, rule in ((attn_lrp, AttnLRP()), (cp_lrp, CPLRP()), (gamma, AttnLRP())):
        assert make().rule("", nn.Identity(), Attention, False) == rule
