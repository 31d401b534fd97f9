"""What all deep detectors share: shapes checked, files, resuming, losses that blow up."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.base import clone
from torch import nn

from neuralize import InputError, UnfittedModelError, neuralize
from neuralize.deep import DeepSVDD, Training, load_detector
from neuralize.deep.networks import Architecture
from neuralize.deep.training import Batches, Objective, train
from neuralize.errors import CheckpointError, TrainingError, TrainingWarning

SHORT = Training(epochs=3, batch_size=32, progress=False)


def rows(n: int = 90, d: int = 5) -> np.ndarray:
    return np.random.default_rng(0).normal(size=(n, d)).astype(np.float32)


def test_saved_and_loaded_scores_are_the_same(tmp_path: Path) -> None:
    frame = pd.DataFrame(rows(), columns=list("abcde"))
    detector = DeepSVDD(training=SHORT).fit(frame)
    path = detector.save(tmp_path / "svdd.safetensors")
    again = load_detector(path)
    np.testing.assert_array_equal(again.decision_function(frame), detector.decision_function(frame))
    assert again.threshold_ == detector.threshold_
    assert list(again.feature_names_in_) == list("abcde")
    assert again.get_params()["training"].epochs == 3
    manifest = json.loads((tmp_path / "svdd.json").read_text())
    assert manifest["config"]["network"]["kind"] == "mlp"
    assert set(manifest["versions"]) >= {"torch", "unsupervised-xai"}
    assert sorted(p.name for p in tmp_path.iterdir()) == ["svdd.json", "svdd.safetensors"]


def test_a_network_of_ones_own_is_asked_for_when_loading(tmp_path: Path) -> None:
    network = nn.Sequential(
        nn.Linear(5, 4, bias=False), nn.LeakyReLU(), nn.Linear(4, 3, bias=False)
    )
    detector = DeepSVDD(network=network, training=SHORT).fit(rows())
    path = detector.save(tmp_path / "own.safetensors")
    with pytest.raises(InputError, match="network="):
        load_detector(path)
    again = load_detector(path, network=network)
    np.testing.assert_array_equal(
        again.decision_function(rows()), detector.decision_function(rows())
    )


def damaged(change: Any) -> Any:
    return pytest.param(change, id=change.__name__)


def truncated(folder: Path) -> None:
    file = folder / "svdd.safetensors"
    file.write_bytes(file.read_bytes()[:-7])


def manifest_missing(folder: Path) -> None:
    (folder / "svdd.json").unlink()


def manifest_of_something_else(folder: Path) -> None:
    (folder / "svdd.json").write_text('{"detector": 3}')


def unknown_detector(folder: Path) -> None:
    file = folder / "svdd.json"
    file.write_text(file.read_text().replace('"DeepSVDD"', '"Oracle"', 1))


def other_architecture(folder: Path) -> None:
    file = folder / "svdd.json"
    manifest = json.loads(file.read_text())
    manifest["config"]["network"]["dense"] = [7, 16]
    file.write_text(json.dumps(manifest))


@pytest.mark.parametrize(
    "change",
    [damaged(c) for c in (truncated, manifest_missing, manifest_of_something_else,
                          unknown_detector, other_architecture)],
)  # fmt: skip
def test_damaged_checkpoints_are_refused(tmp_path: Path, change: Any) -> None:
    path = DeepSVDD(training=SHORT).fit(rows()).save(tmp_path / "svdd.safetensors")
    change(tmp_path)
    with pytest.raises(CheckpointError):
        load_detector(path)


def test_misfitting_keys_are_counted_and_named(tmp_path: Path) -> None:
    path = DeepSVDD(training=SHORT).fit(rows()).save(tmp_path / "svdd.safetensors")
    other_architecture(tmp_path)
    with pytest.raises(CheckpointError, match=r"other shapes \(network.dense.0.weight"):
        load_detector(path)


def test_nothing_is_written_where_it_cannot_be(tmp_path: Path) -> None:
    detector = DeepSVDD(training=SHORT).fit(rows())
    for name in ("svdd.pt", "missing/svdd.safetensors"):
        with pytest.raises(CheckpointError):
            detector.save(tmp_path / name)
    assert not list(tmp_path.iterdir())
    with pytest.raises(UnfittedModelError):
        DeepSVDD().save(tmp_path / "svdd.safetensors")


def test_resumed_training_is_the_training_in_one_go(tmp_path: Path) -> None:
    whole = DeepSVDD(training=SHORT).fit(rows())
    folder = str(tmp_path / "state")
    DeepSVDD(training=Training(epochs=1, batch_size=32, checkpoint=folder)).fit(rows())
    resumed = DeepSVDD(training=Training(epochs=3, batch_size=32, checkpoint=folder)).fit(rows())
    np.testing.assert_array_equal(
        resumed.decision_function(rows()), whole.decision_function(rows())
    )
    assert len(resumed.history_["DeepSVDD"]) == 3


def test_a_foreign_checkpoint_does_not_start_a_training(tmp_path: Path) -> None:
    folder = str(tmp_path / "state")
    DeepSVDD(training=Training(epochs=1, checkpoint=folder)).fit(rows())
    with pytest.raises(TrainingError, match="Cannot go on"):
        DeepSVDD(rep_dim=3, training=Training(epochs=2, checkpoint=folder)).fit(rows())


class Explodes(Objective):
    """Finite until an epoch, and NaN from then on."""

    def __init__(self, after: int) -> None:
        super().__init__()
        self.epoch, self.after = 0, after

    def end_of_epoch(self, epoch: int) -> None:
        self.epoch = epoch + 1

    def forward(self, outputs: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return outputs.square().mean() * (float("nan") if self.epoch >= self.after else 1.0)


def test_a_loss_that_explodes_stops_with_the_last_good_weights() -> None:
    x = torch.from_numpy(rows())
    torch.manual_seed(0)
    expected, module = nn.Linear(5, 2), nn.Linear(5, 2)
    module.load_state_dict(expected.state_dict())
    train(expected, Explodes(99), Batches(x, x), Training(epochs=2))
    with pytest.warns(TrainingWarning, match="in epoch 3"):
        losses = train(module, Explodes(2), Batches(x, x), Training(epochs=9))
    assert len(losses) == 2
    torch.testing.assert_close(module.weight, expected.weight)
    with pytest.raises(TrainingError, match="first epoch"):
        train(module, Explodes(0), Batches(x, x), Training(epochs=9))


def test_training_stops_early_when_nothing_improves() -> None:
    x = torch.from_numpy(rows())
    losses = train(
        nn.Linear(5, 2), Explodes(999), Batches(x, x), Training(epochs=50, lr=1e-12, patience=3)
    )
    assert len(losses) < 50


def test_fitting_leaves_the_random_state_alone_and_repeats() -> None:
    torch.manual_seed(5)
    before = torch.get_rng_state()
    one = DeepSVDD(training=SHORT).fit(rows())
    assert torch.equal(torch.get_rng_state(), before)
    other = clone(one).fit(rows())
    np.testing.assert_array_equal(one.decision_function(rows()), other.decision_function(rows()))
    seed = Training(epochs=3, batch_size=32, seed=1)
    other = DeepSVDD(training=seed).fit(rows())
    assert np.abs(one.decision_function(rows()) - other.decision_function(rows())).max() > 0


@pytest.mark.parametrize(
    ("x", "what"),
    [
        (np.full((5, 3), np.nan), "finite"),
        (np.zeros((1, 3)), "at least 2 rows"),
        (np.zeros(4), "at least one row"),
        (np.zeros((4, 2, 2, 2, 2)), "Expected rows"),
        ([["a", "b"]], "numbers"),
    ],
)
def test_bad_rows_are_refused(x: Any, what: str) -> None:
    with pytest.raises(InputError, match=what):
        DeepSVDD(training=SHORT).fit(x)


def test_rows_of_another_shape_are_refused_by_model_and_network() -> None:
    detector = DeepSVDD(training=SHORT).fit(rows())
    with pytest.raises(InputError, match=r"\(5,\)"):
        detector.decision_function(rows(d=4))
    with pytest.raises(InputError, match=r"\(5,\)"):
        neuralize(detector).relevance(torch.zeros(2, 4))
    with pytest.raises(UnfittedModelError):
        neuralize(DeepSVDD())


def test_batches_are_half_outliers_even_when_there_is_one() -> None:
    x = torch.arange(20.0)[:, None]
    data = Batches(x, x, outliers=torch.arange(20) == 19)
    batches = data.orders(8)
    seen = torch.cat([b[: len(b) // 2] for b in batches])
    assert sorted(seen.tolist()) == list(range(19))
    assert all((b[len(b) // 2 :] == 19).all() and len(b) % 2 == 0 for b in batches)


def test_architectures_are_json() -> None:
    plan = Architecture(kind="lenet", input_shape=(1, 12, 12), channels=(2, 3), rep_dim=4)
    assert Architecture(**json.loads(plan.model_dump_json())) == plan
    x = torch.zeros(2, 1, 12, 12)
    assert plan.build()(x).shape == (2, 4)
    assert plan.decoder()(torch.zeros(2, 4)).shape == x.shape


def test_an_architecture_of_ones_own_is_stored_with_both_trainings(tmp_path: Path) -> None:
    plan = Architecture(kind="mlp", input_shape=(5,), dense=(7,), rep_dim=3)
    model = DeepSVDD(network=plan, pretraining=SHORT, training=SHORT).fit(rows())
    again = load_detector(model.save(tmp_path / "svdd.safetensors"))
    stored = Training(epochs=3, batch_size=32)
    expected = {**model.get_params(), "training": stored, "pretraining": stored}
    assert again.get_params() == expected
    np.testing.assert_array_equal(again.decision_function(rows()), model.decision_function(rows()))
    with pytest.raises(InputError, match="architecture for rows of shape"):
        clone(model).fit(rows(d=4))


def test_columns_in_another_order_are_not_scored_as_if_they_were_in_theirs() -> None:
    frame = pd.DataFrame(rows(), columns=list("abcde"))
    detector = DeepSVDD(training=SHORT).fit(frame)
    with pytest.raises(InputError, match="in their order: a, b, c, d, e; got e, d, c, b, a"):
        detector.decision_function(frame[list("edcba")])
    plain = detector.decision_function(frame.to_numpy())
    np.testing.assert_array_equal(detector.decision_function(frame), plain)
