"""The audit of a graph network as a whole: reports, saving, refusals, and the command line."""

from __future__ import annotations

import json
import shlex

import numpy as np
import pandas as pd
import pytest
from torch import nn
from typer.testing import CliRunner

from graphs.checkpoint import save_network
from tests.xai.audit_graphs.hand_made import cohort, join, net, with_offset
from xai.audit import GRAPH_CHECKS, GraphAudit, GraphCheck
from xai.audit.graph_audit import per_patient
from xai.cli import app
from xai.errors import InputError, UnsupportedModelError
from xai.graph_manifest import is_graph_network
from xai.report import Measure, Passed, read_report

SITE = np.array(["north", "south"])[np.random.default_rng(5).permutation(40) % 2]
SEEN = {"T cell": 2.0, "stain": 1.0}


@pytest.fixture(scope="module")
def cells():
    return with_offset(cohort(40), SITE == "south", 1.5)


def audit(cells, **options):
    options = {"groups": SITE, "join": join, "progress": False} | options
    return GraphAudit(net(SEEN), cells, **options)


def test_all_checks_answer_and_the_report_can_be_written_and_read(cells, tmp_path):
    report = audit(cells).run()
    assert {answer.check for answer in report.answers} == {check.name for check in GRAPH_CHECKS}
    assert report.exit_code == 1 and report.findings[0].check == "groups"
    report.to_html(tmp_path / "r.html")
    report.to_json(tmp_path / "r.json")
    assert read_report(tmp_path / "r.json").findings[0].title == report.findings[0].title
    assert report.findings[0].command == (
        "xai.audit.GraphAudit(model, graphs, groups=groups, join=join, checks=['groups'], "
        "seed=0).run()"
    )
    assert "40 patients" in report.introduction
    assert len(report.provenance["cells_sha256"]) == 64


def test_groups_are_asked_for_only_where_there_are_some(cells):
    names = [check.name for check in audit(cells, groups=None).checks]
    assert "groups" not in names and "phenotypes" in names


def test_the_same_seed_gives_the_same_report_and_saved_answers_are_used(cells, tmp_path):
    first = audit(cells, save_to=tmp_path / "saved").run()
    again = audit(cells, save_to=tmp_path / "saved").run()
    fresh = audit(cells).run()
    assert first.digest == again.digest == fresh.digest
    assert first.seconds == again.seconds  # they were read, not asked


def test_the_network_is_left_as_it_was(cells):
    model = net(SEEN)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    GraphAudit(model, cells, groups=SITE, progress=False).run()
    assert all((before[name] == value).all() for name, value in model.state_dict().items())


def test_a_check_of_ones_own_is_asked(cells):
    class Many(GraphCheck):
        name = "many"
        question = "Are there many patients?"

        def run(self, audit):
            yield Passed(Measure("patients", len(audit), ">=", 10))

    (answer,) = audit(cells, checks=[Many()]).run().answers
    assert answer.check == "many" and "Many(...)" in answer.command


def test_labels_and_groups_come_by_order_or_by_name(cells):
    names = cells.patient_names
    series = pd.Series(SITE, index=names)
    for values in (SITE, list(SITE), series, series[::-1], dict(zip(names, SITE, strict=True))):
        np.testing.assert_array_equal(per_patient(values, cells, "groups"), SITE)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"groups": SITE[:-1]}, "Expected 40 groups"),
        ({"labels": {"P0": 1}}, "labels of every patient, got none of 'P1'"),
        ({"labels": [np.nan, *range(39)]}, "missing value"),
        ({"suspects": ["macrophage"]}, "got 'macrophage'"),
        ({"checks": ["placement"]}, "got 'placement'"),
        ({"checks": []}, "Expected a list of graph checks"),
    ],
)
def test_what_does_not_fit_is_refused(cells, change, message):
    with pytest.raises(InputError, match=message):
        audit(cells, **change)


def test_other_models_and_other_cells_are_refused(cells):
    with pytest.raises(UnsupportedModelError, match=r"xai\.Audit takes models over rows"):
        GraphAudit(nn.Linear(2, 1), cells)
    with pytest.raises(InputError, match="5 inputs, as the network reads, got 3"):
        GraphAudit(net(SEEN), cohort(4, features=0))


# -- the command line ----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def folder(cells, tmp_path_factory):
    where = tmp_path_factory.mktemp("cells")
    frame = pd.DataFrame(
        {
            "x": cells.positions[:, 0],
            "y": cells.positions[:, 1],
            "phenotype": np.array(cells.phenotype_names)[cells.phenotypes],
            "image": np.array(cells.image_names)[cells.images],
            "patient": np.array(cells.patients)[cells.images],
            "stain": cells.features[:, 0],
            "size": cells.features[:, 1],
            "site": SITE[cells.patient_of_cell],
            "depth": np.arange(len(cells)),
        }
    )
    frame.to_csv(where / "cells.csv", index=False)
    sites = pd.DataFrame({"who": cells.patient_names, "scanner": SITE})
    sites[::-1].to_csv(where / "sites.csv", index=False)
    save_network(net(SEEN), where / "net.safetensors", cells.input_names)
    return where


def command(folder, model="net.safetensors", *more):
    words = (
        f"audit {folder / model} --data {folder / 'cells.csv'} --column image=image "
        f"--column patient=patient --column features=stain,size --unit um --radius 12"
    )
    return [*shlex.split(words), *map(str, more)]


def run(*words):
    return CliRunner().invoke(app, list(words))


@pytest.mark.parametrize("model", ["net.safetensors", "net.json"])
def test_xai_audit_takes_a_network_and_a_column_of_the_cells(folder, tmp_path, model):
    out = tmp_path / "report.json"
    result = run(*command(folder, model, "--groups", "site", "--check", "groups", "--out", out))
    assert result.exit_code == 1, result.output
    found = json.loads(out.read_text())
    assert found["findings"][0]["severity"] == "critical"
    assert "--groups site" in found["findings"][0]["command"]
    assert "radius 12" in json.dumps(found)


def test_groups_come_from_a_table_of_patients_too(folder):
    table = f"{folder / 'sites.csv'}:scanner"
    result = run(
        *command(folder, "net.safetensors", "--groups", table, "--check", "groups", "--json")
    )
    assert result.exit_code == 1, result.output
    own = run(
        *command(folder, "net.safetensors", "--groups", "site", "--check", "groups", "--json")
    )
    measures = [json.loads(r.stdout)["findings"][0]["measure"] for r in (result, own)]
    assert measures[0] == measures[1]


def test_nothing_to_object_to_is_exit_code_0(folder):
    result = run(*command(folder, "net.safetensors", "--check", "conservation"))
    assert result.exit_code == 0 and "No objection" in result.output


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (("--groups", "depth"), "one value per patient"),
        (("--groups", "nowhere"), "expected a column of the cells, or FILE:COLUMN"),
        (("--suspect", "macrophage"), "got 'macrophage'"),
        (("--device", "abacus"), "Cannot compute on device"),
        (("--k", "3"), "give one"),
    ],
)
def test_wrong_use_is_exit_code_2_and_writes_nothing(folder, tmp_path, more, message):
    out = tmp_path / "out"
    result = run(*command(folder, "net.safetensors", *more, "--out", out))
    assert result.exit_code == 2, result.output
    assert message in " ".join(result.stderr.split())
    assert not out.exists()


def test_only_manifests_of_graph_networks_are_taken_for_one(folder, tmp_path):
    assert is_graph_network(folder / "net.json")
    assert is_graph_network(folder / "net.safetensors")
    for name, text in (("a.json", "[1]"), ("b.json", "{"), ("c.json", '{"kind": "other"}')):
        (tmp_path / name).write_text(text)
        assert not is_graph_network(tmp_path / name)
    deep = tmp_path / "d.json"
    deep.write_text("[" * 100_000)
    assert not is_graph_network(deep)
