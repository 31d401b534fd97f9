"""Readouts against loops over cells and pairs; names there and back; relevance by group."""

from __future__ import annotations

import itertools

import numpy as np
import pandas as pd
import pytest
from scipy.spatial import ConvexHull

from graphs.cell_graph import CellGraph
from graphs.tissue_area import tissue_area
from graphs.tme import tme_readouts
from graphs.tme_names import TmeName, TmeNames
from graphs.tme_table import grouped_relevance, read_tme_table
from neuralize.errors import InputError

CELLS = ("Lymphocyte", "Carcinoma Cell", "NK")
TISSUES = ("Stroma", "Carcinoma")


def cohort(seed=0, unit="um", regions=True, unknown=True):
    rng = np.random.default_rng(seed)
    sizes = [60, 45, 1, 30]
    images = np.repeat(np.arange(4), sizes)
    n = len(images)
    low = -1 if unknown else 0
    return CellGraph(
        rng.random((n, 2)) * 120 + 1000, rng.integers(low, 3, n), CELLS, images,
        ("1_1", "1_2", "2_1", "3_1"), ("1", "1", "2", "3"), unit=unit,
        regions=rng.integers(low, 2, n) if regions else None,
        region_names=TISSUES if regions else (),
    )  # fmt: skip


def slow(graph, members, radius=20, side=50):
    """Every readout of the cells ``members``, by loops."""
    known = [i for i in members if graph.phenotypes[i] >= 0]
    kind = graph.phenotypes

    def near(i):
        return [
            j for j in known
            if j != i and graph.images[i] == graph.images[j]
            and np.linalg.norm(graph.positions[i] - graph.positions[j]) <= radius
        ]  # fmt: skip

    neighbours = {i: near(i) for i in known}
    corner = {
        k: graph.positions[graph.images == k].min(0) for k in {graph.images[i] for i in members}
    }

    def square(i):
        step = (graph.positions[i] - corner[graph.images[i]]) // side
        return (graph.images[i], *step)

    where = {i: square(i) for i in members}
    crowd = {s: sum(v == s for v in where.values()) for s in where.values()}
    found = {}
    for tissue in (None, *range(len(graph.region_names))):
        own = [i for i in members if tissue is None or graph.regions[i] == tissue]
        end = "" if tissue is None else "_" + TISSUES[tissue].upper()
        area = sum(side**2 / crowd[where[i]] for i in own) / 1e6
        found["ABSOLUTE_AREA" + end] = area
        seen = [i for i in own if kind[i] >= 0]
        n = [sum(kind[i] == c for i in seen) for c in range(3)]
        p = [c / len(seen) for c in n] if seen else [np.nan] * 3
        found["CELL_ENTROPY" + end] = -sum(q * np.log(q) for q in p if q) if seen else np.nan
        for a, name in enumerate(CELLS):
            name = name.upper().replace(" ", "_")
            found[f"CELL_COUNT_{name}{end}"] = n[a]
            found[f"CELL_DENSITY_{name}{end}"] = n[a] / area if area else np.nan
            found[f"CELL_FRACTION_{name}{end}"] = p[a]
            for b, other in enumerate(CELLS):
                key = f"_{name}_{other.upper().replace(' ', '_')}_20UM{end}"
                of_a = [i for i in seen if kind[i] == a]
                counts = [sum(kind[j] == b for j in neighbours[i]) for i in of_a]
                found["NEIGHBORHOOD_COUNT" + key] = np.mean(counts) if of_a else np.nan
                found["INFILTRATION" + key] = np.mean(np.array(counts) > 0) if of_a else np.nan
                if a == b:
                    continue
                pairs = list(itertools.combinations(seen, 2))
                mixed = sum({kind[i], kind[j]} == {a, b} for i, j in pairs if j in neighbours[i])
                pure = sum(kind[i] == kind[j] == a for i, j in pairs if j in neighbours[i])
                found["MIXING_SCORE" + key] = mixed / pure if pure else np.nan
                # Against what shuffled labels would give: all pairs, near or not.
                all_mixed, all_pure = n[a] * n[b], n[a] * (n[a] - 1) / 2
                found["MIXING_SCORE_NORMALIZED" + key] = (
                    (mixed / all_mixed) / (pure / all_pure) if pure and all_mixed else np.nan
                )
    for a, b in itertools.combinations(range(3), 2):
        share = [
            {s: np.mean([where[i] == s for i in known if kind[i] == c]) for s in crowd}
            if any(kind[i] == c for i in known) else None
            for c in (a, b)
        ]  # fmt: skip
        key = "_".join(CELLS[c].upper().replace(" ", "_") for c in (a, b))
        found[f"COLOCALIZATION_{key}"] = np.nan if None in share else (
            2 * sum(share[0][s] * share[1][s] for s in crowd)
            / sum(share[0][s] ** 2 + share[1][s] ** 2 for s in crowd)
        )  # fmt: skip
    return found


@pytest.mark.parametrize("per", ["image", "patient"])
@pytest.mark.parametrize("unknown", [True, False])
def test_every_readout_is_what_a_loop_says(per, unknown):
    graph = cohort(unknown=unknown)
    table = tme_readouts(graph, per=per, progress=False)
    group = graph.images if per == "image" else graph.patient_of_cell
    names = graph.image_names if per == "image" else graph.patient_names
    assert list(table.index) == list(names)
    for row, name in enumerate(names):
        expected = slow(graph, list(np.flatnonzero(group == row)))
        assert set(table.columns) == set(expected)
        found = table.loc[name]
        for key, value in expected.items():
            assert found[key] == pytest.approx(value, rel=1e-10, nan_ok=True), key


def test_random_labels_mix_as_expected():
    """The normalised score is 1 on average where labels are shuffled."""
    rng = np.random.default_rng(0)
    n = 4000
    places = rng.random((n, 2)) * 600
    graph = CellGraph(places, rng.integers(0, 2, n), ("a", "b"), np.zeros(n, int), ("i",), ("p",))
    row = tme_readouts(graph).iloc[0]
    assert row["MIXING_SCORE_NORMALIZED_A_B_20UM"] == pytest.approx(1, abs=0.05)
    apart = CellGraph(
        places, (places[:, 0] > 300).astype(int), ("a", "b"), np.zeros(n, int), ("i",), ("p",)
    )
    row = tme_readouts(apart).iloc[0]
    assert row["MIXING_SCORE_NORMALIZED_A_B_20UM"] < 0.1
    assert row["COLOCALIZATION_A_B"] < 0.1


def test_without_regions_there_are_none():
    table = tme_readouts(cohort(regions=False))
    assert not any("STROMA" in name for name in table.columns)
    assert "CELL_DENSITY_LYMPHOCYTE" in table.columns


# -- area ------------------------------------------------------------------------------------


def test_occupied_area_of_a_full_field():
    x, y = np.meshgrid(np.arange(5, 500, 10.0), np.arange(5, 300, 10.0))
    places = np.stack([x.ravel(), y.ravel()], 1)
    graph = CellGraph(places, np.zeros(len(places), int), ("a",), np.zeros(len(places), int),
                      ("i",), ("p",), regions=(places[:, 0] > 200).astype(int),
                      region_names=("u", "v"))  # fmt: skip
    area = tissue_area(graph).loc["i"]
    assert area["total"] == pytest.approx(0.15)
    assert area["u"] == pytest.approx(0.06)
    assert area["u"] + area["v"] == pytest.approx(area["total"])
    assert tissue_area(graph, "hull").loc["i", "total"] == pytest.approx(490 * 290 / 1e6)
    moved = CellGraph(places + 12345.6, graph.phenotypes, ("a",), graph.images, ("i",), ("p",))
    assert tissue_area(moved).loc["i", "total"] == pytest.approx(area["total"])


def test_hulls():
    graph = cohort(unknown=False)
    table = tissue_area(graph, "hull")
    for k, image in enumerate(graph.image_names):
        here = graph.images == k
        for column, members in (
            ("total", here), *((t, here & (graph.regions == r)) for r, t in enumerate(TISSUES)),
        ):  # fmt: skip
            size = members.sum()
            expected = ConvexHull(graph.positions[members]).volume / 1e6 if size > 2 else (
                np.nan if size else 0.0
            )  # fmt: skip
            assert table.loc[image, column] == pytest.approx(expected, nan_ok=True)
    line = CellGraph(np.array([[0.0, 0], [1, 1], [2, 2]]), np.zeros(3, int), ("a",),
                     np.zeros(3, int), ("i",), ("p",))  # fmt: skip
    assert np.isnan(tissue_area(line, "hull").loc["i", "total"])
    assert np.isnan(tme_readouts(line, areas="hull").loc["i", "CELL_DENSITY_A"])


def test_a_given_area():
    graph = cohort()
    table = pd.DataFrame({"total": [0.1, 0.2, 0.3, 0.4], "Stroma": [0.05, 0, 0.1, 0.1]},
                         index=list(graph.image_names)[::-1])  # fmt: skip
    found = tme_readouts(graph, areas=table)
    counts = tme_readouts(graph)
    assert np.allclose(
        found["CELL_DENSITY_NK"], counts["CELL_COUNT_NK"] / table["total"].loc[found.index]
    )
    assert "CELL_DENSITY_NK_STROMA" in found
    assert "CELL_DENSITY_NK_CARCINOMA" not in found
    assert "CELL_COUNT_NK_CARCINOMA" in found
    given = tme_readouts(graph, areas=dict.fromkeys(graph.image_names, 0.5), per="patient")
    assert given["ABSOLUTE_AREA"].tolist() == [1.0, 0.5, 0.5]


@pytest.mark.parametrize(
    ("areas", "message"),
    [
        ("alpha", "'occupied', 'hull'"),
        ({"1_1": 0.1}, "none for '1_2'"),
        ({"1_1": 0.1, "1_2": 0.1, "2_1": 0.0, "3_1": 0.1}, "above 0.*'2_1'"),
        ({"1_1": 0.1, "1_2": 0.1, "2_1": np.nan, "3_1": 0.1}, "above 0.*'2_1'"),
        (pd.DataFrame({"Stroma": [1.0] * 4}, index=["1_1", "1_2", "2_1", "3_1"]), "'total'"),
    ],
)
def test_areas_that_do_not_fit(areas, message):
    with pytest.raises(InputError, match=message):
        tissue_area(cohort(), areas)


def test_readouts_that_cannot_be_made():
    with pytest.raises(InputError, match="in pixels"):
        tme_readouts(cohort(unit="px"))
    with pytest.raises(InputError, match="in pixels"):
        tissue_area(cohort(unit="px"))
    for radius in (0, -5, 2.5, True):
        with pytest.raises(InputError, match="whole micrometres"):
            tme_readouts(cohort(), radius=radius)
    with pytest.raises(InputError, match="per 'image'"):
        tme_readouts(cohort(), per="slide")
    with pytest.raises(InputError, match="side"):
        tme_readouts(cohort(), side=0)
    nobody = CellGraph(np.zeros((1, 2)), np.array([-1]), (), np.zeros(1, int), ("i",), ("p",))
    with pytest.raises(InputError, match="with phenotypes"):
        tme_readouts(nobody)
    space = CellGraph(np.zeros((1, 3)), np.array([0]), ("a",), np.zeros(1, int), ("i",), ("p",))
    with pytest.raises(InputError, match="in space"):
        tme_readouts(space)


# -- names -----------------------------------------------------------------------------------


def test_names_of_our_own_readouts_come_apart():
    graph = cohort()
    names = TmeNames(CELLS, TISSUES)
    for column in tme_readouts(graph).columns:
        name = names.parse(column)
        assert str(name) == column
    name = names.parse("MIXING_SCORE_NORMALIZED_NK_CARCINOMA_CELL_20UM_CARCINOMA")
    assert name == TmeName(
        "MIXING_SCORE_NORMALIZED_{cell}_{cell_b}_{radius}UM_{tissue}", cell="NK",
        cell_b="Carcinoma Cell", radius=20, tissue="Carcinoma",
    )  # fmt: skip
    assert name.kind == "MIXING_SCORE_NORMALIZED"


@pytest.mark.parametrize(
    ("text", "kind", "about"),
    [
        ("CELL_DENSITY_LYMPHOCYTE_STROMA", "CELL_DENSITY", ("Lymphocyte", None, None, "Stroma")),
        ("CELL_DENSITY_CARCINOMA_CELL", "CELL_DENSITY", ("Carcinoma Cell", None, None, None)),
        ("CELL_DENSITY_CARCINOMA", "CELL_DENSITY", (None, None, None, "Carcinoma")),
        ("X_NK_NK_20", "X", ("NK", "NK", 20, None)),
        ("X_NK_20", "X_20", ("NK", None, None, None)),
        ("X_NK_MEAN_STROMA", "X_MEAN", ("NK", None, None, "Stroma")),
        ("X_NK_LYMPHOCYTE_NK_5UM", "X_NK", ("NK", "Lymphocyte", 5, None)),
        ("X_STROMA_CARCINOMA", "X_CARCINOMA", (None, None, None, "Stroma")),
        ("ABSOLUTE_AREA", "ABSOLUTE_AREA", (None, None, None, None)),
        ("NK", "", ("NK", None, None, None)),
        ("NKT_DENSITY", "NKT_DENSITY", (None, None, None, None)),
        ("X_NK_NK_007", "X_007", ("NK", "NK", None, None)),
    ],
)
def test_the_longest_class_is_meant(text, kind, about):
    name = TmeNames(CELLS, TISSUES).parse(text)
    assert str(name) == text
    assert name.kind == kind
    assert (name.cell, name.cell_b, name.radius, name.tissue) == about


def test_quality_classes():
    name = TmeNames(CELLS, TISSUES, ["Blur"]).parse("QC_AREA_BLUR")
    assert (name.qc, name.kind, str(name)) == ("Blur", "QC_AREA", "QC_AREA_BLUR")


@pytest.mark.parametrize(
    ("lists", "message"),
    [
        ((["CD8+", "CD8-"],), "both CD8"),
        ((["Stroma"], ["stroma"]), "both STROMA"),
        ((["+"],), "letters or digits"),
    ],
)
def test_classes_that_cannot_be_told_apart(lists, message):
    with pytest.raises(InputError, match=message):
        TmeNames(*lists)


def test_a_template_says_what_is_there():
    with pytest.raises(InputError, match="exactly where the template"):
        TmeName("CELL_DENSITY_{cell}")
    with pytest.raises(InputError, match="exactly where the template"):
        TmeName("CELL_DENSITY", tissue="Stroma")


# -- tables ----------------------------------------------------------------------------------


@pytest.fixture
def slides(tmp_path):
    rng = np.random.default_rng(0)
    metadata = {f"META_{k}": [f"00{k}", f"0{k}"] for k in range(6)}
    columns = list(tme_readouts(cohort()).columns)
    features = pd.DataFrame(rng.normal(size=(2, len(columns))), columns=columns)
    features.iloc[0, 3] = np.nan
    frame = pd.concat([pd.DataFrame(metadata), features], axis=1)
    path = tmp_path / "tme_features.csv"
    frame.to_csv(path, index=False)
    return path, frame


def test_slide_tables_load_as_features(slides, tmp_path):
    path, frame = slides
    table = read_tme_table(path, TmeNames(CELLS, TISSUES))
    assert table.metadata.to_numpy().tolist() == frame.iloc[:, :6].to_numpy().tolist()
    assert np.allclose(table.features, frame.iloc[:, 6:], equal_nan=True)
    assert list(table.names) == list(table.features.columns)
    assert set(table.unread) == {"ABSOLUTE_AREA", "CELL_ENTROPY"}
    with pytest.raises(InputError, match="more than the 999"):
        read_tme_table(path, TmeNames(CELLS), metadata=999)
    with pytest.raises(InputError, match="numbers in 'META_5'") as error:
        frame.assign(META_5=["a", "b"]).to_csv(path, index=False)
        read_tme_table(path, TmeNames(CELLS), metadata=5)
    assert "row 0" in str(error.value)


@pytest.mark.parametrize("by", ["kind", "cell", "cell_b", "tissue", "radius", ("cell", "tissue")])
def test_relevance_by_group_is_a_sum(slides, by):
    table = read_tme_table(slides[0], TmeNames(CELLS, TISSUES))
    relevance = pd.DataFrame(
        np.random.default_rng(1).normal(size=table.features.shape),
        columns=table.features.columns, index=["s1", "s2"],
    )  # fmt: skip
    found = grouped_relevance(relevance, table.names, by)
    expected = {}
    for column, name in table.names.items():
        parts = [getattr(name, part) for part in ([by] if isinstance(by, str) else by)]
        parts = tuple("(none)" if part is None else str(part) for part in parts)
        key = parts[0] if isinstance(by, str) else parts
        expected[key] = expected.get(key, 0) + relevance[column].to_numpy()
    assert set(found.columns) == set(expected)
    for key, values in expected.items():
        assert np.allclose(found[key], values)
    assert np.allclose(found.sum(axis=1), relevance.sum(axis=1))
    assert list(found.index) == ["s1", "s2"]


def test_groups_that_do_not_fit(slides):
    table = read_tme_table(slides[0], TmeNames(CELLS, TISSUES))
    with pytest.raises(InputError, match="one per feature"):
        grouped_relevance(np.zeros((1, 2)), table.names)
    with pytest.raises(InputError, match="by as one"):
        grouped_relevance(table.features, table.names, by="organ")
    turned = table.features[list(table.features.columns)[::-1]]
    with pytest.raises(InputError, match="order of the columns"):
        grouped_relevance(turned, table.names)
