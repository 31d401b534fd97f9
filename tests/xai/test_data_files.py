"""Reading rows, names and labels from files, and refusing what is no data."""

from __future__ import annotations

import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from xai.data_files import read_data
from xai.errors import FileFormatError, InputError, XaiError
from xai.rows import match_columns

RNG = np.random.default_rng(0)
TABLE = pd.DataFrame(RNG.normal(size=(5, 3)) / 3, columns=["ash", "hue", "proline"])


class Payload:
    """Creates a file when it is unpickled."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.marker),)


@pytest.mark.parametrize("suffix", [".csv", ".CSV", ".parquet"])
def test_a_table_keeps_names_and_every_bit(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"data{suffix}"
    TABLE.to_parquet(path) if suffix == ".parquet" else TABLE.to_csv(path, index=False)
    data = read_data(path)
    assert isinstance(data.x, pd.DataFrame)
    assert list(data.x.columns) == list(TABLE.columns)
    assert np.array_equal(data.x.to_numpy(), TABLE.to_numpy())
    assert data.labels is None


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_the_index_pandas_writes_holds_row_names(tmp_path: Path, suffix: str) -> None:
    named = TABLE.set_axis(list("abcde"), axis=0)
    path = tmp_path / f"data{suffix}"
    named.to_parquet(path) if suffix == ".parquet" else named.to_csv(path)
    x = read_data(path).x
    assert isinstance(x, pd.DataFrame)
    assert list(x.index) == list("abcde")
    assert x.shape == (5, 3)


def test_integers_booleans_and_gaps_become_numbers(tmp_path: Path) -> None:
    path = tmp_path / "data.parquet"
    pd.DataFrame(
        {"a": [1, 2], "b": [True, False], "c": pd.array([3, None], dtype="Int64")}
    ).to_parquet(path)
    x = read_data(path).x
    assert np.array_equal(np.asarray(x), [[1, 1, 3], [2, 0, np.nan]], equal_nan=True)


@pytest.mark.parametrize(
    ("text", "rows", "names"),
    [
        ("1.5,2\n3,4\n", 2, ["feature 0", "feature 1"]),
        ("0,1\n3,4\n", 1, ["0", "1"]),
        (" a , b\n3,4\n", 1, ["a", "b"]),
        ("a\n3\n", 1, ["a"]),
    ],
    ids=["no header", "pandas' numbered columns", "blanks", "one column"],
)
def test_the_first_line_is_a_header_unless_it_holds_data(
    tmp_path: Path, text: str, rows: int, names: list[str]
) -> None:
    path = tmp_path / "data.csv"
    path.write_text(text)
    x = read_data(path).x
    assert isinstance(x, pd.DataFrame)
    assert len(x) == rows
    assert list(x.columns) == names


def test_id_drop_and_labels_take_their_columns(tmp_path: Path) -> None:
    path = tmp_path / "data.csv"
    TABLE.assign(bottle=list("vwxyz"), note="text", kind=[0, 1, 0, 1, 1]).to_csv(path, index=False)
    data = read_data(path, id_column="bottle", drop=["note", "ash"], labels="kind")
    assert isinstance(data.x, pd.DataFrame)
    assert list(data.x.columns) == ["hue", "proline"]
    assert list(data.x.index) == list("vwxyz")
    assert data.labels is not None
    assert data.labels.tolist() == [0, 1, 0, 1, 1]


def test_text_columns_are_named(tmp_path: Path) -> None:
    path = tmp_path / "data.csv"
    TABLE.assign(grape="merlot", day="2020-01-01").to_csv(path, index=False)
    with pytest.raises(InputError, match=r"'grape', 'day'.*--drop"):
        read_data(path)


@pytest.mark.parametrize(
    "arrays",
    [
        {"x": np.eye(3), "y": np.arange(3)},
        {"X": np.eye(3), "other": np.ones((2, 2))},
        {"pictures": np.eye(3), "y": np.arange(3)},
    ],
    ids=["x", "X", "only one with rows"],
)
def test_the_array_of_an_archive_is_found(tmp_path: Path, arrays: dict[str, Any]) -> None:
    path = tmp_path / "data.npz"
    np.savez(path, **arrays)
    assert np.array_equal(read_data(path).x, np.eye(3))


def test_key_chooses_and_an_unclear_archive_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "data.npz"
    np.savez(path, train=np.eye(3), test=np.ones((2, 3)))
    assert len(read_data(path, key="test").x) == 2
    with pytest.raises(InputError, match=r"'train', 'test'.*--key"):
        read_data(path)
    with pytest.raises(InputError, match=r"No array 'x'.*'train', 'test'"):
        read_data(path, key="x")


def test_pictures_keep_their_shape(tmp_path: Path) -> None:
    pictures = RNG.integers(0, 255, size=(4, 8, 8), dtype=np.uint8)
    np.save(tmp_path / "data.npy", pictures)
    x = read_data(tmp_path / "data.npy").x
    assert isinstance(x, np.ndarray)
    assert np.array_equal(x, pictures)


def test_labels_from_an_archive_and_from_files(tmp_path: Path) -> None:
    np.savez(tmp_path / "data.npz", x=np.eye(3), kind=["a", "b", "a"])
    np.save(tmp_path / "labels.npy", np.array([1, 2, 1]))
    (tmp_path / "labels.csv").write_text("kind\n1\n2\n1\n")
    for labels, expected in [
        ("kind", ["a", "b", "a"]),
        (str(tmp_path / "labels.npy"), [1, 2, 1]),
        (str(tmp_path / "labels.csv"), [1, 2, 1]),
    ]:
        found = read_data(tmp_path / "data.npz", labels=labels).labels
        assert found is not None
        assert found.tolist() == expected


def test_labels_and_groups_together(tmp_path: Path) -> None:
    path = tmp_path / "data.csv"
    TABLE.assign(kind=[0, 1, 0, 1, 1], site=list("AABBA")).to_csv(path, index=False)
    data = read_data(path, labels="kind", groups="site")
    assert data.x.shape == (5, 3)
    assert data.labels is not None
    assert data.groups is not None
    assert (data.labels.tolist(), "".join(data.groups)) == ([0, 1, 0, 1, 1], "AABBA")


@pytest.mark.parametrize("labels", ["nothing", "missing.csv"])
def test_labels_that_are_not_there(tmp_path: Path, labels: str) -> None:
    np.save(tmp_path / "data.npy", np.eye(3))
    with pytest.raises(XaiError, match=labels):
        read_data(tmp_path / "data.npy", labels=labels)


def test_labels_of_another_length(tmp_path: Path) -> None:
    np.save(tmp_path / "data.npy", np.eye(3))
    np.save(tmp_path / "labels.npy", np.arange(4))
    with pytest.raises(InputError, match=r"3 values.*\(4,\)"):
        read_data(tmp_path / "data.npy", labels=str(tmp_path / "labels.npy"))


def broken(path: Path) -> None:
    """Cut a good file in the middle."""
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])


@pytest.mark.parametrize("suffix", [".npy", ".npz", ".parquet"])
def test_a_truncated_file(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"data{suffix}"
    if suffix == ".npy":
        np.save(path, np.ones((50, 4)))
    elif suffix == ".npz":
        np.savez_compressed(path, x=RNG.normal(size=(50, 4)))
    else:
        TABLE.to_parquet(path)
    broken(path)
    with pytest.raises(FileFormatError, match=f"Cannot read .*{suffix}"):
        read_data(path)


@pytest.mark.parametrize("suffix", [".npy", ".npz", ".csv", ".parquet"])
@pytest.mark.parametrize("content", [b"\x00\x01\x02\xff" * 40, b"PK\x03\x04 not a zip", b"\n\n"])
def test_rubbish(tmp_path: Path, suffix: str, content: bytes) -> None:
    path = tmp_path / f"data{suffix}"
    path.write_bytes(content)
    with pytest.raises(XaiError):
        read_data(path)


def test_missing_empty_folder_and_unknown(tmp_path: Path) -> None:
    with pytest.raises(FileFormatError, match=r"No such file: .*nothing\.csv"):
        read_data(tmp_path / "nothing.csv")
    with pytest.raises(FileFormatError, match="directory"):
        read_data(tmp_path)
    (tmp_path / "empty.csv").touch()
    with pytest.raises(FileFormatError, match="empty"):
        read_data(tmp_path / "empty.csv")
    (tmp_path / "data.xlsx").write_text("a,b\n1,2\n")
    with pytest.raises(FileFormatError, match=r"\.npy.*\.csv.*\.xlsx"):
        read_data(tmp_path / "data.xlsx")


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("a;b\n1;2\n", "semicolons"),
        ("a\tb\n1\t2\n", "tabs"),
        ("a,b\n1,2,3\n4,5,6\n", "more cells"),
        ("a,b\n0,2,3\n1,5,6\n", "more cells"),
        (",a\n0,1,2\n1,2,3\n", "more cells"),
        ("a,b\n1,2\n3,4,5\n", "Cannot read"),
        ("a,b\n", "at least one row"),
    ],
)
def test_odd_tables(tmp_path: Path, text: str, complaint: str) -> None:
    path = tmp_path / "data.csv"
    path.write_text(text)
    with pytest.raises(FileFormatError, match=complaint):
        read_data(path)


@pytest.mark.parametrize(
    "array", [np.arange(3.0), np.array(["a"]), np.ones((2, 2)) * 1j, np.ones((0, 4)), np.float64(3)]
)
def test_arrays_that_are_no_rows(tmp_path: Path, array: Any) -> None:
    np.save(tmp_path / "data.npy", array)
    with pytest.raises(FileFormatError):
        read_data(tmp_path / "data.npy")


def test_options_of_the_other_kind_of_file(tmp_path: Path) -> None:
    np.save(tmp_path / "data.npy", np.eye(2))
    TABLE.to_csv(tmp_path / "data.csv", index=False)
    with pytest.raises(InputError, match="--key"):
        read_data(tmp_path / "data.csv", key="x")
    with pytest.raises(InputError, match="--drop and --id"):
        read_data(tmp_path / "data.npy", drop=["ash"])
    with pytest.raises(InputError, match=r"No column 'malt'.*'ash', 'hue', 'proline'"):
        read_data(tmp_path / "data.csv", drop=["malt"])


@pytest.mark.parametrize("protocol", [0, 1, 2, 5])
@pytest.mark.parametrize("suffix", [".npy", ".npz", ".csv", ".parquet"])
def test_a_pickle_under_a_wrong_name_never_runs(tmp_path: Path, suffix: str, protocol: int) -> None:
    marker = tmp_path / "ran"
    path = tmp_path / f"data{suffix}"
    path.write_bytes(pickle.dumps(Payload(marker), protocol=protocol))
    with pytest.raises(FileFormatError, match="pickle"):
        read_data(path)
    assert not marker.exists()
    pickle.loads(path.read_bytes())
    assert marker.exists()  # the payload is one


@pytest.mark.parametrize("suffix", [".npy", ".npz"])
def test_object_arrays_never_run(tmp_path: Path, suffix: str) -> None:
    marker = tmp_path / "ran"
    array = np.array([[Payload(marker)]], dtype=object)
    path = tmp_path / f"data{suffix}"
    np.save(path, array) if suffix == ".npy" else np.savez(path, x=array)
    with pytest.raises(FileFormatError, match="Python objects"):
        read_data(path)
    assert not marker.exists()


def test_columns_are_put_in_the_model_s_order() -> None:
    turned = TABLE[["proline", "ash", "hue"]]
    matched = match_columns(turned, tuple(TABLE.columns), "data.csv")
    pd.testing.assert_frame_equal(pd.DataFrame(matched), TABLE)


def test_columns_that_do_not_fit_are_named() -> None:
    names = tuple(TABLE.columns)
    with pytest.raises(InputError, match="'hue', which wine"):
        match_columns(TABLE.drop(columns="hue"), names, "wine.csv")
    with pytest.raises(InputError, match=r"'price'.*--drop"):
        match_columns(TABLE.assign(price=1.0), names, "wine.csv")


def test_nothing_is_matched_without_names() -> None:
    numbered = TABLE.set_axis([f"feature {i}" for i in range(3)], axis=1)
    array = TABLE.to_numpy()
    assert match_columns(TABLE, None, "a") is TABLE
    assert match_columns(numbered, ("ash", "hue", "proline"), "a") is numbered
    assert match_columns(array, ("ash", "hue", "proline"), "a") is array
