"""Zero-shot: logits by hand, prompts in what is printed, and conservation on tiny transformers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn.base import clone
from torch import Tensor, nn

import xai
from neuralize import InputError, neuralize
from neuralize.deep import ZeroShot, clip_towers, load_detector
from neuralize.torchvision_guard import ensure_importable_torchvision
from tests.neuralize.cases.deep_zero_shot import Q, words


class TinyVit(nn.Module):
    """Patches of 4 x 4, a class token, and two blocks of attention."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, 8, 4, 4, bias=False)
        self.token = nn.Parameter(torch.randn(1, 1, 8))
        self.position = nn.Parameter(torch.randn(17, 8))
        self.attention = nn.ModuleList(nn.MultiheadAttention(8, 2, batch_first=True) for _ in "ab")
        self.norms = nn.ModuleList(nn.LayerNorm(8) for _ in "ab")
        self.dense = nn.ModuleList(
            nn.Sequential(nn.LayerNorm(8), nn.Linear(8, 16), nn.GELU(), nn.Linear(16, 8))
            for _ in "ab"
        )
        self.projection = nn.Parameter(torch.randn(8, Q))

    def forward(self, x: Tensor) -> Tensor:
        z = self.patches(x).flatten(2).transpose(1, 2)
        z = torch.cat([self.token.expand(len(z), -1, -1), z], 1) + self.position
        for attention, norm, dense in zip(self.attention, self.norms, self.dense, strict=True):
            y = norm(z)
            z = z + attention(y, y, y, need_weights=False)[0]
            z = z + dense(z)
        return z[:, 0] @ self.projection


def vit() -> TinyVit:
    torch.manual_seed(0)
    return TinyVit().eval()


def images(n: int = 6, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).random((n, 3, 16, 16)).astype(np.float32)


def made(**options) -> ZeroShot:
    return ZeroShot(vit(), words, **{"normal": "cat", "input_shape": (3, 16, 16), **options})


def logits_by_hand(x: np.ndarray, prompts: list[str], scale: float = 100.0) -> np.ndarray:
    """Cosines with every prompt, in float64."""
    mean, std = np.array([0.48145466, 0.4578275, 0.40821073]), [0.26862954, 0.26130258, 0.27577711]
    inner = (x - mean[:, None, None]) / np.array(std)[:, None, None]
    with torch.no_grad():
        u = vit().double()(torch.from_numpy(inner)).numpy()
    t = words(prompts).double().numpy()
    lengths = np.linalg.norm(u, axis=1)[:, None] * np.linalg.norm(t, axis=1)
    return scale * (u @ t.T) / lengths


def test_the_score_is_the_difference_of_logits_and_the_probability_their_softmax() -> None:
    x = images()
    model = made().fit()
    logits = logits_by_hand(x, ["a photo of a cat", "a photo of something"])
    found = model.decision_function(x)
    np.testing.assert_allclose(found, logits[:, 1] - logits[:, 0], rtol=1e-4, atol=1e-4)
    softmax = np.exp(logits[:, 1]) / np.exp(logits).sum(1)
    np.testing.assert_allclose(model.probability(x), softmax, rtol=1e-3, atol=1e-6)
    assert model.threshold_ == 0
    np.testing.assert_array_equal(model.predict(x), logits[:, 1] > logits[:, 0])


def test_of_several_normal_prompts_the_nearest_counts() -> None:
    x = images(12)
    model = made(normal=["cat", "dog", "horse"]).fit()
    prompts = ["a photo of a cat", "a photo of a dog", "a photo of a horse", "a photo of something"]
    logits = logits_by_hand(x, prompts)
    expected = logits[:, 3] - logits[:, :3].max(1)
    np.testing.assert_allclose(model.decision_function(x), expected, rtol=1e-4, atol=1e-4)
    assert model.nearest_prompt(x) == [prompts[j] for j in logits[:, :3].argmax(1)]
    softmax = np.exp(logits[:, 3]) / np.exp(logits).sum(1)
    np.testing.assert_allclose(model.probability(x), softmax, rtol=1e-3, atol=1e-6)


def test_text_is_embedded_once() -> None:
    asked = []

    def counted(prompts: list[str]) -> Tensor:
        asked.append(prompts)
        return words(prompts)

    model = ZeroShot(vit(), counted, normal="cat", input_shape=(3, 16, 16)).fit(images())
    model.decision_function(images())
    neuralize(model)
    assert asked == [["a photo of a cat", "a photo of something"]]


def test_relevance_of_features_is_exact_with_their_length_held_constant() -> None:
    model = ZeroShot(nn.Identity(), words, normal="cat", input_shape=(Q,), mean=None).fit()
    u = np.random.default_rng(0).normal(size=(5, Q))
    found = neuralize(model, dtype=torch.float64).relevance(torch.from_numpy(u))
    t = F.normalize(words(["a photo of a cat", "a photo of something"]), dim=1).double().numpy()
    expected = 100 * u / np.linalg.norm(u, axis=1)[:, None] * (t[1] - t[0])
    np.testing.assert_allclose(found.values.numpy(), expected, rtol=1e-6, atol=1e-6)
    assert all(float(share.abs().max()) < 1e-6 for share in found.absorbed.values())


@pytest.mark.parametrize("composite", [None, "attn_lrp", "cp_lrp", "epsilon"])
@pytest.mark.parametrize("normal", ["cat", ["cat", "dog"]])
def test_a_tiny_transformer_conserves(composite, normal) -> None:
    x = torch.from_numpy(images()).double()
    net = neuralize(made(normal=normal).fit(), dtype=torch.float64)
    found = net.relevance(x, composite=composite)
    total = found.values.flatten(1).sum(1) + sum(found.absorbed.values())
    torch.testing.assert_close(total, found.evidence, rtol=1e-9, atol=1e-9)
    assert {"tower.token", "tower.position", "bias"} <= set(found.absorbed)
    expected = made(normal=normal).fit().decision_function(images())
    np.testing.assert_allclose(found.evidence.numpy(), expected, rtol=1e-4, atol=1e-4)


def test_other_prompts_make_another_map() -> None:
    first, second = (xai.explain(made(anomaly=a).fit(), images()) for a in ("a cup", "a bird"))
    assert np.abs(first.values - second.values).max() > 0.1 * np.abs(first.values).max()


def test_prompts_are_printed_with_every_explanation(tmp_path: Path) -> None:
    model = made().fit()
    assert repr(model) == "ZeroShot('a photo of something' against 'a photo of a cat')"
    found = xai.explain(model, images())
    expected = "logit of 'a photo of something' minus that of 'a photo of a cat'"
    assert found.evidence_name == expected and "a photo of a cat" in found.model_name
    again = xai.Relevance.load(found.save(tmp_path / "found.npz"))
    assert again.evidence_name == expected
    np.testing.assert_allclose(found.original, model.probability(images()), rtol=1e-4)
    many = made(normal=["cat", "dog"], template="{}").fit()
    assert many.evidence_name == (
        "logit of 'a photo of something' minus that of the nearest of 'cat', 'dog'"
    )


def test_the_threshold_can_come_from_images() -> None:
    x = images(50)
    model = made(contamination=0.1).fit(x)
    assert model.threshold_ == pytest.approx(np.quantile(model.decision_function(x), 0.9))
    assert model.predict(x).sum() == 5
    assert clone(model).contamination == 0.1


def test_saved_and_loaded_without_the_text_tower(tmp_path: Path) -> None:
    model = made(normal=["cat", "dog"]).fit(images())
    path = model.save(tmp_path / "words.safetensors")
    with pytest.raises(InputError, match="network="):
        load_detector(path)
    torch.manual_seed(5)
    again = load_detector(path, network=TinyVit())
    np.testing.assert_array_equal(
        again.decision_function(images()), model.decision_function(images())
    )
    assert repr(again) == repr(model) and again.evidence_name == model.evidence_name
    with pytest.raises(InputError, match="from a file"):
        again.fit()


@pytest.mark.parametrize(("options", "message"), [
    ({"normal": []}, "what is normal"),
    ({"normal": "something", "template": "a photo of {}"}, "the same features"),
    ({"scale": 0.0}, "scale"),
    ({"contamination": 0.1}, "images"),
    ({"contamination": 1.5}, "contamination"),
    ({"mean": (0.5,), "std": (0.5,)}, "per channel"),
    ({"image_encoder": nn.Flatten(), "mean": None}, "image features"),
    ({"text_encoder": lambda prompts: torch.ones(1, Q)}, "one per prompt"),
    ({"text_encoder": lambda prompts: torch.zeros(2, Q)}, "not zero"),
])  # fmt: skip
def test_what_does_not_fit_is_refused(options: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        made().set_params(**options).fit()


def test_images_of_another_size_are_refused() -> None:
    model = made().fit()
    for ask in (model.decision_function, model.probability, model.nearest_prompt):
        with pytest.raises(InputError, match="shape"):
            ask(images()[:, :, :8])
    with pytest.raises(InputError, match="open_clip"):
        clip_towers(nn.Linear(2, 2), words)


def test_towers_of_open_clip() -> None:
    """Its own state-dict layout, random weights: the score is that of its two encoders."""
    ensure_importable_torchvision()
    open_clip = pytest.importorskip("open_clip")
    torch.manual_seed(0)
    clip = open_clip.model.CLIP(
        embed_dim=8,
        vision_cfg={"image_size": 16, "layers": 2, "width": 16, "head_width": 8, "patch_size": 4},
        text_cfg={"context_length": 40, "vocab_size": 130, "width": 16, "heads": 2, "layers": 2},
    ).eval()

    def tokens(prompts: list[str]) -> Tensor:
        rows = [[*map(ord, prompt), 129] for prompt in prompts]
        return torch.tensor([row + [0] * (40 - len(row)) for row in rows])

    image, text = clip_towers(clip, tokens)
    model = ZeroShot(image, text, normal="cat", input_shape=(3, 16, 16), mean=None).fit()
    x = images()
    with torch.no_grad():
        v = clip.encode_image(torch.from_numpy(x), normalize=True)
        t = clip.encode_text(tokens(["a photo of a cat", "a photo of something"]), normalize=True)
        expected = 100 * v @ (t[1] - t[0])
    np.testing.assert_allclose(model.decision_function(x), expected, rtol=1e-3, atol=1e-3)
    found = neuralize(model, dtype=torch.float64).relevance(torch.from_numpy(x).double())
    total = found.values.flatten(1).sum(1) + sum(found.absorbed.values())
    torch.testing.assert_close(total, found.evidence, rtol=1e-9, atol=1e-9)
