"""The HTML of a report: one template, pictures inside as PNG, no script."""

from __future__ import annotations

import base64
import math
from collections.abc import Callable, Sequence
from functools import cache, partial
from typing import TYPE_CHECKING, Any

from jinja2 import Environment, PackageLoader, StrictUndefined, Template

from xai.errors import InputError
from xai.report.document import cell
from xai.report.finding import BeforeAfter, Picture, shown
from xai.report.picture import DPI

if TYPE_CHECKING:
    from xai.report.comparison import Comparison
    from xai.report.report import Report

MAX_BYTES = 5_000_000
"""No report is larger: it must go by mail and open on a telephone."""

RESOLUTIONS = (DPI, 80, 60, 45)
"""Dots per inch of the pictures; the first at which the page is small enough."""

SAMPLES_SHOWN = 24
NAME_LENGTH = 120
REASONS_SHOWN = 5


def page(report: Report) -> str:
    """The whole HTML page, below :data:`MAX_BYTES`.

    Raises
    ------
    InputError
        Too large even with pictures at the lowest resolution.
    """
    sizes = []
    for dpi in RESOLUTIONS:
        text = _render(report, partial(_data_url, dpi))
        sizes.append(len(text.encode("utf-8", "replace")))
        if sizes[-1] < MAX_BYTES:
            return text
    raise InputError(
        f"Expected a report below {MAX_BYTES / 1e6:g} MB, got {sizes[-1] / 1e6:.1f} MB with its "
        f"{len(report.pictures)} pictures at {RESOLUTIONS[-1]} dots per inch. Leave out pictures "
        "or long tables."
    )


def comparison_page(both: Comparison) -> str:
    """The page of a comparison."""
    return _template("comparison.html").render(both=both)


@cache
def _template(name: str) -> Template:
    environment = Environment(
        loader=PackageLoader("xai.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["shown"] = shown
    environment.filters["cell"] = cell
    environment.filters["clipped"] = clipped
    environment.filters["bars"] = bars
    return environment.get_template(name)


def _render(report: Report, source: Callable[[Picture], str]) -> str:
    twin = report.to_dict()
    context: dict[str, Any] = {
        "report": report,
        "digest": twin["content_sha256"],
        "times": twin["times"],
        "source": source,
        "samples_shown": SAMPLES_SHOWN,
        "reasons_shown": REASONS_SHOWN,
    }
    return _template("report.html").render(context)


def clipped(text: str, length: int = NAME_LENGTH) -> str:
    """A name without its middle where it is long; the JSON twin has all of it.

    Examples
    --------
    >>> clipped("abcdefghij", 5)
    'ab…ij'
    """
    side = (length - 1) // 2
    return text if len(text) <= length else f"{text[:side]}…{text[-side:]}"


def bars(pairs: Sequence[BeforeAfter]) -> list[tuple[str, list[tuple[str, str, float]]]]:
    """For each quantity its values: what, the number as shown, and the length of its bar in %."""
    return [
        (
            pair.name,
            [
                (what, shown(value), _length(value, pair.largest))
                for what, value in pair.values.items()
            ],
        )
        for pair in pairs
    ]


def _length(value: float, largest: float) -> float:
    return round(100 * abs(value) / largest, 1) if largest and math.isfinite(value) else 0.0


def _data_url(dpi: float, picture: Picture) -> str:
    return f"data:image/png;base64,{base64.b64encode(picture.png(dpi)).decode()}"
