"""Deep detectors at the end of a pipeline, and on an encoder's features."""

from __future__ import annotations

import numpy as np
import torch
from sklearn.feature_selection import VarianceThreshold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import MinMaxScaler, StandardScaler
from torch import nn

from neuralize import neuralize
from neuralize.deep import DeepSVDD, Training

SHORT = Training(epochs=3, batch_size=32, progress=False)


def rows(n: int = 90, d: int = 5) -> np.ndarray:
    scale = np.array([1.0, 50.0, 0.02, 7.0, 3.0])[:d]
    return (np.random.default_rng(0).normal(size=(n, d)) * scale + 11).astype(np.float32)


def svdd() -> DeepSVDD:
    return DeepSVDD(preprocessing=None, training=SHORT)


def test_a_pipeline_s_steps_come_before_the_detector() -> None:
    x = rows()
    pipeline = make_pipeline(StandardScaler(), MinMaxScaler((-1, 2)), svdd()).fit(x)
    net = neuralize(pipeline)
    np.testing.assert_allclose(
        net(torch.from_numpy(x)).numpy(), pipeline.decision_function(x), rtol=1e-4
    )
    assert net.predict(torch.from_numpy(x)).numpy().sum() == pipeline.predict(x).sum()
    # scalers hand relevance on: it is that of the detector at what they make of the rows
    inner = neuralize(pipeline[-1]).relevance(torch.from_numpy(pipeline[:-1].transform(x)))
    found = net.relevance(torch.from_numpy(x))
    torch.testing.assert_close(found.values, inner.values, rtol=1e-3, atol=1e-6)
    total = found.values.sum(1) + sum(found.absorbed.values())
    torch.testing.assert_close(total, found.evidence, rtol=1e-4, atol=1e-6)


def test_a_column_that_is_dropped_before_the_detector_gets_nothing() -> None:
    x = rows()
    x[:, 1] = 4
    pipeline = make_pipeline(VarianceThreshold(), svdd()).fit(x)
    found = neuralize(pipeline, dtype=torch.float64).relevance(torch.from_numpy(x))
    assert found.values.shape == x.shape
    assert not found.values[:, 1].any()
    assert found.values[:, 2].any()


def test_relevance_goes_through_an_encoder_below_the_detector() -> None:
    torch.manual_seed(0)
    encoder = nn.Sequential(nn.Conv2d(1, 3, 3), nn.ReLU(), nn.Flatten(), nn.Linear(48, 5)).double()
    encoder[3].weight.data.abs_()  # nothing cancels, so LRP-0 stays readable
    pictures = torch.randn(40, 1, 6, 6, dtype=torch.float64)
    with torch.no_grad():
        phi = encoder(pictures)
    detector = DeepSVDD(training=SHORT).fit(phi)
    head = neuralize(detector, dtype=torch.float64)
    net = neuralize(detector, encoder, dtype=torch.float64)
    torch.testing.assert_close(net(pictures), head(phi))
    found = net.relevance(pictures, composite="epsilon_plus")
    assert found.values.shape == pictures.shape
    total = found.values.flatten(1).sum(1) + sum(found.absorbed.values())
    torch.testing.assert_close(total, found.evidence, rtol=1e-9, atol=1e-9)
    # what reaches the features is the head's own relevance; the rest is the encoder's biases
    own = sum(share for name, share in found.absorbed.items() if not name.startswith("encoder"))
    before = head.relevance(phi)
    torch.testing.assert_close(own, sum(before.absorbed.values()))
    assert any(name.startswith("encoder") for name in found.absorbed)
    margin = net.relevance(pictures, output="margin")
    torch.testing.assert_close(margin.evidence, found.evidence - detector.threshold_)
