"""What explaining must leave alone: the model, its hooks, the caller's modes, threads, memory."""

from __future__ import annotations

import copy
import gc
import io
import threading
import weakref
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from neuralize import LRP, AmplificationWarning, neuralize
from neuralize.composites import epsilon
from neuralize.encoder import evaluating
from neuralize.errors import InputError, NoRuleError, UnsupportedModelError
from xai import bilrp, coverage, explain


class Net(nn.Module):
    """Convolution and BatchNorm, dropout, a functional sum, a module used twice, tied weights."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, padding=1)
        self.bn = nn.BatchNorm2d(4)
        self.twice = nn.Conv2d(4, 4, 3, padding=1)
        self.tied = nn.Conv2d(4, 4, 3, padding=1)
        self.tied.weight = self.twice.weight
        self.act = nn.ReLU(inplace=True)
        self.dropout = nn.Dropout(0.5)
        self.head = nn.Linear(4, 5)

    def forward(self, x: Tensor) -> Tensor:
        h = self.act(self.bn(self.conv(x)))
        h = h + self.twice(F.relu(self.twice(h)))
        h = self.dropout(self.act(self.tied(h)))
        return self.head(h.mean((2, 3)))


class Raises(Net):
    """Stops in the middle of its forward."""

    def forward(self, x: Tensor) -> Tensor:
        self.act(self.bn(self.conv(x)))
        raise RuntimeError("no more memory")


class Unknown(Net):
    """Uses an operation that no rule is known for."""

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.cumprod(self.act(self.bn(self.conv(x))), 1).mean((2, 3)))


def net(kind: type[Net] = Net) -> Net:
    torch.manual_seed(0)
    model = kind()
    model.bn.running_mean = torch.randn(4)
    model.bn.running_var = torch.rand(4) + 0.5
    return model.eval()


@pytest.fixture
def x() -> Tensor:
    return torch.randn(3, 3, 6, 6, generator=torch.Generator().manual_seed(1))


def everything(model: nn.Module) -> dict[str, Any]:
    """What can be seen of a model: identities, bits, flags and hooks."""
    hooks = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks",
             "_forward_hooks_with_kwargs", "_forward_hooks_always_called")  # fmt: skip
    weights = dict(model.named_parameters())
    return {
        "identity": {k: id(p) for k, p in model.named_parameters(remove_duplicate=False)},
        "bits": {k: v.clone() for k, v in model.state_dict().items()},
        "version": {k: p._version for k, p in model.state_dict(keep_vars=True).items()},
        "grad": {k: p.grad if p.grad is None else p.grad.clone() for k, p in weights.items()},
        "requires_grad": {k: p.requires_grad for k, p in weights.items()},
        "training": {k: m.training for k, m in model.named_modules()},
        "attributes": {k: sorted(vars(m)) for k, m in model.named_modules()},
        "forward": {k: m.forward.__func__ for k, m in model.named_modules()},
        "hooks": {k: [len(getattr(m, h)) for h in hooks] for k, m in model.named_modules()},
        "global": [
            len(getattr(torch.nn.modules.module, name))
            for name in ("_global_forward_hooks", "_global_forward_pre_hooks",
                         "_global_backward_hooks", "_global_backward_pre_hooks")
        ],
        "mode": torch._C._len_torch_function_stack(),
        "grad mode": (torch.is_grad_enabled(), torch.is_inference_mode_enabled()),
        "random": torch.get_rng_state(),
    }  # fmt: skip


def same(a: Any, b: Any) -> bool:
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    if isinstance(a, Tensor):
        return isinstance(b, Tensor) and a.dtype == b.dtype and torch.equal(a, b)
    return bool(a == b)


USES: dict[str, Callable[[nn.Module, Tensor], Any]] = {
    "explain": lambda model, x: explain(model, x, composite="epsilon_plus", progress=False),
    "several targets": lambda model, x: explain(model, x, target=[[0], [1], [4]], progress=False),
    "coverage": lambda model, x: coverage(model, x),
    "bilrp": lambda model, x: bilrp(model, x[:1], x[1:2], progress=False),
    "trace alone": lambda model, x: LRP(model, "epsilon").trace(x),
}


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("use", USES)
def test_the_model_is_left_as_it_was(use: str, training: bool, x: Tensor) -> None:
    model = net()
    model.train(training)
    model.head.eval()
    model.conv.weight.requires_grad_(False)
    model.head.bias.grad = torch.ones(5)
    model.conv.register_forward_hook(lambda *_: None)
    before = everything(model)
    USES[use](model, x)
    after = everything(model)
    for key in before:
        assert same(before[key], after[key]), key
    assert model.tied.weight is model.twice.weight


@pytest.mark.parametrize(("kind", "error"), [(Raises, RuntimeError), (Unknown, NoRuleError)])
def test_the_model_is_left_as_it_was_after_an_error(
    kind: type[Net], error: type[Exception], x: Tensor
) -> None:
    model = net(kind).train()
    before = everything(model)
    for _ in range(2):
        with pytest.raises(error):
            explain(model, x, progress=False)
    after = everything(model)
    for key in before:
        assert same(before[key], after[key]), key
    explain(net(), x, progress=False)  # and the engine works as before


def test_training_goes_on_as_if_nothing_had_been_explained(x: Tensor) -> None:
    def train(explaining: bool) -> dict[str, Tensor]:
        model = net().train()
        model.dropout.p = 0.0
        optimizer = torch.optim.Adam(model.parameters(), 0.01)
        for _ in range(3):
            loss = F.cross_entropy(model(x), torch.tensor([0, 1, 2]))
            optimizer.zero_grad()
            if explaining:  # between forward and backward of a step
                explain(model, x, progress=False)
            loss.backward()
            optimizer.step()
        return model.state_dict()

    assert same(train(False), train(True))


def test_weights_that_changed_are_not_found_in_the_cache(x: Tensor) -> None:
    model = net()
    lrp = LRP(model, "epsilon_plus")

    def relevance(lrp: LRP) -> Tensor:
        trace = lrp.trace(x)
        return trace.relevance(trace.output)[0]

    first = relevance(lrp)
    with torch.no_grad():
        model.conv.weight.mul_(-1)
        model.bn.running_var.mul_(2)
    second = relevance(lrp)
    assert not torch.allclose(first, second)
    assert torch.equal(second, relevance(LRP(model, "epsilon_plus")))
    model.head.weight = nn.Parameter(-model.head.weight.detach())
    assert torch.equal(relevance(lrp), relevance(LRP(model, "epsilon_plus")))


def in_no_grad(model: nn.Module, x: Tensor) -> Tensor:
    with torch.no_grad():
        return LRP(model, "epsilon_plus").trace(x).relevance(torch.ones(3, 5))[0]


def in_inference_mode(model: nn.Module, x: Tensor) -> Tensor:
    with torch.inference_mode():
        return LRP(model, "epsilon_plus").trace(x.clone()).relevance(torch.ones(3, 5))[0]


def of_an_inference_tensor(model: nn.Module, x: Tensor) -> Tensor:
    with torch.inference_mode():
        x = x.clone()
    return LRP(model, "epsilon_plus").trace(x).relevance(torch.ones(3, 5))[0]


def frozen(model: nn.Module, x: Tensor) -> Tensor:
    model.requires_grad_(False)
    return LRP(model, "epsilon_plus").trace(x).relevance(torch.ones(3, 5))[0]


def in_training_mode(model: nn.Module, x: Tensor) -> Tensor:
    return LRP(model.train(), "epsilon_plus").trace(x).relevance(torch.ones(3, 5))[0]


def of_a_leaf_with_gradient(model: nn.Module, x: Tensor) -> Tensor:
    leaf = x.clone().requires_grad_()
    found = LRP(model, "epsilon_plus").trace(leaf * 1.0).relevance(torch.ones(3, 5))[0]
    assert leaf.grad is None
    return found


def compiled(model: nn.Module, x: Tensor) -> Tensor:
    wrapped = torch.compile(model, backend="eager")
    wrapped(x)
    return LRP(wrapped, "epsilon_plus").trace(x).relevance(torch.ones(3, 5))[0]


def with_a_compiled_part(model: nn.Module, x: Tensor) -> Tensor:
    model.conv.compile(backend="eager")
    model(x)
    return LRP(model, "epsilon_plus").trace(x).relevance(torch.ones(3, 5))[0]


def a_deep_copy(model: nn.Module, x: Tensor) -> Tensor:
    LRP(model, "epsilon_plus").trace(x)
    return LRP(copy.deepcopy(model), "epsilon_plus").trace(x).relevance(torch.ones(3, 5))[0]


def a_saved_copy(model: nn.Module, x: Tensor) -> Tensor:
    LRP(model, "epsilon_plus").trace(x)
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    loaded = torch.load(file, weights_only=False)
    return LRP(loaded, "epsilon_plus").trace(x).relevance(torch.ones(3, 5))[0]


def with_hooks_of_its_own(model: nn.Module, x: Tensor) -> Tensor:
    seen: list[tuple[int, ...]] = []
    model.twice.register_forward_hook(lambda m, i, o: seen.append(tuple(o.shape)))
    found = LRP(model, "epsilon_plus").trace(x).relevance(torch.ones(3, 5))[0]
    assert seen == [(3, 4, 6, 6)] * 2
    return found


def channels_last(model: nn.Module, x: Tensor) -> Tensor:
    model = model.to(memory_format=torch.channels_last)
    x = x.contiguous(memory_format=torch.channels_last)
    return LRP(model, "epsilon_plus").trace(x).relevance(torch.ones(3, 5))[0]


WAYS = [in_no_grad, in_inference_mode, of_an_inference_tensor, frozen, in_training_mode,
        of_a_leaf_with_gradient, compiled, with_a_compiled_part, a_deep_copy, a_saved_copy,
        with_hooks_of_its_own, channels_last]  # fmt: skip


@pytest.mark.parametrize("way", WAYS)
def test_the_same_relevance_whichever_way_it_is_called(
    way: Callable[[nn.Module, Tensor], Tensor], x: Tensor
) -> None:
    plain = LRP(net(), "epsilon_plus").trace(x).relevance(torch.ones(3, 5))[0]
    found = way(net(), x)
    assert not found.requires_grad
    torch.testing.assert_close(found, plain, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_under_autocast_relevance_is_that_of_float32(dtype: torch.dtype, x: Tensor) -> None:
    plain = explain(net(), x, composite="epsilon_plus", progress=False)
    with torch.autocast("cpu", dtype):
        found = explain(net(), x, composite="epsilon_plus", progress=False)
        assert torch.is_autocast_enabled("cpu")
    assert found.values.dtype == plain.values.dtype
    torch.testing.assert_close(torch.as_tensor(found.values), torch.as_tensor(plain.values))


class WritesIntoItsInput(Net):
    def forward(self, x: Tensor) -> Tensor:
        x.mul_(2.0)
        x[:, 0] = 0.0
        return super().forward(x)


def test_a_model_that_writes_into_its_input_does_not_change_the_callers(x: Tensor) -> None:
    model, given = net(WritesIntoItsInput), x.clone()
    found = explain(model, given, target=1, composite="epsilon", progress=False)
    assert torch.equal(given, x)
    assert not found.values[:, 0].any()  # its first channel was never seen
    assert found.relative_conservation_error.max() < 1e-4


def test_interleaved_traces_do_not_know_of_each_other(x: Tensor) -> None:
    model = net()
    alone = [LRP(model, c).trace(x[i : i + 1]) for i, c in enumerate(("epsilon", "epsilon_plus"))]
    expected = [trace.relevance(trace.output)[0] for trace in alone]
    a = LRP(model, "epsilon").trace(x[:1])
    b = LRP(model, "epsilon_plus").trace(x[1:2])
    found = [a.relevance(a.output)[0], b.relevance(b.output)[0]]
    assert all(torch.equal(*pair) for pair in zip(found, expected, strict=True))


class ExplainsInside(Net):
    """A network whose forward explains another one, on data of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = [net()]
        self.data = torch.ones(2, 3, 6, 6)
        self.found: list[Tensor] = []

    def forward(self, x: Tensor) -> Tensor:
        trace = LRP(self.inner[0], "epsilon_plus").trace(self.data)
        relevance, _ = trace.relevance(trace.output)
        self.found.append(relevance)
        return super().forward(x) + relevance.sum()


def test_an_explanation_inside_an_explained_forward(x: Tensor) -> None:
    model = net(ExplainsInside)
    found = explain(model, x, target=0, composite="epsilon", progress=False)
    assert found.relative_conservation_error.max() < 1e-4
    assert abs(found.absorbed["constants"]).max() > 0  # what the inner explanation made
    alone = LRP(model.inner[0], "epsilon_plus").trace(model.data)
    assert torch.equal(model.found[-1], alone.relevance(alone.output)[0])


def test_threads_get_what_one_after_the_other_gets(x: Tensor) -> None:
    shared = net().train()
    models = [shared, shared, net(), shared]
    composites = ["epsilon", "epsilon_plus", "epsilon_plus_flat", "epsilon_alpha2_beta1"]

    def one(i: int) -> Tensor:
        found = explain(models[i], x, composite=composites[i], progress=False)
        return torch.as_tensor(found.values)

    expected = [one(i) for i in range(4)]
    before = everything(shared)
    errors: list[BaseException] = []

    def work(i: int) -> None:
        try:
            for _ in range(5):
                torch.testing.assert_close(one(i), expected[i])
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors, errors[0]
    after = everything(shared)
    for key in before:
        assert same(before[key], after[key]), key


def test_overlapping_users_of_an_encoder_restore_its_training_mode() -> None:
    model = net().train()
    model.bn.eval()
    first, second = evaluating(model), evaluating(model.head)
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    assert not model.head.training
    assert model.conv.training
    second.__exit__(None, None, None)
    assert model.head.training
    assert not model.bn.training


@pytest.mark.parametrize("keep", [False, True])
def test_nothing_is_kept_alive(keep: bool, x: Tensor) -> None:
    model = net()
    lrp = LRP(model, "epsilon_plus")
    trace = lrp.trace(x, keep=keep)
    trace.relevance(trace.output)
    watched = weakref.ref(trace), weakref.ref(trace.run), weakref.ref(trace.leaf)
    del trace
    gc.collect()
    assert [w() for w in watched] == [None] * 3


def test_explaining_again_and_again_takes_no_more_memory(x: Tensor) -> None:
    model = net()
    lrp = LRP(model, "epsilon_alpha2_beta1")

    def count() -> int:
        gc.collect()
        return sum(issubclass(type(o), Tensor) for o in gc.get_objects())

    def once() -> None:
        trace = lrp.trace(x)
        trace.relevance(trace.output)

    once()
    before = count()
    for _ in range(5):
        once()
    assert count() <= before


def test_activations_are_freed_on_the_way_back(x: Tensor) -> None:
    trace = LRP(net(), "epsilon_plus").trace(x)
    trace.relevance(trace.output)
    with pytest.raises(InputError, match="keep=True"):
        trace.relevance(trace.output)
    kept = LRP(net(), "epsilon_plus").trace(x, keep=True)
    first, _ = kept.relevance(kept.output)
    many, _ = kept.batched(torch.stack([kept.output, 2 * kept.output]))
    torch.testing.assert_close(many[0], first)
    torch.testing.assert_close(many[1], 2 * first)


def test_a_seed_of_another_shape_is_refused(x: Tensor) -> None:
    trace = LRP(net(), "epsilon").trace(x, keep=True)
    with pytest.raises(InputError, match=r"\(3, 5\), got \(3, 4\)"):
        trace.relevance(torch.ones(3, 4))
    with pytest.raises(InputError, match=r"\(3, 5\), got \(5,\)"):
        trace.batched(torch.ones(3, 5))


def test_torchscript_and_half_precision_are_refused_by_name(x: Tensor) -> None:
    class Part(nn.Module):
        def __init__(self, inner: Any) -> None:
            super().__init__()
            self.inner = inner

        def forward(self, x: Tensor) -> Tensor:
            return self.inner(x)

    with pytest.warns(DeprecationWarning):
        traced = torch.jit.trace(net(), x)
    with pytest.raises(UnsupportedModelError, match="TorchScript"):
        LRP(traced, "epsilon")
    with pytest.raises(UnsupportedModelError, match="'inner' is TorchScript"):
        neuralize(Part(traced))
    for dtype in (torch.float16, torch.bfloat16):
        with pytest.raises(UnsupportedModelError, match="half precision"):
            LRP(net().to(dtype), "epsilon")


def test_a_composite_that_makes_nan_of_a_finite_answer_warns_with_the_path(x: Tensor) -> None:
    layers = [nn.Linear(1, 1) for _ in range(9)]  # each nearly cancels its bias: a factor of 1e5
    for layer in layers:
        nn.init.constant_(layer.weight, 1.0 if layer is layers[0] else 1e5)
        nn.init.constant_(layer.bias, 1e-5 - 1)
    model = nn.Sequential(*layers)
    with pytest.warns(AmplificationWarning, match=r"'1' \(linear, Epsilon.*NaN or infinity"):
        found = explain(model, torch.ones(2, 1), composite=epsilon(1e-12), progress=False)
    assert (found.evidence > 0).all()


def test_quantized_weights_are_refused(x: Tensor) -> None:
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = torch.ao.quantization.quantize_dynamic(net(), {nn.Linear}, torch.qint8)
    with pytest.raises((UnsupportedModelError, NoRuleError)):
        explain(model, x, progress=False)


def test_batch_norm_that_would_use_the_batch_is_refused(x: Tensor) -> None:
    model = net()
    model.bn = nn.BatchNorm2d(4, track_running_stats=False)
    with pytest.raises(NoRuleError, match=r"'bn'"):
        explain(model, x, progress=False)
