"""Files that nobody vouches for, through ``xai audit``: refused with a message, nothing written."""

from __future__ import annotations

import io
import json
import os
import pickle
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import skops.io
import torch
from PIL import Image
from sklearn.cluster import KMeans
from typer.testing import CliRunner, Result

from neuralize.archives import LARGEST, archive_fault
from neuralize.errors import CheckpointError
from xai.cli import app
from xai.data_files import read_data
from xai.pretrained import cifar_resnet20
from xai.weight_files import read_weights

X = np.random.default_rng(0).normal(size=(40, 3))


class Payload:
    """Creates a folder when it is unpickled."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.marker),)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    skops.io.dump(KMeans(2, n_init=1, random_state=0).fit(X), tmp_path / "good.skops")
    return tmp_path / "good.skops"


@pytest.fixture
def data(tmp_path: Path) -> Path:
    np.save(tmp_path / "good.npy", X)
    return tmp_path / "good.npy"


def run(*args: object) -> Result:
    return CliRunner().invoke(app, ["audit", *map(str, args)])


def refused(tmp_path: Path, *args: object) -> str:
    """The message; there is no folder of results, and no traceback."""
    before = sorted(path.name for path in tmp_path.iterdir())
    result = run(*args, "--out", tmp_path / "out")
    assert result.exit_code == 2, result.output
    assert result.stdout == ""
    assert result.stderr.startswith("Error: ")
    assert "fault in xai" not in result.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == before
    return result.stderr


# -- pickles ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("protocol", [0, 2, 4])
@pytest.mark.parametrize(
    "name", ["m.pt", "m.safetensors", "m.skops", "m.npz", "m.npy", "m.csv", "m.onnx", "m.ckpt"]
)
@pytest.mark.parametrize("arch", [None, "cifar_resnet20"])
def test_pickles_under_any_name_are_never_run(
    tmp_path: Path, data: Path, name: str, protocol: int, arch: str | None
) -> None:
    marker = tmp_path / "marker"
    (tmp_path / name).write_bytes(pickle.dumps(Payload(marker), protocol=protocol))
    refused(tmp_path, tmp_path / name, "--data", data, *([] if arch is None else ["--arch", arch]))
    assert not marker.exists()


@pytest.mark.parametrize("name", ["d.npz", "d.npy", "d.csv", "d.parquet", "d.idx"])
def test_pickled_data_is_never_run(tmp_path: Path, model: Path, name: str) -> None:
    marker = tmp_path / "marker"
    (tmp_path / name).write_bytes(pickle.dumps(Payload(marker)))
    refused(tmp_path, model, "--data", tmp_path / name)
    assert not marker.exists()


def test_objects_in_torch_files_and_arrays(tmp_path: Path, model: Path, data: Path) -> None:
    marker = tmp_path / "marker"
    torch.save({"state_dict": {"a": Payload(marker)}}, tmp_path / "m.pt")
    message = refused(tmp_path, tmp_path / "m.pt", "--data", data, "--arch", "cifar_resnet20")
    assert "could run code" in message
    np.save(tmp_path / "d.npy", np.array([Payload(marker)], dtype=object), allow_pickle=True)
    np.savez(tmp_path / "d.npz", x=np.array([[Payload(marker)]], dtype=object))
    for name in ("d.npy", "d.npz"):
        assert "Python objects" in refused(tmp_path, model, "--data", tmp_path / name)
    assert not marker.exists()


# -- bombs -----------------------------------------------------------------------------------------


def bomb(path: Path, size: int, member: str = "x.npy", head: bytes = b"") -> None:
    """An archive that unpacks to ``size`` zeros, written without having them."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(member, head + bytes(10**6))
    content = bytearray(path.read_bytes())
    at = content.index(b"PK\1\2")  # the directory, which readers believe
    content[at + 24 : at + 28] = struct.pack("<I", size)
    path.write_bytes(bytes(content))


def header(shape: tuple[int, ...]) -> bytes:
    file = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        file, {"descr": "<f8", "fortran_order": False, "shape": shape}
    )
    return file.getvalue()


@pytest.mark.parametrize("name", ["d.npz", "m.skops", "m.npz"])
def test_zip_bombs(tmp_path: Path, model: Path, data: Path, name: str) -> None:
    bomb(tmp_path / name, 2**32 - 2)
    args = (
        (model, "--data", tmp_path / name) if name[0] == "d" else (tmp_path / name, "--data", data)
    )
    assert "would unpack from" in refused(tmp_path, *args)


def test_many_members_count_together(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "d.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        for i in range(20):
            archive.writestr(f"{i}.npy", bytes(10))
    content = (tmp_path / "d.npz").read_bytes()
    start = content.index(b"PK\1\2")
    parts = content[start:].split(b"PK\1\2")
    parts = [p if i == 0 else p[:20] + struct.pack("<I", 2**30) + p[24:]
             for i, p in enumerate(parts)]  # fmt: skip
    (tmp_path / "d.npz").write_bytes(content[:start] + b"PK\1\2".join(parts))
    assert LARGEST < 20 * 2**30
    fault = archive_fault(tmp_path / "d.npz")
    assert fault is not None
    assert "20 GB" in fault


def test_torch_files_are_never_compressed(tmp_path: Path, data: Path) -> None:
    torch.save(cifar_resnet20().state_dict(), tmp_path / "m.pt")
    with (
        zipfile.ZipFile(tmp_path / "m.pt") as old,
        zipfile.ZipFile(tmp_path / "n.pt", "w", zipfile.ZIP_DEFLATED) as new,
    ):
        for name in old.namelist():
            new.writestr(name, old.read(name))
    message = refused(tmp_path, tmp_path / "n.pt", "--data", data, "--arch", "cifar_resnet20")
    assert "compressed" in message


def test_a_member_is_unpacked_no_further_than_it_declares(tmp_path: Path, model: Path) -> None:
    bomb(tmp_path / "d.npz", 300, head=header((2, 3)))  # a megabyte in truth
    assert "Cannot read" in refused(tmp_path, model, "--data", tmp_path / "d.npz")


# -- shapes ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(10**12, 3), (2**62, 2**62), (10**9, 10**9, 10**9)])
def test_array_headers_with_absurd_shapes(
    tmp_path: Path, model: Path, shape: tuple[int, ...]
) -> None:
    (tmp_path / "d.npy").write_bytes(header(shape) + bytes(48))
    with zipfile.ZipFile(tmp_path / "d.npz", "w") as archive:
        archive.writestr("x.npy", header(shape) + bytes(48))
    for name in ("d.npy", "d.npz"):
        assert "claims to hold" in refused(tmp_path, model, "--data", tmp_path / name)


def test_skops_with_an_absurd_array(tmp_path: Path, model: Path, data: Path) -> None:
    with zipfile.ZipFile(model) as old, zipfile.ZipFile(tmp_path / "m.skops", "w") as new:
        for name in old.namelist():
            array = name.endswith(".npy")
            new.writestr(name, header((10**12, 3)) + bytes(48) if array else old.read(name))
    assert "claims to hold" in refused(tmp_path, tmp_path / "m.skops", "--data", data)


@pytest.mark.parametrize(
    ("shape", "offsets"),
    [([10**12, 64], [0, 256]), ([2**62, 2**62], [0, 256]), ([8, 8], [0, 2**50]), ([-1], [0, 4])],
)
def test_safetensors_with_absurd_headers(
    tmp_path: Path, data: Path, shape: list[int], offsets: list[int]
) -> None:
    head = json.dumps({"a": {"dtype": "F32", "shape": shape, "data_offsets": offsets}}).encode()
    path = tmp_path / "m.safetensors"
    path.write_bytes(struct.pack("<Q", len(head)) + head + bytes(256))
    message = refused(tmp_path, path, "--data", data, "--arch", "cifar_resnet20")
    assert "Cannot read" in message
    path.write_bytes(struct.pack("<Q", 2**60) + b"{}")
    refused(tmp_path, path, "--data", data, "--arch", "cifar_resnet20")


def test_tensors_that_claim_more_than_their_storage(tmp_path: Path, data: Path) -> None:
    state = cifar_resnet20().state_dict()
    state["conv1.weight"] = torch.zeros(1).expand(10**9, 10**6)
    torch.save(state, tmp_path / "m.pt")
    message = refused(tmp_path, tmp_path / "m.pt", "--data", data, "--arch", "cifar_resnet20")
    assert "claim more numbers" in message
    assert "conv1.weight (1000000000, 1000000)" in message


@pytest.mark.parametrize(
    "make",
    [
        lambda t: t.to_sparse(),
        lambda t: t.to(torch.complex64),
        lambda t: torch.empty_like(t, device="meta"),
        lambda t: torch.full_like(t, float("nan")),
        lambda t: [1, 2],
    ],
    ids=["sparse", "complex", "meta", "nan", "list"],
)
def test_odd_tensors(tmp_path: Path, data: Path, make: Callable[[Any], Any]) -> None:
    state = cifar_resnet20().state_dict()
    state["conv1.weight"] = make(state["conv1.weight"])
    torch.save(state, tmp_path / "m.pt")
    refused(tmp_path, tmp_path / "m.pt", "--data", data, "--arch", "cifar_resnet20")


def test_flipped_bytes_of_weights_raise_nothing_else(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for name in ("m.pt", "m.safetensors"):
        path = tmp_path / name
        tensors = {"a": torch.ones(4, 3), "b": torch.ones(2)}
        if name == "m.pt":
            torch.save(tensors, path)
        else:
            from safetensors.torch import save_file

            save_file(tensors, path)
        sound = path.read_bytes()
        for _ in range(60):
            broken = bytearray(sound)
            for at in rng.integers(0, len(sound), 3):
                broken[at] = rng.integers(256)
            path.write_bytes(bytes(broken))
            try:
                read_weights(path)
            except CheckpointError:
                continue


# -- tables ----------------------------------------------------------------------------------------


def test_a_parquet_bomb(tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pd.DataFrame(np.zeros((10**6, 3)), columns=list("abc")).to_parquet(tmp_path / "d.parquet")
    assert (tmp_path / "d.parquet").stat().st_size < 10**5  # of 24 MB
    monkeypatch.setattr("xai.file_formats.LARGEST", 2 * 10**7)
    assert "1000000 rows of 3" in refused(tmp_path, model, "--data", tmp_path / "d.parquet")


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_a_long_table_is_read(tmp_path: Path, suffix: str) -> None:
    table = pd.DataFrame(np.random.default_rng(0).random((100_000, 3)), columns=list("abc"))
    table["site"] = np.arange(len(table)) % 7
    path = tmp_path / f"d.{suffix}"
    table.to_csv(path, index=False) if suffix == "csv" else table.to_parquet(path)
    found = read_data(path, groups="site", rows=1000)
    assert found.x.shape == (1000, 3)
    assert np.array_equal(found.groups, found.chosen % 7)


# -- what goes with the rows ---------------------------------------------------------------------


@pytest.mark.parametrize("option", ["--labels", "--groups"])
def test_labels_of_the_wrong_length(tmp_path: Path, model: Path, data: Path, option: str) -> None:
    for values in (np.zeros(39), np.zeros((40, 2)), np.zeros(0)):
        np.save(tmp_path / "y.npy", values)
        message = refused(tmp_path, model, "--data", data, option, tmp_path / "y.npy")
        assert "Expected 40 values" in message


def test_masks_of_the_wrong_length(tmp_path: Path) -> None:
    weights, pictures = tmp_path / "m.pt", tmp_path / "d.npy"
    torch.save(cifar_resnet20().state_dict(), weights)
    np.save(pictures, np.random.default_rng(0).random((8, 3, 32, 32), dtype=np.float32))
    np.save(tmp_path / "masks.npy", np.ones((7, 32, 32), bool))
    message = refused(
        tmp_path, weights, "--arch", "cifar_resnet20", "--data", pictures, "--head", "kmeans:2",
        "--masks", tmp_path / "masks.npy",
    )  # fmt: skip
    assert "Expected 8 masks" in message


def test_pictures_and_links_through_the_command(tmp_path: Path) -> None:
    weights, folder = tmp_path / "m.pt", tmp_path / "pictures"
    torch.save(cifar_resnet20().state_dict(), weights)
    folder.mkdir()
    for i in range(6):
        Image.fromarray(np.full((32, 32, 3), i * 20, np.uint8)).save(folder / f"{i}.png")
    args = (weights, "--arch", "cifar_resnet20", "--data", folder)
    (folder / "x.png").write_bytes((folder / "1.png").read_bytes()[:60])
    assert "x.png" in refused(tmp_path, *args)
    (folder / "x.png").unlink()
    (folder / "x.png").symlink_to("/etc/hostname")
    assert "leads out of the folder" in refused(tmp_path, *args)


def test_results_do_not_climb_through_a_link_over_an_input(
    tmp_path: Path, model: Path, data: Path
) -> None:
    (tmp_path / "report.json").symlink_to(data)
    before = data.read_bytes()
    result = run(model, "--data", data, "--out", tmp_path / "report.json", "--overwrite")
    assert result.exit_code == 2
    assert "is an input" in result.stderr
    assert data.read_bytes() == before
