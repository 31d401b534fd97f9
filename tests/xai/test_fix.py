"""From findings to a repaired model: the shortcut goes, the task stays, files, and refusals."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.cluster import KMeans
from sklearn.neighbors import KernelDensity
from sklearn.svm import OneClassSVM
from torch import nn

import xai
from neuralize import neuralize
from neuralize.deep import D2Neighbors, PatchCore, load_detector
from neuralize.errors import CheckpointError
from xai.errors import InputError, UnsupportedModelError
from xai.fix import fix
from xai.mitigate import BlurFront, Projection, Replaced, encoded
from xai.repaired import Repaired
from xai.repaired_files import is_repaired, load_repaired, original_digest, save_repaired
from xai.repairs import Repair, Rows, candidates, described, rebuilt
from xai.report import Finding, Measure, Report, Suspect

PLACE = np.zeros((10, 10), bool)
PLACE[7:10, 7:10] = True


def pictures(n=240, marked_share=0.4, seed=0):
    """Discs at the left or the right, and a bright corner in some of both."""
    rng = np.random.default_rng(seed)
    label, marked = rng.integers(0, 2, n), rng.random(n) < marked_share
    x = np.zeros((n, 10, 10))
    x[label == 0, 2:6, 1:4] = 1.0
    x[label == 1, 2:6, 5:8] = 1.0
    x += 0.1 * rng.random(x.shape)
    x[marked] = np.where(PLACE, 3.0, x[marked])
    return x, label, marked


def table(n=300, seed=0):
    rng = np.random.default_rng(seed)
    label, site = rng.integers(0, 2, n), rng.integers(0, 2, n)
    x = rng.normal(size=(n, 6))
    x[:, 0] += 5 * label
    x[:, 4:] += 7 * site[:, None]
    return x, label, np.array(["north", "south"])[site]


def report_of(*suspects, severity="critical"):
    bad = Measure("measure", 1.0, "<", 0.5)
    return Report(
        "Audit",
        [Finding(severity, f"Finding {i}.", bad, suspect=s) for i, s in enumerate(suspects)],
    )


def mark(marked):
    return Suspect("place", "a mark", {"pixels": PLACE, "rows": np.flatnonzero(marked)})


QUIET = {"progress": False, "checks": ["conservation", "collapse"]}


def test_a_mark_is_blanked_and_clusters_follow_the_label():
    x, label, marked = pictures()
    model = KMeans(2, n_init=3, random_state=0).fit(x.reshape(len(x), -1))
    centroids = model.cluster_centers_.copy()
    fixed = fix(model, x, label, report=report_of(mark(marked)), **QUIET)
    row = fixed.table.loc["a mark"]
    assert row["decisions that change before"] > 0.9 and row["after"] == 0.0
    assert row["task before"] < 0.1 and row["task after"] > 0.95
    (repair,) = fixed.repaired.repairs
    assert isinstance(repair.module, Replaced) and repair.where == "rows"
    net = fixed.repaired.network()
    found = xai.explain(net, x[:10], progress=False)
    assert np.abs(found.values[:, PLACE]).max() == 0
    assert found.relative_conservation_error.max() < 1e-9
    np.testing.assert_array_equal(model.cluster_centers_, centroids)


def test_a_real_audit_finds_the_mark_and_the_next_does_not():
    x, label, _marked = pictures(400)
    model = KMeans(2, n_init=3, random_state=0).fit(x.reshape(len(x), -1))
    fixed = fix(model, x, label, checks=["placement"], progress=False)
    assert any(f.suspect and f.suspect.kind == "place" for f in fixed.before.findings)
    assert fixed.before.exit_code == 1 and fixed.exit_code == 0 and not fixed.left
    assert fixed.verdict.startswith("Repaired")
    assert "Repairs" in fixed.report.to_dict()["sections"][0]["title"]


def test_groups_are_projected_out_within_labels():
    x, label, site = table()
    model = KMeans(2, n_init=3, random_state=0).fit(x)
    fixed = fix(model, x, label, site, checks=["groups"], progress=False)
    assert [f.suspect.kind for f in fixed.before.findings] == ["group"] * len(fixed.before.findings)
    (line,) = fixed.table.to_dict("records")
    assert line["decisions that change before"] > 0.3 and line["after"] < 0.02
    assert line["task before"] < 0.1 and line["task after"] > 0.9
    assert fixed.exit_code == 0


def test_columns_hold_their_usual_value():
    x, _label, _ = table()
    x[:, 4:] = np.random.default_rng(1).normal(size=(len(x), 2))
    x[:15, 5] = 60.0
    suspect = Suspect("feature", "column 5", {"features": np.array([5]), "rows": np.arange(15)})
    model = KernelDensity(bandwidth=1.0).fit(x)
    fixed = fix(model, x, report=report_of(suspect), **QUIET)
    line = fixed.table.iloc[0]
    assert line["decisions that change before"] > 0.3 and line["after"] == 0.0
    assert line["task after"] > 0.85


def test_a_band_is_blurred():
    x, _label, _ = pictures(marked_share=0)
    suspect = Suspect("band", "fine stripes", {"edges": np.array([0.3, 0.5])})
    detector = D2Neighbors().fit(x.astype(np.float32))
    fixed = fix(detector, x.astype(np.float32), report=report_of(suspect), **QUIET)
    (repair,) = fixed.repaired.repairs
    assert isinstance(repair.module, BlurFront) and repair.module.response(0.3) <= 0.05
    found = xai.explain(fixed.repaired.network(), x[:4].astype(np.float32), progress=False)
    assert found.relative_conservation_error.max() < 1e-4
    again = D2Neighbors().fit(encoded(repair.module, _first_half(x).astype(np.float32)))
    expected = again.decision_function(encoded(repair.module, x[:4].astype(np.float32)))
    np.testing.assert_allclose(found.evidence, expected, rtol=1e-4)


def _first_half(x, seed=0):
    order = np.random.default_rng(seed).permutation(len(x))
    return x[np.sort(order[: len(x) // 2])]


def encoder(x_dim=100):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Flatten(), nn.Linear(x_dim, 24), nn.ReLU())
    return net.eval()


@pytest.mark.filterwarnings("ignore::neuralize.errors.AmplificationWarning")
def test_with_an_encoder_the_better_of_two_repairs_is_taken():
    x, label, marked = pictures(400)
    x = x.astype(np.float32)
    below = encoder()
    before = {n: t.clone() for n, t in below.state_dict().items()}
    model = KMeans(2, n_init=5, random_state=0).fit(encoded(below, x))
    rows = Rows(x, np.arange(len(x)), below)
    assert [r.where for r in candidates(mark(marked), rows)] == ["rows", "features"]
    fixed = fix(model, x, label, features=below, report=report_of(mark(marked)), **QUIET)
    line = fixed.table.iloc[0]
    assert line["decisions that change before"] > 0.9 and line["after"] < 0.02
    assert line["task after"] > 0.9 > 0.1 > line["task before"]
    for name, tensor in below.state_dict().items():
        assert torch.equal(tensor, before[name])


def test_several_findings_are_repaired_one_after_the_other():
    x, label, marked = pictures()
    other = np.zeros((10, 10), bool)
    other[0, :3] = True
    x[::3, 0, :3] = 5.0
    second = Suspect("place", "a bar", {"pixels": other, "rows": np.arange(0, len(x), 3)})
    model = KMeans(2, n_init=3, random_state=0).fit(x.reshape(len(x), -1))
    fixed = fix(model, x, label, report=report_of(mark(marked), second), **QUIET)
    assert len(fixed.repaired.repairs) == 2
    assert fixed.table["after"].max() == 0.0 and fixed.table["task after"].min() > 0.9


def test_what_is_left_is_said():
    """The head is a detector that calls half the rows abnormal: no repair of a place helps that."""
    x, _label, marked = pictures()
    detector = D2Neighbors(contamination=0.9).fit(x.astype(np.float32))
    fixed = fix(
        detector, x.astype(np.float32), report=report_of(mark(marked)), progress=False,
        checks=["collapse"],
    )  # fmt: skip
    assert fixed.exit_code == 1 and fixed.left and fixed.verdict.startswith("Not repaired")


def test_nothing_to_repair_is_refused():
    x, _label, marked = pictures()
    model = KMeans(2, n_init=1, random_state=0).fit(x.reshape(len(x), -1))
    with pytest.raises(InputError, match="Nothing to repair"):
        fix(model, x, report=report_of(mark(marked), severity="info"), **QUIET)
    with pytest.raises(InputError, match="at least 60 rows"):
        fix(model, x[:20], **QUIET)
    low = Suspect("band", "brightness", {"edges": np.array([0.0, 0.02])})
    with pytest.raises(UnsupportedModelError, match="a blur cannot take it out"):
        fix(model, x, report=report_of(low), **QUIET)
    with pytest.raises(UnsupportedModelError, match="10 x 10"):
        fix(KMeans(2, n_init=1).fit(x.reshape(len(x), -1)), x.reshape(len(x), -1),
            report=report_of(mark(marked)), **QUIET)  # fmt: skip


# -- files -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "module",
    [BlurFront(7), Replaced(PLACE, np.ones((10, 10))), Projection(np.eye(4)[:2], np.ones(4))],
)
def test_repairs_read_back_equal(module):
    kind, options = described(module)
    again = rebuilt(kind, options, module.state_dict())
    x = torch.rand(3, *((4,) if isinstance(module, Projection) else (10, 10)))
    assert torch.equal(again(x), module(x))


def checkpoint(tmp_path, name="old.bin"):
    path = tmp_path / name
    path.write_bytes(b"an old checkpoint")
    return path


def blanked(model, x, features=None):
    front = Repair(Replaced(PLACE, np.zeros((10, 10))), "rows", "a mark")
    return Repaired(model, (front,), x.shape[1:], features)


@pytest.mark.parametrize("kind", ["array", "KMeans", "KernelDensity"])
def test_shallow_heads_read_back_equal_and_need_no_original(tmp_path, kind):
    x, _, _ = pictures(80)
    flat = x.reshape(len(x), -1)
    model = {
        "array": lambda: KMeans(3, n_init=1, random_state=0).fit(flat).cluster_centers_,
        "KMeans": lambda: KMeans(3, n_init=1, random_state=0).fit(flat),
        "KernelDensity": lambda: KernelDensity(bandwidth=2.0).fit(flat),
    }[kind]()
    old = checkpoint(tmp_path)
    repaired = blanked(model, x)
    files = save_repaired(repaired, tmp_path / "new.json", old)
    assert {f.name for f in files} == {"new.json", "new.safetensors"} | (
        {"new.skops"} if kind == "KernelDensity" else set()
    )
    assert all(f.is_file() for f in files) and is_repaired(files[0])
    assert old.read_bytes() == b"an old checkpoint"
    old.unlink()
    net, again = repaired.network(), neuralize(load_repaired(tmp_path / "new.safetensors"))
    with torch.no_grad():
        assert torch.equal(net(torch.from_numpy(x)), again(torch.from_numpy(x)))


def test_a_memory_bank_is_stored_and_its_backbone_is_not(tmp_path):
    x, _, _ = pictures(80)
    x = x.astype(np.float32)
    torch.manual_seed(0)
    backbone = nn.Sequential(nn.Conv2d(1, 40, 3, padding=1), nn.ReLU(), nn.Conv2d(40, 40, 3))
    detector = PatchCore(backbone, layers=["1"], coreset=50, mean=None, std=None).fit(x)
    old = detector.save(tmp_path / "old.safetensors")
    bytes_before = {p: p.read_bytes() for p in tmp_path.iterdir()}
    loaded = load_detector(old, backbone)
    suspect = Suspect("place", "a mark", {"pixels": PLACE, "rows": np.arange(30)})
    fixed = fix(loaded, x, report=report_of(suspect), **QUIET)
    assert fixed.repaired.model.module_.bank.shape == loaded.module_.bank.shape
    files = save_repaired(fixed.repaired, tmp_path / "new.safetensors", old)
    assert files[0].stat().st_size < old.stat().st_size
    again = load_repaired(files[1], loaded).network()
    with torch.no_grad():
        assert torch.equal(
            again(torch.from_numpy(x)), fixed.repaired.network()(torch.from_numpy(x))
        )
    assert again.threshold == fixed.repaired.model.threshold_
    for path, content in bytes_before.items():
        assert path.read_bytes() == content


def test_an_encoder_must_be_the_same(tmp_path):
    x, _, _ = pictures(80)
    x = x.astype(np.float32)
    below = encoder()
    model = KMeans(3, n_init=1, random_state=0).fit(encoded(below, x))
    repaired = blanked(model, x, below)
    save_repaired(repaired, tmp_path / "new.json", checkpoint(tmp_path))
    again = load_repaired(tmp_path / "new.json", features=below)
    with torch.no_grad():
        expected = repaired.network()(torch.from_numpy(x))
        assert torch.equal(again.network()(torch.from_numpy(x)), expected)
    torch.manual_seed(1)
    other = nn.Sequential(nn.Flatten(), nn.Linear(100, 24), nn.ReLU()).eval()
    with pytest.raises(CheckpointError, match="its weights are others"):
        load_repaired(tmp_path / "new.json", features=other)


def test_the_original_is_never_written_to_and_is_verified(tmp_path):
    x, _, _ = pictures(80)
    detector = D2Neighbors().fit(x.astype(np.float32))
    old = detector.save(tmp_path / "old.safetensors")
    before = {p: p.read_bytes() for p in tmp_path.iterdir()}
    repaired = blanked(detector, x)
    for name in ("old.json", "old.safetensors"):
        with pytest.raises(InputError, match="never written to"):
            save_repaired(repaired, tmp_path / name, old, overwrite=True)
    link = tmp_path / "link.json"
    link.symlink_to(tmp_path / "old.json")
    with pytest.raises(InputError, match="never written to"):
        save_repaired(repaired, link, old, overwrite=True)
    new = tmp_path / "new.json"
    save_repaired(repaired, new, old)
    with pytest.raises(InputError, match="Already there"):
        save_repaired(repaired, new, old)
    save_repaired(repaired, new, old, overwrite=True)
    assert {p: p.read_bytes() for p in before} == before
    assert original_digest(old) == original_digest(tmp_path / "old.json")
    with torch.no_grad():
        found = load_repaired(new).network()(torch.from_numpy(x))
        assert torch.equal(found, repaired.network()(torch.from_numpy(x)))
    D2Neighbors(p=4).fit(x.astype(np.float32)).save(tmp_path / "old.safetensors")
    with pytest.raises(CheckpointError, match="its digest is another one"):
        load_repaired(new)
    with pytest.raises(CheckpointError, match="found none"):
        load_repaired(new, tmp_path / "gone.safetensors")


def test_damaged_files_are_refused(tmp_path):
    x, _, _ = pictures(80)
    model = KernelDensity(bandwidth=2.0).fit(x.reshape(len(x), -1))
    save_repaired(blanked(model, x), tmp_path / "new.json", checkpoint(tmp_path))
    (tmp_path / "new.skops").write_bytes(b"something else")
    with pytest.raises(CheckpointError, match="digest"):
        load_repaired(tmp_path / "new.json")
    manifest = (tmp_path / "new.json").read_text()
    (tmp_path / "new.json").write_text(manifest.replace('"replaced"', '"unheard of"'))
    with pytest.raises(CheckpointError, match="unheard of"):
        load_repaired(tmp_path / "new.json")
    (tmp_path / "new.json").write_text("{}")
    assert not is_repaired(tmp_path / "new.json")
    with pytest.raises(CheckpointError, match="manifest"):
        load_repaired(tmp_path / "new.json")
    with pytest.raises(InputError, match="ending in"):
        save_repaired(blanked(model, x), tmp_path / "new.skops", tmp_path / "old.bin")


def outliers(n=400, seed=0):
    """Discs and what is none of them, each with a bright corner in some; 1 is anomalous."""
    x, _, _ = pictures(n, marked_share=0, seed=seed)
    rng = np.random.default_rng(seed + 1)
    label, marked = (rng.random(n) < 0.5).astype(int), rng.random(n) < 0.3
    x[label == 1] = rng.random((int(label.sum()), 10, 10))
    x[marked] = np.where(PLACE, 2.0, x[marked])
    return x, label, marked


def test_a_detector_is_fitted_again_on_normal_rows_only():
    x, label, marked = outliers()
    usual, _, _ = pictures(200, marked_share=0, seed=7)
    model = OneClassSVM(gamma="scale", nu=0.1).fit(usual.reshape(len(usual), -1))
    report = report_of(mark(marked))
    told = fix(model, x, label, report=report, **QUIET)
    normal = np.sort(np.random.default_rng(0).permutation(len(x))[: len(x) // 2])
    count = int((label[normal] == 0).sum())
    assert told.fitted_on == f"the {count} rows labelled normal (0)"
    assert f"Fitted again on {told.fitted_on}." in told.section.text
    assert told.repaired.model.shape_fit_[0] == count
    line = told.table.iloc[0]
    assert line["after"] == 0 and line["task after"] > 0.99 > line["task before"]

    # on all rows, as it would be without a choice, anomalies become normal
    everything = fix(model, x, label, report=report, fit_on=x, **QUIET)
    assert everything.table.iloc[0]["task after"] < line["task after"] - 0.05

    # without labels, the old model says what is normal; rows that are given are taken as they are
    silent = fix(model, x, report=report, **QUIET)
    called = (model.predict(x[normal].reshape(-1, 100)) == 1).sum()
    assert silent.fitted_on == f"the {called} rows that the old model calls normal"
    given = fix(model, x, label, report=report, fit_on=usual.reshape(-1, 100), **QUIET)
    assert given.fitted_on == "the 200 rows given for it"
    assert given.repaired.model.shape_fit_[0] == 200


def test_rows_to_fit_on_that_do_not_do():
    x, label, marked = outliers(100)
    model = KernelDensity(bandwidth=1.0).fit(x.reshape(len(x), -1))
    report = report_of(mark(marked))
    with pytest.raises(InputError, match=r"shape \(10, 10\), like those of the audit, got \(9, 9"):
        fix(model, x, report=report, fit_on=x[:, 1:, 1:], **QUIET)
    label[:] = 1
    label[:8] = 0
    with pytest.raises(InputError, match="at least 20 rows labelled normal"):
        fix(model, x, label, report=report, **QUIET)
    assert "neither labels nor a threshold" in fix(model, x, report=report, **QUIET).fitted_on
