"""The files that ``xai explain --graph`` writes: which, under what names, and with what in them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from graphs.cell_graph import CellGraph
from graphs.relevance import GraphRelevance
from xai.cli_graph_options import GRAPH_DEFAULT_FORMATS, GRAPH_FORMATS
from xai.cohort_report import strongest_image
from xai.command_steps import Destination
from xai.errors import InputError
from xai.export import (
    cells_to_geojson,
    cells_to_table,
    parts_to_geojson,
    parts_to_table,
    save_graph_relevance,
)
from xai.export.tables import write_table

SATURATED = 0.99
TABLES = ("csv", "parquet")


def graph_destination(
    out: Path | None,
    formats: Sequence[str] | None,
    graph: CellGraph,
    *,
    grid: bool,
    sizes: bool,
    report: bool,
) -> Destination | None:
    """Which files are written: one whose suffix names its format, or several in a folder.

    Raises
    ------
    InputError
        Options that contradict one another, a single GeoJSON file for several images.
    """
    if out is None:
        if formats or report:
            raise InputError("--format and --report say what to write; say where with --out.")
        return None
    kind = out.suffix.lower().removeprefix(".")
    if kind in (*GRAPH_FORMATS, "html") and not out.is_dir():
        if formats or report:
            raise InputError(
                f"--format and --report are for folders; the suffix of {out} already names one."
            )
        if kind == "geojson" and len(graph.image_names) > 1:
            raise InputError(
                f"Expected one image for the file {out}, got {len(graph.image_names)}; give a "
                "folder, or --patient."
            )
        return Destination(out.parent, (out.name,))
    names: list[str] = []
    for kind in formats or GRAPH_DEFAULT_FORMATS:
        if kind in TABLES:
            names += [f"cells.{kind}", f"patients.{kind}", f"phenotypes.{kind}"]
            names += [f"parts.{kind}"] * grid + [f"interaction_range.{kind}"] * sizes
        elif kind == "geojson":
            for name in file_names(graph.image_names):
                names += [f"cells-{name}.geojson"] + [f"parts-{name}.geojson"] * grid
        else:
            names.append({"png": "tissue.png", "svg": "tissue.svg"}.get(kind, f"relevance.{kind}"))
    return Destination(out, (*names, *(["report.html", "report.json"] if report else [])))


def file_names(images: Sequence[str]) -> list[str]:
    """Names of images as parts of file names, all different on every file system.

    Examples
    --------
    >>> file_names(["a/b", "a_b", "..", "A_B"])
    ['a_b', 'a_b-2', '_', 'A_B-3']
    """
    found: list[str] = []
    seen: dict[str, int] = {}
    for image in images:
        plain = re.sub(r"[^\w.+ -]+|^\.+|\.+$", "_", image)[:80]
        count = seen[plain.lower()] = seen.get(plain.lower(), 0) + 1
        name = plain if count == 1 else f"{plain}-{count}"
        seen.setdefault(name.lower(), 1)
        found.append(name)
    return found


def require_scale(names: Sequence[str], graph: CellGraph, mpp: float | None) -> None:
    """Refuse GeoJSON that cannot be placed, before any work.

    Raises
    ------
    InputError
        No pixel size for positions in micrometres, or one for those in pixels.
    """
    if not any(name.endswith(".geojson") for name in names):
        return
    if graph.unit == "um" and mpp is None:
        raise InputError(
            "GeoJSON is in the pixels of a slide and the cells are in micrometres: say how many "
            "micrometres a pixel has with --slide-mpp."
        )
    if graph.unit == "px" and mpp is not None:
        raise InputError("The cells are in pixels of unknown size; leave --slide-mpp out.")


def write_files(
    relevance: GraphRelevance,
    interaction: pd.DataFrame | None,
    names: Sequence[str],
    folder: Path,
    mpp: float | None,
) -> None:
    """Write every file of ``names`` but the report into ``folder``."""
    images = dict(zip(file_names(relevance.graph.image_names), relevance.graph.image_names,
                      strict=True))  # fmt: skip
    for name in names:
        path = folder / name
        stem, kind = path.stem, path.suffix.lower().removeprefix(".")
        if kind in TABLES:
            if stem == "parts":
                parts_to_table(relevance, path)
            elif stem == "patients":
                write_table(relevance.accounts().reset_index(), path)
            elif stem == "phenotypes":
                write_table(relevance.by("phenotype").reset_index(), path)
            elif stem == "interaction_range" and interaction is not None:
                write_table(interaction, path)
            else:
                cells_to_table(relevance, path)
        elif kind == "geojson":
            what, _, image = stem.partition("-")
            write = parts_to_geojson if what == "parts" and image in images else cells_to_geojson
            write(relevance, path, image=images.get(image), mpp=mpp)
        elif kind in ("npz", "json") and stem != "report":
            save_graph_relevance(relevance, path)
        elif kind in ("png", "svg"):
            extremes(relevance).savefig(path, dpi=150, metadata={"Date": None} if kind == "svg"
                                        else None)  # fmt: skip


def extremes(relevance: GraphRelevance) -> Any:
    """Tissue of the patients of the highest and of the lowest risk, on one scale."""
    from xai.plot import tissue_map

    ends = {int(np.argmax(relevance.log_hazard)), int(np.argmin(relevance.log_hazard))}
    chosen = [strongest_image(relevance, k) for k in sorted(ends, key=lambda k:
              -relevance.log_hazard[k])]  # fmt: skip
    shown = np.isin(relevance.graph.images, chosen)
    quantile = SATURATED if np.quantile(np.abs(relevance.cells[shown]), SATURATED) > 0 else None
    return tissue_map(relevance, [relevance.graph.image_names[i] for i in chosen],
                      quantile=quantile)  # fmt: skip
