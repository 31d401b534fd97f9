"""``xai audit`` of encoders and on pictures: the report says what was fitted, on what, and how."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import skops.io
import torch
from PIL import Image
from safetensors.torch import save_file
from sklearn.cluster import KMeans
from sklearn.neighbors import KernelDensity
from typer.testing import CliRunner, Result

from xai.audit_inputs import Wanted, audit_subject
from xai.cli import app
from xai.cli_checkpoint import height_and_width, normalisation
from xai.encoder_heads import features_of
from xai.errors import InputError
from xai.pretrained import cifar_resnet20

RNG = np.random.default_rng(0)
QUICK = ("--check", "conservation", "--check", "collapse")


def run(*args: object) -> Result:
    return CliRunner().invoke(app, ["audit", *map(str, args)])


def report(result: Result) -> dict[str, Any]:
    assert result.exit_code in (0, 1), result.output
    found: dict[str, Any] = json.loads(result.stdout)
    return found


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "net.pt"
    torch.save(cifar_resnet20().state_dict(), path)
    return path


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Forty pictures of two colours in two sub-folders, of different sizes."""
    root = tmp_path_factory.mktemp("pictures")
    for i in range(40):
        kind = ("cats", "dogs")[i % 2]
        (root / kind).mkdir(exist_ok=True)
        pixels = RNG.integers(0, 120, (30 + i, 40, 3), dtype=np.uint8)
        pixels[..., 2 * (i % 2)] += 130
        Image.fromarray(pixels).save(root / kind / f"{i:02}.png")
    return root


def test_an_encoder_on_a_folder(tmp_path: Path, weights: Path, folder: Path) -> None:
    out = tmp_path / "report.html"
    args = (weights, "--arch", "cifar_resnet20", "--data", folder, "--labels", "folder")
    found = report(run(*args, "--head", "kmeans:2", "--out", out, "--json", *QUICK))
    assert "cifar_resnet20 with kmeans:2 on 20 rows of shape 3 x 32 x 32" in found["introduction"]
    assert "fitted on a random half of the rows (20, seed 0)" in found["introduction"]
    facts = found["provenance"]
    assert facts["architecture"] == "cifar_resnet20"
    assert "the classifier linear left out" in facts["features"]
    assert facts["head"].startswith("kmeans:2")
    assert "random half" in out.read_text()


def test_the_default_head_is_said_out_loud(weights: Path, folder: Path) -> None:
    args = (weights, "--arch", "cifar_resnet20", "--data", folder, "--json", *QUICK)
    found = report(run(*args))
    assert "kmeans:10" in found["introduction"]
    assert "no --head was given" in found["introduction"]


def test_halves_are_disjoint_and_the_audited_one_is_what_is_said(
    weights: Path, folder: Path
) -> None:
    wanted = Wanted(
        arch="cifar_resnet20", head="kmeans:2", labels="folder", groups="folder", rows=30, seed=4
    )
    subject = audit_subject(weights, folder, wanted)
    assert len(subject.x) == len(subject.labels) == len(subject.groups) == 15
    assert [name.split("/")[0] for name in subject.row_names] == subject.labels.tolist()
    everything = Wanted(arch="cifar_resnet20", head="kmeans:2", fit_on=folder)
    whole = audit_subject(weights, folder, everything)
    assert len(whole.x) == 40
    where = [whole.row_names.index(name) for name in subject.row_names]
    assert np.array_equal(whole.x[where], subject.x)
    assert "fitted on 40 rows of" in whole.facts["head"]
    # what the head was fitted on: the other fifteen of the thirty
    drawn = np.sort(np.random.default_rng(4).choice(40, 30, replace=False))
    fitted = np.setdiff1d(drawn, where)
    phi = features_of(cifar_resnet20(), whole.x[fitted])
    head = KMeans(2, n_init=4, random_state=4).fit(phi)
    mine = subject.net.predict(torch.from_numpy(subject.x)).numpy()
    assert np.array_equal(mine, head.predict(features_of(cifar_resnet20(), subject.x)))
    again = audit_subject(weights, folder, wanted)
    assert np.array_equal(again.x, subject.x)
    assert torch.equal(again.net(torch.from_numpy(again.x)), subject.net(torch.from_numpy(again.x)))


def test_labels_make_the_classes_of_similarity(weights: Path, folder: Path) -> None:
    wanted = Wanted(arch="cifar_resnet20", head="similarity", labels="folder")
    subject = audit_subject(weights, folder, wanted)
    classes = np.array(["cats", "dogs"])[subject.net.predict(torch.from_numpy(subject.x)).numpy()]
    assert (classes == subject.labels).mean() > 0.9
    other = Wanted(arch="cifar_resnet20", head="similarity", labels="folder", fit_on=folder)
    assert audit_subject(weights, folder, other).net.n_clusters == 2


@pytest.mark.parametrize("head", ["patchcore", "d2neighbors", "similarity:3"])
def test_every_head_is_audited(weights: Path, folder: Path, head: str) -> None:
    args = (weights, "--arch", "cifar_resnet20", "--data", folder, "--batch-size", 4)
    found = report(run(*args, "--head", head, "--json", "--check", "conservation"))
    assert head in found["introduction"]
    assert not any(a.get("severity") == "critical" for a in found["findings"])


def test_groups_by_file_name(tmp_path: Path, weights: Path, folder: Path) -> None:
    names = sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*.png"))
    table = pd.DataFrame({"scanner": [f"S{i % 3}" for i in range(40)], "file": names})
    table.sample(frac=1, random_state=0).to_csv(tmp_path / "sites.csv", index=False)
    spec = f"{tmp_path / 'sites.csv'}:scanner"
    wanted = Wanted(arch="cifar_resnet20", head="kmeans:2", groups=spec, rows=20)
    subject = audit_subject(weights, folder, wanted)
    place = table.set_index("file")["scanner"]
    assert subject.groups.tolist() == place[list(subject.row_names)].tolist()


def test_masks_by_file_name(tmp_path: Path, weights: Path, folder: Path) -> None:
    for i in range(40):
        path = tmp_path / "masks" / ("cats", "dogs")[i % 2] / f"{i:02}.bmp"
        path.parent.mkdir(parents=True, exist_ok=True)
        mask = np.zeros((64, 64), np.uint8)
        mask[: 2 * (i % 20 + 1)] = 255
        Image.fromarray(mask).save(path)
    wanted = Wanted(arch="cifar_resnet20", head="kmeans:2", masks=tmp_path / "masks", rows=30)
    subject = audit_subject(weights, folder, wanted)
    number = np.array([int(Path(name).stem) for name in subject.row_names])
    assert subject.masks.shape == (15, 32, 32)
    assert np.array_equal(subject.masks.sum((1, 2)), 32 * (number % 20 + 1))
    path.rename(path.with_name("other.bmp"))
    with pytest.raises(InputError, match=r"no mask for 1 of 40 pictures: 'dogs/39\.png'"):
        audit_subject(weights, folder, Wanted(arch="cifar_resnet20", masks=tmp_path / "masks"))
    np.save(tmp_path / "x.npy", RNG.random((8, 32, 32), dtype=np.float32))
    with pytest.raises(InputError, match="the data are none"):
        audit_subject(
            weights, tmp_path / "x.npy", Wanted(arch="cifar_resnet20", masks=tmp_path / "masks")
        )


def test_arrays_of_bytes_numbers_and_other_sizes(tmp_path: Path, weights: Path) -> None:
    pixels = RNG.integers(0, 256, (12, 32, 32, 3), dtype=np.uint8)
    np.save(tmp_path / "bytes.npy", pixels)
    np.save(tmp_path / "numbers.npy", np.moveaxis(pixels, -1, 1) / 255)
    np.save(tmp_path / "large.npy", pixels.astype(np.float32))
    np.save(tmp_path / "grey.npy", pixels[..., 0])
    wanted = Wanted(arch="cifar_resnet20", head="kmeans:2")
    first = audit_subject(weights, tmp_path / "bytes.npy", wanted)
    second = audit_subject(weights, tmp_path / "numbers.npy", wanted)
    assert first.x.shape == (6, 3, 32, 32)
    assert np.allclose(first.x, second.x, atol=1e-6)
    grey = audit_subject(weights, tmp_path / "grey.npy", wanted)
    assert np.array_equal(grey.x[:, 0], grey.x[:, 2])
    small = Wanted(arch="cifar_resnet20", head="kmeans:2", size=(16, 16))
    assert audit_subject(weights, tmp_path / "bytes.npy", small).x.shape == (6, 3, 16, 16)
    with pytest.raises(InputError, match="from 0 to 1, or bytes"):
        audit_subject(weights, tmp_path / "large.npy", wanted)
    with pytest.raises(InputError, match="--image is for fitted models"):
        audit_subject(weights, tmp_path / "bytes.npy", Wanted(arch="cifar_resnet20", image=(4, 4)))


def test_a_shallow_model_on_pictures(tmp_path: Path, folder: Path) -> None:
    x = RNG.random((30, 8 * 8 * 3))
    skops.io.dump(KMeans(2, n_init=1, random_state=0).fit(x * 255), tmp_path / "m.skops")
    subject = audit_subject(tmp_path / "m.skops", folder, Wanted(size=(8, 8), units=255.0))
    assert subject.x.shape == (40, 8, 8, 3)
    assert subject.x.max() > 100
    with pytest.raises(InputError, match="pictures of 192 numbers"):
        audit_subject(tmp_path / "m.skops", folder, Wanted(size=(9, 9)))
    grey = KMeans(2, n_init=1, random_state=0).fit(x[:, :64])
    skops.io.dump(grey, tmp_path / "g.skops")
    found = report(run(tmp_path / "g.skops", "--data", folder, "--size", 8, "--json", *QUICK))
    assert "40 rows of shape 8 x 8" in found["introduction"]


def test_names_of_files_reach_the_findings(tmp_path: Path, folder: Path) -> None:
    x = RNG.random((30, 64)) + 50  # far from all pictures: one cluster gets everything
    x[0] = 0
    skops.io.dump(KMeans(2, n_init=1, random_state=0).fit(x), tmp_path / "m.skops")
    subject = audit_subject(tmp_path / "m.skops", folder, Wanted(size=(8, 8)))
    assert subject.audit().context.names(np.array([0, 39])) == ("cats/00.png", "dogs/39.png")


def test_rows_of_a_table_and_what_the_report_says(tmp_path: Path) -> None:
    table = pd.DataFrame(RNG.random((50, 3)), columns=list("abc"))
    table.to_csv(tmp_path / "d.csv", index=False)
    skops.io.dump(KMeans(2, n_init=1, random_state=0).fit(table), tmp_path / "m.skops")
    args = (tmp_path / "m.skops", "--data", tmp_path / "d.csv", "--rows", 20, "--seed", 3)
    found = report(run(*args, "--json", *QUICK))
    assert "Audited on 20 of 50 rows, drawn at random (seed 3)." in found["introduction"]
    assert found["provenance"]["rows"] == "20 of 50 rows, drawn at random (seed 3)"


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("--head", "kmeans:3"), "--head is for encoders"),
        (("--fit-on", "x.npy"), "--fit-on is for encoders"),
        (("--layer", "a"), "--layer is for encoders"),
        (("--normalize", "imagenet"), "--normalize is for encoders"),
        (("--normalize", "other:one"), "expected imagenet"),
        (("--size", "a"), "expected H or HxW"),
        (("--size", "0"), "expected H or HxW"),
        (("--rows", "0"), "--rows"),
        (("--units", "255"), "--units is for pictures in a folder"),
        (("--device", "nowhere"), "nowhere"),
    ],
)
def test_options_that_have_no_use(tmp_path: Path, args: tuple[str, ...], message: str) -> None:
    x = RNG.random((20, 3))
    np.save(tmp_path / "d.npy", x)
    skops.io.dump(KMeans(2, n_init=1, random_state=0).fit(x), tmp_path / "m.skops")
    result = run(tmp_path / "m.skops", "--data", tmp_path / "d.npy", *args)
    assert result.exit_code == 2
    assert message in result.stderr


def test_forms_of_options() -> None:
    assert height_and_width("28X30") == (28, 30)
    assert normalisation("0.1,0.2,0.3:0.5") == ((0.1, 0.2, 0.3), 0.5)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("head", ["kmeans:2", "similarity:2", "patchcore", "d2neighbors"])
def test_on_another_device(weights: Path, folder: Path, head: str) -> None:
    answers = []
    for device in ("cpu", "cuda"):
        wanted = Wanted(arch="cifar_resnet20", head=head, device=device)
        subject = audit_subject(weights, folder, wanted)
        assert subject.net.device.type == device
        subject.audit(checks=["conservation", "collapse"]).run()
        answers.append(subject.net(torch.from_numpy(subject.x)).cpu())
    torch.testing.assert_close(answers[0], answers[1], rtol=1e-3, atol=1e-3)


def test_a_second_checkpoint_is_compared_with(tmp_path: Path) -> None:
    """Two detectors that score alike by other columns, in one run."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(200, 1)) ** 3 + 0.1 * rng.normal(size=(200, 8))
    np.save(tmp_path / "x.npy", x[100:])
    names = ("one.skops", "two.skops")
    for name, seen in zip(names, (x[:100] * ([1] * 4 + [0] * 4), x[:100]), strict=True):
        skops.io.dump(KernelDensity(bandwidth=1.0).fit(seen), tmp_path / name)
    asked = (tmp_path / "one.skops", "--data", tmp_path / "x.npy", "--check", "conservation")
    found = report(run(*asked, "--against", tmp_path / "two.skops", "--json"))
    answers = {a["check"] for a in (*found["findings"], *found["passed"], *found["not_assessable"])}
    assert answers == {"conservation", "agreement"}
    assert found["provenance"]["compared_with"] == "two.skops"
    assert len(found["provenance"]["compared_with_sha256"]) == 64
    alone = report(run(*asked, "--json"))
    assert "compared_with" not in alone["provenance"]
    save_file({"0.weight": torch.zeros(2, 8), "0.bias": torch.zeros(2)}, tmp_path / "e.safetensors")
    np.save(tmp_path / "centroids.npy", x[:3])
    skops.io.dump(KernelDensity().fit(x[:, :5]), tmp_path / "narrow.skops")
    for other, message in (
        ("none.skops", "none.skops"),
        ("centroids.npy", "assigns clusters"),
        ("narrow.skops", "does not take these data"),
        ("e.safetensors", "--arch"),
    ):
        refused = run(*asked, "--against", tmp_path / other)
        assert refused.exit_code == 2 and message in refused.output, refused.output


def test_a_second_encoder_gets_a_head_of_its_own(folder: Path, weights: Path) -> None:
    wanted = Wanted(arch="cifar_resnet20", head="kmeans:2", against=weights)
    subject = audit_subject(weights, folder, wanted)
    assert subject.other is not None and subject.other is not subject.net
    (check,) = subject.audit(checks=["agreement"]).checks
    x = torch.from_numpy(np.asarray(subject.x))
    with torch.no_grad():
        assert torch.equal(check.other(x), subject.net(x))  # type: ignore[attr-defined]
