"""Networks that do unusual things: explained exactly or refused by name, never wrong in silence."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from neuralize.composites import Composite, epsilon
from neuralize.errors import InputError, NoRuleError
from neuralize.lrp import LRP
from neuralize.rules import AttnLRP, Pass, Rule, TakeMost, WinnerTakeAll, WSquare, ZPlus
from tests.neuralize.gradient_oracle import random

Forward = Callable[[Tensor], Tensor]


class Between(nn.Module):
    """A linear layer, what is tried, and a linear layer that any relevance can come from."""

    def __init__(self, forward: Forward) -> None:
        super().__init__()
        self.before = nn.Linear(6, 6)
        self.tried = forward

    def forward(self, x: Tensor) -> Tensor:
        return self.tried(self.before(x))


def adds_up(model: nn.Module, x: Tensor, composite: Composite | str) -> None:
    model = model.double().eval()
    with torch.no_grad():
        own = model(x.clone())
    trace = LRP(model, composite).trace(x)
    torch.testing.assert_close(trace.output, own, rtol=1e-12, atol=1e-12)
    seed = random(2, *own.shape)
    values, absorbed = trace.relevance(seed)
    rows = len(x)
    missing = seed.reshape(rows, -1).sum(1) - values.reshape(rows, -1).sum(1)
    missing = missing - sum(absorbed.values())
    assert float(missing.abs().max()) < 1e-9 * max(1.0, float(values.abs().sum()))


# -- in place, through views that overlap ----------------------------------------------------------


def base_after_view(y: Tensor) -> Tensor:
    v = y[:, 1:4]
    v.mul_(3)
    y.add_(1)
    return v


def siblings(y: Tensor) -> Tensor:
    a, b = y.split(3, 1)
    a.add_(b)
    b.add_(a)
    y.mul_(2)
    return torch.cat([a, b], 1)


def overlapping(y: Tensor) -> Tensor:
    v, w = y[:, 1:4], y[:, 2:5]
    v.mul_(3)
    w.add_(1)
    return v


def twice(y: Tensor) -> Tensor:
    v = y[:, 1:4]
    v.mul_(3)
    v.add_(1)
    return y


def views_of_results(y: Tensor) -> Tensor:
    v = y[:, 1:4]
    r = v.mul_(3)
    q = r[:, :2]
    y.add_(1)
    q.mul_(2)
    return torch.cat([r, q, y, v], 1)


def reshaped(y: Tensor) -> Tensor:
    return y.unsqueeze_(1) * 2


def written_out(y: Tensor) -> Tensor:
    torch.mul(y, 2, out=y)
    return y


def filled(y: Tensor) -> Tensor:
    y[:, 1].copy_(torch.full((len(y),), 2.0))
    y.index_fill_(1, torch.tensor([0]), 3.0)
    return y


def sequence_first(y: Tensor) -> Tensor:
    buffer = y.new_zeros(3, len(y), 2)
    for t, part in enumerate(y.chunk(3, 1)):
        buffer[t] = part
    return buffer.transpose(0, 1)


EXACT: dict[str, Forward] = {
    "base after view": base_after_view,
    "siblings": siblings,
    "overlapping views": overlapping,
    "a view twice": twice,
    "views of results": views_of_results,
    "another shape": reshaped,
    "out=": written_out,
    "filled with numbers": filled,
    "sequence first": sequence_first,
    "scatter a number": lambda y: y.scatter(1, torch.ones(len(y), 1).long(), 5.0),
    "scatter apart": lambda y: torch.scatter(y, 1, torch.tensor([[0, 1]] * len(y)), 2 * y[:, :2]),
    "diff": lambda y: torch.diff(y, dim=1, prepend=2 * y[:, :1]),
    "softmax by axis": lambda y: torch.softmax(y.reshape(len(y), 3, 2), axis=-1),  # type: ignore[call-overload]
    "amax by axis": lambda y: y.amax(axis=1),  # type: ignore[call-arg]
    "std by axis": lambda y: y.std(axis=1),  # type: ignore[call-arg]
    "kthvalue": lambda y: y.kthvalue(2, 1, True)[0] * y,
    "where, broadcast": lambda y: torch.where(
        torch.ones(4, len(y), 6) > 0, y, torch.ones(4, len(y), 6).double()
    ).transpose(0, 1),
}  # fmt: skip


@pytest.mark.parametrize("rows", [2, 3, 4])
@pytest.mark.parametrize("name", EXACT)
def test_explained_exactly(name: str, rows: int) -> None:
    torch.manual_seed(0)
    adds_up(Between(EXACT[name]), random(1, rows, 6), "epsilon")


def test_a_constant_that_is_filled_keeps_its_name() -> None:
    torch.manual_seed(0)
    model = Between(filled).double()
    trace = LRP(model, "epsilon").trace(random(1, 3, 6))
    _, absorbed = trace.relevance(torch.ones_like(trace.output))
    torch.testing.assert_close(absorbed["constants"], torch.full((3,), 2.0).double())


W = random(5, 4, 6)
SIGNED: dict[str, tuple[Forward, Composite]] = {
    name: (forward, epsilon().with_rules(layer_map=[(nn.Linear, rule)]))
    for name, forward, rule in [
        ("diff", lambda y: F.linear(torch.diff(F.relu(y), dim=1), W[:, :5]), ZPlus()),
        ("where", lambda y: F.linear(torch.where(y > 0, input=F.relu(y), other=-1.5), W), ZPlus()),
        ("minimum",
         lambda y: F.linear(torch.minimum(F.relu(y), other=torch.tensor(-1.0)), W), ZPlus()),
        ("softplus", lambda y: F.linear(F.softplus(y, beta=-1.0), W), ZPlus()),
        ("tril", lambda y: F.linear(y.reshape(-1, 1, 6).expand(-1, 5, 6).tril(), W), WSquare()),
        ("zeros written", lambda y: F.linear(zeros_written(y), W), WSquare()),
    ]
}  # fmt: skip


def zeros_written(y: Tensor) -> Tensor:
    y = y.clone()
    y[y < 0] = 0
    y[:, :2] = 0
    return y


@pytest.mark.parametrize("name", SIGNED)
def test_rules_know_where_signs_and_zeros_are(name: str) -> None:
    forward, composite = SIGNED[name]
    torch.manual_seed(0)
    adds_up(Between(forward), random(1, 3, 6), composite)


@pytest.mark.parametrize("mode", ["bicubic", "bilinear", "nearest"])
def test_cubic_interpolation_of_rectified_images_is_signed(mode: str) -> None:
    torch.manual_seed(0)
    layer = nn.Conv2d(2, 3, 1).double()
    model = Function(lambda x: layer(F.interpolate(F.relu(x), scale_factor=2, mode=mode)))
    adds_up(model, random(1, 3, 2, 5, 5), "epsilon_plus")


class Function(nn.Module):
    def __init__(self, function: Forward) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


@pytest.mark.parametrize("composite", ["epsilon", "cp_lrp"])
def test_a_query_that_sees_nothing(composite: str) -> None:
    mask = torch.ones(4, 4, dtype=torch.bool).tril(-1)
    model = Function(lambda x: F.scaled_dot_product_attention(x, x, x, attn_mask=mask))
    adds_up(model, random(1, 3, 4, 6), composite)


def test_an_instance_norm_before_a_relu_in_place() -> None:
    torch.manual_seed(0)
    layers = (nn.Conv2d(3, 4, 3), nn.InstanceNorm2d(4, affine=True), nn.ReLU(inplace=True))
    adds_up(nn.Sequential(*layers, nn.Conv2d(4, 2, 1)), random(1, 3, 3, 6, 6), "epsilon")


@pytest.mark.parametrize("way", ["turned", "in chunks"])
def test_token_numbers_are_followed_through_views(way: str) -> None:
    torch.manual_seed(0)
    table = nn.Embedding(9, 6).double()

    def forward(ids: Tensor) -> Tensor:
        if way == "turned":
            return table(ids.T).transpose(0, 1)  # type: ignore[no-any-return]
        return torch.cat([table(part) for part in ids.chunk(2, 1)], 1) + table(ids)

    ids = torch.randint(0, 9, (2, 4), generator=torch.Generator().manual_seed(0))
    model = Function(forward)
    model.table = table
    adds_up(model, ids, "epsilon")


@pytest.mark.parametrize("composite", ["epsilon", "gamma"])
@pytest.mark.parametrize("how", ["other memory", "in place"])
def test_weights_changed_behind_autograd_are_noticed(how: str, composite: str) -> None:
    torch.manual_seed(0)
    layer, x = nn.Linear(6, 4).double(), random(1, 3, 6)
    kept = LRP(layer, composite)
    kept.trace(x).relevance(torch.ones(3, 4).double())
    if how == "other memory":
        layer.weight.data = -layer.weight.data
    else:
        layer.weight.data.mul_(-1)
    found, _ = kept.trace(x).relevance(torch.ones(3, 4).double())
    fresh, _ = LRP(layer, composite).trace(x).relevance(torch.ones(3, 4).double())
    torch.testing.assert_close(found, fresh, rtol=0, atol=0)


# -- refusals --------------------------------------------------------------------------------------

MIXED: dict[str, Forward] = {
    "roll": lambda y: y - y.roll(1, 0),
    "flip": lambda y: y * y.flip(0),
    "first": lambda y: y + y[:1],
    "pairs": lambda y: (y[:, None] - y[None]).sum(1),
    "cumsum": lambda y: y.cumsum(0),
    "diff": lambda y: torch.diff(y, dim=0, prepend=y[:1]),
    "layer_norm": lambda y: F.layer_norm(y.T, (3,)).T,
    "group_norm": lambda y: F.group_norm(y[None], 1)[0],
    "normalize": lambda y: F.normalize(y, dim=0),
    "gate": lambda y: y * y.flip(0).sigmoid(),
    "quotient": lambda y: y / y.flip(0).abs(),
    "kthvalue": lambda y: y.kthvalue(1, 0, True)[0] + y,
    "where": lambda y: torch.where(y > 0, y, y[:1]),
    "max_pool1d": lambda y: F.max_pool1d(y.T[None], 3, 1, 1)[0].T,
    "setitem": lambda y: written_by_others(y),
}


def written_by_others(y: Tensor) -> Tensor:
    y = y.clone()
    y[:, :2] = y.flip(0)[:, 2:4]
    return y


@pytest.mark.parametrize("name", MIXED)
def test_rows_that_meet_are_refused(name: str) -> None:
    torch.manual_seed(0)
    model = Between(MIXED[name]).double()
    with pytest.raises(NoRuleError, match="rows of the batch"):
        LRP(model, "epsilon").trace(random(1, 3, 6))


@pytest.mark.parametrize(
    "layer", [nn.TransformerEncoderLayer(6, 2, 8), nn.MultiheadAttention(6, 2)], ids=["a", "b"]
)  # fmt: skip
def test_a_forgotten_batch_first_is_refused(layer: nn.Module) -> None:
    def forward(x: Tensor) -> Tensor:
        if isinstance(layer, nn.MultiheadAttention):
            return layer(x, x, x, need_weights=False)[0]  # type: ignore[no-any-return]
        return layer(x)  # type: ignore[no-any-return]

    layer.double().eval()
    with pytest.raises(NoRuleError, match="rows of the batch"):
        LRP(Function(forward), "epsilon").trace(random(1, 3, 4, 6))


def two_in_one_place(y: Tensor) -> Tensor:
    y = y.clone()
    y[:, [0, 0]] = 2 * y[:, :2]
    return y


def unpooled(y: Tensor) -> Tensor:
    pooled, places = F.max_pool1d(y[:, None], 3, 1, return_indices=True)
    return F.max_unpool1d(pooled, places, 3, 1)


REFUSED: dict[str, tuple[Forward, str]] = {
    "setitem": (two_in_one_place, "twice to one place"),
    "scatter": (
        lambda y: torch.scatter(y, 1, torch.zeros(len(y), 2).long(), 2 * y[:, :2]),
        "twice to one place",
    ),
    "index_copy": (lambda y: y.index_copy(1, torch.tensor([1, 1]), y[:, :2]), "twice to one place"),
    "index_put": (
        lambda y: y.index_put(
            (torch.arange(len(y)), torch.arange(len(y))), y[:, 0], accumulate=True
        ),
        "adds to or multiplies",
    ),
    "unpool": (unpooled, "windows of its pool overlap"),
    "dropout": (lambda y: F.dropout(y, 0.5, True), "at random"),
    "vmap": (lambda y: y + torch.vmap(torch.sin)(y), "torch.func"),
    "new_tensor": (lambda y: y + y.new_tensor(y), "new_tensor"),
    "count": (lambda y: y.norm(p=0, dim=1), "counts entries"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_no_rule_holds_for_is_refused(name: str) -> None:
    forward, message = REFUSED[name]
    with pytest.raises(NoRuleError, match=message):
        LRP(Between(forward).double(), "epsilon").trace(random(1, 3, 6))


@pytest.mark.parametrize("rule", [TakeMost(), WinnerTakeAll(), AttnLRP(), Pass()])
def test_a_rule_for_something_else_is_refused_by_path(rule: Rule) -> None:
    composite = epsilon().with_rules(layer_map=[(nn.Linear, rule)])
    with pytest.raises(NoRuleError, match=r"is no rule for linear in '1' \(Linear\)"):
        LRP(nn.Sequential(nn.ReLU(), nn.Linear(6, 4)), composite).trace(torch.rand(2, 6))


def test_a_product_by_name() -> None:
    torch.manual_seed(0)
    adds_up(Between(lambda y: torch.matmul(input=y, other=W.T)), random(1, 3, 6), "epsilon")


@pytest.mark.parametrize("dtype", [torch.bool, torch.complex128, torch.bfloat16])
def test_input_of_another_kind_is_refused(dtype: torch.dtype) -> None:
    with pytest.raises(InputError, match="float32 or float64"):
        LRP(nn.Linear(6, 4), "epsilon").trace(torch.ones(2, 6).to(dtype))


def test_no_seed_at_all() -> None:
    trace = LRP(nn.Linear(6, 4), "epsilon").trace(torch.rand(2, 6))
    with pytest.raises(InputError, match="at least one seed"):
        trace.batched(torch.zeros(0, 2, 4))
