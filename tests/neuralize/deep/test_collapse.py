"""Collapse: what allows it, how networks answer different rows, and who is warned."""

from __future__ import annotations

import math
import warnings

import numpy as np
import pytest
import torch
from sklearn.datasets import load_breast_cancer, load_digits, load_wine
from sklearn.metrics import roc_auc_score
from torch import Tensor, nn

from neuralize.deep import DeepSVDD, Training
from neuralize.deep.collapse import Response, response, scrambled, trivial_solutions
from neuralize.deep.deep_svdd import SphereScore
from neuralize.deep.regularizers import (
    AdaptiveWeight,
    FixedWeight,
    VarianceRegularizer,
    regularizer,
)
from neuralize.errors import CollapseWarning, InputError
from xai.datasets import fashion_mnist

LOADERS = {"wine": load_wine, "breast_cancer": load_breast_cancer, "digits": load_digits}


def one_class(name: str, label: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Training rows of one class, and all other rows with whether they are of another."""
    bunch = LOADERS[name]()
    x, y = bunch.data.astype(np.float32), bunch.target
    own = np.random.default_rng(0).permutation(np.flatnonzero(y == label))
    train, rest = np.split(own, [min(120, 3 * len(own) // 5)])
    held = np.concatenate([rest, np.flatnonzero(y != label)])
    return x[train], x[held], y[held] != label


def dense(d: int, bias: bool, seed: int) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Linear(d, 32, bias=bias), nn.LeakyReLU(), nn.Linear(32, 16, bias=bias), nn.LeakyReLU(),
        nn.Linear(16, 8, bias=bias),
    )  # fmt: skip


def collapsing(d: int, seed: int) -> DeepSVDD:
    """Everything that invites collapse: biases, a zero centre, strong decay."""
    training = Training(100, 64, 1e-2, weight_decay=1e-2, seed=seed, progress=False)
    return DeepSVDD(network=dense(d, True, seed), center="zero", training=training)


def sphere(network: nn.Module, q: int) -> SphereScore:
    return SphereScore(nn.Identity(), network, q)


def test_what_allows_a_constant_map_is_named() -> None:
    network = nn.Sequential(
        nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Sigmoid(), nn.Flatten(),
        nn.Linear(8, 2, bias=False), nn.LeakyReLU(),
    )  # fmt: skip
    assert trivial_solutions(network, torch.zeros(2)) == [
        "0 (Conv2d) has a bias", "1 (BatchNorm2d) has an affine shift", "2 (Sigmoid) is bounded",
        "the centre is zero",
    ]  # fmt: skip
    assert trivial_solutions(network[4:], torch.ones(2)) == []


def test_scrambling_keeps_columns_and_pictures_but_not_rows() -> None:
    x = torch.arange(60.0).reshape(12, 5)
    mixed = scrambled(x)
    assert torch.equal(mixed.sort(0).values, x) and not torch.equal(mixed, x)
    pictures = torch.arange(2 * 3 * 16.0).reshape(2, 3, 4, 4)
    mixed = scrambled(pictures)
    assert torch.equal(mixed.flatten(2).sort(2).values, pictures.flatten(2))
    # a pixel's channels stay together
    assert torch.equal(mixed[:, 1] - mixed[:, 0], torch.full((2, 4, 4), 16.0))
    grey = pictures[:, 0]
    assert torch.equal(scrambled(grey).flatten(1).sort(1).values, grey.flatten(1))


def test_share_and_contrast_are_their_definitions() -> None:
    """A linear map without bias, by numpy: what is scrambled and fresh comes from the same seed."""
    x = torch.randn(40, 3, generator=torch.Generator().manual_seed(5)) * torch.tensor([1.0, 4, 9])
    layer = nn.Linear(3, 2, bias=False)
    module = sphere(layer, 2)
    module.center.copy_(torch.tensor([0.5, -1.0]))
    found = response(module, x, seed=7)
    with torch.random.fork_rng():
        torch.manual_seed(7)
        order = torch.randperm(40)
        other = scrambled(x[order]).double().numpy()
        fresh = nn.Linear(3, 2, bias=False).weight.detach().double().numpy()
    data, w = x[order].double().numpy(), layer.weight.detach().double().numpy()
    mean = data.mean(0)
    far = sum(((w @ (row - mean)) ** 2).sum() for row in other)
    before = sum(((fresh @ (row - mean)) ** 2).sum() for row in other)
    assert found.share == pytest.approx(far / before, rel=1e-5)
    center = np.array([0.5, -1.0])
    distances = [((rows @ w.T - center) ** 2).sum() for rows in (other, data)]
    assert found.contrast == pytest.approx(distances[0] / distances[1], rel=1e-5)


def test_share_falls_with_the_square_of_the_weights_and_contrast_does_not() -> None:
    module, x = sphere(dense(4, False, 0), 8), torch.randn(50, 4)
    before = response(module, x)
    with torch.no_grad():
        module.network[4].weight.mul_(1e-4)
    after = response(module, x)
    assert after.share == pytest.approx(1e-8 * before.share, rel=1e-4)
    assert after.contrast == pytest.approx(before.contrast, rel=1e-4)


@pytest.mark.parametrize(("share", "contrast", "expected"), [
    (1e-6, 1.0, True), (1e-6, 300.0, False), (1.0, 1.0, False), (math.nan, 1.0, False),
])  # fmt: skip
def test_concentrated_and_untrained_networks_have_not_collapsed(share, contrast, expected) -> None:
    assert Response(share, contrast, 1e-9).collapsed is expected


def test_a_layer_without_fresh_weights_leaves_the_share_open() -> None:
    class Scale(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.ones(3))

        def forward(self, x: Tensor) -> Tensor:
            return x * self.weight

    found = response(sphere(Scale(), 3), torch.randn(30, 3))
    assert math.isnan(found.share) and math.isnan(found.variance_share) and not found.collapsed


def test_asking_changes_neither_network_nor_random_state() -> None:
    module, x = sphere(nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3)), 3), torch.randn(30, 4)
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    state = torch.get_rng_state()
    first = response(module, x)
    assert torch.equal(torch.get_rng_state(), state) and module.training
    assert all(torch.equal(tensor, before[name]) for name, tensor in module.state_dict().items())
    assert response(module, x) == first


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize(("name", "label"), [("digits", 0), ("wine", 1), ("breast_cancer", 1)])
def test_fit_names_a_network_that_collapsed(name: str, label: int, seed: int) -> None:
    x, held, abnormal = one_class(name, label)
    with pytest.warns(CollapseWarning) as caught:
        model = collapsing(x.shape[1], seed).fit(x)
    before, after = (str(w.message) for w in caught)
    assert "can collapse" in before and "the centre is zero" in before
    assert "DeepSVDD collapsed" in after and "4 (Linear) has a bias" in after
    assert model.response_.share < 2e-4
    if (name, seed) == ("digits", 1):  # constant to 9 digits, and AUROC looks fine
        assert model.response_.share < 1e-9
        assert roc_auc_score(abnormal, model.decision_function(held)) > 0.9


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("own", [False, True], ids=["auto", "own"])
@pytest.mark.parametrize(("name", "label"), [("digits", 0), ("wine", 1), ("breast_cancer", 1)])
def test_healthy_networks_pass_however_long_they_train(
    name: str, label: int, own: bool, seed: int
) -> None:
    x, _, _ = one_class(name, label)
    epochs, lr = [(5, 1e-3), (40, 1e-3), (50, 1e-2)][seed]
    network = dense(x.shape[1], False, seed) if own else "auto"
    training = Training(epochs, 64, lr, seed=seed, progress=False)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model = DeepSVDD(network=network, training=training).fit(x)
    assert not model.response_.collapsed
    assert model.response_.share > 2e-3  # both far from the limits


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("name", ["T-shirt/top", "Trouser", "Bag"])
def test_healthy_lenets_pass(name: str, seed: int) -> None:
    images = fashion_mnist("train", classes=[name]).images[:300]
    model = DeepSVDD(training=Training(epochs=12, seed=seed, progress=False))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model.fit(images)
    assert not model.response_.collapsed


def test_the_variance_regulariser_is_a_hinge_that_is_annealed() -> None:
    phi = torch.tensor([[0.0, 0.1], [0.2, 0.1], [0.4, 0.1]])
    variance = (0.04 + 0.0 + 0.04) / 3
    penalty = regularizer("variance", 2)
    assert isinstance(penalty, VarianceRegularizer)
    assert penalty(phi).item() == pytest.approx(0.1 - variance, rel=1e-5)
    for epoch in range(3):
        penalty.end_of_epoch(epoch)
    assert penalty.margin == pytest.approx(0.01) and penalty(phi).item() == 0.0


def test_the_noise_regulariser_is_the_cross_entropy_of_its_own_labels() -> None:
    phi = torch.randn(6, 3, generator=torch.Generator().manual_seed(0))
    torch.manual_seed(4)
    penalty = regularizer("noise", 3)
    state = torch.get_rng_state()
    found = penalty(phi).item()
    torch.set_rng_state(state)
    labels = torch.randint(2, (6, 10)).double().numpy()
    logits = penalty.head(phi).detach().double().numpy()
    p = 1 / (1 + np.exp(-logits))
    expected = -(labels * np.log(p) + (1 - labels) * np.log(1 - p)).mean()
    assert found == pytest.approx(expected, rel=1e-5)


def test_weights_of_a_regulariser() -> None:
    loss, penalty = torch.tensor(3.0), torch.tensor(0.5)
    assert FixedWeight(0.2)(loss, penalty).item() == pytest.approx(3.1)
    adaptive = AdaptiveWeight(share=0.1, memory=0.9)
    assert adaptive(loss, penalty).item() == pytest.approx(3.3)  # a tenth of the loss
    average, weight = 0.9 * 3.0 + 0.1 * 1.0, 0.5
    assert adaptive(loss / 3, penalty).item() == pytest.approx(1.0 + 0.1 * average / weight * 0.5)
    assert adaptive(loss, torch.tensor(0.0)).item() >= 3.0
    assert AdaptiveWeight()(loss, torch.tensor(0.0)).item() == 3.0


@pytest.mark.parametrize("weight", [-1.0, math.nan])
def test_a_weight_that_is_no_weight_is_refused(weight: float) -> None:
    model = DeepSVDD(regularizer="variance", regularizer_weight=weight)
    with pytest.raises(InputError, match="regularizer_weight"):
        model.fit(np.random.default_rng(0).normal(size=(20, 3)))


def test_a_weight_of_one_reaches_the_loss() -> None:
    x = np.random.default_rng(0).normal(size=(40, 3)).astype(np.float32)
    losses = []
    for weight in (0.0, 1.0):
        model = DeepSVDD(
            regularizer="noise", regularizer_weight=weight,
            training=Training(1, 64, 1e-9, seed=0, progress=False),
        ).fit(x)  # fmt: skip
        losses += model.history_["DeepSVDD"]
    assert 0.5 < losses[1] - losses[0] < 1.0  # about log 2
