"""Folders of pictures: what is decoded, and what a hostile file or name is refused for."""

from __future__ import annotations

import os
import struct
import zlib
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from xai.data_files import read_data
from xai.errors import FileFormatError, InputError
from xai.picture_folders import MOST_PIXELS, picture_names, read_pictures

RNG = np.random.default_rng(0)


def save(path: Path, shape: tuple[int, ...] = (12, 10, 3), kind: str | None = None) -> np.ndarray:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = RNG.integers(0, 256, shape, dtype=np.uint8)
    Image.fromarray(pixels).save(path, format=kind)
    return pixels


def png(path: Path, width: int, height: int) -> None:
    """A small file that says how large its picture is."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        crc = zlib.crc32(kind + content)
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", crc)

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    parts = [chunk(b"IHDR", header), chunk(b"IDAT", zlib.compress(bytes(100))), chunk(b"IEND", b"")]
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(parts))


def test_pictures_by_name_and_folder(tmp_path: Path) -> None:
    wanted = {
        name: save(tmp_path / name)
        for name in ("b/2.png", "a/1.png", "a/3.BMP", "c.tiff", "a/.hidden.png", ".b/4.png")
    }
    (tmp_path / "a" / "notes.txt").write_text("no picture")
    data = read_data(tmp_path, groups="folder")
    assert data.names == ("a/1.png", "a/3.BMP", "b/2.png", "c.tiff")
    assert data.groups.tolist() == ["a", "a", "b", "."]
    for name, picture in zip(data.names, data.x, strict=True):
        assert np.array_equal(picture, np.moveaxis(wanted[name], -1, 0).astype(np.float32) / 255)


def test_grey_colour_and_sixteen_bits(tmp_path: Path) -> None:
    grey = save(tmp_path / "grey" / "a.png", (6, 5))
    deep = RNG.integers(0, 2**16, (6, 5), dtype=np.uint16)
    Image.fromarray(deep).save(tmp_path / "grey" / "b.png")
    x = read_data(tmp_path / "grey").x
    assert x.shape == (2, 6, 5)
    assert np.allclose(x, [grey / 255, deep / 65535], atol=1e-6)
    colour = read_data(tmp_path / "grey", channels=3).x
    assert colour.shape == (2, 3, 6, 5)
    assert np.allclose(colour, x[:, None], atol=1e-6)


@pytest.mark.parametrize("size", [(16, 16), (7, 11)])
def test_resizing_is_antialiased_and_crops_nothing(tmp_path: Path, size: tuple[int, int]) -> None:
    pixels = save(tmp_path / "a.png", (48, 40, 3))
    x = read_data(tmp_path, size=size).x
    whole = torch.from_numpy(pixels).permute(2, 0, 1)[None].float() / 255
    wanted = F.interpolate(whole, size, mode="bilinear", antialias=True)
    assert np.abs(x - wanted.numpy()).max() < 1.5 / 255  # the library rounds to bytes


def test_some_rows_are_drawn_and_keep_their_labels(tmp_path: Path) -> None:
    for i in range(9):
        save(tmp_path / f"{i % 3}" / f"{i}.png")
    data = read_data(tmp_path, labels="folder", rows=4, seed=5)
    assert (len(data.x), data.total) == (4, 9)
    assert [Path(name).parent.name for name in data.names] == data.labels.tolist()
    assert data.names == read_data(tmp_path, rows=4, seed=5).names
    assert [picture_names(tmp_path)[i] for i in data.chosen] == list(data.names)


def test_sizes_have_to_agree_or_be_given(tmp_path: Path) -> None:
    save(tmp_path / "a.png", (8, 8, 3))
    save(tmp_path / "b.png", (8, 9, 3))
    with pytest.raises(InputError, match=r"8x8 \(a.png\) and 8x9 \(b.png\).*--size"):
        read_data(tmp_path)
    assert read_data(tmp_path, size=(8, 8)).x.shape == (2, 3, 8, 8)


def test_sub_folders_as_labels_need_some(tmp_path: Path) -> None:
    save(tmp_path / "a.png")
    with pytest.raises(InputError, match="sub-folders"):
        read_data(tmp_path, labels="folder")


def test_a_wrong_ending_is_no_matter_and_no_picture_is_refused(tmp_path: Path) -> None:
    pixels = save(tmp_path / "a.jpg", kind="PNG")
    assert np.array_equal(read_data(tmp_path).x[0], np.moveaxis(pixels, -1, 0) / np.float32(255))
    (tmp_path / "b.png").write_text("<script>alert(1)</script>")
    with pytest.raises(FileFormatError, match=r"b\.png is no picture of a known format"):
        read_data(tmp_path)


def test_postscript_is_never_handed_to_its_interpreter(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_text("%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n")
    with pytest.raises(FileFormatError, match="no picture of a known format"):
        read_data(tmp_path)


@pytest.mark.parametrize("width", [10**4, 2**31 - 1])
def test_a_size_that_is_a_lie_is_refused_before_decoding(tmp_path: Path, width: int) -> None:
    png(tmp_path / "a.png", width, 10**4)
    assert width * 10**4 > MOST_PIXELS
    with pytest.raises(FileFormatError, match="pixels"):
        read_data(tmp_path, size=(8, 8))


@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_cut_off_pictures(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "a.png"
    save(path, (64, 64, 3), kind)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(FileFormatError, match="damaged"):
        read_data(tmp_path)


def test_flipped_bytes_never_raise_anything_else(tmp_path: Path) -> None:
    for kind in ("PNG", "JPEG", "GIF", "TIFF", "BMP"):
        path = tmp_path / "a.png"
        save(path, (16, 16, 3), kind)
        sound = path.read_bytes()
        for _ in range(40):
            broken = bytearray(sound)
            for at in RNG.integers(0, len(sound), 5):
                broken[at] = RNG.integers(256)
            path.write_bytes(bytes(broken))
            with suppress(FileFormatError):
                read_data(tmp_path, size=(4, 4), channels=3)


def test_pixels_of_unknown_range(tmp_path: Path) -> None:
    Image.fromarray(np.ones((4, 4), np.float32) * 7).save(tmp_path / "a.tiff")
    with pytest.raises(FileFormatError, match="32 bits"):
        read_data(tmp_path)


def test_links_out_of_the_folder(tmp_path: Path) -> None:
    save(tmp_path / "secret" / "x.png")
    save(tmp_path / "data" / "a.png")
    (tmp_path / "data" / "b.png").symlink_to(tmp_path / "data" / "a.png")
    assert len(read_data(tmp_path / "data").x) == 2  # within the folder
    (tmp_path / "data" / "c.png").symlink_to(tmp_path / "secret" / "x.png")
    with pytest.raises(FileFormatError, match=r"c\.png leads out of the folder"):
        read_data(tmp_path / "data")
    (tmp_path / "data" / "c.png").unlink()
    (tmp_path / "data" / "more").symlink_to(tmp_path / "secret")
    with pytest.raises(FileFormatError, match="link to another folder"):
        read_data(tmp_path / "data")


def test_dangling_links_circles_and_pipes(tmp_path: Path) -> None:
    save(tmp_path / "a.png")
    (tmp_path / "b.png").symlink_to(tmp_path / "b.png")
    with pytest.raises(FileFormatError, match=r"b\.png"):
        read_data(tmp_path)
    (tmp_path / "b.png").unlink()
    os.mkfifo(tmp_path / "c.png")
    with pytest.raises(FileFormatError, match="is no file"):
        read_data(tmp_path)


def test_names_are_text_whatever_they_are(tmp_path: Path) -> None:
    save(tmp_path / "a.png")
    (tmp_path / "a.png").rename(tmp_path / os.fsdecode(b"\xff\n<b>.png"))
    (name,) = read_data(tmp_path).names
    assert name == "\\udcff\\n<b>.png"
    name.encode("utf-8")


def test_more_than_memory_should_hold(tmp_path: Path) -> None:
    save(tmp_path / "a.png")
    with pytest.raises(InputError, match=r"take .* GB"):
        read_pictures(tmp_path, ["a.png"] * 200, size=(4000, 4000), channels=3)
    with pytest.raises(InputError, match="1 or 3 channels"):
        read_data(tmp_path, channels=5)


def test_a_folder_takes_no_columns(tmp_path: Path) -> None:
    save(tmp_path / "a.png")
    for options in ({"drop": ["a"]}, {"id_column": "a"}, {"key": "x"}):
        with pytest.raises(InputError, match="is none"):
            read_data(tmp_path, **options)
