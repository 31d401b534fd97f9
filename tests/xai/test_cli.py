"""The command ``xai``: what it prints, writes, refuses, and the exit codes."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Any, get_args
from xml.etree import ElementTree

import numpy as np
import pandas as pd
import pytest
import sklearn
import skops.io
from sklearn.cluster import KMeans
from sklearn.datasets import load_wine
from sklearn.mixture import GaussianMixture
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import OneClassSVM
from typer.testing import CliRunner, Result

import xai
from xai import cli_options, command_steps
from xai.audit import Audit
from xai.baselines import BASELINES
from xai.cli import app
from xai.datasets import fashion_mnist, plant_mark
from xai.report import Finding, Measure, Report

WINE = load_wine(as_frame=True).data
SCRIPT = Path(sys.executable).with_name("xai")


def run(*args: Any) -> Result:
    return CliRunner().invoke(app, [str(arg) for arg in args])


def refused(result: Result) -> str:
    """The message of a command that refused its work; stdout stays empty."""
    assert result.exit_code == 2
    assert result.stdout == ""
    assert "Traceback" not in result.stderr
    return result.stderr


def document(result: Result) -> dict[str, Any]:
    """The JSON that a command printed."""
    assert result.exit_code == 0, result.output
    parsed: dict[str, Any] = json.loads(result.stdout)
    return parsed


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "model.skops"
    pipeline = make_pipeline(StandardScaler(), KMeans(3, n_init=1, random_state=0))
    skops.io.dump(pipeline.fit(WINE), path)
    return path


@pytest.fixture
def data(tmp_path: Path) -> Path:
    path = tmp_path / "wine.csv"
    WINE.to_csv(path, index=False)
    return path


@pytest.fixture
def pictures(tmp_path: Path) -> tuple[Path, Path]:
    """A detector fitted on flattened pictures of 4 by 6, and some of them."""
    x = np.random.default_rng(0).random((30, 24))
    skops.io.dump(OneClassSVM(gamma=0.1, nu=0.3).fit(x), tmp_path / "svm.skops")
    np.savez(tmp_path / "pictures.npz", x=x)
    return tmp_path / "svm.skops", tmp_path / "pictures.npz"


# -- the command as installed --------------------------------------------------------------------


def test_the_script_runs_anywhere(tmp_path: Path, model: Path, data: Path) -> None:
    command = [SCRIPT, "explain", model.name, "--data", data.name, "--rows", "0:3", "--json"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["shape"] == [3, 13]


def test_help_does_not_wait_for_torch() -> None:
    code = (
        "import sys; from xai.cli import app; from typer.testing import CliRunner; "
        "result = CliRunner().invoke(app, ['explain', '--help']); "
        "print(result.exit_code, {'torch', 'sklearn', 'matplotlib', 'pandas'} & {*sys.modules})"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "0 set()\n"


def test_every_command_shows_an_example() -> None:
    commands = [command.name or command.callback.__name__ for command in app.registered_commands]
    assert "explain" in commands
    for command in commands:
        result = run(command, "--help")
        assert result.exit_code == 0
        assert f"Example: xai {command}" in " ".join(result.stdout.split())
        assert "--json" in result.stdout


def test_version() -> None:
    result = run("--version")
    assert result.exit_code == 0
    assert result.stdout.strip()[0].isdigit()


def test_methods_on_offer_are_those_there_are() -> None:
    assert get_args(cli_options.MethodName) == ("lrp", *BASELINES)


@pytest.mark.parametrize(
    "args",
    [["nothing"], ["explain"], ["explain", "model.skops"], ["explain", "--unknown"]],
    ids=" ".join,
)
def test_wrong_use_is_exit_code_2(args: list[str]) -> None:
    assert "Error: " in refused(run(*args))


# -- explain -------------------------------------------------------------------------------------


def test_explain_writes_what_the_library_computes(tmp_path: Path, model: Path, data: Path) -> None:
    out = tmp_path / "new" / "explained"
    result = run("explain", model, "--data", data, "--out", out)
    assert result.exit_code == 0, result.output
    assert {path.name for path in out.iterdir()} == {
        f"relevance.{s}" for s in ("npz", "csv", "png")
    }
    expected = xai.explain(skops.io.load(model), WINE)
    saved = xai.Relevance.load(out / "relevance.npz")
    assert np.array_equal(saved.values, expected.values)
    assert np.array_equal(saved.evidence, expected.evidence)
    assert saved.feature_names == tuple(WINE.columns)
    table = pd.read_csv(out / "relevance.csv")
    assert np.allclose(table[list(WINE.columns)], expected.values, rtol=1e-12, atol=0)
    assert (out / "relevance.png").read_bytes().startswith(b"\x89PNG")


def test_explain_prints_the_strongest_features(model: Path, data: Path) -> None:
    result = run("explain", model, "--data", data, "--rows", "5:7")
    expected = xai.explain(skops.io.load(model), WINE)
    strongest = WINE.columns[np.abs(expected.values[5]).argmax()]
    lines = result.stdout.splitlines()
    [row] = [line for line in lines if line.startswith("5 ")]
    assert f"{expected.evidence[5]:.6g}" in row
    assert row.index(strongest) < row.index(",")
    assert not any(line.startswith("7 ") for line in lines)


def test_json_is_alone_on_stdout_and_complete(model: Path, data: Path) -> None:
    result = run("explain", model, "--data", data, "--rows", "3:5", "--json")
    found = document(result)
    expected = xai.explain(skops.io.load(model), WINE)[3:5]
    assert [row["row"] for row in found["rows"]] == ["3", "4"]
    assert [row["target"] for row in found["rows"]] == expected.target.tolist()
    assert [row["evidence"] for row in found["rows"]] == pytest.approx(expected.evidence)
    values = [row["relevance"] for row in found["rows"]]
    assert np.allclose(values, expected.values, rtol=1e-12, atol=1e-12)
    assert found["files"] == []


def test_json_names_the_files_that_hold_the_relevance(
    tmp_path: Path, model: Path, data: Path
) -> None:
    out = tmp_path / "wine.npz"
    result = run("explain", model, "--data", data, "--out", out, "--json")
    found = document(result)
    assert found["files"] == [str(out)]
    assert "relevance" not in found["rows"][0]
    assert len(xai.Relevance.load(out)) == len(WINE)


def test_every_format(tmp_path: Path, pictures: tuple[Path, Path]) -> None:
    model, data = pictures
    formats = ",".join(cli_options.FORMATS)
    args = ("--image", "4x6", "--rows", ":3", "--format", formats)
    result = run("explain", model, "--data", data, "--out", tmp_path / "out", *args)
    assert result.exit_code == 0, result.output
    for name in cli_options.FORMATS:
        assert (tmp_path / "out" / f"relevance.{name}").stat().st_size > 0
    page = (tmp_path / "out" / "relevance.html").read_text()
    assert page.startswith("<!doctype html>")
    assert "OneClassSVM" in page
    assert xai.Relevance.load(tmp_path / "out" / "relevance.json").values.shape == (3, 4, 6)


def test_options_reach_the_explanation(tmp_path: Path, pictures: tuple[Path, Path]) -> None:
    model, data = pictures
    out = tmp_path / "out.npz"
    args = ("--method", "integrated_gradients", "--output", "margin", "--background", data)
    result = run("explain", model, "--data", data, "--out", out, "--dtype", "float32", *args)
    assert result.exit_code == 0, result.output
    saved = xai.Relevance.load(out)
    assert saved.method == "integrated_gradients"
    assert saved.output == "margin"
    assert saved.values.dtype == np.float32


def test_target_explains_another_cluster(tmp_path: Path, model: Path, data: Path) -> None:
    result = run("explain", model, "--data", data, "--target", 2, "--json")
    found = document(result)
    expected = xai.explain(skops.io.load(model), WINE, target=2)
    assert {row["target"] for row in found["rows"]} == {2}
    assert [row["evidence"] for row in found["rows"]] == expected.evidence.tolist()


def test_an_option_of_the_model_s_network(tmp_path: Path, data: Path) -> None:
    skops.io.dump(GaussianMixture(2, random_state=0).fit(WINE), tmp_path / "mixture.skops")
    args = ("explain", tmp_path / "mixture.skops", "--data", data, "--rows", "0:2", "--json")
    assert document(run(*args))["kind"] == "cluster"
    outlier = run(*args, "--option", "decision=outlier")
    assert document(outlier)["kind"] == "outlier"
    assert "no option 'decisions'" in refused(run(*args, "--option", "decisions=outlier"))


def test_rows_keep_the_names_of_the_file(tmp_path: Path, model: Path, data: Path) -> None:
    named = tmp_path / "named.csv"
    WINE.assign(bottle=[f"B{i}" for i in range(len(WINE))]).to_csv(named, index=False)
    result = run("explain", model, "--data", named, "--id", "bottle", "--rows", "-2:", "--json")
    assert [row["row"] for row in document(result)["rows"]] == ["B176", "B177"]
    result = run("explain", model, "--data", data, "--rows", "-2:", "--json")
    assert [row["row"] for row in document(result)["rows"]] == ["176", "177"]


def test_rows_of_a_model_that_compares_rows_see_all_rows(tmp_path: Path, data: Path) -> None:
    """ECOD scores a row against the batch; choosing rows must not change their scores."""
    ecod = pytest.importorskip("pyod.models.ecod").ECOD().fit(WINE.to_numpy())
    skops.io.dump(ecod, tmp_path / "ecod.skops")
    args = ("explain", tmp_path / "ecod.skops", "--data", data, "--json")
    every = document(run(*args))["rows"]
    chosen = document(run(*args, "--rows", "5:8"))["rows"]
    assert chosen == every[5:8]


def test_columns_are_found_by_name(tmp_path: Path, model: Path, data: Path) -> None:
    turned = tmp_path / "turned.csv"
    WINE[WINE.columns[::-1]].to_csv(turned, index=False)
    first, second = (
        document(run("explain", model, "--data", path, "--json")) for path in (data, turned)
    )
    assert first["rows"] == second["rows"]


def test_existing_files_need_overwrite(tmp_path: Path, model: Path, data: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "relevance.csv").write_text("mine")
    (out / "notes.txt").write_text("mine")
    args = ("explain", model, "--data", data, "--out", out)
    assert "--overwrite" in refused(run(*args))
    assert {path.name for path in out.iterdir()} == {"relevance.csv", "notes.txt"}
    assert run(*args, "--overwrite").exit_code == 0
    assert (out / "relevance.csv").read_text() != "mine"
    assert (out / "notes.txt").read_text() == "mine"


def test_inputs_are_never_overwritten(tmp_path: Path, model: Path, data: Path) -> None:
    before = data.read_bytes()
    result = run("explain", model, "--data", data, "--out", data, "--overwrite")
    assert "input" in refused(result)
    assert data.read_bytes() == before


@pytest.mark.parametrize("there", [False, True], ids=["new folder", "folder is there"])
def test_nothing_is_left_half_written(
    tmp_path: Path, model: Path, data: Path, there: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "deep" / "out"
    if there:
        out.mkdir(parents=True)
    write = command_steps.write

    def fail_late(relevance: xai.Relevance, path: Path) -> None:
        if path.suffix == ".png":
            raise OSError(28, "No space left on device")
        write(relevance, path)

    monkeypatch.setattr(command_steps, "write", fail_late)
    message = refused(run("explain", model, "--data", data, "--out", out))
    assert "No space left" in message
    assert out.exists() == there
    assert not there or list(out.iterdir()) == []
    assert (tmp_path / "deep").exists() == there


@pytest.mark.parametrize(
    ("args", "complaint"),
    [
        (["--target", "7"], "clusters 0 to 2"),
        (["--rows", "1000:"], "178 rows"),
        (["--rows", "a:b"], "START:STOP"),
        (["--image", "3by4"], "HxW"),
        (["--image", "3x4"], "3x4 = 12"),
        (["--drop", "hue"], "'hue'"),
        (["--drop", "price"], "No column 'price'"),
        (["--key", "x"], "--key"),
        (["--format", "csv"], "--out"),
        (["--format", "gif", "--out", "out"], "'gif'"),
        (["--format", "csv", "--out", "out.csv"], "suffix"),
        (["--method", "magic"], "magic"),
        (["--method", "integrated_gradients"], "background"),
        (["--batch-size", "0"], "--batch-size"),
        (["--device", "abacus"], "abacus"),
        (["--option", "decision"], "NAME=VALUE"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_wrong_options_are_refused_by_name(
    model: Path, data: Path, args: list[str], complaint: str
) -> None:
    assert complaint in refused(run("explain", model, "--data", data, *args))


def test_broken_files_are_refused_by_name(tmp_path: Path, model: Path, data: Path) -> None:
    assert "nothing.csv" in refused(run("explain", model, "--data", tmp_path / "nothing.csv"))
    assert "nothing.skops" in refused(run("explain", tmp_path / "nothing.skops", "--data", data))
    (tmp_path / "gap.csv").write_text(data.read_text().replace("14.23,", ",", 1))
    assert "NaN" in refused(run("explain", model, "--data", tmp_path / "gap.csv"))


def test_a_pickle_needs_trust(tmp_path: Path, data: Path) -> None:
    import joblib

    joblib.dump(KMeans(2, n_init=1).fit(WINE), tmp_path / "model.joblib")
    args = ("explain", tmp_path / "model.joblib", "--data", data)
    assert "--trust" in refused(run(*args))
    assert run(*args, "--trust").exit_code == 0


def test_an_unfitted_model(tmp_path: Path, data: Path) -> None:
    skops.io.dump(KMeans(2), tmp_path / "model.skops")
    assert "not fitted" in refused(run("explain", tmp_path / "model.skops", "--data", data))


@pytest.mark.filterwarnings("always")
def test_warnings_take_one_line_on_stderr(
    tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fitted = KMeans(2, n_init=1).fit(WINE)
    with monkeypatch.context() as patch:
        patch.setattr(sklearn.base, "__version__", "1.0")
        skops.io.dump(fitted, tmp_path / "model.skops")
    result = run("explain", tmp_path / "model.skops", "--data", data, "--rows", "0")
    assert result.exit_code == 0
    assert result.stderr.startswith("Warning: Trying to unpickle estimator KMeans from version 1.0")


def test_a_fault_of_ours_is_no_finding(
    model: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise RuntimeError("unforeseen")

    monkeypatch.setattr(command_steps, "explain_rows", fail)
    result = run("explain", model, "--data", data)
    assert result.exit_code == 2
    assert "RuntimeError: unforeseen" in result.stderr
    assert "report it" in result.stderr


# -- audit ---------------------------------------------------------------------------------------


@pytest.fixture
def detector(tmp_path: Path) -> Path:
    """A detector of T-shirts."""
    shirts = fashion_mnist("train", classes=["T-shirt/top"]).images[:200]
    path = tmp_path / "detector.skops"
    skops.io.dump(OneClassSVM(gamma=0.01, nu=0.1).fit(shirts.reshape(len(shirts), -1)), path)
    return path


def clothes(path: Path, *, marked: int) -> Path:
    """Pictures with their kind; ``marked`` of them carry a mark in a corner."""
    test = fashion_mnist("test", classes=["T-shirt/top", "Dress"])
    images, place = plant_mark(test.images, range(marked), size=3)
    np.savez(path, x=images.reshape(len(images), -1), kind=test.names, anywhere=~place)
    return path


def test_an_audit_with_findings_ends_with_1(tmp_path: Path, detector: Path) -> None:
    data = clothes(tmp_path / "marked.npz", marked=30)
    out = tmp_path / "audit"
    result = run("audit", detector, "--data", data, "--image", "28x28", "--out", out)
    assert result.exit_code == 1, result.output
    assert "critical" in result.stdout
    assert "mark" in result.stdout
    assert {path.name for path in out.iterdir()} == {"report.html", "report.json"}
    assert json.loads((out / "report.json").read_text())["exit_code"] == 1


def test_an_audit_without_findings_ends_with_0(tmp_path: Path, detector: Path) -> None:
    data = clothes(tmp_path / "clean.npz", marked=0)
    result = run("audit", detector, "--data", data, "--image", "28x28")
    assert result.exit_code == 0, result.output
    assert result.stdout.startswith("No objection.")


def test_the_audit_s_json_is_the_library_s(model: Path, tmp_path: Path) -> None:
    data = tmp_path / "wine.csv"
    frame = load_wine(as_frame=True).frame
    frame.assign(site=["A", "B"] * 89).to_csv(data, index=False)
    args = ("--labels", "target", "--groups", "site")
    result = run("audit", model, "--data", data, *args, "--json")
    audit = Audit(skops.io.load(model), WINE, labels=frame["target"], groups=["A", "B"] * 89)
    expected = audit.run().to_dict()
    found = json.loads(result.stdout)
    assert result.exit_code == expected["exit_code"] == found["exit_code"]
    assert measures(found) == pytest.approx(measures(expected), rel=1e-6, abs=1e-12)
    assert found["not_assessable"] == expected["not_assessable"]


def measures(report: dict[str, Any]) -> dict[str, float]:
    """What was measured, by check and name."""
    answers = [*report["findings"], *report["passed"]]
    assert answers
    return {f"{a['check']}: {a['measure']['name']}": a["measure"]["value"] for a in answers}


def test_one_check_with_masks(tmp_path: Path, detector: Path) -> None:
    data = clothes(tmp_path / "clean.npz", marked=0)
    np.save(tmp_path / "masks.npy", np.ones((200, 28, 28), dtype=bool))
    args = ("--image", "28x28", "--check", "placement", "--masks", tmp_path / "masks.npy")
    found = document(run("audit", detector, "--data", data, *args, "--json"))
    assert {answer["check"] for answer in found["passed"]} == {"placement"}


@pytest.mark.parametrize(
    ("args", "complaint"),
    [
        (["--check", "nothing"], "conservation"),
        (["--labels", "nothing"], "'nothing'"),
        (["--masks", "nothing.npy"], "nothing.npy"),
        (["--masks", "nothing.png"], "nothing.png"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_an_audit_refuses_wrong_use(
    tmp_path: Path, model: Path, data: Path, args: list[str], complaint: str
) -> None:
    out = tmp_path / "report.html"
    message = refused(run("audit", model, "--data", data, "--out", out, *args))
    assert complaint in message
    assert not out.exists()


# -- demo ----------------------------------------------------------------------------------------


def test_the_demo_says_where_its_report_is_and_ends_with_0(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What it does is tested with it; here the findings must not look like a failure."""
    found = Finding("critical", "A mark decides.", Measure("share", 1.0, "<", 0.5))
    asked = []

    def quick(out: Path) -> Report:
        asked.append(out)
        return Report("Demonstration", [found])

    monkeypatch.setattr("xai.demo.run_demo", quick)
    result = run("demo", "--out", tmp_path)
    assert result.exit_code == 0
    assert "A mark decides." in result.stdout
    assert f"Wrote {tmp_path / 'report.html'}" in result.stdout
    assert document(run("demo", "--out", tmp_path, "--json"))["exit_code"] == 1
    assert asked == [tmp_path, tmp_path]


def test_control_characters_of_a_file_do_not_reach_the_terminal(tmp_path: Path) -> None:
    data = tmp_path / "wine.csv"
    np.save(tmp_path / "centroids.npy", np.array([[0.0, 0.0], [1.0, 1.0]]))
    pd.DataFrame([[0.1, 0.2]], columns=["\x1b[31mred", "b"]).to_csv(data, index=False)
    result = run("explain", tmp_path / "centroids.npy", "--data", data)
    assert result.exit_code == 0
    assert "red" in result.stdout
    assert "\x1b" not in result.stdout


# -- audit: saved, for CI, compared --------------------------------------------------------------


def test_an_audit_says_how_to_ask_again_and_where_its_time_went(
    tmp_path: Path, model: Path, data: Path
) -> None:
    args = ("--data", data, "--out", tmp_path / "r.json", "--check", "collapse", "--seed", "7")
    result = run("audit", model, *args, "--check=conservation")
    assert result.exit_code == 0, result.output
    assert "seconds: collapse " in result.stdout and "%, conservation " in result.stdout
    report = json.loads((tmp_path / "r.json").read_text())
    commands = {answer["check"]: answer["command"] for answer in report["passed"]}
    rest = f"xai audit {model} --data {data}"
    assert commands["collapse"] == f"{rest} --check collapse --seed 7"
    assert commands["conservation"] == f"{rest} --check conservation --seed 7"
    found = document(run(*commands["collapse"].split()[1:], "--json"))
    assert found["passed"] == [a for a in report["passed"] if a["check"] == "collapse"]
    assert report["provenance"]["model_file"] == model.name
    digest = hashlib.sha256(model.read_bytes()).hexdigest()
    assert report["provenance"]["model_file_sha256"] == digest


def test_an_audit_is_saved_and_goes_on(tmp_path: Path, model: Path, data: Path) -> None:
    saved = tmp_path / "deep" / "saved"
    args = ("audit", model, "--data", data, "--save", saved)
    first = run(*args, "--out", tmp_path / "a.json")
    assert first.exit_code == 0, first.output
    times = {path.name: path.stat().st_mtime_ns for path in saved.iterdir()}
    assert sorted(times)[:3] == ["00-conservation.npz", "01-coverage.npz", "02-collapse.npz"]
    again = run(*args, "--out", tmp_path / "b.json")
    assert again.exit_code == 0, again.output
    assert (tmp_path / "a.json").read_bytes() == (tmp_path / "b.json").read_bytes()
    assert {path.name: path.stat().st_mtime_ns for path in saved.iterdir()} == times
    other = run(*args, "--seed", "1")
    assert "Warning: " in other.stderr and "is asked again" in other.stderr
    refused(run("audit", model, "--data", data, "--save", data))


def test_junit_goes_beside_the_report_or_in_its_place(
    tmp_path: Path, model: Path, data: Path
) -> None:
    out, junit = tmp_path / "r.html", tmp_path / "ci" / "audit.xml"
    result = run("audit", model, "--data", data, "--out", out, "--junit", junit)
    assert result.exit_code == 0, result.output
    assert f"Wrote {out}\nWrote {junit}\n" in result.stdout
    root = ElementTree.parse(junit).getroot()
    assert root.get("failures") == "0" and int(root.get("tests", "")) > 3
    assert "Already there" in refused(run("audit", model, "--data", data, "--junit", junit))
    run("audit", model, "--data", data, "--out", tmp_path / "r.xml")
    assert ElementTree.parse(tmp_path / "r.xml").getroot().tag == "testsuites"


def written(path: Path, *severities: Any) -> Path:
    found = [
        Finding(severity, "Tied.", Measure("tied", 0.5, "<", 0.1), check="ties")
        for severity in severities
    ]
    return Report(f"Audit of {path.stem}", found).to_json(path)


def test_compare_prints_and_writes_what_changed(tmp_path: Path) -> None:
    a, b = written(tmp_path / "a.json", "info"), written(tmp_path / "b.json", "warning")
    out = tmp_path / "both.html"
    result = run("compare", a, b, "--out", out)
    assert result.exit_code == 1, result.output
    assert result.stdout.startswith("The second is worse: 1 worse.\n")
    assert result.stdout.endswith(f"Wrote {out}\n")
    assert "Audit of a" in out.read_text() and "Audit of b" in out.read_text()
    assert run("compare", b, a).exit_code == 0
    twin = run("compare", a, b, "--json", "--out", tmp_path / "both.json")
    assert json.loads(twin.stdout) == json.loads((tmp_path / "both.json").read_text())


@pytest.mark.parametrize(
    ("content", "out", "complaint"),
    [
        ("{}", "x.html", "does not fit the schema"),
        ("[" * 10**6, "x.html", "does not fit the schema"),
        (None, "x.html", "No such file"),
        ("{}", "x.pdf", "ending in .html or .json"),
        ("{}", "a.json", "is an input"),
    ],
)
def test_compare_refuses_other_files(
    tmp_path: Path, content: str | None, out: str, complaint: str
) -> None:
    a, b = written(tmp_path / "a.json"), tmp_path / "b.json"
    if content is not None:
        b.write_text(content)
    before = a.read_bytes()
    assert complaint in refused(run("compare", a, b, "--out", tmp_path / out, "--overwrite"))
    assert a.read_bytes() == before and not (tmp_path / "x.html").exists()


def test_the_schema_is_the_one_that_ships(tmp_path: Path) -> None:
    text = run("schema").stdout
    assert text == (Path(xai.__file__).parent / "report/schema/report.schema.json").read_text()
    assert json.loads(text) == document(run("schema", "--json"))
