"""What is written reads back equal, whole or not at all."""

import csv
import json
import tempfile
import xml.etree.ElementTree as ET
import zipfile
from dataclasses import fields
from io import BytesIO
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import xai
from tests.xai.examples import HOSTILE, made
from xai import Relevance
from xai.errors import FileFormatError, InputError

SUFFIXES = (".npz", ".json")


def assert_equal(a: Relevance, b: Relevance) -> None:
    """Every field, arrays bit for bit with their types."""
    for field in fields(Relevance):
        x, y = getattr(a, field.name), getattr(b, field.name)
        if field.name == "absorbed":
            assert list(x) == list(y)
            pairs = [(x[name], y[name]) for name in x]
        else:
            pairs = [(x, y)]
        for left, right in pairs:
            assert type(left) is type(right), field.name
            if isinstance(left, np.ndarray):
                assert left.dtype == right.dtype, field.name
                assert left.shape == right.shape, field.name
                assert left.tobytes() == right.tobytes(), field.name
            else:
                assert left == right, field.name


TEXT = st.text(st.characters(), max_size=8)  # any character: NUL and lone surrogates as well
FLOATS = st.sampled_from(["<f2", "<f4", "<f8", ">f4", ">f8"])


@st.composite
def relevances(draw: st.DrawFn) -> Relevance:
    """Anything the fields can hold; the sums need not be right to be kept."""
    shape = draw(hnp.array_shapes(min_dims=2, max_dims=4, max_side=3))
    dtype = np.dtype(draw(FLOATS))

    def array(shape, dtype=dtype):
        wide = dtype.itemsize * 8
        numbers = st.floats(width=wide, allow_nan=False) if dtype.kind == "f" else None
        return draw(hnp.arrays(dtype, shape, elements=numbers))

    n, width = shape[0], int(np.prod(shape[1:]))

    def names(count):
        return draw(st.none() | st.lists(TEXT, min_size=count, max_size=count).map(tuple))

    return Relevance(
        values=array(shape),
        evidence=array((n,)),
        absorbed={name: array((n,)) for name in draw(st.lists(TEXT, max_size=3, unique=True))},
        target=array((n,), np.dtype("int64")) if draw(st.booleans()) else None,
        inputs=array(shape, np.dtype(draw(st.sampled_from(["<f4", "<f8", "|u1", "|b1"])))),
        kind=draw(st.sampled_from(["cluster", "outlier"])),
        evidence_name=draw(TEXT),
        model_name=draw(TEXT),
        method=draw(TEXT),
        output=draw(st.sampled_from(["score", "margin"])),
        feature_names=names(width),
        row_names=names(n),
        threshold=draw(st.none() | st.floats(allow_nan=False)),
        original=array((n,)) if draw(st.booleans()) else None,
        score_map=draw(TEXT),
        composite=draw(st.none() | TEXT),
        provenance=draw(st.dictionaries(TEXT, TEXT, max_size=3)),
    )


@settings(max_examples=60, deadline=None)
@given(relevances(), st.sampled_from(SUFFIXES))
def test_round_trip_is_bit_for_bit(relevance, suffix):
    with tempfile.TemporaryDirectory() as folder:
        path = relevance.save(Path(folder) / f"kept{suffix}")
        assert_equal(Relevance.load(path), relevance)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_real_explanation_round_trip(tmp_path, suffix):
    data = pd.DataFrame(np.random.default_rng(0).normal(size=(20, 3)), columns=["a", "β", "$c$"])
    relevance = xai.explain(np.eye(3), data)
    back = Relevance.load(relevance.save(str(tmp_path / f"kept{suffix}")))
    assert_equal(back, relevance)
    assert back.provenance["input_sha256"] == relevance.provenance["input_sha256"]


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_what_is_written_does_not_depend_on_when(tmp_path, suffix):
    first = made((3, 2)).save(tmp_path / f"a{suffix}").read_bytes()
    assert first == made((3, 2)).save(tmp_path / f"b{suffix}").read_bytes()


def test_npz_holds_plain_arrays(tmp_path):
    relevance = made((3, 2), absorbed=("bias", HOSTILE))
    with np.load(relevance.save(tmp_path / "kept.npz"), allow_pickle=False) as archive:
        assert archive["values"].tolist() == relevance.values.tolist()
        assert archive["absorbed_1"].tolist() == relevance.absorbed[HOSTILE].tolist()
        assert json.loads(str(archive["header"]))["absorbed"] == ["bias", HOSTILE]


def test_json_is_strict_also_with_infinities(tmp_path):
    relevance = made((2, 2), evidence=np.array([np.inf, -np.inf]), threshold=float("inf"))
    text = relevance.save(tmp_path / "kept.json").read_text()

    def refuse(constant):
        raise AssertionError(f"{constant} is not JSON")

    document = json.loads(text, parse_constant=refuse)
    assert document["arrays"]["evidence"]["data"] == ["inf", "-inf"]
    assert_equal(Relevance.load(tmp_path / "kept.json"), relevance)


def read_csv(path: Path) -> tuple[list[str], list[str], list[list[float]]]:
    with path.open(newline="", encoding="utf-8") as file:
        (corner, *columns), *lines = csv.reader(file)
    assert corner == "row"
    return columns, [line[0] for line in lines], [[float(x) for x in line[1:]] for line in lines]


def read_parquet(path: Path) -> tuple[list[str], list[str], list[list[float]]]:
    frame = pd.read_parquet(path)
    assert frame.index.name == "row"
    return frame.columns.tolist(), [str(i) for i in frame.index], frame.to_numpy().tolist()


@pytest.mark.parametrize(("suffix", "read"), [(".csv", read_csv), (".parquet", read_parquet)])
@pytest.mark.parametrize("named", [True, False])
def test_tables_hold_every_number(tmp_path, suffix, read, named):
    names = ("alcohol, %", 'a "quoted" β') if named else ("feature 0", "feature 1")
    rows = ("first", "sec\nond", "third") if named else ("0", "1", "2")
    relevance = made(
        (3, 2),
        target=np.array([0, 2, 1]),
        feature_names=names if named else None,
        row_names=rows if named else None,
    )
    columns, index, numbers = read(relevance.save(tmp_path / f"table{suffix}"))
    assert columns == [*names, "evidence", "target", "absorbed: bias", "conservation error"]
    assert index == list(rows)
    for i in range(3):
        a, b = relevance.values[i]
        evidence, bias = relevance.evidence[i], relevance.absorbed["bias"][i]
        assert numbers[i][:-1] == [a, b, evidence, [0, 2, 1][i], bias]
        assert numbers[i][-1] == pytest.approx(evidence - a - b - bias, abs=1e-15)


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
@pytest.mark.parametrize("name", ["evidence", "row", "other"])
def test_tables_refuse_columns_of_the_same_name(tmp_path, suffix, name):
    relevance = made((3, 2), feature_names=("other", name))
    with pytest.raises(InputError, match=name):
        relevance.save(tmp_path / f"table{suffix}")
    assert list(tmp_path.iterdir()) == []


def test_png_is_the_default_figure(tmp_path):
    from PIL import Image

    with Image.open(made((2, 4, 4)).save(tmp_path / "map.png")) as image:
        assert image.format == "PNG"
        pixels = np.asarray(image.convert("RGB")).reshape(-1, 3)
    assert len(np.unique(pixels, axis=0)) > 20


def test_svg_is_well_formed_and_reproducible(tmp_path):
    relevance = made((2, 4, 4), model_name=HOSTILE + "--", row_names=("a & b", "]]>"))
    first = relevance.save(tmp_path / "a.svg").read_bytes()
    assert first == relevance.save(tmp_path / "b.svg").read_bytes()
    root = ET.fromstring(first)
    assert root.tag == "{http://www.w3.org/2000/svg}svg"
    assert not [element for element in root.iter() if element.tag.endswith("script")]
    assert b"<dc:date>" not in first


def test_suffix_may_be_in_capitals(tmp_path):
    assert_equal(Relevance.load(made((1, 2)).save(tmp_path / "KEPT.NPZ")), made((1, 2)))


@pytest.mark.parametrize("name", ["kept", "kept.pkl", "kept.npy", "kept.json.gz"])
def test_unknown_suffix_lists_the_choices(tmp_path, name):
    with pytest.raises(FileFormatError, match=r"\.png, \.svg, \.npz, \.csv, \.parquet, \.json"):
        made((1, 2)).save(tmp_path / name)
    with pytest.raises(FileFormatError, match=r"\.npz or \.json"):
        Relevance.load(tmp_path / name)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("suffix", [".png", ".svg", ".npz", ".json"])
def test_failed_save_leaves_the_old_file_and_nothing_else(tmp_path, suffix):
    path = tmp_path / f"kept{suffix}"
    path.write_bytes(b"old")
    # NaN cannot be drawn, and objects cannot be kept.
    bad = np.array([[np.nan]]) if suffix in (".png", ".svg") else np.array([[None]], dtype=object)
    with pytest.raises(InputError):
        made((1, 1), values=bad, absorbed=()).save(path)
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_missing_folder_and_missing_file_are_said(tmp_path):
    with pytest.raises(FileNotFoundError, match="create it first"):
        made((1, 2)).save(tmp_path / "no" / "kept.npz")
    with pytest.raises(FileNotFoundError):
        Relevance.load(tmp_path / "kept.npz")


def damaged_json(tmp_path: Path, **changes: object) -> Path:
    path = made((2, 2)).save(tmp_path / "kept.json")
    document = json.loads(path.read_text())
    document.update(changes)
    path.write_text(json.dumps({k: v for k, v in document.items() if v != "gone"}))
    return path


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"format": "somebody else's"}, "header"),
        ({"version": 2}, "version 2"),
        ({"kind": "regression"}, "regression"),
        ({"model_name": 3}, "model_name"),
        ({"evidence_name": "gone"}, "evidence_name"),
        ({"feature_names": ["a"]}, "feature_names"),
        ({"row_names": "ab"}, "row_names"),
        ({"row_names": [1, 2]}, "row_names"),
        ({"absorbed": ["bias", "bias"]}, "absorbed"),
        ({"absorbed": ["bias", "more"]}, "absorbed_1"),
        ({"provenance": {"torch": 2}}, "provenance"),
        ({"composite": 1}, "composite"),
        ({"threshold": "high"}, "high"),
        ({"threshold": [1]}, "threshold|float"),
        ({"arrays": "gone"}, "arrays"),
        ({"arrays": []}, "arrays"),
        ({"arrays": {}}, "values"),
        ({"arrays": {"values": {"dtype": "O", "shape": [1, 1], "data": [[1]]}}}, "object"),
        ({"arrays": {"values": {"dtype": "<f8", "shape": [2, 2], "data": [[1, 2]]}}}, "reshape"),
        ({"arrays": {"values": {"dtype": "<f8", "shape": [1, 1], "data": [["x"]]}}}, "x"),
        ({"arrays": {"values": {"dtype": "nonsense", "shape": [1], "data": [1]}}}, "nonsense"),
        ({"arrays": {"values": 3}}, "int"),
    ],
)
def test_malformed_documents_are_refused(tmp_path, changes, complaint):
    with pytest.raises(FileFormatError, match=complaint):
        Relevance.load(damaged_json(tmp_path, **changes))


def test_arrays_of_the_wrong_shape_are_refused(tmp_path):
    path = made((2, 2)).save(tmp_path / "kept.json")
    document = json.loads(path.read_text())
    for name in ("evidence", "inputs", "absorbed_0"):
        broken = json.loads(json.dumps(document))
        broken["arrays"][name] = {"dtype": "<f8", "shape": [1], "data": [0.0]}
        path.write_text(json.dumps(broken))
        with pytest.raises(FileFormatError, match=name):
            Relevance.load(path)


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize(
    "content", [b"", b"\x00\xff", b"[1, 2]", b"null", b"NaN", b"PK\x03\x04rest"]
)
def test_foreign_files_are_refused(tmp_path, suffix, content):
    path = tmp_path / f"foreign{suffix}"
    path.write_bytes(content)
    with pytest.raises(FileFormatError, match="foreign"):
        Relevance.load(path)


def test_foreign_archives_are_refused(tmp_path):
    path = tmp_path / "foreign.npz"
    np.savez(path, x=np.arange(3))
    with pytest.raises(FileFormatError):
        Relevance.load(path)
    np.savez(path, header=np.array([{"pickled": 1}], dtype=object))
    with pytest.raises(FileFormatError, match="allow_pickle"):
        Relevance.load(path)
    single = BytesIO()
    np.save(single, np.arange(3))
    path.write_bytes(single.getvalue())
    with pytest.raises(FileFormatError, match="single array"):
        Relevance.load(path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("header.npy", "no array")
    with pytest.raises(FileFormatError):
        Relevance.load(path)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_file_cut_off_anywhere_is_refused(tmp_path, suffix):
    path = made((3, 2)).save(tmp_path / f"kept{suffix}")
    whole = path.read_bytes()
    for length in range(0, len(whole), max(1, len(whole) // 40)):
        path.write_bytes(whole[:length])
        with pytest.raises(FileFormatError):
            Relevance.load(path)
