"""``xai audit --fix``: a new checkpoint beside an old one that keeps its bytes."""

from __future__ import annotations

import json

import numpy as np
import pytest
import skops.io
import torch
from safetensors.torch import load_file, save_file
from sklearn.cluster import KMeans
from torch import nn
from typer.testing import CliRunner

from tests.xai.test_fix import pictures, table
from xai.cli import app


def run(*args):
    return CliRunner().invoke(app, ["audit", *map(str, args)])


@pytest.fixture
def grouped(tmp_path):
    """A clustering by site, and a table with label and site."""
    import pandas as pd

    x, label, site = table()
    names = [f"x{i}" for i in range(x.shape[1])]
    frame = pd.DataFrame(x, columns=names)
    model = KMeans(2, n_init=3, random_state=0).fit(frame)
    skops.io.dump(model, tmp_path / "model.skops")
    frame.assign(grape=label, site=site).to_csv(tmp_path / "rows.csv", index=False)
    return tmp_path


def test_a_repaired_model_is_written_and_the_old_one_kept(grouped):
    model, data, new = grouped / "model.skops", grouped / "rows.csv", grouped / "new.safetensors"
    before = model.read_bytes()
    asked = (model, "--data", data, "--labels", "grape", "--groups", "site", "--check", "groups")
    assert run(*asked).exit_code == 1 and not new.exists()
    found = run(*asked, "--fix", new, "--out", grouped / "report.json")
    assert found.exit_code == 0, found.output
    assert "Repaired: no objection is left" in found.output
    assert model.read_bytes() == before
    manifest = json.loads((grouped / "new.json").read_text())
    assert manifest["kind"] == "repaired model" and manifest["original"]["name"] == "model.skops"
    assert [r["kind"] for r in manifest["repairs"]] == ["projection"]
    assert not list(grouped.glob(".*"))
    report = json.loads((grouped / "report.json").read_text())
    assert report["sections"][-1]["title"] == "Repairs"
    # the new file is a model like any other, and the audit has nothing to object to
    again = run(new, *asked[1:])
    assert again.exit_code == 0, again.output


def test_rows_to_fit_on_are_given(grouped):
    """A table with the same columns in another order, no labels, and sites that are no numbers."""
    import pandas as pd

    x, _label, site = table(500, seed=1)
    frame = pd.DataFrame(x, columns=[f"x{i}" for i in range(x.shape[1])])
    frame[frame.columns[::-1]].assign(site=site).to_csv(grouped / "fit.csv", index=False)
    asked = (
        grouped / "model.skops", "--data", grouped / "rows.csv", "--labels", "grape",
        "--groups", "site", "--check", "groups", "--fit-on", grouped / "fit.csv",
    )  # fmt: skip
    found = run(*asked, "--fix", grouped / "new.json")
    assert found.exit_code == 0, found.output
    assert "Fitted again on the 500 rows given for it." in found.output
    refused = run(*asked)
    assert refused.exit_code == 2 and "--fix was not given" in refused.output
    frame.iloc[:, :3].to_csv(grouped / "fit.csv", index=False)
    refused = run(*asked, "--fix", grouped / "newer.json")  # before the audit, not after
    assert refused.exit_code == 2 and "does not have" in refused.output
    assert not (grouped / "newer.json").exists()


def test_the_target_is_checked_before_the_audit(grouped):
    model, data = grouped / "model.skops", grouped / "rows.csv"
    (grouped / "there.json").write_text("{}")
    for target, message in (
        ("model.skops", "ending in"),
        ("there.safetensors", "Already there"),
        ("nowhere/new.json", "existing folder"),
    ):
        found = run(model, "--data", data, "--drop", "grape", "--drop", "site",
                    "--fix", grouped / target)  # fmt: skip
        assert found.exit_code == 2 and message in found.output
    assert (grouped / "there.json").read_text() == "{}"


def test_a_detectors_own_name_is_refused(tmp_path):
    from neuralize.deep import D2Neighbors

    x, _, _ = pictures(80)
    D2Neighbors().fit(x.astype(np.float32)).save(tmp_path / "old.safetensors")
    np.save(tmp_path / "x.npy", x.astype(np.float32))
    for name in ("old.json", "old.safetensors"):
        found = run(tmp_path / "old.safetensors", "--data", tmp_path / "x.npy",
                    "--fix", tmp_path / name, "--overwrite")  # fmt: skip
        assert found.exit_code == 2 and "never written to" in found.output


def test_what_cannot_be_repaired_is_said_and_nothing_written(grouped):
    """Clusters without rows are a finding that names no suspect."""
    model = KMeans(2, n_init=1).fit(np.array([[0.0] * 6, [1e6] * 6]))
    skops.io.dump(model, grouped / "far.skops")
    found = run(
        grouped / "far.skops", "--data", grouped / "rows.csv", "--drop", "grape", "--drop", "site",
        "--check", "collapse", "--fix", grouped / "new.json",
    )  # fmt: skip
    assert found.exit_code == 1 and "Not repaired" in found.output
    assert not (grouped / "new.json").exists()


def test_without_findings_nothing_is_written(grouped):
    found = run(
        grouped / "model.skops", "--data", grouped / "rows.csv", "--drop", "grape", "--drop",
        "site", "--check", "conservation", "--fix", grouped / "new.json",
    )  # fmt: skip
    assert found.exit_code == 0 and "Nothing to repair" in found.output
    assert not (grouped / "new.json").exists()


def tiny():
    """An encoder of the user's own, for ``--arch tests.xai.test_cli_fix:tiny``."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 6, 3, padding=1), nn.ReLU(), nn.AvgPool2d(2), nn.Flatten(),
        nn.Linear(150, 20), nn.ReLU(),
    )  # fmt: skip


@pytest.mark.filterwarnings("ignore::neuralize.errors.AmplificationWarning")
def test_an_encoder_gets_its_head_again(tmp_path):
    """The new checkpoint reads the encoder's weights from the old one, and holds none of them."""
    x, _, _ = pictures(400)
    save_file(dict(tiny().state_dict()), tmp_path / "net.safetensors")
    np.savez(tmp_path / "x.npz", x=x.astype(np.float32)[:, None] / 3)
    before = (tmp_path / "net.safetensors").read_bytes()
    found = run(
        tmp_path / "net.safetensors", "--arch", "tests.xai.test_cli_fix:tiny", "--trust",
        "--head", "kmeans:2", "--data", tmp_path / "x.npz", "--check", "placement",
        "--fix", tmp_path / "new.json",
    )  # fmt: skip
    assert found.exit_code == 0, found.output
    assert "Repaired" in found.output
    assert (tmp_path / "net.safetensors").read_bytes() == before
    manifest = json.loads((tmp_path / "new.json").read_text())
    assert manifest["original"]["reading"] == {"arch": "tests.xai.test_cli_fix:tiny"}
    assert not set(load_file(tmp_path / "new.safetensors")) & set(tiny().state_dict())
    again = run(tmp_path / "new.json", "--trust", "--data", tmp_path / "x.npz",
                "--check", "collapse")  # fmt: skip
    assert again.exit_code == 0, again.output
    refused = run(tmp_path / "new.json", "--data", tmp_path / "x.npz")
    assert refused.exit_code == 2 and "--trust" in refused.output
