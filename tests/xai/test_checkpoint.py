"""Encoders from weights and names of architectures: equal to the libraries' own, or refused."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import skops.io
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from sklearn.cluster import KMeans
from torch import Tensor, nn

from graphs import CellGraphNet, save_network
from neuralize import LRP
from neuralize.errors import CheckpointError
from neuralize.torchvision_guard import ensure_importable_torchvision
from xai.architectures import IMAGENET
from xai.checkpoint import read_checkpoint
from xai.encoder import Encoder
from xai.errors import InputError, UnsupportedModelError, UntrustedFileError, XaiError
from xai.pretrained import cifar_resnet20

ensure_importable_torchvision()
timm = pytest.importorskip("timm")
models = pytest.importorskip("torchvision.models")


def pictures(size: int, n: int = 2) -> Tensor:
    return torch.rand(n, 3, size, size, generator=torch.Generator().manual_seed(0))


def shaken(network: nn.Module) -> nn.Module:
    """With running statistics as after training, in evaluation mode."""
    generator = torch.Generator().manual_seed(1)
    for name, buffer in network.named_buffers():
        if name.endswith("running_var"):
            buffer.uniform_(0.5, 2.0, generator=generator)
    return network.eval()


def imagenet(x: Tensor) -> Tensor:
    mean, std = (torch.tensor(v)[:, None, None] for v in IMAGENET)
    return (x - mean) / std


# -- timm ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("classes", [1000, 7, 0])
def test_timm_gives_its_pooled_features(tmp_path: Path, classes: int) -> None:
    network = shaken(timm.create_model("test_resnet", num_classes=classes))
    save_file(network.state_dict(), tmp_path / "net.safetensors")
    read = read_checkpoint(tmp_path / "net.safetensors", arch="timm:test_resnet")
    config, x = network.pretrained_cfg, pictures(64)
    mean, std = (torch.tensor(config[key])[:, None, None] for key in ("mean", "std"))
    with torch.no_grad():
        wanted = network.forward_head(network.forward_features((x - mean) / std), pre_logits=True)
        torch.testing.assert_close(read.model(x), wanted)
    assert read.size == config["input_size"][1:]
    assert ("left out" in read.provenance["features"]) == (classes > 0)


def test_timm_in_grey_and_a_transformer_of_another_size(tmp_path: Path) -> None:
    grey = timm.create_model("test_resnet", in_chans=1, num_classes=2).eval()
    torch.save(grey.state_dict(), tmp_path / "grey.pt")
    read = read_checkpoint(tmp_path / "grey.pt", arch="timm:test_resnet", normalize=(0.5, 0.2))
    assert read.channels == 1
    assert read.model(torch.rand(1, 1, 32, 32)).ndim == 2
    vit = timm.create_model("test_vit", img_size=64, num_classes=0).eval()
    torch.save(vit.state_dict(), tmp_path / "vit.pt")
    encoder = read_checkpoint(tmp_path / "vit.pt", arch="timm:test_vit", size=(64, 64)).model
    with torch.no_grad():
        x = pictures(64)
        own = torch.tensor(vit.pretrained_cfg["mean"]), torch.tensor(vit.pretrained_cfg["std"])
        wanted = vit((x - own[0][:, None, None]) / own[1][:, None, None])
        torch.testing.assert_close(encoder(x), wanted)


@pytest.mark.parametrize("name", ["hf-hub:timm/resnet18.a1_in1k", "local-dir:/etc", "resnet19"])
def test_timm_looks_nothing_up(tmp_path: Path, name: str) -> None:
    torch.save({"a": torch.ones(1)}, tmp_path / "net.pt")
    with pytest.raises(InputError, match="timm has no network"):
        read_checkpoint(tmp_path / "net.pt", arch=f"timm:{name}")


# -- torchvision -----------------------------------------------------------------------------------


@pytest.mark.parametrize("classes", [1000, 5, None])
def test_torchvision_drops_the_last_classifier(tmp_path: Path, classes: int | None) -> None:
    network = shaken(models.mobilenet_v2(weights=None, num_classes=classes or 1000))
    state = network.state_dict()
    if classes is None:
        state = {k: v for k, v in state.items() if not k.startswith("classifier")}
    torch.save({"epoch": 3, "state_dict": state}, tmp_path / "net.pth")
    read = read_checkpoint(tmp_path / "net.pth", arch="torchvision:mobilenet_v2", size=(64, 64))
    x = pictures(64)
    with torch.no_grad():
        wanted = network.features(imagenet(x)).mean((2, 3))
        torch.testing.assert_close(read.model(x), wanted)
    assert read.model(x).shape == (2, 1280)


@pytest.mark.parametrize(
    ("name", "width"), [("squeezenet1_1", None), ("resnet18", 512), ("shufflenet_v2_x0_5", 1024)]
)
def test_torchvision_in_other_families(tmp_path: Path, name: str, width: int | None) -> None:
    network = models.get_model(name, weights=None, num_classes=3)
    torch.save(network.state_dict(), tmp_path / "net.pth")
    read = read_checkpoint(tmp_path / "net.pth", arch=f"torchvision:{name}", size=(64, 64))
    features = read.model(torch.rand(1, 3, 64, 64)).shape[1]
    assert features == (width or features)
    assert features > 3


def test_torchvision_detectors_and_typos_are_refused(tmp_path: Path) -> None:
    torch.save({"a": torch.ones(1)}, tmp_path / "net.pt")
    for name in ("fasterrcnn_resnet50_fpn", "resnet_18"):
        with pytest.raises(InputError, match="torchvision has no classifier"):
            read_checkpoint(tmp_path / "net.pt", arch=f"torchvision:{name}")


# -- others, layers, normalisation -----------------------------------------------------------------


def test_our_own_and_any_layer_of_it(tmp_path: Path) -> None:
    own = cifar_resnet20()
    torch.save({f"module.{k}": v for k, v in own.state_dict().items()}, tmp_path / "net.pt")
    x = pictures(32)
    read = read_checkpoint(tmp_path / "net.pt", arch="cifar_resnet20")
    with torch.no_grad():
        torch.testing.assert_close(read.model(x), own(x))
        middle = read_checkpoint(tmp_path / "net.pt", arch="cifar_resnet20", layer="layer2").model
        z = own.layer1(F.relu(own.bn1(own.conv1((x - own.mean) / own.std))))
        torch.testing.assert_close(middle(x), own.layer2(z).mean((2, 3)))
        logits = read_checkpoint(tmp_path / "net.pt", arch="cifar_resnet20", layer="linear").model
        torch.testing.assert_close(logits(x), cifar_resnet20("logits")(x))
    with pytest.raises(InputError, match="normalises its pictures itself"):
        read_checkpoint(tmp_path / "net.pt", arch="cifar_resnet20", normalize="imagenet")
    with pytest.raises(InputError, match="did you mean 'layer3'"):
        read_checkpoint(tmp_path / "net.pt", arch="cifar_resnet20", layer="layer4")


def test_relevance_of_a_layer_is_that_of_the_network_cut_there(tmp_path: Path) -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 5, 3), nn.Softshrink())
    x = pictures(8)
    cut = nn.Sequential(network[0], network[1], nn.AdaptiveAvgPool2d(1), nn.Flatten())
    found = [
        LRP(model.eval(), "epsilon").trace(x)
        for model in (Encoder(network, "small", layer="1"), cut)
    ]  # the operation above the layer has no rule and is never met
    torch.testing.assert_close(found[0].output, found[1].output)
    values = [trace.relevance(trace.output)[0] for trace in found]
    torch.testing.assert_close(values[0], values[1])


def test_a_function_needs_trust(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "nets_of_mine.py").write_text(
        "import torch\nfrom pathlib import Path\nPath(__file__).with_name('ran').touch()\n"
        "def small():\n    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(12, 4))\n"
        "def wrong():\n    return 3\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    network = nn.Sequential(nn.Flatten(), nn.Linear(12, 4))
    torch.save(network.state_dict(), tmp_path / "net.pt")
    with pytest.raises(UntrustedFileError, match="--trust"):
        read_checkpoint(tmp_path / "net.pt", arch="nets_of_mine:small")
    assert not (tmp_path / "ran").exists()
    read = read_checkpoint(tmp_path / "net.pt", arch="nets_of_mine:small", trust=True)
    x = pictures(2)
    with torch.no_grad():
        torch.testing.assert_close(read.model(x), network(x))
    for arch, message in (
        ("nets_of_mine:other", "Cannot import other"),
        ("nets_of_nobody:small", "PYTHONPATH"),
        ("nets_of_mine:wrong", "nn.Module"),
        ("nothing", "Expected an architecture"),
    ):
        with pytest.raises(InputError, match=message):
            read_checkpoint(tmp_path / "net.pt", arch=arch, trust=True)
    sys.modules.pop("nets_of_mine")


def test_normalisation_is_the_one_asked_for(tmp_path: Path) -> None:
    network = shaken(timm.create_model("test_resnet", num_classes=0))
    torch.save(network.state_dict(), tmp_path / "net.pt")
    x = pictures(32)
    with torch.no_grad():
        for given, seen in (
            ("none", x),
            ("imagenet", imagenet(x)),
            ((0.5, 0.25), (x - 0.5) / 0.25),
        ):
            read = read_checkpoint(tmp_path / "net.pt", arch="timm:test_resnet", normalize=given)
            torch.testing.assert_close(read.model(x), network(seen))
    with pytest.raises(InputError, match="each of 3 channels"):
        read_checkpoint(tmp_path / "net.pt", arch="timm:test_resnet", normalize=((0.5, 0.5), 1.0))
    with pytest.raises(InputError, match="imagenet, none or MEAN:STD"):
        read_checkpoint(tmp_path / "net.pt", arch="timm:test_resnet", normalize="other")


# -- what does not fit -----------------------------------------------------------------------------


def test_weights_of_another_network_are_listed(tmp_path: Path) -> None:
    state = cifar_resnet20().state_dict()
    state["extra.weight"] = torch.ones(1)
    state["linear.weight"] = torch.ones(3, 3)
    del state["conv1.weight"]
    torch.save(state, tmp_path / "net.pt")
    with pytest.raises(CheckpointError) as caught:
        read_checkpoint(tmp_path / "net.pt", arch="cifar_resnet20")
    message = str(caught.value)
    assert "1 missing keys (conv1.weight)" in message
    assert "1 unexpected keys (extra.weight)" in message
    assert "1 other shapes (linear.weight (3, 3) instead of (10, 64))" in message


def test_only_counters_of_batches_may_be_missing(tmp_path: Path) -> None:
    state = models.resnet18(weights=None).state_dict()
    old = {k: v for k, v in state.items() if not k.endswith("num_batches_tracked")}
    torch.save(old, tmp_path / "net.pt")
    assert read_checkpoint(tmp_path / "net.pt", arch="torchvision:resnet18").is_encoder


def test_weights_without_an_architecture(tmp_path: Path) -> None:
    state = cifar_resnet20().state_dict()
    save_file(state, tmp_path / "net.safetensors")
    torch.save(state, tmp_path / "net.pt")
    with pytest.raises(InputError, match="Pass --arch"):
        read_checkpoint(tmp_path / "net.safetensors")
    with pytest.raises(CheckpointError, match=r"bare state dict.*--arch"):
        read_checkpoint(tmp_path / "net.pt")


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float8_e4m3fn])
def test_narrow_numbers_become_wide(tmp_path: Path, dtype: torch.dtype) -> None:
    state = {k: v.to(dtype) if v.is_floating_point() else v
             for k, v in cifar_resnet20().state_dict().items()}  # fmt: skip
    save_file(state, tmp_path / "net.safetensors")
    read = read_checkpoint(tmp_path / "net.safetensors", arch="cifar_resnet20")
    wanted = state["conv1.weight"].float()
    assert torch.equal(read.model.network.conv1.weight, wanted)


def test_half_precision_and_training_files(tmp_path: Path) -> None:
    own = cifar_resnet20()
    half = {k: v.half() if v.is_floating_point() else v for k, v in own.state_dict().items()}
    torch.save({"model": half, "optimizer": {"state": {}}}, tmp_path / "net.ckpt")
    read = read_checkpoint(tmp_path / "net.ckpt", arch="cifar_resnet20")
    assert next(read.model.parameters()).dtype == torch.float32
    x = pictures(32)
    with torch.no_grad():
        torch.testing.assert_close(read.model(x), own(x), rtol=0.02, atol=0.02)
    torch.save({"model": half, "state_dict": half}, tmp_path / "two.pt")
    with pytest.raises(CheckpointError, match="under one of"):
        read_checkpoint(tmp_path / "two.pt", arch="cifar_resnet20")


def test_fitted_models_are_read_as_before(tmp_path: Path) -> None:
    model = KMeans(2, n_init=1, random_state=0).fit(np.eye(4))
    skops.io.dump(model, tmp_path / "model.skops")
    read = read_checkpoint(tmp_path / "model.skops")
    assert not read.is_encoder
    assert np.array_equal(read.model.cluster_centers_, model.cluster_centers_)
    with pytest.raises(InputError, match="--layer is for encoders"):
        read_checkpoint(tmp_path / "model.skops", layer="layer1")


def test_graph_networks_are_sent_to_their_command(tmp_path: Path) -> None:
    net = CellGraphNet(in_features=3, hidden=4, blocks=1)
    path = save_network(net, tmp_path / "graph.safetensors", ["a", "b", "c"])
    for file in (path, path.with_suffix(".json")):
        with pytest.raises(UnsupportedModelError, match="xai explain-graph"):
            read_checkpoint(file)


def test_an_architecture_beside_a_manifest(tmp_path: Path) -> None:
    save_file({"a": torch.ones(1)}, tmp_path / "net.safetensors")
    (tmp_path / "net.json").write_text("{}")
    with pytest.raises(InputError, match="has a manifest"):
        read_checkpoint(tmp_path / "net.safetensors", arch="cifar_resnet20")
    with pytest.raises(CheckpointError, match="manifest"):
        read_checkpoint(tmp_path / "net.safetensors")


# -- onnx ------------------------------------------------------------------------------------------

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnx2torch")


def small() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 5)).eval()


def as_onnx(network: nn.Module, name: str = "first", **changes: Any) -> Any:
    """The small network, built by hand."""
    helper, kind = onnx.helper, onnx.TensorProto.FLOAT
    weights = {
        key.replace(".", "_"): onnx.numpy_helper.from_array(t.numpy(), key.replace(".", "_"))
        for key, t in network.state_dict().items()
    }
    nodes = [
        helper.make_node("Conv", ["x", "0_weight", "0_bias"], ["a"], name=name),
        helper.make_node(changes.get("op", "Relu"), ["a"], ["b"], domain=changes.get("domain", "")),
        helper.make_node("Flatten", ["b"], ["c"]),
        helper.make_node("Gemm", ["c", "3_weight", "3_bias"], ["y"], transB=1, name=name),
    ]
    graph = helper.make_graph(
        nodes,
        "small",
        [helper.make_tensor_value_info("x", kind, ["n", 3, 8, 8])],
        [helper.make_tensor_value_info("y", kind, ["n", 5])],
        list(weights.values()),
    )
    opsets = [helper.make_opsetid("", 13)]
    if changes.get("domain"):
        opsets.append(helper.make_opsetid(changes["domain"], 1))
    return helper.make_model(graph, opset_imports=opsets, ir_version=8)


def test_onnx_gives_what_the_network_gives_and_its_relevance(tmp_path: Path) -> None:
    network = small()
    onnx.save(as_onnx(network), tmp_path / "net.onnx")
    read = read_checkpoint(tmp_path / "net.onnx")
    assert (read.channels, read.size) == (3, (8, 8))
    x = pictures(8)
    with torch.no_grad():
        torch.testing.assert_close(read.model(x), network(x))
    traces = [LRP(model, "epsilon_plus").trace(x) for model in (read.model, network)]
    seed = torch.randn(2, 5, generator=torch.Generator().manual_seed(2))
    values = [trace.relevance(seed)[0] for trace in traces]
    torch.testing.assert_close(values[0], values[1])
    layer = read_checkpoint(tmp_path / "net.onnx", layer="Relu").model
    with torch.no_grad():
        torch.testing.assert_close(layer(x), network[1](network[0](x)).mean((2, 3)))


def test_a_name_in_an_onnx_file_is_never_run(tmp_path: Path) -> None:
    marker = tmp_path / "marker"
    run = f'getattr(__import__("os"), "mkdir")("{marker}")'
    name = f'x" if {run} else "x'  # closes the quotes in which torch writes the name
    network = small()
    onnx.save(as_onnx(network, name), tmp_path / "net.onnx")
    read = read_checkpoint(tmp_path / "net.onnx")
    x = pictures(8)
    with torch.no_grad():
        torch.testing.assert_close(read.model(x), network(x))
    assert not marker.exists()


@pytest.mark.parametrize("location", ["../secret.bin", "/etc/passwd", "a/../../secret.bin"])
def test_onnx_reads_no_weights_from_elsewhere(tmp_path: Path, location: str) -> None:
    (tmp_path / "secret.bin").write_bytes(bytes(10**4))
    (tmp_path / "model").mkdir()
    model = as_onnx(small())
    tensor = model.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = onnx.TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value=location)
    path = tmp_path / "model" / "net.onnx"
    path.write_bytes(model.SerializeToString())
    with pytest.raises(XaiError, match="outside of its folder"):
        read_checkpoint(path)


def test_onnx_with_a_link_that_leads_out(tmp_path: Path) -> None:
    (tmp_path / "secret.bin").write_bytes(bytes(10**4))
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "weights.bin").symlink_to(tmp_path / "secret.bin")
    model = as_onnx(small())
    tensor = model.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = onnx.TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="weights.bin")
    (tmp_path / "model" / "net.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(XaiError, match="outside of its folder"):
        read_checkpoint(tmp_path / "model" / "net.onnx")


def test_onnx_weights_beside_the_file(tmp_path: Path) -> None:
    network = small()
    onnx.save(
        as_onnx(network), tmp_path / "net.onnx", save_as_external_data=True, location="net.bin",
        size_threshold=0,
    )  # fmt: skip
    x = pictures(8)
    with torch.no_grad():
        torch.testing.assert_close(read_checkpoint(tmp_path / "net.onnx").model(x), network(x))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"op": "Magic", "domain": "com.acme"}, "com.acme.Magic"),
        ({"op": "Hardmax"}, "Hardmax"),
    ],
)
def test_onnx_operators_without_a_counterpart(
    tmp_path: Path, changes: dict[str, str], message: str
) -> None:
    onnx.save(as_onnx(small(), **changes), tmp_path / "net.onnx")
    with pytest.raises(UnsupportedModelError, match=message):
        read_checkpoint(tmp_path / "net.onnx")


@pytest.mark.parametrize("content", [b"\xff" * 50, b"no model", bytes(100)])
def test_what_is_no_onnx(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "net.onnx").write_bytes(content)
    with pytest.raises(XaiError, match=r"Cannot (read|convert)|Expected one input"):
        read_checkpoint(tmp_path / "net.onnx")


def test_onnx_with_an_absurd_shape(tmp_path: Path) -> None:
    model = as_onnx(small())
    model.graph.initializer[0].dims[0] = 2**40
    (tmp_path / "net.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(XaiError):
        read_checkpoint(tmp_path / "net.onnx")
    with pytest.raises(InputError, match="holds its own network"):
        read_checkpoint(tmp_path / "net.onnx", arch="cifar_resnet20")
