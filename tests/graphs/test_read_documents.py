"""GeoJSON, HoVer-Net, CellViT, label masks and AnnData against what was written into them."""

from __future__ import annotations

import gzip
import json
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import sparse

from graphs.build import knn_graph
from graphs.readers import Columns, read_cells, to_anndata
from graphs.readers.mask import centres_of
from neuralize.errors import InputError

# anndata sets an option that pandas 3 has deprecated.
pytestmark = pytest.mark.filterwarnings("ignore:The 'mode.chained_assignment' option")


def written(path, content):
    path.write_text(json.dumps(content))
    return path


def feature(geometry, name="tumour", **more):
    """A cell as QuPath writes it."""
    return {
        "type": "Feature",
        "geometry": geometry,
        "properties": {"objectType": "cell", "classification": {"name": name, "color": [1, 2, 3]}},
        **more,
    }


def collection(*features):
    return {"type": "FeatureCollection", "features": list(features)}


def polygon(*rings):
    return {"type": "Polygon", "coordinates": [[*map(list, ring), list(ring[0])] for ring in rings]}


# -- GeoJSON ---------------------------------------------------------------------------------


def centre_by_pixels(polygons, size=1500):
    """Centre of area from a fine raster: even-odd rule, so holes are outside."""
    low = np.min([np.min(ring, axis=0) for rings in polygons for ring in rings], axis=0)
    high = np.max([np.max(ring, axis=0) for rings in polygons for ring in rings], axis=0)
    steps = (np.arange(size) + 0.5) / size
    x, y = np.meshgrid(*(low[k] + steps * (high[k] - low[k]) for k in (0, 1)))
    inside = np.zeros_like(x, bool)
    for rings in polygons:
        for ring in rings:
            for (x0, y0), (x1, y1) in zip(ring, [*ring[1:], ring[0]], strict=True):
                if y0 != y1:
                    crosses = (y0 > y) != (y1 > y)
                    inside ^= crosses & (x < x0 + (y - y0) * (x1 - x0) / (y1 - y0))
    return np.array([x[inside].mean(), y[inside].mean()])


L_SHAPE = [(0, 0), (9, 0), (9, 2), (2, 2), (2, 7), (0, 7)]
HOLE = [(1, 0.5), (1, 1.5), (5, 1.5), (5, 0.5)]
SQUARE = [(20, 20), (23, 20), (23, 23), (20, 23)]


@pytest.mark.parametrize(
    "polygons",
    [[[L_SHAPE]], [[L_SHAPE[::-1]]], [[L_SHAPE, HOLE]], [[L_SHAPE, HOLE[::-1]]],
     [[L_SHAPE, HOLE], [SQUARE]], [[SQUARE[::-1]], [L_SHAPE]]],
)  # fmt: skip
@pytest.mark.parametrize("shift", [0.0, 1e5])
def test_polygons_stand_for_their_centre_of_area(tmp_path, polygons, shift):
    moved = [[[(x + shift, y + shift) for x, y in ring] for ring in rings] for rings in polygons]
    shape = {
        "type": "MultiPolygon",
        "coordinates": [polygon(*rings)["coordinates"] for rings in moved],
    }
    if len(polygons) == 1:
        shape = polygon(*moved[0])
    path = written(tmp_path / "a.geojson", collection(feature(shape), feature(polygon(SQUARE))))
    graph = read_cells(path)
    assert np.allclose(graph.positions[0] - shift, centre_by_pixels(polygons), atol=0.03)
    assert np.allclose(graph.positions[1], [21.5, 21.5])
    assert graph.unit == "px"


def test_known_centres_exactly(tmp_path):
    triangle = polygon([(1, 2), (7, 2), (4, 8)])
    flat = polygon([(0, 0), (4, 0), (8, 0)])  # no area: the mean of its corners
    path = written(tmp_path / "a.geojson", collection(feature(triangle), feature(flat)))
    assert np.allclose(read_cells(path).positions, [[4, 4], [3, 0]])
    assert np.allclose(read_cells(path, mpp=0.5).positions, [[2, 2], [1.5, 0]])
    assert read_cells(path, mpp=0.5).unit == "um"
    assert read_cells(path, unit="um").unit == "um"


def test_points_names_and_ids(tmp_path):
    point = {"type": "Point", "coordinates": [3, 4]}
    atlas = {"type": "Feature", "geometry": polygon(SQUARE), "properties": {
        "classification": {"name": "Lymphocyte", "color": [0, 0, 0]}}}  # fmt: skip
    derived = feature(point, id="u2")
    derived["properties"]["classification"] = {"names": ["Immune", "CD8+"]}
    path = written(tmp_path / "slide.geojson", collection(feature(point, id="u1"), derived))
    graph = read_cells(path)
    assert [graph.phenotype_names[k] for k in graph.phenotypes] == ["tumour", "Immune: CD8+"]
    assert list(graph.cell_ids) == ["u1", "u2"]
    assert graph.image_names == ("slide",)
    path = written(tmp_path / "atlas.json", [atlas, feature(point)])
    graph = read_cells(path)
    assert [graph.phenotype_names[k] for k in graph.phenotypes] == ["Lymphocyte", "tumour"]
    assert graph.cell_ids is None


@pytest.mark.parametrize("old", [False, True])
def test_measurements_are_features_for_who_asks(tmp_path, old):
    cell = feature(polygon(SQUARE))
    values = {"Nucleus: Area": 30.0, "CD8": 0.5, "x": 99.0}
    cell["properties"]["measurements"] = (
        [{"name": k, "value": v} for k, v in values.items()] if old else values
    )
    path = written(tmp_path / "a.geojson", collection(cell))
    assert read_cells(path).features is None
    graph = read_cells(path, Columns(features=("CD8", "Nucleus: Area")))
    assert graph.features.tolist() == [[0.5, 30.0]]
    assert np.allclose(graph.positions, 21.5)
    with pytest.raises(InputError, match="'CD4'"):
        read_cells(path, Columns(features=("CD4",)))


def test_compressed_geojson(tmp_path):
    path = tmp_path / "a.geojson.gz"
    with gzip.open(path, "wt") as file:
        json.dump(collection(feature(polygon(SQUARE))), file)
    assert read_cells(path).image_names == ("a",)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (collection(feature({"type": "LineString", "coordinates": [[0, 0]]})), "LineString"),
        (collection(feature({"type": "Polygon", "coordinates": []})), "empty Polygon"),
        (collection(feature({"type": "Polygon", "coordinates": [[]]})), "empty Polygon"),
        (collection(feature(None)), "feature 0"),
        (collection({"type": "Feature", "geometry": polygon(SQUARE), "properties": {
            "objectType": "annotation"}}), "annotation as feature 0"),
        (collection({"type": "Feature", "geometry": polygon(SQUARE), "properties": {
            "classification": {"color": 1}}}), "classification.name in feature 0"),
        (collection(feature(polygon(SQUARE), name=None)), "no phenotype in row 0"),
        (collection(feature({"type": "Point", "coordinates": [1]})), "Expected coordinates"),
        (collection(feature({"type": "Point", "coordinates": ["a", 1]})), "Expected coordinates"),
        (collection(feature({"type": "Polygon", "coordinates": [[1, 2]]})), "Expected coordinates"),
        (collection(feature({"type": "Point", "coordinates": [None, 1]})), "not finite"),
        (collection(), "at least one cell"),
        ({"type": "Topology"}, "FeatureCollection"),
        ([1, 2], "FeatureCollection"),
        ({"a": 1}, "'nuc'"),
        (3, "got int"),
    ],
)  # fmt: skip
def test_geojson_that_is_not_of_cells(tmp_path, content, message):
    with pytest.raises(InputError, match=message):
        read_cells(written(tmp_path / "a.geojson", content))


def test_a_file_that_is_not_json(tmp_path):
    path = tmp_path / "a.json"
    path.write_text("{")
    with pytest.raises(InputError, match="Expected JSON"):
        read_cells(path)


# -- HoVer-Net and CellViT -------------------------------------------------------------------

TYPES = {"0": ["nolabel", [0, 0, 0]], "1": ["tumour", [255, 0, 0]], "2": ["immune", [0, 255, 0]]}


def nucleus(x, y, kind):
    return {"bbox": [[0, 0], [1, 1]], "centroid": [x, y], "contour": [[0, 0]], "type_prob": 0.9,
            "type": kind}  # fmt: skip


def test_hovernet(tmp_path):
    content = {"mag": 40, "nuc": {"1": nucleus(3, 4, 2), "2": nucleus(5.5, 6, 1)}}
    path = written(tmp_path / "tile.json", content)
    graph = read_cells(path, type_names=TYPES, mpp=0.25)
    assert graph.positions.tolist() == [[0.75, 1.0], [1.375, 1.5]]
    assert graph.phenotype_names == ("nolabel", "tumour", "immune")
    assert graph.phenotypes.tolist() == [2, 1]
    assert list(graph.cell_ids) == ["1", "2"]
    assert read_cells(path).phenotype_names == ("type 1", "type 2")
    assert read_cells(path).unit == "px"
    with pytest.raises(InputError, match="mpp="):
        read_cells(path, unit="um")
    graph = read_cells(path, Columns(features=("type_prob",)))
    assert np.allclose(graph.features, 0.9)


def test_a_type_without_a_name_is_unknown(tmp_path):
    content = {"nuc": {"1": nucleus(3, 4, 7), "2": nucleus(5, 6, 1), "3": nucleus(7, 8, None)}}
    path = written(tmp_path / "tile.json", content)
    with pytest.raises(InputError, match=r"got 'type 7' in row 0 of .*tile.json \(2 of 3"):
        read_cells(path, type_names=TYPES)
    graph = read_cells(path, type_names=TYPES, unknown="keep")
    assert graph.phenotypes.tolist() == [-1, 1, -1]


@pytest.mark.parametrize(
    "names", [{"Neoplastic": 1, "Immune": 2}, {"1": "Neoplastic", "2": "Immune"}]
)
def test_cellvit(tmp_path, names):
    content = {"wsi_metadata": {}, "type_map": names,
               "cells": [nucleus(3, 4, 2), nucleus(5, 6, 1)]}  # fmt: skip
    path = written(tmp_path / "cells.json", content)
    graph = read_cells(path, mpp=0.5)
    assert graph.positions.tolist() == [[1.5, 2.0], [2.5, 3.0]]
    assert [graph.phenotype_names[k] for k in graph.phenotypes] == ["Immune", "Neoplastic"]
    renamed = read_cells(path, type_names={1: "tumour", 2: "lymphocyte"})
    assert renamed.phenotype_names == ("tumour", "lymphocyte")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"nuc": [nucleus(0, 0, 1)]}, "by id"),
        ({"cells": {"a": nucleus(0, 0, 1)}}, "list of 'cells'"),
        ({"cells": [{"type": 1}]}, r"centroid \[x, y\], got None in cell 0"),
        ({"cells": [nucleus(0, 0, 1)], "type_map": {"a": "b"}}, "names of types"),
        ({"cells": []}, "at least one cell"),
        ({"nuc": {}}, "at least one cell"),
        ({"nuc": {"1": nucleus(float("nan"), 0, 1)}}, "not finite"),
    ],
)
def test_documents_that_are_broken(tmp_path, content, message):
    with pytest.raises(InputError, match=message):
        read_cells(written(tmp_path / "a.json", content))


# -- label masks -----------------------------------------------------------------------------


@pytest.fixture
def labelled():
    rng = np.random.default_rng(0)
    labels = np.zeros((40, 50), np.uint16)
    for number in (3, 7, 300):
        r, c = rng.integers(0, 30, 2)
        labels[r : r + 5, c : c + 8] = number
    labels[39, 49] = 9
    frame = pd.DataFrame({"label": [300, 3, 9, 7], "phenotype": ["a", "b", "a", "c"]})
    return labels, frame


def by_loop(labels):
    found = {}
    for row in range(labels.shape[0]):
        for column in range(labels.shape[1]):
            if labels[row, column]:
                found.setdefault(int(labels[row, column]), []).append((column, row))
    return {number: np.mean(places, axis=0) for number, places in found.items()}


@pytest.mark.parametrize("ending", ["array", "npy", "tif", "png"])
def test_masks(tmp_path, labelled, ending):
    labels, frame = labelled
    source = tmp_path / f"tile.{ending}"
    if ending == "array":
        source = labels
    elif ending == "npy":
        np.save(source, labels)
    elif ending == "tif":
        pytest.importorskip("tifffile").imwrite(source, labels)
    else:
        from PIL import Image

        Image.fromarray(labels).save(source)
    graph = read_cells(source, labels=frame, mpp=0.5)
    expected = by_loop(labels)
    kinds = dict(zip(frame["label"], frame["phenotype"], strict=True))
    assert sorted(graph.cell_ids) == sorted(expected)
    for number, place, code in zip(graph.cell_ids, graph.positions, graph.phenotypes, strict=True):
        assert np.allclose(place, expected[number] * 0.5)
        assert graph.phenotype_names[code] == kinds[number]
    assert graph.image_names == (("image",) if ending == "array" else ("tile",))
    with pytest.raises(InputError, match="are in 'px'"):
        read_cells(source, labels=frame, unit="um")


def test_masks_of_several_images(tmp_path, labelled):
    labels, frame = labelled
    paths = [tmp_path / "one.npy", tmp_path / "two.npy"]
    np.save(paths[0], labels)
    np.save(paths[1], labels.T)
    both = pd.concat([frame.assign(slide="two"), frame.assign(slide="one", phenotype="d")])
    both.to_csv(tmp_path / "labels.csv", index=False)
    columns = Columns(cell_id="label", image="slide")
    graph = read_cells(paths, columns, labels=tmp_path / "labels.csv", unit="px")
    assert graph.image_names == ("one", "two")
    assert [graph.phenotype_names[k] for k in graph.image("one").phenotypes] == ["d"] * 4
    kinds = dict(zip(frame["label"], frame["phenotype"], strict=True))
    two = graph.image("two")
    assert [two.phenotype_names[k] for k in two.phenotypes] == [kinds[i] for i in two.cell_ids]
    assert np.allclose(two.positions[:, ::-1], graph.image("one").positions)


def test_masks_that_do_not_fit(tmp_path, labelled):
    labels, frame = labelled
    with pytest.raises(InputError, match=r"labels of the mask in the table, got none of \[9\]"):
        read_cells(labels, labels=frame[frame["label"] != 9])
    with pytest.raises(InputError, match=r"labels of the table in the mask, got none of \[11\]"):
        read_cells(labels, labels=pd.concat([frame, frame[:1].assign(label=11)]))
    with pytest.raises(InputError, match="several for 300"):
        read_cells(labels, labels=pd.concat([frame, frame[:1]]))
    with pytest.raises(InputError, match="'kind'"):
        read_cells(labels, Columns(cell_id="label", phenotype="kind"), labels=frame)
    with pytest.raises(InputError, match="without"):
        read_cells(labels)
    with pytest.raises(InputError, match="column of labels"):
        read_cells(labels, Columns(), labels=frame)
    for broken in (labels.astype(float), labels[None], labels.astype(int) - 1):
        with pytest.raises(InputError, match="plane of whole numbers"):
            centres_of(broken)
    with pytest.raises(InputError, match="at least one label"):
        centres_of(labels * 0)
    from PIL import Image

    Image.new("RGB", (4, 4)).save(tmp_path / "colour.png")
    with pytest.raises(InputError, match="grey picture"):
        read_cells(tmp_path / "colour.png", labels=frame)


def test_tiff_without_tifffile(tmp_path, labelled, monkeypatch):
    path = tmp_path / "tile.tif"
    path.write_bytes(b"II")
    monkeypatch.setitem(sys.modules, "tifffile", None)
    with pytest.raises(InputError, match="pip install tifffile"):
        read_cells(path, labels=labelled[1])


# -- AnnData ---------------------------------------------------------------------------------


@pytest.fixture
def cohort():
    rng = np.random.default_rng(0)
    n = 50
    slides = np.sort(rng.choice(["s1", "s2", "s10"], n))
    frame = pd.DataFrame(
        {
            "x": rng.random(n) * 100, "y": rng.random(n) * 100, "slide": slides,
            "case": np.where(slides == "s1", "p2", "p1"),
            "phenotype": rng.choice(["a", "b"], n), "tissue": rng.choice(["u", "v"], n),
            "nr": np.arange(n) + 100, "m1": rng.random(n), "m2": rng.random(n),
        }
    )  # fmt: skip
    columns = Columns(image="slide", patient="case", region="tissue", cell_id="nr",
                      features=("m1", "m2"))  # fmt: skip
    return frame, columns


FIELDS = ("positions", "phenotypes", "images", "features", "regions", "edges", "cell_ids")
NAMES = ("phenotype_names", "image_names", "patients", "region_names", "feature_names", "unit")


@pytest.mark.parametrize("unit", ["um", "px"])
@pytest.mark.parametrize("disk", [False, True])
def test_anndata_there_and_back(tmp_path, cohort, unit, disk):
    graph = knn_graph(read_cells(*cohort, unit=unit), 2)
    adata = to_anndata(graph)
    if disk:
        adata.write_h5ad(tmp_path / "cells.h5ad")
    again = read_cells(tmp_path / "cells.h5ad" if disk else adata)
    for name in FIELDS:
        assert np.array_equal(getattr(again, name), getattr(graph, name)), name
    for name in NAMES:
        assert getattr(again, name) == getattr(graph, name), name


def test_anndata_in_squidpys_layout(cohort):
    """What squidpy and scanpy look for, and where."""
    graph = knn_graph(read_cells(*cohort, unit="um"), 2)
    adata = to_anndata(graph)
    assert np.array_equal(adata.obsm["spatial"], graph.positions)
    keys = adata.uns["spatial_neighbors"]
    near = adata.obsp[keys["connectivities_key"]]
    far = adata.obsp[keys["distances_key"]]
    assert sparse.isspmatrix_csr(near)
    assert sparse.isspmatrix_csr(far)
    dense = np.zeros((len(graph),) * 2)
    for a, b in graph.edges.T:
        dense[b, a] = 1
    assert np.array_equal(near.toarray(), dense)
    distances = np.linalg.norm(graph.positions[:, None] - graph.positions[None], axis=-1)
    assert np.allclose(far.toarray(), dense * distances)
    assert adata.obs["phenotype"].dtype == "category"
    assert list(adata.obs["patient"]) == [graph.patients[k] for k in graph.images]


def test_foreign_anndata(cohort):
    """Cells out of order, neighbours in one direction, a loop, markers in X."""
    import anndata

    frame, _ = cohort
    order = np.random.default_rng(1).permutation(len(frame))
    frame = frame.iloc[order].reset_index(drop=True)
    slide = frame["slide"].to_numpy()
    one = np.flatnonzero(slide == "s1")
    matrix = sparse.lil_matrix((len(frame),) * 2)
    matrix[one[0], one[1]] = 0.5  # cell one[0] receives from one[1]
    matrix[one[2], one[2]] = 1.0
    adata = anndata.AnnData(
        sparse.csr_matrix(frame[["m1", "m2"]].to_numpy()),
        obs=frame[["slide", "case", "phenotype"]].set_index(frame["nr"].astype(str) + "-x"),
        var=pd.DataFrame(index=["m1", "m2"]),
    )
    adata.obsm["spatial"] = frame[["x", "y"]].to_numpy()
    adata.obsp["spatial_connectivities"] = matrix.tocsr()
    columns = Columns(image="slide", patient="case", features=("m2",))
    with pytest.raises(InputError, match="does not say it"):
        read_cells(adata, columns)
    graph = read_cells(adata, columns, unit="um")
    where = {name: k for k, name in enumerate(graph.cell_ids)}
    for k, name in enumerate(adata.obs_names):
        assert np.allclose(graph.positions[where[name]], adata.obsm["spatial"][k])
        assert np.allclose(graph.features[where[name]], frame["m2"][k])
        assert graph.image_names[graph.images[where[name]]] == slide[k]
    names = adata.obs_names
    assert graph.edges.tolist() == [[where[names[one[1]]]], [where[names[one[0]]]]]
    with pytest.raises(InputError, match="'m3'"):
        read_cells(adata, Columns(features=("m3",)), unit="um")
    matrix[one[0], np.flatnonzero(slide == "s2")[0]] = 1
    adata.obsp["spatial_connectivities"] = matrix.tocsr()
    with pytest.raises(InputError, match="across images"):
        read_cells(adata, columns, unit="um")
    del adata.obsm["spatial"]
    with pytest.raises(InputError, match=r"obsm\['spatial'\]"):
        read_cells(adata, columns, unit="um")


def test_edges_of_dropped_cells_go_with_them(cohort):
    frame, columns = cohort
    adata = to_anndata(knn_graph(read_cells(frame, columns, unit="um"), 2))
    before = adata.obsp["spatial_connectivities"].nnz
    gone = (adata.obsp["spatial_connectivities"][4].nnz
            + adata.obsp["spatial_connectivities"][:, 4].nnz)  # fmt: skip
    adata.obsm["spatial"][4] = np.nan
    with pytest.warns(UserWarning, match="1 of 50"):
        graph = read_cells(adata, missing="drop")
    assert graph.edges.shape[1] == before - gone


def test_without_anndata(cohort, monkeypatch):
    graph = read_cells(*cohort, unit="um")
    monkeypatch.setitem(sys.modules, "anndata", None)
    with pytest.raises(InputError, match=r"unsupervised-xai\[anndata\]"):
        to_anndata(graph)


def test_something_else():
    with pytest.raises(InputError, match="AnnData or mask"):
        read_cells(3.0)
    with pytest.raises(InputError, match="none at"):
        read_cells(Path("nowhere.h5ad"))
