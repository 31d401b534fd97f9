"""Residual adaptation: adapters and folding by loops, what is trained, shares, and bad input."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from neuralize import InputError, neuralize
from neuralize.coverage import coverage
from neuralize.deep import ResidualAdaptation, Training, load_detector
from neuralize.deep.adapters import AdaptedConv2d, adapt, fold
from neuralize.deep.residual_adaptation import NearPretrained
from xai.pretrained import cifar_resnet20

SHORT = Training(epochs=3, batch_size=16, progress=False)


def small(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4), nn.ReLU(),
        nn.Conv2d(4, 6, 3, stride=2, padding=1), nn.BatchNorm2d(6), nn.ReLU(), nn.Flatten(),
    )  # fmt: skip


def pictures(n: int = 60, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Noise, and noise with a bright bar: outliers."""
    rng = np.random.default_rng(seed)
    x, y = rng.random((n, 1, 6, 6)), np.arange(n) % 3 == 0
    x[y, 0, 2] += 0.8
    return x.astype(np.float32), y.astype(int)


def adapters_of(module: nn.Module, seed: int = 3) -> nn.Module:
    """The same with adapters that do something."""
    torch.manual_seed(seed)
    for part in module.modules():
        if isinstance(part, AdaptedConv2d):
            nn.init.normal_(part.adapter.weight, std=0.3)
    return module


def convolved(x, w, b, a, stride, padding, dilation, groups):
    """``W * x + a * x`` by loops: the adapter sees the input at the kernel's centre."""
    n, _, height, width = x.shape
    out, per = w.shape[:2]
    padded = np.pad(x, ((0, 0), (0, 0), (padding,) * 2, (padding,) * 2))
    size = [(s + 2 * padding - 2 * dilation - 1) // stride + 1 for s in (height, width)]
    z = np.zeros((n, out, *size))
    for o in range(out):
        first = o // (out // groups) * per
        for i in range(size[0]):
            for j in range(size[1]):
                z[:, o, i, j] = b[o]
                for c in range(per):
                    for u in range(3):
                        for v in range(3):
                            place = i * stride + u * dilation, j * stride + v * dilation
                            kernel = w[o, c, u, v] + (a[o, c] if u == v == 1 else 0.0)
                            z[:, o, i, j] += kernel * padded[:, first + c, *place]
    return z


@pytest.mark.parametrize(
    ("stride", "padding", "dilation", "groups"),
    [(1, 1, 1, 1), (2, 1, 1, 1), (1, 0, 1, 1), (2, 0, 1, 2), (1, 2, 1, 1), (1, 2, 2, 2),
     (3, 1, 2, 1)],
)  # fmt: skip
def test_adapter_and_folded_kernel_are_the_convolution_by_loops(
    stride: int, padding: int, dilation: int, groups: int
) -> None:
    torch.manual_seed(0)
    conv = nn.Conv2d(2, 4, 3, stride, padding, dilation, groups).double()
    module = adapters_of(AdaptedConv2d(conv))
    x = torch.randn(2, 2, 7, 8, dtype=torch.float64)
    arrays = (conv.weight, conv.bias, module.adapter.weight[:, :, 0, 0])
    expected = convolved(x.numpy(), *[t.detach().numpy() for t in arrays],
                         stride, padding, dilation, groups)  # fmt: skip
    with torch.no_grad():
        np.testing.assert_allclose(module(x).numpy(), expected, rtol=0, atol=1e-12)
        np.testing.assert_allclose(module.folded()(x).numpy(), expected, rtol=0, atol=1e-12)
        module.merged = True
        np.testing.assert_allclose(module(x).numpy(), expected, rtol=0, atol=1e-12)


def test_a_resnet_folds_to_its_own_architecture() -> None:
    network = cifar_resnet20()
    adapted = adapters_of(adapt(network)).eval()
    assert sum(isinstance(m, AdaptedConv2d) for m in adapted.modules()) == 19
    x = torch.rand(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        before, found = adapted(x), fold(adapted)(x)
        assert (before - network(x)).abs().max() > 0.1  # they do something
        assert (found - before).abs().max() <= 1e-5 * before.abs().max()
        exact = fold(adapted.double())(x.double()) - adapted(x.double())
    assert exact.abs().max() <= 1e-12 * before.abs().max()
    assert fold(adapted).state_dict().keys() == network.state_dict().keys()


def test_kernels_stay_and_adapters_norms_and_head_learn() -> None:
    x, y = pictures()
    network = small()
    before = {name: t.clone() for name, t in network.state_dict().items()}
    model = ResidualAdaptation(network, training=SHORT).fit(x, y)
    assert all(torch.equal(t, before[n]) for n, t in network.state_dict().items())  # the user's
    encoder = model.module_.network.encoder
    for i in (0, 3):
        assert torch.equal(encoder[i].frozen.weight, before[f"{i}.weight"])
        assert encoder[i].adapter.weight.abs().max() > 0
    for name in ("weight", "running_mean"):
        assert not torch.equal(getattr(encoder[1], name), before[f"1.{name}"])


@pytest.mark.parametrize("method", ["adapters", "penalty"])
def test_it_learns_and_the_folded_detector_scores_the_same(method: str) -> None:
    x, y = pictures()
    training = Training(epochs=15, batch_size=16, lr=1e-2, progress=False)
    model = ResidualAdaptation(small(), method=method, training=training).fit(x, y)
    held, abnormal = pictures(seed=1)
    scores = model.decision_function(held)
    assert scores[abnormal == 1].min() > scores[abnormal == 0].max()
    with torch.no_grad():
        folded = model.fold()(torch.from_numpy(held)).numpy()
    np.testing.assert_allclose(folded, scores, rtol=0, atol=1e-6 * np.abs(scores).max())
    net = neuralize(model)
    lines = [line.operation for line in coverage(net.network, torch.from_numpy(held[:2])).lines]
    assert lines.count("conv2d + batch_norm") == 2 and "add" not in lines  # folded
    found = net.double().relevance(torch.from_numpy(held).double())
    total = found.values.flatten(1).sum(1) + sum(found.absorbed.values())
    torch.testing.assert_close(total, found.evidence, rtol=1e-9, atol=1e-9)


def test_shares_are_the_parts_of_the_sum_and_add_up() -> None:
    """One adapted layer before a linear head: R_z = z w by hand, and its parts by their share."""
    torch.manual_seed(1)
    network = nn.Sequential(nn.Conv2d(1, 3, 3, padding=1, bias=False), nn.ReLU(), nn.Flatten())
    x, y = pictures()
    model = ResidualAdaptation(network, training=SHORT).fit(x, y)
    adapters_of(model.module_)
    conv, head = model.module_.network.encoder[0], model.module_.network.head
    found = model.shares(x[:7])
    with torch.no_grad():
        inner = torch.from_numpy(x[:7])
        a, b = conv.frozen(inner).numpy(), conv.adapter(inner).numpy()
        w = head.weight.numpy().reshape(1, *a.shape[1:])
    r = np.where(a + b > 0, (a + b) * w, 0)
    for part, net, magnitude in (
        (a, found.frozen, found.frozen_magnitude), (b, found.adapter, found.adapter_magnitude),
    ):  # fmt: skip
        parts = (part / (a + b) * r).reshape(7, -1)
        np.testing.assert_allclose(net[:, 0], parts.sum(1), rtol=1e-3, atol=1e-4)
        np.testing.assert_allclose(magnitude[:, 0], np.abs(parts).sum(1), rtol=1e-3)
    total = found.adapter + found.frozen
    np.testing.assert_allclose(total[:, 0], r.reshape(7, -1).sum(1), rtol=1e-4, atol=1e-5)
    assert torch.equal(found.overall, found.by_layer[:, 0])
    assert found.paths == ("0",)


def test_without_adaptation_nothing_is_the_adapters() -> None:
    x, y = pictures()
    model = ResidualAdaptation(small(), training=SHORT).fit(x, y)
    for part in model.module_.modules():
        if isinstance(part, AdaptedConv2d):
            nn.init.zeros_(part.adapter.weight)
    found = model.shares(x)
    assert torch.equal(found.overall, torch.zeros(len(x)))
    assert found.by_layer.shape == (len(x), 2) and found.paths == ("0", "3")


def test_the_penalty_is_the_norm_of_what_moved() -> None:
    network = nn.Linear(2, 1)
    loss = NearPretrained(network, 0.5)
    x, y = torch.randn(6, 2), torch.tensor([0.0, 1, 0, 1, 0, 1])
    bce = nn.functional.binary_cross_entropy_with_logits
    loss(network(x), y).backward()
    assert bool(torch.isfinite(network.weight.grad).all())
    torch.testing.assert_close(loss(network(x), y), bce(network(x)[:, 0], y))
    with torch.no_grad():
        network.weight += torch.tensor([[3.0, 0.0]])
        network.bias += 4.0
    torch.testing.assert_close(loss(network(x), y), bce(network(x)[:, 0], y) + 0.5 * 5.0)


def test_a_larger_penalty_keeps_weights_nearer() -> None:
    x, y = pictures()
    start, moved = small()[3].weight, []
    for alpha in (0.0, 10.0):
        model = ResidualAdaptation(small(), method="penalty", alpha=alpha, training=SHORT).fit(x, y)
        moved.append((model.module_.network.encoder[3].weight - start).detach().norm().item())
    assert moved[1] < 0.5 * moved[0]


def test_saved_and_loaded_with_the_pretrained_network(tmp_path: Path) -> None:
    x, y = pictures()
    model = ResidualAdaptation(small(), paths=["3"], training=SHORT).fit(x, y)
    path = model.save(tmp_path / "adapted.safetensors")
    with pytest.raises(InputError, match="network="):
        load_detector(path)
    again = load_detector(path, network=small(seed=9))
    np.testing.assert_array_equal(again.decision_function(x), model.decision_function(x))
    assert isinstance(again.module_.network.encoder[3], AdaptedConv2d)
    assert isinstance(again.module_.network.encoder[0], nn.Conv2d)


class Maps(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x


@pytest.mark.parametrize(("options", "message"), [
    ({"network": nn.Sequential(nn.Conv2d(1, 2, 5), nn.Flatten())}, "3 x 3"),
    ({"network": nn.Sequential(*small(), nn.Linear(54, 3)), "paths": ["7"]}, "3 x 3"),
    ({"network": Maps()}, r"\(n, q\)"),
    ({"network": "auto"}, "pretrained"),
    ({"network": small(), "method": "both"}, "method"),
    ({"network": small(), "alpha": -1.0}, "alpha"),
])  # fmt: skip
def test_what_cannot_be_adapted_is_refused(options: dict, message: str) -> None:
    x, y = pictures(12)
    with pytest.raises(InputError, match=message):
        ResidualAdaptation(**options, training=SHORT).fit(x, y)


def test_without_adapters_there_are_no_shares() -> None:
    x, y = pictures()
    model = ResidualAdaptation(small(), method="penalty", training=SHORT).fit(x, y)
    with pytest.raises(InputError, match="no adapters"):
        model.shares(x)
