"""Tables of cells against what a loop over their rows says."""

from __future__ import annotations

import gzip
import warnings

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from graphs.readers import Columns, DroppedCellsWarning, read_cells
from neuralize.errors import InputError

COLUMNS = Columns(phenotype="type", image="slide", patient="case", cell_id="cell", region="tissue",
                  features=("CD8", "area"))  # fmt: skip


def table(n=60, seed=0):
    rng = np.random.default_rng(seed)
    case = rng.choice([1, 2, 10], n)
    return pd.DataFrame(
        {
            "x": rng.random(n) * 500,
            "y": rng.random(n) * 300,
            "type": rng.choice(["T cell", "B cell", "tumour"], n),
            "case": case,
            "slide": [f"{c}_{k}" for c, k in zip(case, rng.choice([1, 2, 10], n), strict=True)],
            "cell": np.arange(n),
            "tissue": rng.choice(["stroma", "nest"], n),
            "CD8": rng.random(n),
            "area": rng.random(n),
        }
    )


def rows_of(graph):
    """Every cell as a row of names and numbers."""
    return [
        (
            tuple(graph.positions[i]),
            graph.phenotype_names[graph.phenotypes[i]] if graph.phenotypes[i] >= 0 else None,
            graph.image_names[graph.images[i]],
            graph.patients[graph.images[i]],
            graph.region_names[graph.regions[i]],
            int(graph.cell_ids[i]),
            tuple(graph.features[i]),
        )
        for i in range(len(graph))
    ]


def expected(frame):
    """The same, from the table's rows, sorted by patient and image as numbers."""
    rows = [
        (
            (row.x, row.y), row.type, row.slide, str(row.case), row.tissue, row.cell,
            (np.float32(row.CD8), np.float32(row.area)),
        )
        for row in frame.itertuples()
    ]  # fmt: skip
    return sorted(rows, key=lambda row: (int(row[3]), int(row[2].split("_")[1])))


@pytest.mark.parametrize("ending", ["parquet", "csv", "tsv", "csv.gz", "frame", "semicolon"])
def test_every_cell_comes_back(tmp_path, ending):
    frame = table()
    source = tmp_path / f"cells.{ending}"
    if ending == "parquet":
        frame.to_parquet(source)
    elif ending == "frame":
        source = frame
    elif ending == "semicolon":
        source = tmp_path / "cells.csv"
        frame.to_csv(source, index=False, sep=";")
    else:
        frame.to_csv(source, index=False, sep="\t" if ending == "tsv" else ",")
    graph = read_cells(source, COLUMNS, unit="um")
    assert rows_of(graph) == expected(frame)
    assert graph.phenotype_names == ("B cell", "T cell", "tumour")
    assert graph.feature_names == ("CD8", "area")
    assert graph.unit == "um"
    assert graph.edges is None
    assert graph.patient_names == ("1", "2", "10")


def test_several_files_are_one_cohort(tmp_path):
    frame = table()
    paths = []
    for k, part in enumerate((frame[:25], frame[25:])):
        paths.append(tmp_path / f"{k}.csv")
        part.to_csv(paths[-1], index=False)
    graph = read_cells(paths, COLUMNS, unit="um")
    assert rows_of(graph) == expected(frame)


def test_files_without_images_are_one_each(tmp_path):
    for name, kind in (("s10", "a"), ("s9", "b")):
        pd.DataFrame({"x": [1.0], "y": [2.0], "phenotype": [kind]}).to_csv(
            tmp_path / f"{name}.csv", index=False
        )
    paths = [tmp_path / "s10.csv", tmp_path / "s9.csv"]
    graph = read_cells(paths, unit="um")
    assert graph.image_names == graph.patients == ("s9", "s10")
    assert [graph.phenotype_names[k] for k in graph.phenotypes] == ["b", "a"]
    graph = read_cells(paths, unit="um", patients={"s9": "p2", "s10": "p1"})
    assert (graph.image_names, graph.patients) == (("s10", "s9"), ("p1", "p2"))
    with pytest.raises(InputError, match="none for 's9'"):
        read_cells(paths, unit="um", patients={"s10": "p1"})
    (tmp_path / "more").mkdir()
    twin = tmp_path / "more" / "s9.csv"
    twin.write_bytes(paths[1].read_bytes())
    with pytest.raises(InputError, match="different names"):
        read_cells([paths[1], twin], unit="um")


def test_names_that_look_like_numbers_or_gaps_stay_names(tmp_path):
    path = tmp_path / "cells.csv"
    path.write_text("x,y,phenotype,slide\n1,2,NA,001\n3,4,None,01\n")
    graph = read_cells(path, Columns(image="slide"), unit="um")
    assert set(graph.image_names) == {"001", "01"}
    assert graph.phenotype_names == ("NA", "None")


def test_numbers_as_names_lose_their_point():
    frame = table().assign(case=lambda f: f["case"].astype(float))
    graph = read_cells(frame, COLUMNS, unit="um")
    assert graph.patient_names == ("1", "2", "10")


@pytest.mark.parametrize(
    ("yes", "no"), [("+", "-"), (True, False), (1, 0), (1.0, 0.0), ("positive", "Negative")]
)
def test_one_column_per_phenotype(yes, no):
    frame = table(30).assign(type=lambda f: f["type"].where(f.index != 4))
    names = ["tumour", "B cell", "T cell"]
    signs = {
        f"is {name}": [
            (name + yes if t == name else name + no) if yes == "+" else (yes if t == name else no)
            for t in frame["type"]
        ]
        for name in names
    }
    wide = frame.drop(columns="type").assign(**signs)
    mapped = Columns(phenotype={f"is {n}": n for n in names}, image="slide", patient="case",
                     cell_id="cell", region="tissue", features=("CD8", "area"))  # fmt: skip
    graph = read_cells(wide, mapped, unit="um", unknown="keep")
    assert graph.phenotype_names == tuple(names)
    found = {row[5]: row[1] for row in rows_of(graph)}
    assert found == {
        k: (None if pd.isna(t) else t) for k, t in zip(frame["cell"], frame["type"], strict=True)
    }
    with pytest.raises(InputError, match="no phenotype in row 4 of the table"):
        read_cells(wide, mapped, unit="um")
    listed = Columns(phenotype=list(signs))
    assert read_cells(wide, listed, unit="um", unknown="keep").phenotype_names == tuple(signs)
    wide.loc[7, list(signs)] = [signs[c][list(frame["type"]).index(n)] for c, n in
                                zip(signs, names, strict=True)]  # fmt: skip
    with pytest.raises(InputError, match=r"at most one positive .* row 7"):
        read_cells(wide, mapped, unit="um")


def test_a_sign_that_is_none():
    frame = pd.DataFrame({"x": [0.0], "y": [0.0], "CK": ["maybe"]})
    with pytest.raises(InputError, match=r"'CK' as true/false.*'maybe' in row 0"):
        read_cells(frame, Columns(phenotype=["CK"]), unit="um")


def test_images_numbered_within_their_patient():
    frame = table().assign(field=lambda f: f["slide"].str.split("_").str[1].astype(float))
    with pytest.raises(InputError, match=r"one patient each, got '1' of '1' and of '2'"):
        read_cells(frame, Columns(phenotype="type", image="field", patient="case"), unit="um")
    both = Columns(phenotype="type", image=("case", "field"), patient="case")
    graph = read_cells(frame, both, unit="um")
    assert graph.image_names == read_cells(frame, COLUMNS, unit="um").image_names


def test_images_that_join_to_one_name():
    frame = pd.DataFrame({"x": [0.0, 1], "y": [0.0, 1], "phenotype": "a", "case": ["1", "1_1"],
                          "field": ["1_2", "2"]})  # fmt: skip
    with pytest.raises(InputError, match="'1_1_2' from two"):
        read_cells(frame, Columns(image=("case", "field")), unit="um")


def test_a_missing_column_is_named_with_its_use():
    with pytest.raises(InputError, match=r"'kind' \(phenotype\), 'nr' \(cell_id\) in the table"):
        read_cells(table(), Columns(phenotype="kind", cell_id="nr"), unit="um")
    with pytest.raises(InputError, match=r"'phenotype'.*'slide'"):
        read_cells(table(), unit="um")


def test_no_phenotypes_at_all():
    graph = read_cells(table(), Columns(phenotype=None), unit="um")
    assert graph.phenotype_names == ()
    assert (graph.phenotypes == -1).all()


# -- units -----------------------------------------------------------------------------------


def test_units():
    frame = table(5)
    um = read_cells(frame, COLUMNS, unit="um").positions
    assert np.array_equal(read_cells(frame, COLUMNS, unit="mm").positions, um * 1000)
    assert np.array_equal(read_cells(frame, COLUMNS, mpp=0.25).positions, um * 0.25)
    assert read_cells(frame, COLUMNS, unit="px", mpp=0.25).unit == "um"
    pixels = read_cells(frame, COLUMNS, unit="px")
    assert pixels.unit == "px"
    assert np.array_equal(pixels.positions, um)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "which does not say it"),
        ({"unit": "um", "mpp": 0.5}, "scale once more"),
        ({"unit": "mm", "mpp": 0.5}, "scale once more"),
        ({"unit": "cm"}, "'um', 'px' or 'mm'"),
        ({"mpp": 0}, "above 0"),
        ({"mpp": np.nan}, "above 0"),
    ],
)
def test_units_that_do_not_fit(options, message):
    with pytest.raises(InputError, match=message):
        read_cells(table(5), COLUMNS, **options)


@pytest.mark.parametrize(("ending", "unit"), [("um", "um"), ("µm", "um"), ("px", "px")])
def test_columns_that_say_their_unit(ending, unit):
    frame = table(5).rename(columns={"x": f"x ({ending})", "y": f"y ({ending})"})
    columns = Columns(f"x ({ending})", f"y ({ending})", phenotype="type")
    assert read_cells(frame, columns).unit == unit
    other = "px" if unit == "um" else "um"
    with pytest.raises(InputError, match=f"in '{other}', and those of the table are in '{unit}'"):
        read_cells(frame, columns, unit=other)
    if unit == "um":
        with pytest.raises(InputError, match="scale once more"):
            read_cells(frame, columns, mpp=0.5)


# -- rows that are not as they should be -----------------------------------------------------


@pytest.mark.parametrize("hole", [np.nan, np.inf])
@pytest.mark.parametrize("column", ["x", "y", "CD8"])
def test_holes_are_named_or_dropped_and_counted(column, hole):
    frame = table()
    frame.loc[[3, 17], column] = hole
    with pytest.raises(InputError, match=r"got 2 of 60 without \(row 3 of the table: .*row 17"):
        read_cells(frame, COLUMNS, unit="um")
    with pytest.warns(DroppedCellsWarning, match="2 of 60 cells left out"):
        graph = read_cells(frame, COLUMNS, unit="um", missing="drop")
    assert rows_of(graph) == expected(frame.drop(index=[3, 17]))


@pytest.mark.parametrize(("column", "what"), [("slide", "no image"), ("case", "no patient")])
def test_a_cell_of_no_image(column, what):
    frame = table()
    frame[column] = frame[column].astype(object)
    frame.loc[5, column] = None
    with pytest.raises(InputError, match=f"row 5 of the table: {what}"):
        read_cells(frame, COLUMNS, unit="um")
    with pytest.warns(DroppedCellsWarning, match="1 of 60"):
        assert len(read_cells(frame, COLUMNS, unit="um", missing="drop")) == 59


def test_text_among_coordinates():
    frame = table().astype({"x": object})
    frame.loc[2, "x"] = "12,5"
    with pytest.raises(InputError, match=r"numbers in 'x', got '12,5' in row 2"):
        read_cells(frame, COLUMNS, unit="um")


def test_unknown_phenotypes():
    frame = table()
    frame.loc[[8, 9], "type"] = "blob"
    known = ["tumour", "T cell", "B cell", "NK cell"]
    with pytest.raises(InputError, match=r"got 'blob' in row 8 of the table \(2 of 60"):
        read_cells(frame, COLUMNS, unit="um", phenotypes=known)
    graph = read_cells(frame, COLUMNS, unit="um", phenotypes=known, unknown="keep")
    assert graph.phenotype_names == tuple(known)
    found = {row[5]: row[1] for row in rows_of(graph)}
    assert found[8] is None
    assert found[9] is None
    assert all(found[k] == t for k, t in enumerate(frame["type"]) if k not in (8, 9))


@pytest.mark.parametrize("column", ["id", "place"])
def test_cells_given_twice(column):
    frame = table()
    if column == "id":
        frame.loc[30, ["cell", "slide", "case"]] = frame.loc[20, ["cell", "slide", "case"]]
    else:
        same = ["x", "y", "type", "slide", "case"]
        frame.loc[30, same] = frame.loc[20, same]
    with pytest.raises(InputError, match="row 30 of the table repeats row 20 of the table"):
        read_cells(frame, COLUMNS, unit="um")
    with pytest.warns(DroppedCellsWarning, match="1 of 60"):
        graph = read_cells(frame, COLUMNS, unit="um", duplicates="drop")
    assert rows_of(graph) == expected(frame.drop(index=30))
    assert rows_of(read_cells(frame, COLUMNS, unit="um", duplicates="keep")) == expected(frame)


def test_cells_that_only_look_alike():
    frame = table()
    frame.loc[30, ["x", "y"]] = frame.loc[20, ["x", "y"]]
    frame.loc[20, "type"], frame.loc[30, "type"] = "tumour", "T cell"  # another phenotype
    frame.loc[31, ["x", "y", "type"]] = frame.loc[21, ["x", "y", "type"]]
    frame.loc[21, ["slide", "case"]], frame.loc[31, ["slide", "case"]] = ("1_1", 1), ("1_2", 1)
    frame["cell"] = frame.groupby("slide").cumcount()  # ids count within an image
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert len(read_cells(frame, COLUMNS, unit="um")) == 60


def test_a_category_keeps_its_order_and_its_unused_names():
    frame = table().assign(
        type=lambda f: pd.Categorical(f["type"], ["tumour", "NK cell", "T cell", "B cell"])
    )
    graph = read_cells(frame, COLUMNS, unit="um")
    assert graph.phenotype_names == ("tumour", "NK cell", "T cell", "B cell")
    assert [row[1] for row in rows_of(graph)] == [row[1] for row in expected(frame)]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"unknown": "drop"}, "unknown"),
        ({"missing": "keep"}, "missing"),
        ({"duplicates": "first"}, "duplicates"),
        ({"phenotypes": "tumour"}, "list of names"),
        ({"labels": "labels.csv"}, "label mask"),
        ({"type_names": {1: "a"}}, "HoVer-Net"),
        ({"patients": {"1_1": "1"}}, "got both"),
    ],
)
def test_options_that_do_not_fit(options, message):
    with pytest.raises(InputError, match=message):
        read_cells(table(), COLUMNS, unit="um", **options)


def test_files_that_do_not_fit(tmp_path):
    with pytest.raises(InputError, match="none at"):
        read_cells(tmp_path / "no.csv", unit="um")
    other = tmp_path / "cells.xlsx"
    other.write_bytes(b"")
    with pytest.raises(InputError, match="xlsx"):
        read_cells(other, unit="um")
    with pytest.raises(InputError, match="at least one file"):
        read_cells([], unit="um")
    empty = tmp_path / "empty.csv"
    empty.write_text("")
    with pytest.raises(InputError, match="column names"):
        read_cells(empty, unit="um")
    empty.write_text("x,y,phenotype\n")
    with pytest.raises(InputError, match="at least one cell"):
        read_cells(empty, unit="um")
    with pytest.raises(InputError, match="list of columns"):
        Columns(features="CD8")


@settings(deadline=None, max_examples=50)
@given(
    st.lists(
        st.tuples(
            st.sampled_from([0.0, 1.0, np.nan, np.inf]), st.sampled_from([0.0, 1.0]),
            st.sampled_from(["a", "b", "odd", None]), st.sampled_from(["s1", "s2", None]),
            st.integers(0, 5),
        ),
        min_size=1, max_size=12,
    )
)  # fmt: skip
def test_every_row_is_there_or_announced(rows):
    frame = pd.DataFrame(rows, columns=["x", "y", "phenotype", "slide", "cell"])
    complete = [r for r in rows if np.isfinite(r[0]) and r[3] is not None]
    # The first of each id and of each place and phenotype stays; unlisted phenotypes are one.
    kept, ids, places = [], set(), set()
    for x, y, kind, slide, cell in complete:
        place = (slide, x, y, kind if kind in ("a", "b") else None)
        if (slide, cell) not in ids and place not in places:
            kept.append((slide, (x, y), place[3], cell))
            ids.add((slide, cell))
            places.add(place)

    def read():
        return read_cells(frame, Columns(image="slide", cell_id="cell"), unit="um",
                          phenotypes=["b", "a"], unknown="keep", duplicates="drop",
                          missing="drop")  # fmt: skip

    if not kept:
        with warnings.catch_warnings(), pytest.raises(InputError, match="at least one cell left"):
            warnings.simplefilter("ignore", DroppedCellsWarning)
            read()
        return
    with warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("always")
        graph = read()
    announced = sum(int(str(warning.message).split()[0]) for warning in heard)
    assert len(graph) + announced == len(frame)
    found = [
        (graph.image_names[i], tuple(p), ("b", "a", None)[k], c)
        for i, p, k, c in zip(
            graph.images, graph.positions, graph.phenotypes, graph.cell_ids, strict=True
        )
    ]
    assert found == sorted(kept, key=lambda row: row[0])


# -- QuPath ----------------------------------------------------------------------------------


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "latin-1"])
@pytest.mark.parametrize("phenotype", ["Classification", "Class"])
def test_qupath_measurements(tmp_path, encoding, phenotype):
    text = (
        f"Image\tObject ID\t{phenotype}\tParent\tCentroid X px\tCentroid Y px\tCentroid X µm\t"
        "Centroid Y µm\tNucleus: Area µm^2\n"
        "b.tif\tu1\tTumor: Positive\tnest 1\t4\t6\t1.0\t1.5\t30\n"
        "a.tif\tu2\tStroma\tnest 2\t8\t10\t2.0\t2.5\t40\n"
    )
    path = tmp_path / "measurements.tsv"
    path.write_bytes(text.encode(encoding))
    graph = read_cells(path)
    assert graph.unit == "um"
    assert graph.positions.tolist() == [[2.0, 2.5], [1.0, 1.5]]
    assert graph.image_names == ("a.tif", "b.tif")
    assert [graph.phenotype_names[k] for k in graph.phenotypes] == ["Stroma", "Tumor: Positive"]
    assert [graph.region_names[k] for k in graph.regions] == ["nest 2", "nest 1"]
    assert list(graph.cell_ids) == ["u2", "u1"]
    with pytest.raises(InputError, match="scale once more"):
        read_cells(path, mpp=0.25)


def test_qupath_without_a_pixel_size(tmp_path):
    path = tmp_path / "slide.csv"
    path.write_text("Centroid X px,Centroid Y px,Class\n4,6,Tumor\n8,10,Stroma\n")
    assert read_cells(path).unit == "px"
    scaled = read_cells(path, mpp=0.5)
    assert scaled.positions.tolist() == [[2, 3], [4, 5]]
    assert scaled.image_names == ("slide",)
    with pytest.raises(InputError, match="are in 'px'"):
        read_cells(path, unit="um")


def test_qupath_cells_without_a_class(tmp_path):
    path = tmp_path / "slide.tsv"
    path.write_text("Centroid X um\tCentroid Y um\tClass\n4\t6\t\n8\t10\tStroma\n")
    with pytest.raises(InputError, match="no phenotype in row 0"):
        read_cells(path)
    assert sorted(read_cells(path, unknown="keep").phenotypes) == [-1, 0]
    path.write_text("Centroid X um\tCentroid Y um\n4\t6\n")
    with pytest.raises(InputError, match="'Classification' or 'Class'"):
        read_cells(path)


def test_compressed_tables_are_opened(tmp_path):
    path = tmp_path / "slide.tsv.gz"
    with gzip.open(path, "wt") as file:
        file.write("x\ty\tphenotype\n1\t2\ta\n")
    assert read_cells(path, unit="um").image_names == ("slide",)
