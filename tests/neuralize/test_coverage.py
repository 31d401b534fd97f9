"""The coverage table against sums made by hand, and the warning about maps that are noise."""

from __future__ import annotations

import csv
import io
import warnings

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import xai
from neuralize import AmplificationWarning, InputError, NoRuleError, coverage, neuralize
from neuralize.composites import Composite


class Residual(nn.Module):
    """A block with a functional activation, a module used twice and a branch nobody reads."""

    def __init__(self) -> None:
        super().__init__()
        self.twice = nn.Linear(4, 4)
        self.idle = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        h = self.twice(F.relu(self.twice(x)))
        self.idle(x)
        return x + h


def model() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(Residual(), nn.Linear(4, 3)).double()


X = torch.tensor([[1.0, -2.0, 0.5, 3.0], [0.2, 0.1, -1.0, 1.0]], dtype=torch.float64)


def test_every_operation_has_its_line() -> None:
    table = coverage(model(), X, composite="epsilon")
    found = {(line.path, line.operation): line for line in table.lines}
    assert found["0.twice", "linear"].calls == 2
    assert found["0", "relu"].rule == "Pass"
    assert found["0", "add"].rule == "Norm"
    assert not found["0.idle", "linear"].reached
    assert table.composite == "Epsilon"
    assert all(part in str(table) for part in ("0.twice", "relu", "amplification", "evidence"))


def test_the_last_layer_by_hand() -> None:
    net = model()
    table = coverage(net, X, target=1, composite="epsilon")
    last = next(line for line in table.lines if line.path == "1")
    with torch.no_grad():
        h = net[0](X)
        y = net[1](h)[:, 1]
        parts = h * net[1].weight[1] * (y / (y + 1e-6 * y.sign()))[:, None]
    assert last.incoming == pytest.approx(float(y.sum()))
    assert last.outgoing == pytest.approx(float(parts.sum()))
    assert last.absorbed["bias"] == pytest.approx(
        float((net[1].bias[1].detach() * y / (y + 1e-6 * y.sign())).sum())
    )
    assert last.amplification == pytest.approx(float(parts.abs().sum() / y.abs().sum()))


def test_what_goes_in_comes_out_line_by_line() -> None:
    table = coverage(model(), X, composite="epsilon")
    for line in table.lines:
        if line.reached:
            kept = sum(line.absorbed.values())
            assert line.incoming == pytest.approx(line.outgoing + kept, abs=1e-12), line.path
    assert table.conservation_error < 1e-12
    rows = list(csv.DictReader(io.StringIO(table.to_csv())))
    assert [row["path"] for row in rows] == [line.path for line in table.lines]


def test_targets_and_seeds() -> None:
    net = model()
    output = net(X).detach()
    seed = torch.zeros_like(output)
    seed[:, 2] = output[:, 2]
    one, other = coverage(net, X, 2, "epsilon"), coverage(net, X, seed=seed, composite="epsilon")
    assert one.relevance == pytest.approx(other.relevance)
    assert xai.coverage is coverage
    with pytest.raises(InputError, match=r"\(n, K\)"):
        coverage(nn.Sequential(nn.Conv2d(1, 2, 3)), torch.rand(1, 1, 4, 4), 1, "epsilon")


def test_a_composite_without_a_rule_is_refused_by_path() -> None:
    with pytest.raises(NoRuleError, match=r"'0\.twice' \(Linear\).*with_rules.*unmapped"):
        coverage(model(), X, composite=Composite("empty"))


class Exploding(nn.Module):
    """Two large terms that nearly cancel."""

    def __init__(self) -> None:
        super().__init__()
        self.quiet = nn.Linear(2, 2)
        self.cancelling = nn.Linear(2, 1, bias=False)
        self.cancelling.weight.data = torch.tensor([[1000.0, -999.0]])

    def forward(self, x: Tensor) -> Tensor:
        return self.cancelling(self.quiet(x))


def test_a_map_of_noise_warns_with_the_path() -> None:
    net = Exploding()
    net.quiet.weight.data, net.quiet.bias.data = torch.eye(2), torch.zeros(2)
    x = torch.tensor([[1.0, 1.0], [1.0, 0.0]])
    with pytest.warns(AmplificationWarning, match=r"row 0 \(1 of 2.*'cancelling' \(linear"):
        neuralize(net).relevance(x, composite="epsilon")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        neuralize(net).relevance(x[1:], composite="epsilon")
