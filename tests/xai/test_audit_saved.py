"""Audits that are saved as they go: stopped in the middle, they come to the same report."""

import os
import signal
import subprocess
import sys
import warnings
import zipfile
from pathlib import Path

import numpy as np
import pytest
from sklearn.cluster import KMeans
from sklearn.datasets import load_wine

from tests.xai.saved_audit import main
from xai.audit import Audit, Check
from xai.audit.runner import CHECKS
from xai.audit.saved import SavedAnswers
from xai.errors import FileFormatError
from xai.report import Finding, Measure, Passed, Picture

ROOT = Path(__file__).parents[2]
WINE = load_wine().data
MODEL = KMeans(3, n_init=1, random_state=0).fit(WINE)


def audited(out, *options):
    """What the audit writes."""
    main([str(out), *map(str, options)])
    return {path.name: path.read_bytes() for path in out.iterdir()}


def killed(out, *options):
    """The exit code of the same in a process of its own, which dies in the third check."""
    words = [str(out), *map(str, options), "--die", "kill"]
    code = f"from tests.xai.saved_audit import main; main({words!r})"
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=environment).returncode


@pytest.mark.parametrize("die", ["kill", "raise"])
def test_stopped_in_the_middle_it_resumes_to_the_same_report(tmp_path, die):
    saved = tmp_path / "saved"
    if die == "kill":
        assert killed(tmp_path / "stopped", "--save", saved) == -signal.SIGKILL
    else:
        with pytest.raises(RuntimeError, match="stopped"):
            audited(tmp_path / "stopped", "--save", saved, "--die", "raise")
    assert not (tmp_path / "stopped").exists()
    kept = {path.name: path.stat().st_mtime_ns for path in saved.iterdir()}
    assert sorted(kept) == ["00-conservation.npz", "01-collapse.npz"]
    resumed = audited(tmp_path / "resumed", "--save", saved)
    now = {path.name: path.stat().st_mtime_ns for path in saved.iterdir()}
    assert now.items() > kept.items() and len(now) == 4
    assert resumed == audited(tmp_path / "whole")
    assert resumed == audited(tmp_path / "again", "--save", saved)
    assert {path.name: path.stat().st_mtime_ns for path in saved.iterdir()} == now


ASKED = []


class Counting(Check):
    name, question = "counting", "How often is it asked?"

    def __init__(self, bound=3):
        self.bound = bound

    def run(self, audit):
        ASKED.append(self.bound)
        yield Passed(Measure("rows", len(audit), ">", self.bound))


def asked(tmp_path, **changes):
    """How often the check was asked by an audit with these changes."""
    ASKED.clear()
    options = {"model": MODEL, "data": WINE, "checks": [Counting()], "save_to": tmp_path}
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        Audit(**{**options, **changes}).run()
    return len(ASKED), [str(w.message) for w in caught]


def moved(x):
    x = x.copy()
    x[5, 5] = np.nextafter(x[5, 5], np.inf)
    return x


@pytest.mark.parametrize(
    "changes",
    [
        {"data": moved(WINE)},
        {"data": WINE.astype(np.float32)},
        {"model": KMeans(4, n_init=1, random_state=0).fit(WINE)},
        {"labels": np.zeros(178)},
        {"groups": np.zeros(178)},
        {"seed": 1},
        {"checks": [Counting(4)]},
    ],
    ids=lambda value: next(iter(value)),
)
def test_whatever_the_answers_depend_on_is_in_the_key(tmp_path, changes):
    assert asked(tmp_path) == (1, [])
    assert asked(tmp_path) == (0, [])
    count, complaints = asked(tmp_path, **changes)
    assert count == 1
    (complaint,) = complaints
    assert "was saved for another model" in complaint and "'counting' is asked again" in complaint
    assert asked(tmp_path, **changes) == (0, [])


def test_another_line_of_code_asks_again(tmp_path, monkeypatch):
    asked(tmp_path)
    monkeypatch.setattr("xai.audit.asking.code_digest", lambda: "other")
    assert asked(tmp_path)[0] == 1


def test_a_model_that_moved_by_one_bit_is_another(tmp_path):
    asked(tmp_path)
    other = KMeans(3, n_init=1, random_state=0).fit(WINE)
    other.cluster_centers_[0, 0] = np.nextafter(other.cluster_centers_[0, 0], np.inf)
    assert asked(tmp_path, model=other)[0] == 1


def damaged(content, kind):
    if kind == "cut":
        return content[: len(content) // 2]
    if kind == "empty":
        return b""
    if kind == "text":
        return b"no archive"
    return content[:200] + bytes(300) + content[500:]


@pytest.mark.parametrize("kind", ["cut", "empty", "text", "zeros"])
def test_a_damaged_file_is_asked_again(tmp_path, kind):
    asked(tmp_path)
    (path,) = tmp_path.iterdir()
    path.write_bytes(damaged(path.read_bytes(), kind))
    count, (complaint,) = asked(tmp_path)
    assert count == 1 and "holds no answers that can be read" in complaint
    assert asked(tmp_path) == (0, [])


def foreign(path, kind):
    if kind == "array":
        np.savez(path, x=np.zeros(3))
    elif kind == "pickle":
        np.savez(path, header=np.array([{"a": 1}], dtype=object))
    elif kind == "bomb":
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("header.npy", bytes(10**8))


@pytest.mark.parametrize("kind", ["array", "pickle", "bomb"])
def test_a_foreign_file_is_not_used(tmp_path, kind):
    foreign(tmp_path / "00-counting.npz", kind)
    count, (complaint,) = asked(tmp_path)
    assert count == 1 and "holds no answers that can be read" in complaint


def test_headers_that_lie_are_not_used(tmp_path):
    from xai.header_files import read_npz, write_npz

    figure = Picture(b"\x89PNG\r\n\x1a\n" + b"\0\0\0\rIHDR" + bytes(25), "c", "a")
    found = Finding("info", "t", Measure("m", 1, "<", 0), pictures=[figure])

    class Drawing(Check):
        name, question = "drawing", "Is it drawn?"

        def run(self, audit):
            yield found

    Audit(MODEL, WINE, checks=[Drawing()], save_to=tmp_path, progress=False).run()
    path = tmp_path / "00-drawing.npz"
    with path.open("rb") as file:
        header, arrays = read_npz(file)
    key, saved = header["key"], SavedAnswers(tmp_path)
    assert saved.load(Drawing(), 0, key).answers[0].title == "t"

    def loaded(header, arrays):
        with path.open("wb") as file:
            write_npz(header, arrays, file)
        with pytest.warns(UserWarning, match="holds no answers that can be read"):
            assert saved.load(Drawing(), 0, key) is None

    (name,) = arrays
    wide = arrays[name].copy()
    wide[16:20] = [0, 255, 255, 255]  # sixteen million pixels wide
    loaded(header, {name: wide})
    loaded(header, {name: arrays[name].astype(float)})
    loaded(header, {})
    loaded({**header, "version": 2}, arrays)
    loaded({**header, "answers": [{"type": "passed"}]}, arrays)
    loaded({**header, "seconds": "long"}, arrays)


def test_a_file_in_place_of_the_folder_is_refused(tmp_path):
    path = tmp_path / "file"
    path.write_text("mine")
    with pytest.raises(FileFormatError, match="is a file"):
        Audit(MODEL, WINE, save_to=path)
    assert path.read_text() == "mine"


def test_times_are_of_every_check_and_no_part_of_the_digest():
    reports = [Audit(MODEL, WINE, progress=False).run() for _ in range(2)]
    for report in reports:
        assert list(report.times) == [check.name for check in CHECKS if not check.needs]
        assert sum(share for _, share in report.times.values()) == pytest.approx(1)
        assert all(seconds > 0 for seconds, _ in report.times.values())
    assert reports[0].seconds != reports[1].seconds
    assert reports[0].digest == reports[1].digest
    other = Audit(MODEL, WINE, progress=False, seed=1).run()
    assert other.digest != reports[0].digest
