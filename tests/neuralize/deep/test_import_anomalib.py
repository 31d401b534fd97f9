"""anomalib's PatchCore and PaDiM: files as Lightning writes them, against loops over patches."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from neuralize import InputError, neuralize
from neuralize.deep import PaDiM, PatchCore, import_detector, load_detector
from neuralize.deep.readers.assemble import Source
from neuralize.deep.readers.published import IMAGENET
from neuralize.deep.readers.resnet import resnet_of
from neuralize.errors import CheckpointError
from neuralize.torchvision_guard import ensure_importable_torchvision
from tests.neuralize.deep import foreign

LAYERS = ("layer2", "layer3")
MEAN, STD = (torch.tensor(values)[:, None, None] for values in IMAGENET)


def pictures(n: int = 3, side: int = 48) -> Tensor:
    return torch.rand(n, 3, side, side, generator=torch.Generator().manual_seed(3))


def ckpt(
    path: Path, network: nn.Module, entries: dict[str, Tensor], hyper: dict[str, Any] | None,
    **post: float,
) -> None:  # fmt: skip
    """What Lightning writes: states, hyper-parameters, progress of loops and callbacks."""
    state = {f"model.feature_extractor.feature_extractor.{n}": t
             for n, t in network.state_dict().items()}  # fmt: skip
    state |= {"_is_fitted": torch.tensor([True])}
    state |= {"model.anomaly_map_generator.blur.kernel": foreign.blur_kernel()[None, None]}
    names = ("_image_threshold", "_pixel_threshold", "image_min", "image_max")
    state |= {f"post_processor.{n}": torch.tensor(post.get(n, math.nan)) for n in names}
    content: dict[str, Any] = {
        "epoch": 1, "global_step": 4, "pytorch-lightning_version": "2.5.1",
        "state_dict": state | entries,
        "loops": {"fit_loop": {"state_dict": {}}}, "optimizer_states": [], "lr_schedulers": [],
        "callbacks": {"ModelCheckpoint{'monitor': None}": {"best_model_path": "x.ckpt"}},
    }  # fmt: skip
    if hyper is not None:
        content |= {"hparams_name": "kwargs", "hyper_parameters": {"pre_processor": True, **hyper}}
    torch.save(content, path)


def embedding(network: nn.Module, x: Tensor, pool: bool) -> Tensor:
    """Joined maps ``(n, D, h, w)``."""
    with torch.no_grad():
        maps = network((x - MEAN) / STD)
    if pool:
        maps = [F.avg_pool2d(m, 3, 1, 1) for m in maps]
    size = maps[0].shape[2:]
    if pool:
        rest = [F.interpolate(m, size=size, mode="bilinear") for m in maps[1:]]
    else:
        rest = [F.interpolate(m, size=size, mode="nearest") for m in maps[1:]]
    return torch.cat([maps[0], *rest], 1)


def patchcore_scores(network: nn.Module, bank: Tensor, x: Tensor, k: int) -> Tensor:
    """Patch by patch, with the re-weighting of the paper."""
    found = []
    bank = bank.double()
    for maps in embedding(network, x, pool=True).double():
        patches = maps.flatten(1).T
        best, at, who = -1.0, -1, -1
        for m, patch in enumerate(patches):
            d = (patch - bank).norm(dim=1)
            if d.min() > best:
                best, at, who = float(d.min()), int(d.argmin()), m
        if k > 1:
            around = (bank[at] - bank).norm(dim=1).argsort()[:k]
            distances = (patches[who] - bank[around]).norm(dim=1)
            best *= float(1 - torch.softmax(distances, 0)[0])
        found.append(best)
    return torch.tensor(found)


def padim_scores(
    network: nn.Module, dims: Tensor, mean: Tensor, precision: Tensor, x: Tensor
) -> Tensor:
    """Position by position; the map resized, smoothed by an explicit sum, its largest value."""
    maps = embedding(network, x, pool=False)[:, dims].double()
    n, _, h, w = maps.shape
    distances = torch.zeros(n, h * w, dtype=torch.float64)
    for m in range(h * w):
        d = maps.flatten(2)[:, :, m] - mean[:, m]
        distances[:, m] = torch.stack([(row @ precision[m].double() @ row).sqrt() for row in d])
    heat = F.interpolate(distances.reshape(n, 1, h, w), size=x.shape[2:], mode="bilinear")
    kernel = foreign.blur_kernel().double()
    r = len(kernel) // 2
    wide = F.pad(heat, (r, r, r, r), mode="reflect")
    smooth = torch.zeros_like(heat)
    for i in range(len(kernel)):
        for j in range(len(kernel)):
            smooth += kernel[i, j] * wide[:, :, i : i + x.shape[2], j : j + x.shape[3]]
    return smooth.amax((1, 2, 3))


def close(found: Any, expected: Tensor) -> None:
    np.testing.assert_allclose(found, expected.numpy(), rtol=1e-5)


def bank_of(network: nn.Module, rows: int = 40) -> Tensor:
    patches = embedding(network, 1 - pictures(2), pool=True).flatten(2).transpose(1, 2)
    return patches.flatten(0, 1)[:rows].clone()


@pytest.mark.parametrize("bottleneck", [False, True])
@pytest.mark.parametrize("k", [1, 9, 99])
def test_patchcore(tmp_path: Path, bottleneck: bool, k: int) -> None:
    network = foreign.resnet(LAYERS, bottleneck)
    bank = bank_of(network)
    hyper = {"backbone": "resnet18", "layers": list(LAYERS), "num_neighbors": k}
    ckpt(tmp_path / "m.ckpt", network, {"model.memory_bank": bank}, hyper)
    detector = import_detector(tmp_path / "m.ckpt", input_shape=(3, 48, 48))
    assert isinstance(detector, PatchCore)
    assert detector.threshold_ is None
    x = pictures()
    close(detector.decision_function(x), patchcore_scores(network, bank, x, k))


def test_padim(tmp_path: Path) -> None:
    network = foreign.resnet(("layer1", "layer2"))
    dims, mean, precision = gaussians(network)
    ckpt(tmp_path / "m.ckpt", network, padim_entries(dims, mean, precision),
         {"layers": ["layer1", "layer2"]})  # fmt: skip
    detector = import_detector(tmp_path / "m.ckpt")
    assert isinstance(detector, PaDiM)
    assert detector.input_shape_ == (3, 48, 48)
    x = pictures()
    close(detector.decision_function(x), padim_scores(network, dims, mean, precision, x))
    assert detector.anomaly_map(x).shape == (3, 48, 48)
    with pytest.raises(InputError, match="144"):
        import_detector(tmp_path / "m.ckpt", input_shape=(3, 64, 64))
    with pytest.raises(InputError, match="PaDiM instead"):
        detector.fit(x)


def gaussians(network: nn.Module) -> tuple[Tensor, Tensor, Tensor]:
    g = torch.Generator().manual_seed(5)
    dims = torch.tensor([0, 3, 4, 9, 16])
    maps = embedding(network, pictures(7), pool=False)[:, dims].flatten(2)
    mean = maps.mean(0)
    half = torch.randn(mean.shape[1], 5, 5, generator=g)
    return dims, mean, half @ half.transpose(1, 2) + torch.eye(5)


def padim_entries(dims: Tensor, mean: Tensor, precision: Tensor) -> dict[str, Tensor]:
    return {
        "model.idx": dims, "model.gaussian.mean": mean, "model.gaussian.inv_covariance": precision,
    }  # fmt: skip


def test_the_raw_score_is_explained_and_the_threshold_is_in_its_units(tmp_path: Path) -> None:
    network = foreign.resnet(LAYERS)
    bank = bank_of(network)
    x = pictures(5)
    scores = patchcore_scores(network, bank, x, 9)
    low, high = float(scores.min()), float(scores.min() + scores.median()) / 2
    threshold = float(scores.sort().values[1:3].mean())
    ckpt(tmp_path / "m.ckpt", network, {"model.memory_bank": bank},
         {"layers": LAYERS, "num_neighbors": 9},
         image_min=low, image_max=high, _image_threshold=threshold)  # fmt: skip
    detector = import_detector(tmp_path / "m.ckpt", input_shape=(3, 48, 48))
    printed = ((scores - threshold) / (high - low) + 0.5).clamp(0, 1)
    assert len(set(printed.tolist())) < 5, "what anomalib prints is meant to saturate here"
    raw = detector.decision_function(x)
    assert len(set(raw.tolist())) == 5
    np.testing.assert_array_equal(detector.predict(x), (printed > 0.5).long().numpy())
    constants = detector.config_["normalization"]
    assert constants == pytest.approx({"threshold": threshold, "min": low, "max": high})
    again = load_detector(detector.save(tmp_path / "ours.safetensors"))
    np.testing.assert_array_equal(again.decision_function(x), raw)
    assert again.threshold_ == pytest.approx(threshold)


@pytest.mark.parametrize("kind", ["patchcore", "padim"])
def test_explained_down_to_the_pixels(tmp_path: Path, kind: str) -> None:
    layers = LAYERS if kind == "patchcore" else ("layer1", "layer2")
    network = foreign.resnet(layers)
    entries = (
        {"model.memory_bank": bank_of(network)}
        if kind == "patchcore"
        else padim_entries(*gaussians(network))
    )
    ckpt(tmp_path / "m.ckpt", network, entries, {"layers": layers, "num_neighbors": 9})
    detector = import_detector(tmp_path / "m.ckpt", input_shape=(3, 48, 48), units=255)
    load_detector(detector.save(tmp_path / "ours.safetensors"))
    x = (pictures(2) * 255).double()
    found = neuralize(detector, dtype=torch.float64).relevance(x)
    assert found.values.shape == x.shape
    total = found.values.flatten(1).sum(1) + sum(found.absorbed.values())
    torch.testing.assert_close(total, found.evidence, rtol=1e-9, atol=0.0)
    close(found.evidence.float(), torch.from_numpy(detector.decision_function(x)))


def test_without_hyper_parameters_they_are_asked_for(tmp_path: Path) -> None:
    network = foreign.resnet(LAYERS)
    bank = bank_of(network)
    ckpt(tmp_path / "m.ckpt", network, {"model.memory_bank": bank}, None)
    given: dict[str, Any] = {"input_shape": (3, 48, 48)}
    with pytest.raises(InputError, match="neighbors="):
        import_detector(tmp_path / "m.ckpt", **given)
    with pytest.raises(InputError, match="layers="):
        import_detector(tmp_path / "m.ckpt", neighbors=9, **given)
    x = pictures()
    detector = import_detector(tmp_path / "m.ckpt", neighbors=3, layers=LAYERS, **given)
    close(detector.decision_function(x), patchcore_scores(network, bank, x, 3))
    with pytest.raises(CheckpointError, match="give 24 features"):
        import_detector(tmp_path / "m.ckpt", neighbors=3, layers=["layer3"], **given)


def test_a_pre_processor_of_its_own_is_asked_for(tmp_path: Path) -> None:
    network = foreign.resnet(LAYERS)
    hyper = {"layers": LAYERS, "num_neighbors": 1, "pre_processor": False}
    ckpt(tmp_path / "m.ckpt", network, {"model.memory_bank": bank_of(network)}, hyper)
    with pytest.raises(InputError, match="normalize="):
        import_detector(tmp_path / "m.ckpt", input_shape=(3, 48, 48))
    import_detector(tmp_path / "m.ckpt", input_shape=(3, 48, 48), normalize=(0, 1))


def test_another_backbone_is_given(tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 4, 3, 2), nn.ReLU(), nn.Conv2d(4, 5, 3, 2)).eval()
    bank = torch.rand(12, 9)
    ckpt(tmp_path / "m.ckpt", network, {"model.memory_bank": bank},
         {"layers": ["1", "2"], "num_neighbors": 1})  # fmt: skip
    with pytest.raises(CheckpointError, match="network="):
        import_detector(tmp_path / "m.ckpt")
    fresh = nn.Sequential(nn.Conv2d(3, 4, 3, 2), nn.ReLU(), nn.Conv2d(4, 5, 3, 2))
    detector = import_detector(tmp_path / "m.ckpt", network=fresh, input_shape=(3, 32, 32))
    x = pictures(side=32)

    class Both(nn.Module):
        def forward(self, z: Tensor) -> list[Tensor]:
            return [network[:2](z), network(z)]

    close(detector.decision_function(x), patchcore_scores(Both(), bank, x, 1))
    path = detector.save(tmp_path / "ours.safetensors")
    again = load_detector(path, network=fresh)
    np.testing.assert_array_equal(again.decision_function(x), detector.decision_function(x))


def test_never_fitted(tmp_path: Path) -> None:
    network = foreign.resnet(LAYERS)
    ckpt(tmp_path / "m.ckpt", network, {"model.memory_bank": torch.empty(0)}, {"layers": LAYERS})
    with pytest.raises(CheckpointError, match="never fitted"):
        import_detector(tmp_path / "m.ckpt")


TIMM = {"resnet18": (1, 2), "resnet50": (1, 3), "resnext50_32x4d": (2,)}
SLOW = [pytest.param(name, marks=pytest.mark.slow) for name in TIMM if name != "resnet18"]


@pytest.mark.parametrize("name", ["resnet18", *SLOW])
def test_trunks_have_the_keys_and_the_maps_of_timm_s(name: str) -> None:
    ensure_importable_torchvision()
    timm = pytest.importorskip("timm")
    theirs = foreign.shaken(
        timm.create_model(name, pretrained=False, features_only=True, out_indices=TIMM[name])
    )
    state = theirs.state_dict()
    ours = resnet_of(state, Source(Path("m.ckpt"), "anomalib")).build().eval()
    ours.load_state_dict(state)
    maps: list[Tensor] = []
    for index in TIMM[name]:
        ours.get_submodule(f"layer{index}").register_forward_hook(lambda *a: maps.append(a[2]))
    x = pictures(1, 64)
    with torch.no_grad():
        expected = theirs(x)
        ours(x)
    for found, wanted in zip(maps, expected, strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-5)
