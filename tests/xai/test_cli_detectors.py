"""The command line on deep detectors: this package's own checkpoints, and those of others."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import typer
from click.testing import Result
from sklearn.datasets import load_wine
from typer.testing import CliRunner

import xai
from neuralize.deep import DeepSVDD, Ensemble, Training, import_detector, load_detector
from tests.neuralize.deep import foreign
from xai.cli import app
from xai.cli_given import given
from xai.datasets import fashion_mnist
from xai.model_files import read_model

WINE = load_wine(as_frame=True).data
SHORT = Training(epochs=2, progress=False)


def run(*args: Any) -> Result:
    return CliRunner().invoke(app, [str(arg) for arg in args])


def document(*args: Any) -> dict[str, Any]:
    result = run(*args, "--json")
    assert result.exit_code in (0, 1), result.output
    return json.loads(result.stdout)  # type: ignore[no-any-return]


def refused(*args: Any) -> str:
    result = run(*args)
    assert result.exit_code == 2
    assert result.stdout == ""
    assert "Traceback" not in result.stderr
    return result.stderr


@pytest.fixture
def clothes(tmp_path: Path) -> Path:
    np.save(tmp_path / "clothes.npy", fashion_mnist().images[:6])
    return tmp_path / "clothes.npy"


@pytest.fixture
def sad(tmp_path: Path) -> Path:
    """A ``model.tar`` of Deep-SAD-PyTorch."""
    network = foreign.mnist_lenet()
    content = {"c": [0.1] * 32, "net_dict": network.state_dict(), "ae_net_dict": None}
    torch.save(content, tmp_path / "model.tar")
    return tmp_path / "model.tar"


def own_table(folder: Path) -> tuple[Path, Path]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        detector = DeepSVDD(training=SHORT).fit(WINE)
    WINE.to_csv(folder / "wine.csv", index=False)
    return detector.save(folder / "own.safetensors"), folder / "wine.csv"


def test_the_manifest_is_enough_for_our_own(tmp_path: Path) -> None:
    model, data = own_table(tmp_path)
    detector = load_detector(model)
    expected = xai.explain(detector, WINE[:3])
    for path in (model, model.with_suffix(".json")):
        found = document("explain", path, "--data", data, "--rows", "0:3", "--dtype", "float32")
        values = np.array([row["relevance"] for row in found["rows"]])
        np.testing.assert_allclose(values, expected.values, rtol=1e-4, atol=1e-4)
        assert found["feature_names"][0] == "alcohol"
    turned = WINE[list(WINE.columns[::-1])]
    turned.to_csv(tmp_path / "turned.csv", index=False)
    same = document("explain", model, "--data", tmp_path / "turned.csv", "--rows", "0:3",
                    "--dtype", "float32")  # fmt: skip
    assert same["rows"][0]["evidence"] == pytest.approx(found["rows"][0]["evidence"])


def test_pictures_with_and_without_channel_or_flattened(
    tmp_path: Path, sad: Path, clothes: Path
) -> None:
    x = np.load(clothes)
    detector = import_detector(sad, input_shape=(28, 28))
    scores = detector.decision_function(x)
    np.save(tmp_path / "one.npy", x[:, None])
    np.save(tmp_path / "flat.npy", x.reshape(len(x), -1))
    for name, options in (
        ("clothes", []), ("one", []), ("flat", []), ("flat", ["--image", "28x28"]),
    ):  # fmt: skip
        found = document("explain", sad, "--data", tmp_path / f"{name}.npy", *options)
        np.testing.assert_allclose([row["evidence"] for row in found["rows"]], scores, rtol=1e-4)


def test_colours_come_last_or_first(tmp_path: Path) -> None:
    network = foreign.cifar10_lenet()
    content = {"c": [0.1] * 128, "R": 0.0, "net_dict": network.state_dict()}
    torch.save(content, tmp_path / "model.tar")
    x = np.random.default_rng(0).random((3, 3, 32, 32), dtype=np.float32)
    np.save(tmp_path / "first.npy", x)
    np.save(tmp_path / "last.npy", np.moveaxis(x, 1, -1))
    np.save(tmp_path / "flat.npy", np.moveaxis(x, 1, -1).reshape(3, -1))
    scores = import_detector(tmp_path / "model.tar", contrast="cifar10:3").decision_function(x)
    for name, options in (("first", []), ("last", []), ("flat", ["--image", "32x32x3"])):
        found = document("explain", tmp_path / "model.tar", "--data", tmp_path / f"{name}.npy",
                         "--given", "contrast=cifar10:3", *options)  # fmt: skip
        np.testing.assert_allclose([row["evidence"] for row in found["rows"]], scores, rtol=1e-4)


def test_what_is_given_reaches_the_reader(sad: Path, clothes: Path) -> None:
    found = document("explain", sad, "--data", clothes, "--given", "threshold=3.5",
                     "--given", "normalize=0.28:0.35", "--output", "margin")  # fmt: skip
    detector = import_detector(sad, threshold=3.5, normalize=(0.28, 0.35), input_shape=(28, 28))
    scores = detector.decision_function(np.load(clothes))
    np.testing.assert_allclose([row["evidence"] for row in found["rows"]], scores - 3.5, rtol=1e-4)


def test_figures_of_an_explanation(tmp_path: Path, sad: Path, clothes: Path) -> None:
    assert run("explain", sad, "--data", clothes, "--out", tmp_path / "out").exit_code == 0
    loaded = xai.Relevance.load(tmp_path / "out" / "relevance.npz")
    assert loaded.values.shape == (6, 1, 28, 28)
    assert (tmp_path / "out" / "relevance.png").stat().st_size > 1000


def test_audits(tmp_path: Path, sad: Path) -> None:
    np.save(tmp_path / "x.npy", fashion_mnist().images[:40])
    found = document("audit", sad, "--data", tmp_path / "x.npy")
    assert "DeepSAD" in found["title"]
    model, data = own_table(tmp_path)
    result = run("audit", model, "--data", data, "--out", tmp_path / "report.html")
    assert result.exit_code in (0, 1), result.output
    assert "DeepSVDD" in (tmp_path / "report.html").read_text()


# -- refusals -----------------------------------------------------------------------------------


def test_code_needs_trust(tmp_path: Path, clothes: Path) -> None:
    network = foreign.mnist_lenet()
    content = {"c": [0.1] * 32, "net_dict": network.state_dict(), "more": Path("somewhere")}
    torch.save(content, tmp_path / "model.tar")
    out = tmp_path / "out.npz"
    arguments = ("explain", tmp_path / "model.tar", "--data", clothes, "--out", out)
    assert "--trust" in refused(*arguments)
    assert not out.exists()
    assert run(*arguments, "--trust").exit_code == 0


def test_damaged_and_wrong_files(tmp_path: Path, sad: Path, clothes: Path) -> None:
    cut = tmp_path / "cut.pt"
    cut.write_bytes(sad.read_bytes()[:5000])
    assert "cut.pt" in refused("explain", cut, "--data", clothes)
    assert "No such file" in refused("explain", tmp_path / "no.ckpt", "--data", clothes)
    torch.save(foreign.mnist_lenet().state_dict(), tmp_path / "bare.pt")
    assert "bare state dict" in refused("explain", tmp_path / "bare.pt", "--data", clothes)
    model, data = own_table(tmp_path)
    model.with_suffix(".json").rename(tmp_path / "elsewhere.json")
    assert "move both" in refused("explain", model, "--data", data)


def test_rows_and_options_that_do_not_fit(tmp_path: Path, sad: Path, clothes: Path) -> None:
    np.save(tmp_path / "small.npy", np.zeros((2, 9, 9)))
    assert "(1, 28, 28)" in refused("explain", sad, "--data", tmp_path / "small.npy")
    assert "no use for center" in refused("explain", sad, "--data", clothes, "--given", "center=1")
    assert "no threshold" in refused("explain", sad, "--data", clothes, "--output", "margin")
    model, data = own_table(tmp_path)
    assert "--given" in refused("explain", model, "--data", data, "--given", "threshold=1")


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("input_shape=28x28", (28, 28)),
        ("normalize=imagenet", "imagenet"),
        ("normalize=-1:2", (-1.0, 2.0)),
        ("contrast=-0.8:9.5", (-0.8, 9.5)),
        ("contrast=cifar10:0", "cifar10:0"),
        ("center=1,2,3", (1.0, 2.0, 3.0)),
        ("layers=layer2, layer3", ("layer2", "layer3")),
        ("neighbors=9", 9),
    ],
)
def test_values_of_given(text: str, value: Any) -> None:
    assert given(text) == (text.partition("=")[0], value)


@pytest.mark.parametrize(
    "text", ["", "threshold", "threshold=", "who=1", "threshold=high", "normalize=1", "contrast=a",
             "input_shape=a", "neighbors=1.5"],
)  # fmt: skip
def test_values_of_another_form(text: str) -> None:
    with pytest.raises(typer.BadParameter, match="expected"):
        given(text)


def test_an_old_torch_file_is_no_pickle_to_be_trusted(tmp_path: Path, sad: Path) -> None:
    content = torch.load(sad, weights_only=True)
    torch.save(content, tmp_path / "old.tar", _use_new_zipfile_serialization=False)
    assert type(read_model(tmp_path / "old.tar").model).__name__ == "DeepSAD"


def test_an_ensemble_is_a_folder(tmp_path: Path) -> None:
    members = [DeepSVDD(training=Training(epochs=2, seed=seed, progress=False)) for seed in (0, 1)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        ensemble = Ensemble({"a": members[0], "b": members[1]}).fit(WINE.to_numpy())
    ensemble.save(tmp_path / "both")
    WINE.to_csv(tmp_path / "wine.csv", index=False)
    found = document("explain", tmp_path / "both", "--data", tmp_path / "wine.csv", "--rows", "0:4")
    scores = ensemble.decision_function(WINE.to_numpy()[:4])
    np.testing.assert_allclose([row["evidence"] for row in found["rows"]], scores, rtol=1e-4,
                               atol=1e-4)  # fmt: skip
