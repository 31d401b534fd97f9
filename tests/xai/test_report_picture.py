"""Pictures: drawn once, they are the same bytes wherever they go."""

from io import BytesIO

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

import xai.report.html
from xai.errors import InputError
from xai.report import Finding, Measure, Picture, Report
from xai.report.picture import DPI, MAX_SIDE


def figure():
    made = Figure(figsize=(3, 2))
    made.subplots().imshow(np.random.default_rng(0).random((40, 60)))
    return made


def test_a_drawn_picture_is_the_png_of_the_figure():
    picture = Picture(figure(), "caption", "alt")
    drawn = picture.drawn()
    assert drawn.figure == picture.png() == drawn.png() == drawn.drawn().figure
    assert (drawn.caption, drawn.alt) == ("caption", "alt")
    with Image.open(BytesIO(drawn.figure)) as image:
        assert image.size == drawn.size == picture.size == (3 * DPI, 2 * DPI)


def test_a_drawn_picture_is_made_smaller_with_the_page(monkeypatch):
    drawn = Picture(figure(), "c", "a").drawn()
    made = Report("r", [Finding("info", "t", Measure("m", 1, "<", 0), pictures=[drawn])])
    full = len(xai.report.html.page(made).encode())
    monkeypatch.setattr(xai.report.html, "MAX_BYTES", full)
    assert len(xai.report.html.page(made).encode()) < full
    with Image.open(BytesIO(drawn.png(55))) as image:
        assert image.size == (3 * 55, 2 * 55)
        small = np.asarray(image.convert("RGB"), dtype=float)
    with Image.open(BytesIO(figure_png(55))) as image:
        again = np.asarray(image.convert("RGB"), dtype=float)
    assert abs(small - again).mean() < 25  # the same picture, drawn in another way


def figure_png(dpi):
    return Picture(figure(), "c", "a").png(dpi)


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (b"", "a PNG, got bytes b''"),
        (b"<svg onload=alert(1)>", "a PNG, got bytes"),
        (b"\x89PNG\r\n\x1a\n", "a PNG, got bytes"),
        (
            b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR" + (MAX_SIDE + 1).to_bytes(4, "big") + bytes(13),
            "at most 10000 pixels",
        ),
    ],
)
def test_other_bytes_are_refused(content, complaint):
    with pytest.raises(InputError, match=complaint):
        Picture(content, "c", "a")
