"""Checkpoints of other projects against those projects' networks, called plainly."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from neuralize import InputError, neuralize
from neuralize.deep import DeepSAD, DeepSVDD, import_detector, load_detector
from neuralize.deep.binary import BinaryClassifier
from neuralize.deep.fcdd import FCDD
from neuralize.deep.hypersphere import HypersphereClassifier
from neuralize.deep.readers.published import CONTRAST
from neuralize.errors import CheckpointError
from tests.neuralize.deep import foreign
from tests.subject import Array

ONE, TWO, THREE = (1, 28, 28), (3, 32, 32), (6,)


def pictures(shape: tuple[int, ...], n: int = 5) -> Tensor:
    return torch.rand(n, *shape, generator=torch.Generator().manual_seed(1))


def plain(network: nn.Module, x: Tensor) -> Tensor:
    with torch.no_grad():
        return network(x)  # type: ignore[no-any-return]


def close(found: Array, expected: Tensor) -> None:
    np.testing.assert_allclose(found, expected.numpy(), rtol=1e-5, atol=1e-5 * expected.abs().max())


def center(network: nn.Module, q: int) -> list[float]:
    return torch.randn(q, generator=torch.Generator().manual_seed(2)).tolist()


def model_tar(path: Path, network: nn.Module, q: int, **entries: Any) -> dict[str, Any]:
    decoder = {"decoder.deconv1.weight": torch.ones(2, 4, 5, 5)}
    content = {
        "c": center(network, q),
        "net_dict": network.state_dict(),
        "ae_net_dict": network.state_dict() | decoder,
        **entries,
    }
    torch.save(content, path)
    return content


def snapshot(path: Path, network: nn.Module, **entries: Any) -> None:
    """With the state of an optimizer and a schedule, as training leaves them."""
    opt = torch.optim.Adam(network.parameters())
    sched = torch.optim.lr_scheduler.MultiStepLR(opt, [1, 2])
    states = {"opt": opt.state_dict(), "sched": sched.state_dict()}
    torch.save({"net": network.state_dict(), **states, "epoch": 3, **entries}, path)


RUFF = {
    "mnist": (foreign.mnist_lenet, ONE, 32),
    "fmnist": (foreign.fmnist_lenet, ONE, 64),
    "cifar10": (foreign.cifar10_lenet, TWO, 128),
    "thyroid": (foreign.thyroid_mlp, THREE, 4),
}


@pytest.mark.parametrize("name", RUFF)
def test_deep_sad(tmp_path: Path, name: str) -> None:
    make, shape, q = RUFF[name]
    network = make()
    content = model_tar(tmp_path / "model.tar", network, q)
    detector = import_detector(tmp_path / "model.tar")
    assert isinstance(detector, DeepSAD)
    assert detector.input_shape_ == shape
    assert detector.threshold_ is None
    x = pictures(shape)
    expected = ((plain(network, x) - torch.tensor(content["c"])) ** 2).sum(1)
    close(detector.decision_function(x), expected)


@pytest.mark.parametrize("name", RUFF)
@pytest.mark.parametrize("radius", [0.0, 1.5])
def test_deep_svdd_scores_and_decides_as_its_authors_do(
    tmp_path: Path, name: str, radius: float
) -> None:
    make, shape, q = RUFF[name]
    network = make()
    content = model_tar(tmp_path / "model.tar", network, q, R=radius)
    detector = import_detector(tmp_path / "model.tar")
    assert isinstance(detector, DeepSVDD)
    x = pictures(shape)
    expected = ((plain(network, x) - torch.tensor(content["c"])) ** 2).sum(1) - radius**2
    close(detector.decision_function(x), expected)
    if radius:
        np.testing.assert_array_equal(detector.predict(x), (expected > 0).long().numpy())
    else:
        with pytest.raises(InputError, match="no threshold"):
            detector.predict(x)
        share = detector.calibrate(x).predict(x).mean()
        assert share == 0.2  # one of five lies above the .9 quantile


def test_elu_has_the_same_keys(tmp_path: Path) -> None:
    network = foreign.cifar10_lenet_elu()
    content = model_tar(tmp_path / "model.tar", network, 128)
    detector = import_detector(tmp_path / "model.tar", activation="elu")
    x = pictures(TWO)
    close(
        detector.decision_function(x),
        ((plain(network, x) - torch.tensor(content["c"])) ** 2).sum(1),
    )


def test_torch_before_0_4_1_counted_no_batches_and_wrote_no_zip(tmp_path: Path) -> None:
    network = foreign.mnist_lenet()
    old = {n: t for n, t in network.state_dict().items() if "num_batches" not in n}
    content = {"R": 0.0, "c": center(network, 32), "net_dict": old, "ae_net_dict": None}
    torch.save(content, tmp_path / "model.tar", _use_new_zipfile_serialization=False)
    x = pictures(ONE)
    close(
        import_detector(tmp_path / "model.tar").decision_function(x),
        ((plain(network, x) - torch.tensor(content["c"])) ** 2).sum(1),
    )


@pytest.mark.parametrize("units", [1, 255])
def test_contrast_normalisation_of_the_authors(tmp_path: Path, units: float) -> None:
    network = foreign.cifar10_lenet()
    content = model_tar(tmp_path / "model.tar", network, 128, R=0.0)
    x = pictures(TWO)
    seen = []
    for picture in x:  # as their loader does, one by one
        centred = picture - picture.mean()
        low, high = CONTRAST["cifar10"][3]
        seen.append((centred / centred.abs().mean() - low) / (high - low))
    expected = ((plain(network, torch.stack(seen)) - torch.tensor(content["c"])) ** 2).sum(1)
    detector = import_detector(tmp_path / "model.tar", contrast="cifar10:3", units=units)
    close(detector.decision_function(x * units), expected)


def test_columns_are_scaled_as_given_and_pictures_may_lack_a_channel(tmp_path: Path) -> None:
    network = foreign.thyroid_mlp()
    content = model_tar(tmp_path / "model.tar", network, 4)
    low, span = torch.arange(6.0), torch.arange(1.0, 7.0)
    detector = import_detector(
        tmp_path / "model.tar", normalize=(low.tolist(), span.tolist()), threshold=2.0
    )
    x = pictures(THREE)
    expected = ((plain(network, x) - torch.tensor(content["c"])) ** 2).sum(1)
    close(detector.decision_function(x * span + low), expected)
    assert neuralize(detector).threshold == 2.0
    network = foreign.mnist_lenet()
    content = model_tar(tmp_path / "model.tar", network, 32)
    detector = import_detector(tmp_path / "model.tar", input_shape=(28, 28), units=255)
    x = pictures(ONE)
    expected = ((plain(network, x) - torch.tensor(content["c"])) ** 2).sum(1)
    close(detector.decision_function(x[:, 0] * 255), expected)


EXPLAINED = {"mnist": 3, "thyroid": 4}


@pytest.mark.parametrize("name", EXPLAINED)
def test_what_was_read_is_saved_whole_and_explained(tmp_path: Path, name: str) -> None:
    make, shape, q = RUFF[name]
    model_tar(tmp_path / "model.tar", make(), q, R=1.0)
    options: dict[str, Any] = {"contrast": "mnist:3"} if name == "mnist" else {"normalize": (1, 2)}
    detector = import_detector(tmp_path / "model.tar", **options)
    detector.save(tmp_path / "ours.safetensors")
    again = load_detector(tmp_path / "ours.safetensors")
    assert again.config_["imported"]["format"] == "deep-svdd"
    assert len(again.config_["imported"]["sha256"]) == 64
    x = pictures(shape)
    np.testing.assert_array_equal(again.decision_function(x), detector.decision_function(x))
    found = neuralize(again, dtype=torch.float64).relevance(x.double())
    total = found.values.flatten(1).sum(1) + sum(found.absorbed.values())
    torch.testing.assert_close(total, found.evidence, rtol=1e-9, atol=0.0)


FULLY = {
    "28": (foreign.fcdd_cnn28, ONE),
    "28 with biases": (lambda: foreign.fcdd_cnn28(True), ONE),
    "32": (foreign.fcdd_cnn32, TWO),
    "32 LW3K": (foreign.fcdd_cnn32_lw3k, TWO),
    "32 7K": (foreign.fcdd_cnn32_7k, TWO),
    "224": (foreign.fcdd_cnn224, (3, 64, 64)),
    "VGG": (foreign.fcdd_vgg, (3, 64, 64)),
}


@pytest.mark.parametrize("name", FULLY)
def test_fcdd(tmp_path: Path, name: str) -> None:
    make, shape = FULLY[name]
    network = make()
    snapshot(tmp_path / "snapshot.pt", network)
    small = {} if shape[1] < 64 else {"input_shape": shape}
    detector = import_detector(tmp_path / "snapshot.pt", **small)
    assert isinstance(detector, FCDD)
    assert detector.input_shape_ == shape
    x = pictures(shape, 2)
    heat = torch.sqrt(plain(network, x)[:, 0].double() ** 2 + 1) - 1
    close(detector.native_map(x), heat)
    close(detector.decision_function(x), heat.mean((1, 2)))
    assert detector.anomaly_map(x).shape == (2, *shape[1:])
    detector.save(tmp_path / "ours.safetensors")
    again = load_detector(tmp_path / "ours.safetensors")
    np.testing.assert_array_equal(again.decision_function(x), detector.decision_function(x))


def test_fcdd_for_224_pixels_takes_them_by_default(tmp_path: Path) -> None:
    snapshot(tmp_path / "snapshot.pt", foreign.fcdd_vgg())
    assert import_detector(tmp_path / "snapshot.pt").input_shape_ == (3, 224, 224)


@pytest.mark.parametrize("make", [foreign.fcdd_hsc28, foreign.fcdd_hsc32])
def test_hsc_of_fcdd(tmp_path: Path, make: foreign.Maker) -> None:
    network = make()
    shape = ONE if make is foreign.fcdd_hsc28 else TWO
    snapshot(tmp_path / "snapshot.pt", network)
    x = pictures(shape)
    detector = import_detector(tmp_path / "snapshot.pt")
    assert isinstance(detector, HypersphereClassifier)
    close(
        detector.decision_function(x),
        torch.sqrt((plain(network, x).double() ** 2).sum(-1) + 1) - 1,
    )


def test_a_network_of_its_own(tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Conv2d(4, 1, 1)).eval()
    snapshot(tmp_path / "snapshot.pt", network)
    other = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Conv2d(4, 1, 1))
    kept = [p.clone() for p in other.parameters()]
    detector = import_detector(tmp_path / "snapshot.pt", network=other, input_shape=(1, 9, 9))
    x = pictures((1, 9, 9))
    heat = torch.sqrt(plain(network, x)[:, 0] ** 2 + 1) - 1
    close(detector.decision_function(x), heat.mean((1, 2)))
    assert all(torch.equal(a, b) for a, b in zip(kept, other.parameters(), strict=True))
    with pytest.raises(InputError, match="input_shape"):
        import_detector(tmp_path / "snapshot.pt", network=other)


MEAN, STD = [0.5, 0.4, 0.3], [0.2, 0.3, 0.4]


def statistics(channels: int, **entries: Any) -> dict[str, Any]:
    return {"mean": MEAN[:channels], "std": STD[:channels], "mode": 0, **entries}


def standardized(x: Tensor) -> Tensor:
    c = x.shape[1]
    return (x - torch.tensor(MEAN[:c])[:, None, None]) / torch.tensor(STD[:c])[:, None, None]


@pytest.mark.parametrize("size", [28, 32])
def test_eoe_hsc(tmp_path: Path, size: int) -> None:
    network = foreign.eoe_cnn28() if size == 28 else foreign.eoe_cnn32()
    shape = ONE if size == 28 else TWO
    snapshot(tmp_path / "s.pt", network, ds_statistics=statistics(shape[0]))
    detector = import_detector(tmp_path / "s.pt")
    assert isinstance(detector, HypersphereClassifier)
    x = pictures(shape)
    features = plain(network, standardized(x)).double()
    h = torch.sqrt(features.norm(dim=1) ** 2 + 1) - 1
    close(detector.decision_function(x), h)
    close(detector.probability(x), 1 - torch.exp(-h))  # what eoe prints


@pytest.mark.parametrize("objective", [None, "bce", "focal"])
@pytest.mark.parametrize("bias", [True, False])
def test_eoe_classifiers(tmp_path: Path, objective: Any, bias: bool) -> None:
    network = foreign.eoe_cnn28(head=True, bias=bias)
    snapshot(tmp_path / "s.pt", network, ds_statistics=statistics(1))
    detector = import_detector(tmp_path / "s.pt", objective=objective)
    assert isinstance(detector, BinaryClassifier)
    x = pictures(ONE)
    logits = plain(network, standardized(x)).squeeze()
    close(detector.decision_function(x), logits)
    close(detector.probability(x), torch.sigmoid(logits))


@pytest.mark.parametrize("head", [False, True])
def test_eoe_resnets_with_attention(tmp_path: Path, head: bool) -> None:
    network = foreign.eoe_resnet(head)
    snapshot(tmp_path / "s.pt", network, ds_statistics=statistics(3))
    detector = import_detector(tmp_path / "s.pt")
    assert detector.input_shape_ == (3, 224, 224)
    x = pictures((3, 224, 224), 2)
    outputs = plain(network, standardized(x)).double()
    expected = outputs[:, 0] if head else torch.sqrt((outputs**2).sum(1) + 1) - 1
    close(detector.decision_function(x), expected)
    again = load_detector(detector.save(tmp_path / "ours.safetensors"))
    np.testing.assert_array_equal(again.decision_function(x), detector.decision_function(x))
    found = neuralize(again, dtype=torch.float64).relevance(x[:1].double())
    total = found.values.flatten(1).sum(1) + sum(found.absorbed.values())
    torch.testing.assert_close(total, found.evidence, rtol=1e-9, atol=0.0)


def test_eoe_deep_svdd_needs_its_centre(tmp_path: Path) -> None:
    network = foreign.eoe_cnn28()
    snapshot(tmp_path / "s.pt", network, ds_statistics=None)
    c = torch.tensor(center(network, 32))
    x = pictures(ONE)
    detector = import_detector(tmp_path / "s.pt", objective="dsvdd", center=c)
    close(detector.decision_function(x), (plain(network, x) - c).pow(2).sum(-1))
    with pytest.raises(InputError, match="center"):
        import_detector(tmp_path / "s.pt", objective="dsvdd")
    with pytest.raises(InputError, match="center"):
        import_detector(tmp_path / "s.pt", center=c)
    with pytest.raises(InputError, match="32 numbers"):
        import_detector(tmp_path / "s.pt", objective="dsvdd", center=c[:5])
    with pytest.raises(InputError, match="head"):
        import_detector(tmp_path / "s.pt", objective="bce")


def test_eoe_contrast_statistics(tmp_path: Path) -> None:
    network = foreign.eoe_cnn28()
    found = {"mean": [-2.0], "std": [12.0], "mode": 1}
    snapshot(tmp_path / "s.pt", network, ds_statistics=found)
    x = pictures(ONE)
    centred = x - x.mean((1, 2, 3), keepdim=True)
    seen = (centred / centred.abs().mean((1, 2, 3), keepdim=True) + 2) / 12
    features = plain(network, seen).double()
    close(
        import_detector(tmp_path / "s.pt").decision_function(x),
        torch.sqrt((features**2).sum(1) + 1) - 1,
    )


@pytest.mark.parametrize(
    "bad",
    [
        {"mean": [0.0], "std": [0.0], "mode": 0},
        {"mean": [math.nan], "std": [1.0], "mode": 0},
        {"mean": ["x"], "std": [1.0]},
        {"mean": [0.0]},
        [1.0],
    ],
)
def test_eoe_statistics_that_cannot_be(tmp_path: Path, bad: Any) -> None:
    snapshot(tmp_path / "s.pt", foreign.eoe_cnn28(), ds_statistics=bad)
    with pytest.raises(CheckpointError, match="ds_statistics"):
        import_detector(tmp_path / "s.pt")
