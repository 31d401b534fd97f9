"""Labels and groups in files of their own: matched by name, or refused."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from xai.data_files import read_data
from xai.errors import FileFormatError, InputError
from xai.idx_files import read_idx
from xai.row_columns import read_column

NAMES = ["a/1.png", "a/2.png", "b/3.png"]
SITES = pd.DataFrame(
    {"scanner": ["S3", "S1", "S2", "S9"], "file": ["b/3.png", "a/1.png", "a/2.png", "c/9.png"],
     "age": [3, 1, 2, 9]}
)  # fmt: skip


def column(path: Path, table: pd.DataFrame, spec: str = "", **options: bool) -> list[object]:
    file = path / "sites.csv"
    table.to_csv(file, index=False)
    return read_column(f"{file}{spec}", path, len(NAMES), NAMES, **options).tolist()


def test_by_name_in_any_order_and_with_lines_to_spare(tmp_path: Path) -> None:
    assert column(tmp_path, SITES, ":scanner") == ["S1", "S2", "S3"]
    assert column(tmp_path, SITES, ":age", by_name=True) == [1, 2, 3]
    assert column(tmp_path, SITES[["file", "age"]]) == [1, 2, 3]


def test_by_the_name_of_the_file_alone(tmp_path: Path) -> None:
    short = SITES.assign(file=SITES["file"].str[2:])
    assert column(tmp_path, short, ":scanner") == ["S1", "S2", "S3"]


@pytest.mark.parametrize("root", ["images/", "C:\\data\\", "/mnt/old/x/"])
def test_paths_from_another_place(tmp_path: Path, root: str) -> None:
    moved = SITES.assign(file=root + SITES["file"])
    assert column(tmp_path, moved, ":scanner", by_name=True) == ["S1", "S2", "S3"]
    twins = SITES.assign(file=["old/b/3.png", "old/a/1.png", "old/a/2.png", "old/c/1.png"])
    assert column(tmp_path, twins, ":scanner", by_name=True) == ["S1", "S2", "S3"]


@pytest.mark.parametrize(
    ("table", "spec", "message"),
    [
        (SITES.drop(index=1), ":scanner", r"no line for 1 of 3 rows.*'a/1\.png'"),
        (pd.concat([SITES, SITES[:1]]), ":scanner", r"'b/3\.png' more than once"),
        (SITES, ":camera", "No column 'camera'.*'scanner', 'file', 'age'"),
        (SITES, "", "one column beside 'file'"),
        (SITES[["scanner", "age"]], ":scanner", "names the pictures"),
        (SITES[["scanner"]][:3], "", "names the pictures"),
    ],
)
def test_what_does_not_match(tmp_path: Path, table: pd.DataFrame, spec: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        column(tmp_path, table, spec, by_name=True)


@pytest.mark.parametrize("gap", [None, np.nan])
def test_gaps_are_refused_where_they_matter(tmp_path: Path, gap: object) -> None:
    table = SITES.assign(note=[None, "a/1.png", None, "x"])
    assert column(tmp_path, table, ":scanner") == ["S1", "S2", "S3"]
    table.loc[2, "scanner"] = gap
    with pytest.raises(InputError, match="none for 1 of 3, the first of them row 1"):
        column(tmp_path, table, ":scanner")
    data = pd.DataFrame({"a": [1.0, 2.0], "site": ["x", gap]})
    data.to_csv(tmp_path / "d.csv", index=False)
    with pytest.raises(InputError, match="none for 1 of 2"):
        read_data(tmp_path / "d.csv", groups="site")


def test_by_order_where_there_are_no_names(tmp_path: Path) -> None:
    np.save(tmp_path / "y.npy", np.array([1, 2, 3]))
    assert read_column(str(tmp_path / "y.npy"), tmp_path, 3, NAMES).tolist() == [1, 2, 3]
    with pytest.raises(InputError, match="Expected 4 values"):
        read_column(str(tmp_path / "y.npy"), tmp_path, 4)
    with pytest.raises(InputError, match="only a table has columns"):
        read_column(f"{tmp_path / 'y.npy'}:a", tmp_path, 3)
    with pytest.raises(InputError, match="FILE:COLUMN"):
        read_column("site", tmp_path, 3)


def test_a_table_with_ids_is_matched_by_them(tmp_path: Path) -> None:
    pd.DataFrame({"id": ["x", "y"], "a": [1.0, 2.0]}).to_csv(tmp_path / "data.csv", index=False)
    pd.DataFrame({"id": ["y", "x"], "site": ["B", "A"]}).to_csv(tmp_path / "s.csv", index=False)
    data = read_data(tmp_path / "data.csv", id_column="id", groups=f"{tmp_path / 's.csv'}:site")
    assert data.groups.tolist() == ["A", "B"]


# -- IDX -------------------------------------------------------------------------------------------


def idx(array: np.ndarray) -> bytes:
    sizes = b"".join(size.to_bytes(4, "big") for size in array.shape)
    return bytes([0, 0, 8, array.ndim]) + sizes + array.tobytes()


PIXELS = np.random.default_rng(0).integers(0, 256, (5, 4, 3), dtype=np.uint8)


def test_idx_with_labels(tmp_path: Path) -> None:
    (tmp_path / "train-images-idx3-ubyte.gz").write_bytes(gzip.compress(idx(PIXELS)))
    labels = tmp_path / "train-labels-idx1-ubyte"
    labels.write_bytes(idx(np.arange(5, dtype=np.uint8)))
    data = read_data(tmp_path / "train-images-idx3-ubyte.gz", labels=str(labels), rows=3)
    assert np.array_equal(data.x, PIXELS[data.chosen])
    assert data.labels.tolist() == data.chosen.tolist()


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\0\0\x08",
        b"\0\0\x07\1" + bytes(4),
        idx(PIXELS)[:-1],
        idx(PIXELS) + b"x",
        b"\0\0\x08\2\x7f\xff\xff\xff\x7f\xff\xff\xff",
        b"\0\0\x08\1\xff\xff\xff\xff",
        b"\0\0\x08\xff" + bytes(2000),
    ],
)
@pytest.mark.parametrize("zipped", [False, True])
def test_what_is_no_idx(tmp_path: Path, content: bytes, zipped: bool) -> None:
    path = tmp_path / ("x.idx.gz" if zipped else "x.idx")
    path.write_bytes(gzip.compress(content) if zipped else content)
    with pytest.raises(FileFormatError, match="as IDX"):
        read_idx(path)


def test_a_gzip_bomb_is_unpacked_no_further_than_it_says(tmp_path: Path) -> None:
    path = tmp_path / "x.idx.gz"
    path.write_bytes(gzip.compress(idx(PIXELS) + bytes(10**8)))
    with pytest.raises(FileFormatError, match="does not hold what it claims"):
        read_idx(path)
    path.write_bytes(b"\x1f\x8bnothing")
    with pytest.raises(FileFormatError, match="as IDX"):
        read_idx(path)
