"""The HTML of a report: one template, pictures inside as PNG, no script."""

from __future__ import annotations

import base64
from collections.abc import Callable
from functools import cache, partial
from typing import TYPE_CHECKING, Any

from jinja2 import Environment, PackageLoader, StrictUndefined, Template

from xai.errors import InputError
from xai.plot.figure import png
from xai.report.document import cell
from xai.report.finding import Picture, shown

if TYPE_CHECKING:
    from xai.report.report import Report

MAX_BYTES = 5_000_000
"""No report is larger: it must go by mail and open on a telephone."""

RESOLUTIONS = (110, 80, 60, 45)
"""Dots per inch of the pictures; the first at which the page is small enough."""

SAMPLES_SHOWN = 24
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
        sizes.append(len(text.encode()))
        if sizes[-1] < MAX_BYTES:
            return text
    raise InputError(
        f"Expected a report below {MAX_BYTES / 1e6:g} MB, got {sizes[-1] / 1e6:.1f} MB with its "
        f"{len(report.figures)} pictures at {RESOLUTIONS[-1]} dots per inch. Leave out pictures "
        "or long tables."
    )


@cache
def _template() -> Template:
    environment = Environment(
        loader=PackageLoader("xai.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["shown"] = shown
    environment.filters["cell"] = cell
    return environment.get_template("report.html")


def _render(report: Report, source: Callable[[Picture], str]) -> str:
    context: dict[str, Any] = {
        "report": report,
        "source": source,
        "samples_shown": SAMPLES_SHOWN,
        "reasons_shown": REASONS_SHOWN,
    }
    return _template().render(context)


def _data_url(dpi: float, picture: Picture) -> str:
    return f"data:image/png;base64,{base64.b64encode(png(picture.figure, dpi=dpi)).decode()}"
