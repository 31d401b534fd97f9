"""Files for other programs, read back by code that knows nothing of how they were written."""

import json
import uuid
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from graphs import GraphRelevance, partition_by
from graphs.readers import read_cells
from tests.xai.graph_examples import some_cells, some_relevance
from xai.errors import FileFormatError, InputError
from xai.export import (
    cells_to_geojson,
    cells_to_table,
    load_graph_relevance,
    parts_to_geojson,
    parts_to_table,
    save_graph_relevance,
)
from xai.plot.palette import CATEGORIES

MPP = 0.25


def strict(path):
    """The document, if it is JSON of the standard, without NaN and repeated names."""

    def once(pairs):
        names = [name for name, _ in pairs]
        assert len(set(names)) == len(names)
        return dict(pairs)

    def refused(text):
        raise AssertionError(f"{text} is no JSON")

    return json.loads(path.read_bytes(), parse_constant=refused, object_pairs_hook=once)


def check_geojson(document, object_type):
    """RFC 7946, and what QuPath's reader takes: UUIDs, colours of three bytes, numbers."""
    assert set(document) == {"type", "features"}
    assert document["type"] == "FeatureCollection"
    ids = [feature["id"] for feature in document["features"]]
    assert len(set(ids)) == len(ids)
    for feature in document["features"]:
        assert feature["type"] == "Feature"
        assert str(uuid.UUID(feature["id"])) == feature["id"]
        geometry, properties = feature["geometry"], feature["properties"]
        if geometry["type"] == "Polygon":
            (ring,) = geometry["coordinates"]
            assert len(ring) >= 4 and ring[0] == ring[-1]
            assert all(len(point) == 2 for point in ring)
        else:
            assert geometry["type"] == "Point" and len(geometry["coordinates"]) == 2
        assert properties["objectType"] == object_type
        colors = [properties.get("color"), properties.get("classification", {}).get("color")]
        for color in colors:
            assert color is None or len(color) == 3
            assert color is None or all(isinstance(c, int) and 0 <= c <= 255 for c in color)
        assert all(isinstance(v, int | float) for v in properties["measurements"].values())
    return document["features"]


# -- GeoJSON -------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", ["polygon", "point"])
def test_cells_come_back_from_geojson(tmp_path, shape):
    found = some_relevance(grid=60)
    graph = found.graph
    path = cells_to_geojson(found, tmp_path / "a.geojson", image="slide 1/a", mpp=MPP, shape=shape)
    features = check_geojson(strict(path), "detection")
    mine = np.flatnonzero(graph.images == 1)
    assert len(features) == len(mine) == 40
    sums = found.parts().set_index("part")["relevance"]
    for i, feature in zip(mine, features, strict=True):
        measured = feature["properties"]["measurements"]
        assert measured["relevance"] == found.values[i].sum()
        part = found.partition.names[found.partition.codes[i]]
        assert measured["relevance of the part"] == pytest.approx(sums[part], rel=1e-12)
        assert feature["properties"]["metadata"] == {"cell": f"cell {i}"}
        known = graph.phenotypes[i] >= 0
        assert ("classification" in feature["properties"]) == known
    # The package's own reader, written by somebody else, finds the same cells at the same places.
    read = read_cells(path, mpp=MPP, phenotypes=graph.phenotype_names, unknown="keep")
    order = np.argsort([str(i) for i in read.cell_ids])
    ids = np.argsort([feature["id"] for feature in features])
    np.testing.assert_allclose(read.positions[order], graph.positions[mine][ids], atol=1e-3 * MPP)
    np.testing.assert_array_equal(read.phenotypes[order], graph.phenotypes[mine][ids])


def test_positions_in_pixels_need_no_pixel_size_and_refuse_one(tmp_path):
    graph = replace(some_cells(((9,),)), unit="px")
    found = some_relevance(graph=graph)
    path = cells_to_geojson(found, tmp_path / "a.geojson", shape="point", origin=(100, 7))
    places = [f["geometry"]["coordinates"] for f in strict(path)["features"]]
    np.testing.assert_allclose(places, graph.positions + np.array([100, 7]), atol=1e-3)
    with pytest.raises(InputError, match="in pixels already"):
        cells_to_geojson(found, tmp_path / "b.geojson", mpp=MPP)
    assert not (tmp_path / "b.geojson").exists()


def test_octagons_have_the_radius_asked_for(tmp_path):
    found = some_relevance()
    path = cells_to_geojson(
        found, tmp_path / "a.geojson", image="slide 2/a", mpp=MPP, radius=3, object_type="cell"
    )
    mine = found.graph.positions[found.graph.images == 2] / MPP
    for centre, feature in zip(mine, check_geojson(strict(path), "cell"), strict=True):
        ring = np.array(feature["geometry"]["coordinates"][0][:-1])
        assert len(ring) == 8
        np.testing.assert_allclose(np.linalg.norm(ring - centre, axis=1), 3 / MPP, atol=2e-3)


def test_colours_are_those_of_the_sign(tmp_path):
    found = some_relevance()
    path = cells_to_geojson(
        found, tmp_path / "a.geojson", image="slide 0/a", mpp=MPP, colors="relevance", quantile=0.9
    )
    for feature in check_geojson(strict(path), "detection"):
        red, _, blue = feature["properties"]["color"]
        value = feature["properties"]["measurements"]["relevance"]
        if abs(value) > 0.2:
            assert (red > blue) == (value > 0)
    plain = cells_to_geojson(found, tmp_path / "b.geojson", image="slide 0/a", mpp=MPP)
    tumour = next(
        f["properties"]
        for f in strict(plain)["features"]
        if f["properties"].get("classification", {}).get("name") == "tumour"
    )
    assert "#{:02x}{:02x}{:02x}".format(*tumour["classification"]["color"]) == CATEGORIES[0]
    assert "color" not in tumour


def test_the_same_cell_has_the_same_id(tmp_path):
    found = some_relevance()
    one = cells_to_geojson(found, tmp_path / "a.geojson", image="slide 0/a", mpp=MPP)
    two = cells_to_geojson(found, tmp_path / "b.geojson", image="slide 0/a", mpp=MPP, radius=9)
    ids = [[f["id"] for f in strict(path)["features"]] for path in (one, two)]
    assert ids[0] == ids[1]


def test_squares_of_a_grid_are_annotations(tmp_path):
    found = some_relevance(grid=60)
    path = parts_to_geojson(found, tmp_path / "a.geojson", image="slide 3/a", mpp=MPP)
    features = check_geojson(strict(path), "annotation")
    table = found.parts()
    table = table[table["image"] == "slide 3/a"].set_index("part")
    assert {f["properties"]["name"] for f in features} == set(table.index)
    mine = found.graph.images == 3
    inside = 0
    for feature in features:
        name, measured = feature["properties"]["name"], feature["properties"]["measurements"]
        assert measured["cells"] == table.loc[name, "cells"]
        assert measured["relevance"] == pytest.approx(table.loc[name, "relevance"], rel=1e-12)
        ring = np.array(feature["geometry"]["coordinates"][0]) * MPP
        low, high = ring.min(0), ring.max(0)
        np.testing.assert_allclose(high - low, 60)
        places = found.graph.positions[mine]
        here = ((places >= low) & (places < high)).all(1)
        assert here.sum() == measured["cells"]
        assert found.cells[mine][here].sum() == pytest.approx(measured["relevance"])
        inside += here.sum()
    assert inside == mine.sum()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "Expected image="),
        ({"image": "slide 9"}, "'slide 9'"),
        ({"image": "slide 0/a"}, "micrometres per pixel of the slide"),
        ({"image": "slide 0/a", "mpp": 0.0}, "above 0"),
        ({"image": "slide 0/a", "mpp": float("nan")}, "above 0"),
        ({"image": "slide 0/a", "mpp": MPP, "origin": (1,)}, "origin"),
        ({"image": "slide 0/a", "mpp": MPP, "radius": -1}, "radius"),
        ({"image": "slide 0/a", "mpp": MPP, "shape": "star"}, "shape"),
        ({"image": "slide 0/a", "mpp": MPP, "object_type": "tile"}, "object_type"),
        ({"image": "slide 0/a", "mpp": MPP, "colors": "sign"}, "colors"),
        ({"image": "slide 0/a", "mpp": MPP, "quantile": 2}, "quantile"),
    ],
)
def test_geojson_refuses(tmp_path, options, message):
    with pytest.raises(InputError, match=message):
        cells_to_geojson(some_relevance(), tmp_path / "a.geojson", **options)
    assert list(tmp_path.iterdir()) == []


def test_geojson_refuses_what_it_cannot_show(tmp_path):
    with pytest.raises(InputError, match="of a grid"):
        parts_to_geojson(some_relevance(), tmp_path / "a.geojson", image="slide 0/a", mpp=MPP)
    found = some_relevance()
    regions = replace(found, partition=partition_by(found.graph, "region"))
    with pytest.raises(InputError, match="of a grid"):
        parts_to_geojson(regions, tmp_path / "a.geojson", image="slide 0/a", mpp=MPP)
    solid = replace(found.graph, positions=np.c_[found.graph.positions, found.cells])
    with pytest.raises(InputError, match="in a plane"):
        cells_to_geojson(replace(found, graph=solid), tmp_path / "a.geojson", image="slide 0/a")
    found.values[3] = np.nan
    with pytest.raises(InputError, match="finite"):
        cells_to_geojson(found, tmp_path / "a.geojson", image="slide 0/a", mpp=MPP)
    assert list(tmp_path.iterdir()) == []


# -- tables --------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_tables_hold_every_cell_and_part(tmp_path, suffix):
    found = some_relevance(grid=60)
    path = cells_to_table(found, tmp_path / f"cells{suffix}")
    read = pd.read_csv(path) if suffix == ".csv" else pd.read_parquet(path)
    assert len(read) == len(found.graph)
    np.testing.assert_allclose(read["relevance"], found.values.sum(1), rtol=1e-15)
    np.testing.assert_allclose(read["x_um"], found.graph.positions[:, 0], rtol=1e-15)
    assert read["cell"].tolist() == [f"cell {i}" for i in range(len(read))]
    by_patient = read.groupby("patient")["relevance"].sum()
    np.testing.assert_allclose(by_patient.loc[["P0", "P1", "P2"]], found.patient_sums)
    path = parts_to_table(found, tmp_path / f"parts{suffix}")
    parts = pd.read_csv(path) if suffix == ".csv" else pd.read_parquet(path)
    expected = read.groupby("part")["relevance"].sum()
    np.testing.assert_allclose(parts.set_index("part")["relevance"], expected.loc[parts["part"]])
    assert parts["cells"].sum() == len(read)


def test_tables_refuse(tmp_path):
    with pytest.raises(FileFormatError, match="csv or"):
        cells_to_table(some_relevance(), tmp_path / "a.xlsx")
    with pytest.raises(InputError, match="without one"):
        parts_to_table(some_relevance(), tmp_path / "a.csv")
    assert list(tmp_path.iterdir()) == []


# -- files to read back --------------------------------------------------------------------------


def same(a: GraphRelevance, b: GraphRelevance) -> None:
    for one, two in ((a.values, b.values), (a.log_hazard, b.log_hazard)):
        assert one.dtype == two.dtype
        np.testing.assert_array_equal(one, two)
    assert list(a.absorbed) == list(b.absorbed)
    for name, share in a.absorbed.items():
        np.testing.assert_array_equal(share, b.absorbed[name])
    for name in ("composite", "reference", "settings"):
        assert getattr(a, name) == getattr(b, name)
    for name in vars(a.graph):
        one, two = getattr(a.graph, name), getattr(b.graph, name)
        if isinstance(one, np.ndarray):
            np.testing.assert_array_equal(one, two)
        else:
            assert one == two
    assert (a.partition is None) == (b.partition is None)
    if a.partition is not None:
        for name in vars(a.partition):
            one, two = getattr(a.partition, name), getattr(b.partition, name)
            if isinstance(one, np.ndarray):
                np.testing.assert_array_equal(one, two)
            else:
                assert one == two


@pytest.mark.parametrize("suffix", [".npz", ".json"])
@pytest.mark.parametrize("kind", ["grid", "regions", "bare"])
def test_relevance_comes_back_equal(tmp_path, suffix, kind):
    found = some_relevance(grid=60 if kind == "grid" else None)
    if kind == "regions":
        found = replace(found, partition=partition_by(found.graph, "region"))
    if kind == "bare":
        graph = replace(
            found.graph, edges=None, features=None, feature_names=(), regions=None,
            region_names=(), cell_ids=np.arange(len(found.graph)) * 7, unit="px",
        )  # fmt: skip
        found = replace(
            found, graph=graph, reference=None, settings={}, values=found.values.astype("f4")
        )
    path = save_graph_relevance(found, tmp_path / f"found{suffix}")
    same(found, load_graph_relevance(path))
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("suffix", [".npz", ".json"])
def test_a_file_that_was_changed_is_refused(tmp_path, suffix):
    path = save_graph_relevance(some_relevance(grid=60), tmp_path / f"found{suffix}")
    whole = path.read_bytes()
    for content in (whole[: len(whole) // 2], b"", b"{}", b"[1]", whole.replace(b"f8", b"O8")):
        path.write_bytes(content)
        with pytest.raises(FileFormatError):
            load_graph_relevance(path)


def broken(document):
    """Ways in which a file can lie, with a word of the complaint."""
    yield "reshape", lambda d: d["arrays"]["positions"]["data"].pop()
    yield "version", lambda d: d.update(version=9)
    yield "header", lambda d: d.update(format="other")
    yield "texts", lambda d: d.update(patients=[1, 2])
    yield "shape", lambda d: d["arrays"]["log_hazard"].update(data=[1.0], shape=[1])
    yield "absorbed", lambda d: d["arrays"]["absorbed_0"].update(data=[1.0], shape=[1])
    yield (
        "no cells",
        lambda d: (
            d["parts"].append("one more")
            or d["arrays"]["part_images"].update(
                data=[*d["arrays"]["part_images"]["data"], 0], shape=[len(d["parts"])]
            )
        ),
    )
    yield "several images", lambda d: d["arrays"]["part_images"]["data"].reverse()


@pytest.mark.parametrize("number", range(8))
def test_a_file_that_lies_is_refused(tmp_path, number):
    path = save_graph_relevance(some_relevance(grid=60), tmp_path / "found.json")
    document = json.loads(path.read_text())
    word, change = list(broken(document))[number]
    change(document)
    path.write_text(json.dumps(document))
    with pytest.raises(FileFormatError, match=word):
        load_graph_relevance(path)


def test_saving_refuses_and_leaves_nothing(tmp_path):
    found = some_relevance()
    with pytest.raises(FileFormatError, match="ending in"):
        save_graph_relevance(found, tmp_path / "found.pkl")
    with pytest.raises(FileFormatError, match="ending in"):
        load_graph_relevance(tmp_path / "found.pkl")
    with pytest.raises(InputError, match="settings"):
        save_graph_relevance(replace(found, settings={"f": print}), tmp_path / "found.npz")
    ids = np.array([1.5, *found.graph.cell_ids[1:]], object)
    mixed = replace(found, graph=replace(found.graph, cell_ids=ids))
    with pytest.raises(InputError, match="cell_ids"):
        save_graph_relevance(mixed, tmp_path / "found.npz")
    with pytest.raises(FileNotFoundError, match="existing folder"):
        save_graph_relevance(found, tmp_path / "nowhere" / "found.npz")
    assert list(tmp_path.iterdir()) == []
