"""Pictures of a report: a figure still to be drawn, or the PNG it was drawn to."""

from __future__ import annotations

from dataclasses import dataclass
from io import BytesIO
from typing import TYPE_CHECKING

from xai.errors import InputError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

DPI = 110
"""Dots per inch at which pictures are drawn unless a page would become too large."""

SIGNATURE = b"\x89PNG\r\n\x1a\n"
MAX_SIDE = 10_000
"""Pixels; a PNG that claims more is refused before anything is unpacked."""


@dataclass(frozen=True, eq=False)
class Picture:
    """A figure with the words that belong to it.

    Attributes
    ----------
    figure
        A matplotlib Figure, or the bytes of a PNG drawn at :data:`DPI` dots per inch.
    caption
        Shown below it.
    alt
        For whoever cannot see it: what it shows, in words.

    Raises
    ------
    InputError
        Bytes that are no PNG, or one with a side beyond :data:`MAX_SIDE` pixels.

    Examples
    --------
    >>> from matplotlib.figure import Figure
    >>> drawn = Picture(Figure(figsize=(2, 1)), "nothing", "an empty figure").drawn()
    >>> drawn.figure[1:4], drawn.size
    (b'PNG', (220, 110))
    """

    figure: Figure | bytes
    caption: str
    alt: str

    def __post_init__(self) -> None:
        if isinstance(self.figure, bytes) and not max(_size(self.figure)) <= MAX_SIDE:
            raise InputError(
                f"Expected a picture of at most {MAX_SIDE} pixels a side, got {_size(self.figure)}."
            )

    def png(self, dpi: float = DPI) -> bytes:
        """As PNG, at ``dpi`` dots per inch; one that is drawn already is only made smaller."""
        if not isinstance(self.figure, bytes):
            from xai.plot.figure import png

            return png(self.figure, dpi=dpi)
        return self.figure if dpi >= DPI else _smaller(self.figure, dpi / DPI)

    def drawn(self) -> Picture:
        """The same with its PNG in place of the figure, which can be kept and read back equal."""
        return Picture(self.png(), self.caption, self.alt)

    @property
    def size(self) -> tuple[int, int]:
        """Width and height in pixels at :data:`DPI`."""
        return _size(self.png())


def _size(content: bytes) -> tuple[int, int]:
    """Width and height as the header of a PNG says."""
    if content[:8] != SIGNATURE or content[12:16] != b"IHDR" or len(content) < 33:
        raise InputError(f"Expected a matplotlib Figure or a PNG, got bytes {content[:8]!r}.")
    return int.from_bytes(content[16:20], "big"), int.from_bytes(content[20:24], "big")


def _smaller(content: bytes, scale: float) -> bytes:
    from PIL import Image

    buffer = BytesIO()
    with Image.open(BytesIO(content), formats=["PNG"]) as image:
        width, height = (max(1, round(side * scale)) for side in image.size)
        small = image.convert("RGB").resize((width, height), Image.Resampling.LANCZOS)
        # Blurred edges have many colours, which would take more room than the pixels saved.
        small.quantize(256).save(buffer, "PNG", optimize=True)
    return buffer.getvalue()
