"""D2Neighbors: distances, perplexity and thresholds by loops; blur as a dense matrix."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.optimize import brentq

from neuralize import InputError, neuralize
from neuralize.deep import D2Neighbors, bank_distances, load_detector
from tests.neuralize.deep.pictures import backbone, pictures


def soft_min(h: np.ndarray, g: float) -> np.ndarray:
    low = h.min(-1, keepdims=True)
    found: np.ndarray = low[..., 0] - np.log(np.exp(-g * (h - low)).mean(-1)) / g
    return found


def without_self(h: np.ndarray) -> np.ndarray:
    n = len(h)
    return h[~np.eye(n, dtype=bool)].reshape(n, n - 1)


@pytest.mark.parametrize("p", [1, 2, 4])
def test_scores_stiffness_and_threshold(p: int) -> None:
    dice = np.random.default_rng(0)
    x, new = dice.normal(size=(40, 5)).astype(np.float32), dice.normal(size=(7, 5))
    detector = D2Neighbors(p=p, perplexity=0.3).fit(x)

    def distances(rows: np.ndarray) -> np.ndarray:
        wide = rows.astype(np.float32).astype(np.float64)
        return (np.abs(wide[:, None] - x.astype(np.float64)) ** p).sum(2)

    others = without_self(distances(x))

    def perplexity(log_g: float) -> float:
        q = np.exp(-np.exp(log_g) * (others - others.min(1, keepdims=True)))
        q /= q.sum(1, keepdims=True)
        with np.errstate(divide="ignore", invalid="ignore"):
            entropy = -np.nansum(q * np.log(q), 1)
        return float(np.exp(entropy).mean()) - 0.3 * 40

    g = float(np.exp(brentq(perplexity, -15, 10, xtol=1e-12)))
    assert detector.stiffness_ == pytest.approx(g, rel=1e-5)
    np.testing.assert_allclose(
        detector.decision_function(new), soft_min(distances(new), g), rtol=1e-5
    )
    np.testing.assert_allclose(detector.decision_scores_, soft_min(others, g), rtol=1e-5)
    assert detector.threshold_ == pytest.approx(np.quantile(soft_min(others, g), 0.9), rel=1e-5)


def dense_blur(sigma: float, h: int, w: int) -> np.ndarray:
    """A Gaussian blur with zeros outside as a matrix ``(h w, h w)``."""
    reach = int(np.ceil(3 * sigma))

    def one(size: int) -> np.ndarray:
        at = np.arange(size)
        far = at[:, None] - at
        line = np.exp(-0.5 * (np.arange(-reach, reach + 1) / sigma) ** 2)
        return np.where(np.abs(far) <= reach, np.exp(-0.5 * (far / sigma) ** 2), 0) / line.sum()

    return np.kron(one(h), one(w))


def test_behind_a_blur_the_metric_rule_adds_up() -> None:
    x, new = pictures(9, side=6, channels=2), pictures(2, side=6, channels=2, seed=1)
    detector = D2Neighbors(blur=0.8, mean=(0.5, 0.4), std=(0.5, 0.25)).fit(x)
    scale = np.repeat([1 / 0.5, 1 / 0.25], 36)
    b = np.kron(np.eye(2), dense_blur(0.8, 6, 6)) * scale
    delta = new.reshape(2, 1, -1).astype(np.float64) - x.reshape(1, 9, -1)
    terms = delta * (delta @ b.T @ b)
    h, g = terms.sum(2), detector.stiffness_
    np.testing.assert_allclose(h, ((delta @ b.T) ** 2).sum(2), rtol=1e-10)
    score = soft_min(h, g)
    p = np.exp(-g * (h - h.min(1, keepdims=True)))
    p /= p.sum(1, keepdims=True)
    expected = np.einsum("nm,nmd->nd", p * score[:, None] / h, terms)
    part = neuralize(detector, dtype=torch.float64).relevance(torch.from_numpy(new).double())
    np.testing.assert_allclose(part.evidence.numpy(), score, rtol=1e-5)
    scale = np.abs(expected).max()
    np.testing.assert_allclose(part.values.flatten(1).numpy(), expected, atol=1e-4 * scale)
    np.testing.assert_allclose(part.values.sum((1, 2, 3)).numpy(), score, rtol=1e-5)
    assert not part.absorbed


@pytest.mark.parametrize("split", ["euler", "all"])
@pytest.mark.parametrize("p", [1, 2, 4])
def test_on_features_it_conserves(p: int, split: str) -> None:
    detector = D2Neighbors(
        p=p,
        backbone=backbone(),
        layers=["layer1", "layer2"],
        split=split,  # type: ignore[arg-type]
    ).fit(pictures())
    x = torch.from_numpy(pictures(2, seed=3)).double()
    part = neuralize(detector, dtype=torch.float64).relevance(x)
    total = part.values.sum((1, 2, 3)) + sum(part.absorbed.values())
    torch.testing.assert_close(total, part.evidence, rtol=1e-9, atol=0)
    assert ("bank" in part.absorbed) == (split == "euler")


def test_an_encoders_own_output_can_be_compared() -> None:
    encoder = torch.nn.Sequential(torch.nn.Linear(6, 3), torch.nn.ReLU()).eval()
    x = np.random.default_rng(0).normal(size=(30, 6)).astype(np.float32)
    detector = D2Neighbors(backbone=encoder).fit(x)
    with torch.no_grad():
        features = encoder(torch.from_numpy(x)).numpy()
    same = D2Neighbors().fit(features)
    assert detector.stiffness_ == pytest.approx(same.stiffness_, rel=1e-6)
    np.testing.assert_allclose(
        detector.decision_function(x), same.decision_function(features), rtol=1e-5
    )


def test_blocks_do_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    x = np.random.default_rng(0).normal(size=(30, 6))
    net = neuralize(D2Neighbors().fit(x), dtype=torch.float64)
    rows = torch.from_numpy(x[:4] + 0.1)
    whole = net.relevance(rows)
    monkeypatch.setattr(bank_distances, "PAIR_NUMBERS", 50)
    parts = net.relevance(rows)
    torch.testing.assert_close(parts.values, whole.values, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(parts.evidence, whole.evidence, rtol=1e-12, atol=0)


def test_what_coincides_with_a_training_row_is_absorbed() -> None:
    x = np.random.default_rng(0).normal(size=(30, 6)).astype(np.float32)
    detector = D2Neighbors().fit(x)
    part = neuralize(detector).relevance(torch.from_numpy(x[:1]))
    h = ((x[:1].astype(np.float64) - x) ** 2).sum(1)
    p = np.exp(-detector.stiffness_ * h)
    share = float(p[0] / p.sum() * part.evidence[0])
    assert float(part.absorbed["coincident support points"][0]) == pytest.approx(share, rel=1e-4)
    assert torch.isfinite(part.values).all()


@pytest.mark.parametrize("options", [{}, {"blur": 1.0}, {"backbone": True}, {"p": 4}])
def test_saved_and_loaded(options: dict[str, Any], tmp_path: Path) -> None:
    network = backbone() if "backbone" in options else None
    if network is not None:
        options = {"backbone": network, "layers": ["layer1"]}
    detector = D2Neighbors(mean=(0.5,) * 3, std=(0.5,) * 3, **options).fit(pictures())
    path = detector.save(tmp_path / "d2.safetensors")
    again = load_detector(path, network=network)
    new = pictures(2, seed=3)
    np.testing.assert_array_equal(again.decision_function(new), detector.decision_function(new))
    assert isinstance(again, D2Neighbors) and again.stiffness_ == detector.stiffness_
    if network is not None:
        with pytest.raises(InputError, match="network="):
            load_detector(path)


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"p": 3}, "p 1, 2 or 4"),
        ({"split": "half"}, "split"),
        ({"perplexity": 1.5}, "perplexity"),
        ({"blur": 1.0, "p": 4}, "blur"),
        ({"blur": -1.0}, "blur"),
        ({"layers": ["layer1"]}, "backbone"),
        ({"mean": (0.5,), "std": (0.5,)}, "rows of shape"),
    ],
)
def test_bad_options_are_refused(options: dict[str, Any], match: str) -> None:
    with pytest.raises(InputError, match=match):
        D2Neighbors(**options).fit(pictures(5))


def test_rows_that_do_not_differ_are_refused() -> None:
    with pytest.raises(InputError, match="differ"):
        D2Neighbors().fit(np.ones((5, 3)))
    with pytest.raises(InputError, match="at least 3"):
        D2Neighbors().fit(np.eye(2))
    with pytest.raises(InputError, match="blur"):
        D2Neighbors(blur=1.0).fit(np.eye(5))
