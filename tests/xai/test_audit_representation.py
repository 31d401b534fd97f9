"""A collapsed network is named from its checkpoint and data, whatever its AUROC."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score
from torch import Tensor, nn

from neuralize.deep import DeepSVDD, Training, load_detector
from tests.neuralize.deep.test_collapse import collapsing, dense, one_class
from xai.audit import Audit
from xai.datasets import fashion_mnist

TITLE = "The representation has collapsed: the network answers everything alike."


def report(model, data, seed=0):
    return Audit(model, data, checks=["collapse"], progress=False, seed=seed).run()


def test_a_collapsed_checkpoint_is_named_although_its_auroc_looks_fine(tmp_path: Path) -> None:
    x, held, abnormal = one_class("digits", 0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        path = collapsing(64, 1).fit(x).save(tmp_path / "svdd.safetensors")
    again = load_detector(path, network=dense(64, True, 0))
    assert roc_auc_score(abnormal, again.decision_function(held)) > 0.9
    for data in (x, held):
        (finding,) = [f for f in report(again, data).findings if f.title == TITLE]
        assert finding.severity == "critical" and finding.measure.value < 1e-9
        assert "the centre is zero" in finding.explanation
        assert "network.4 (Linear) has a bias" in finding.explanation


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("name", ["wine", "breast_cancer", "digits"])
def test_healthy_detectors_pass(name: str, seed: int) -> None:
    x, held, _ = one_class(name, 1)
    model = DeepSVDD(training=Training(20, 64, 1e-2, seed=seed, progress=False)).fit(x)
    for data in (x, held):
        answers = report(model, data, seed)
        assert TITLE not in [finding.title for finding in answers.findings]
        assert "response to scrambled rows" in " ".join(str(p.measure) for p in answers.passed)


def test_pictures_keep_their_shape() -> None:
    images = fashion_mnist("test", classes=["Bag"]).images[:40]
    model = DeepSVDD(training=Training(epochs=1, progress=False)).fit(images)
    answers = Audit(model, images, progress=False).run()
    assert TITLE not in [finding.title for finding in answers.findings]
    assert "response to scrambled rows" in " ".join(str(p.measure) for p in answers.passed)


def test_layers_without_fresh_weights_are_not_assessable() -> None:
    class Scale(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.ones(3))

        def forward(self, x: Tensor) -> Tensor:
            return x * self.weight

    x = np.random.default_rng(0).normal(size=(60, 3))
    model = DeepSVDD(network=Scale(), training=Training(2, progress=False)).fit(x)
    answers = report(model, x)
    assert any("fresh weights" in str(answer) for answer in answers.not_assessable)
