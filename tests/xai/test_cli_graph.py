"""``xai explain --graph``: what it writes, prints and refuses, and that errors leave nothing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from typer.testing import CliRunner, Result

import xai.report.html
from graphs import CellGraphNet, GraphConfig, explain, graph_composite, grid_relevance, knn_graph
from graphs.checkpoint import save_network
from graphs.ensemble import GraphEnsemble
from graphs.readers import Columns, read_cells
from neuralize.seeding import seeded
from xai.cli import app
from xai.cli_graph_options import FIELDS, column, lengths
from xai.cli_output import print_text
from xai.export import load_graph_relevance

NAMES = ("tumour", "T cell", "<script>B</script>")
COLUMNS = ["--column", "x=X", "--column", "y=Y", "--column", "phenotype=type"]
COLUMNS += ["--column", "image=image", "--column", "patient=patient"]


def run(*args: Any) -> Result:
    return CliRunner().invoke(app, [str(arg) for arg in args])


def refused(result: Result) -> str:
    """The message of a command that refused its work; stdout stays empty."""
    assert result.exit_code == 2, result.output
    assert result.stdout == ""
    assert "Traceback" not in result.stderr
    return " ".join(result.stderr.split())


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Cells, patients and networks; patients 7 and 8 have two images each, the others one."""
    where = tmp_path_factory.mktemp("cohort")
    rng = np.random.default_rng(0)
    images = [(p, i) for p in range(7, 13) for i in range(2 if p < 9 else 1)]
    frames = [
        pd.DataFrame(
            {"X": rng.random(50) * 90, "Y": rng.random(50) * 60, "type": rng.choice(NAMES, 50),
             "image": f"{p}/{i}", "patient": p, "size": rng.random(50)}
        )
        for p, i in images
    ]  # fmt: skip
    cells = pd.concat(frames, ignore_index=True)
    cells.to_parquet(where / "cells.parquet")
    cells.to_csv(where / "cells.csv", index=False)
    patients = pd.DataFrame({"name": range(5, 13), "stage": [1, 2, 1, 3, 2, 1, 3, 2]})
    patients["days"] = [1, 2, *rng.integers(100, 900, 6)]
    patients["died"] = [np.nan, 0, 1, 1, 0, 1, 1, 1]
    patients.to_csv(where / "patients.csv", index=False)
    with seeded(0):
        config = GraphConfig(in_features=3, hidden=8, blocks=2, covariates=("stage",))
        nets = [CellGraphNet(config).eval() for _ in range(3)]
        wide = CellGraphNet(GraphConfig(in_features=4, hidden=4, blocks=1)).eval()
    save_network(nets[0], where / "net.safetensors", NAMES, unit="days")
    save_network(GraphEnsemble(nets, "median"), where / "many.safetensors", NAMES)
    save_network(wide, where / "wide.safetensors", (*NAMES, "size"))
    return where


def graph(folder: Path):
    columns = Columns("X", "Y", phenotype="type", image="image", patient="patient")
    return knn_graph(read_cells(folder / "cells.parquet", columns, unit="um", phenotypes=NAMES), 3)


def stages(folder: Path) -> pd.DataFrame:
    return pd.read_csv(folder / "patients.csv").set_index("name")[["stage"]].astype(float)


def base(folder: Path, model: str = "net.safetensors", cells: str = "cells.parquet") -> list[Any]:
    return ["explain", folder / model, "--graph", folder / cells, *COLUMNS, "--unit", "um",
            "--k", 3, "--covariates", folder / "patients.csv"]  # fmt: skip


# -- what it writes ------------------------------------------------------------------------------


@pytest.mark.parametrize("cells", ["cells.parquet", "cells.csv"])
def test_the_numbers_are_those_of_the_library(folder, tmp_path, cells):
    from graphs.checkpoint import load_network

    result = run(*base(folder, cells=cells), "--out", tmp_path / "out")
    assert result.exit_code == 0, result.output
    net, _ = load_network(folder / "net.safetensors")
    wanted = explain(net, graph(folder), stages(folder), dtype=torch.float64)
    found = load_graph_relevance(tmp_path / "out" / "relevance.npz")
    np.testing.assert_allclose(found.values, wanted.values, rtol=1e-12, atol=1e-15)
    np.testing.assert_allclose(found.log_hazard, wanted.log_hazard, rtol=1e-12)
    assert found.graph.patients == ("7", "7", "8", "8", "9", "10", "11", "12")
    names = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert names == ["cells.csv", "patients.csv", "phenotypes.csv", "relevance.npz", "tissue.png"]
    table = pd.read_csv(tmp_path / "out" / "patients.csv").set_index("patient")
    np.testing.assert_allclose(table["log_hazard"], wanted.log_hazard, rtol=1e-12)
    sums = table.drop(columns="log_hazard").to_numpy().sum(1)
    np.testing.assert_allclose(sums, table["log_hazard"], atol=1e-12)
    for name in names:
        assert f"Wrote {tmp_path / 'out' / name}" in result.stdout


def test_grid_offsets_geojson_and_report(folder, tmp_path, monkeypatch):
    from graphs.checkpoint import load_network

    monkeypatch.setattr(
        xai.report.Picture, "png", lambda picture, dpi: b""
    )  # drawn by another test

    out = tmp_path / "out"
    result = run(
        *base(folder), "--patient", 8, "--patient", 12, "--grid", 25, "--offsets", 2,
        "--range", "10,40", "--gamma", 0.5,
        "--time", "days", "--event", "died", "--slide-mpp", 0.5, "--report", "--out", out,
        "--format", "json,parquet,geojson",
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    assert sum(line.startswith("Wrote") for line in result.stdout.splitlines()) == 14
    net, _ = load_network(folder / "net.safetensors")
    wanted = grid_relevance(
        net, graph(folder).patient("8", "12"), 25, stages(folder), offsets=2,
        composite=graph_composite(0.5), dtype=torch.float64,
    )  # fmt: skip
    found = load_graph_relevance(out / "relevance.json")
    np.testing.assert_allclose(found.values, wanted.values, rtol=1e-12, atol=1e-15)
    assert found.partition.names == wanted.partition.names
    curve = pd.read_parquet(out / "interaction_range.parquet")
    assert sorted(set(curve["cell_size"])) == [10, 40]
    for image in ("8_0", "12_0"):
        for kind in ("cells", "parts"):
            document = json.loads((out / f"{kind}-{image}.geojson").read_text())
            assert document["type"] == "FeatureCollection"
    first = json.loads((out / "cells-8_1.geojson").read_text())["features"]
    assert len(first) == 50
    corners = np.array(first[7]["geometry"]["coordinates"][0][:-1])
    mine = wanted.graph.images == wanted.graph.image_names.index("8/1")
    np.testing.assert_allclose(corners.mean(0), wanted.graph.positions[mine][7] / 0.5, atol=1e-3)
    html = (out / "report.html").read_text()
    assert "<script" not in html and "&lt;script&gt;B" in html
    report = json.loads((out / "report.json").read_text())
    titles = [section["title"] for section in report["sections"]]
    assert titles[0] == "What the risk is made of" and len(titles) == 5
    assert report["provenance"]["neighbours"] == "3 nearest"
    assert report["provenance"]["grid"] == "25, 2 offsets along each axis"


@pytest.mark.parametrize("name", ["a.npz", "a.csv", "a.parquet", "a.json", "a.png", "a.html"])
def test_a_single_file_has_the_format_of_its_suffix(folder, tmp_path, name):
    result = run(*base(folder), "--out", tmp_path / name)
    assert result.exit_code == 0, result.output
    assert [path.name for path in tmp_path.iterdir()] == [name]
    if name in ("a.csv", "a.parquet"):
        read = pd.read_csv if name == "a.csv" else pd.read_parquet
        assert len(read(tmp_path / name)) == 400
    elif name == "a.html":
        assert (tmp_path / name).read_text().startswith("<!DOCTYPE html>")
    elif name != "a.png":
        assert len(load_graph_relevance(tmp_path / name)) == 6


def test_one_patient_as_geojson(folder, tmp_path):
    result = run(
        *base(folder), "--patient", 9, "--slide-mpp", 0.25, "--out", tmp_path / "a.geojson"
    )
    assert result.exit_code == 0, result.output
    assert len(json.loads((tmp_path / "a.geojson").read_text())["features"]) == 50


def test_positions_in_pixels(folder, tmp_path):
    args = [arg if arg != "um" else "px" for arg in base(folder)]
    scaled = run(*args, "--mpp", 0.5, "--format", "npz,geojson", "--out", tmp_path / "um")
    assert scaled.exit_code == 0, scaled.output
    found = load_graph_relevance(tmp_path / "um" / "relevance.npz")
    assert found.graph.unit == "um"
    np.testing.assert_allclose(found.graph.positions, graph(folder).positions / 2)
    bare = run(*args, "--format", "npz,geojson", "--out", tmp_path / "px")
    assert bare.exit_code == 0, bare.output
    one = json.loads((tmp_path / "px" / "cells-9_0.geojson").read_text())
    two = json.loads((tmp_path / "um" / "cells-9_0.geojson").read_text())
    rings = [[f["geometry"]["coordinates"][0] for f in d["features"]] for d in (one, two)]
    centres = [np.array(ring)[:, :-1].mean(1) for ring in rings]
    np.testing.assert_allclose(centres[0], centres[1], atol=2e-3)  # the slide's own pixels, both


def test_json_alone(folder):
    result = run(*base(folder, "many.safetensors"), "--json", "--dtype", "float32")
    assert result.exit_code == 0, result.output
    document = json.loads(result.stdout)
    assert document["cells"] == 400 and document["images"] == 8 and document["files"] == []
    assert [row["patient"] for row in document["patients"]] == ["7", "8", "9", "10", "11", "12"]
    for row in document["patients"]:
        total = row["cells"] + sum(row["absorbed"].values())
        assert total == pytest.approx(row["log_hazard"], abs=1e-5)
    assert set(document["phenotypes"]) == set(NAMES)
    assert document["provenance"]["members"] == "3, median"
    assert document["conservation_error"] < 1e-5


def test_features_come_after_phenotypes(folder):
    args = ["explain", folder / "wide.safetensors", "--graph", folder / "cells.csv", *COLUMNS,
            "--unit", "um", "--radius", 12, "--json"]  # fmt: skip
    result = run(*args, "--column", "features=size")
    assert result.exit_code == 0, result.output
    assert set(json.loads(result.stdout)["phenotypes"]) == set(NAMES)
    # Without it, "size" would pass for a phenotype that no cell has.
    assert "say --column features=size" in refused(run(*args))
    assert "network's inputs" in refused(run(*args, "--column", "features=X"))


def test_both_names_of_the_command(folder):
    args = base(folder)
    one = run(*args, "--json")
    two = run("explain-graph", *args[1:], "--json")
    assert one.exit_code == two.exit_code == 0
    assert json.loads(one.stdout) == json.loads(two.stdout)
    joined = [f"--graph={args[3]}" if arg == "--graph" else arg for arg in args]
    del joined[3]
    assert run(*joined, "--json").exit_code == 0


# -- what it refuses -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        (["--radius", 20], "three ways to join"),
        (["--delaunay", -1], "three ways to join"),
        (["--offsets", 2], "--offsets shifts the squares of --grid"),
        (["--grid", 0], "cell_size above 0"),
        (["--grid", "nan"], "cell_size above 0"),
        (["--time", "days"], "--time and --event belong together"),
        (["--time", "days", "--event", "dead"], "'dead'"),
        (["--id", "nobody"], "'nobody'"),
        (["--id", "days"], "row of patient '7'"),
        (["--patient", "99"], "'99'"),
        (["--covariates", "nowhere.csv"], "nowhere.csv"),
        (["--graph", "nowhere.parquet"], "nowhere.parquet"),
        (["--column", "phenotype=image"], "phenotype"),
        (["--column", "x=Z"], "'Z'"),
        (["--unit", "px", "--format", "geojson", "--slide-mpp", 0.5], "leave --slide-mpp out"),
        (["--format", "geojson"], "--slide-mpp"),
        (["--device", "nowhere"], "Cannot compute on device"),
        (["--gamma", -1], "gamma"),
        (["--range", "a"], "lengths above 0"),
        (["--rows", "1:2"], "No such option"),
        (["--k", 0], "'--k'"),
        (["--format", "html"], "expected some of"),
        (["--column", "colour=X"], "FIELD=COLUMN"),
    ],
)
def test_wrong_use_is_one_message_and_nothing_written(folder, tmp_path, extra, message):
    result = run(*base(folder), *extra, "--out", tmp_path / "out")
    assert message in refused(result)
    assert list(tmp_path.iterdir()) == []


def test_more_wrong_use(folder, tmp_path):
    args = base(folder)
    out = ["--out", tmp_path / "out"]
    bare = args[: args.index("--k")]
    assert "--k 3, --radius 20 or --delaunay 50" in refused(
        run(*bare, *args[args.index("--covariates") :], *out)
    )
    assert "--covariates FILE" in refused(run(*bare, "--k", 3, *out))
    assert "give both" in refused(run(*bare, "--max-edge", 9, *out))
    assert "where with --out" in refused(run(*args, "--report"))
    assert "names one" in refused(run(*args, "--out", tmp_path / "a.npz", "--report"))
    assert "one image for the file" in refused(
        run(*args, "--slide-mpp", 1, "--out", tmp_path / "a.geojson")
    )
    message = refused(run(*args[:1], folder / "cells.csv", *args[2:], *out))
    assert "cells.safetensors" in message
    twice = tmp_path / "twice.csv"
    pd.DataFrame({"name": [*range(7, 13), 9], "stage": 1.0}).to_csv(twice, index=False)
    assert "'9' twice" in refused(run(*args, "--covariates", twice, *out))
    twice.write_text("name,stage\n" + "".join(f"{p},\n" for p in range(7, 13)))
    assert "finite covariates" in refused(run(*args, "--covariates", twice, *out))
    assert [path.name for path in tmp_path.iterdir()] == ["twice.csv"]


def test_a_fault_half_way_leaves_nothing(folder, tmp_path, monkeypatch):
    import xai.graph_files

    def full(*_: Any, **__: Any) -> None:
        raise OSError("No space left on device")

    monkeypatch.setattr(xai.graph_files, "cells_to_table", full)
    message = refused(run(*base(folder), "--out", tmp_path / "out"))
    assert "No space left on device" in message
    assert list(tmp_path.iterdir()) == []


def test_files_are_replaced_only_when_asked(folder, tmp_path):
    args = [*base(folder), "--format", "npz", "--out", tmp_path]
    assert run(*args).exit_code == 0
    assert "Already there" in refused(run(*args))
    assert run(*args, "--overwrite").exit_code == 0


def test_patients_as_numbers_with_gaps(folder, tmp_path):
    table = pd.read_csv(folder / "patients.csv")
    table["name"] = table["name"].astype(float)
    for name in ("patients.csv", "patients.parquet"):
        write = table.to_csv if name.endswith("csv") else table.to_parquet
        write(tmp_path / name, index=False)
        result = run(*base(folder), "--covariates", tmp_path / name, "--json")
        assert result.exit_code == 0, result.output
        assert len(json.loads(result.stdout)["patients"]) == 6


def test_many_files_are_counted(capsys):
    print_text("done", [Path("out", f"{k}.csv") for k in range(21)])
    assert capsys.readouterr().out == "done\nWrote 21 files into out\n"


def test_columns_and_lengths():
    import typer

    assert all(column(f"{field}=a")[0] == field for field in FIELDS)
    assert column("image=case, field") == ("image", ("case", "field"))
    assert column("phenotype=a,b") == ("phenotype", ("a", "b"))
    for bad in ("x", "x=", "x=a,b", "image=a,,b", "y"):
        with pytest.raises(typer.BadParameter):
            column(bad)
    assert lengths("50,10,50") == (10, 50)
    for bad in ("", "0", "1,-2", "inf", "1,,2"):
        with pytest.raises(typer.BadParameter):
            lengths(bad)
