r"""GeoJSON of cells, as QuPath and the Atlas platform write it.

A polygon stands for its centre of area, holes cut out (Bourke, 1988):
:math:`A = \frac12 \sum_i c_i`, :math:`x = \frac1{6A} \sum_i (x_i + x_{i+1}) c_i` with
:math:`c_i = x_i y_{i+1} - x_{i+1} y_i`.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import chain
from typing import Any

import numpy as np
import pandas as pd

from graphs.cell_graph import Array
from graphs.readers.columns import Columns
from graphs.readers.contents import Table
from neuralize.errors import InputError

COLUMNS = Columns()


def from_geojson(
    content: Any, columns: Columns | None, *, source: str, image: str
) -> Table:  # fmt: skip
    """A table of ``x``, ``y``, ``phenotype``, ``cell_id`` and the features' measurements.

    Coordinates are taken to be pixels, as QuPath writes them, unless the caller says another unit.
    ``phenotype`` is ``properties.classification.name``.

    Raises
    ------
    InputError
        No features, a feature that is an annotation, a shape that is no point or polygon.
    """
    features = _features(content, source)
    rings: list[Any] = []
    owners: list[int] = []
    signs: list[float] = []
    frames: list[dict[str, Any]] = []
    for number, feature in enumerate(features):
        properties = feature.get("properties") or {}
        if properties.get("objectType") == "annotation":
            raise InputError(
                f"Expected cells in {source}, got an annotation as feature {number}. Export "
                "detections and annotations to files of their own."
            )
        for ring, sign in _rings(feature.get("geometry"), number, source):
            rings.append(ring)
            owners.append(number)
            signs.append(sign)
        frames.append(
            {
                **_measurements(properties.get("measurements")),
                "phenotype": _phenotype(properties.get("classification"), number, source),
                "cell_id": feature.get("id"),
            }
        )
    frame = pd.DataFrame(frames, columns=None if frames else ["phenotype", "cell_id"])
    centres = _centres(rings, np.array(owners, int), np.array(signs), len(features), source)
    frame = frame.assign(x=centres[:, 0], y=centres[:, 1])
    if columns is None:
        named = bool(len(frame)) and bool(frame["cell_id"].notna().all())
        columns = Columns(cell_id="cell_id") if named else COLUMNS
    return Table(frame, columns, source, image, usual="px")


def _features(content: Any, source: str) -> list[Mapping[str, Any]]:
    if isinstance(content, dict):
        kind = content.get("type")
        content = content.get("features") if kind == "FeatureCollection" else [content]
    if not isinstance(content, list) or not all(
        isinstance(f, dict) and f.get("type") == "Feature" for f in content
    ):
        raise InputError(f"Expected a FeatureCollection or a list of Features in {source}.")
    found: list[Mapping[str, Any]] = content
    return found


def _phenotype(classification: Any, number: int, source: str) -> str | None:
    """QuPath: ``{"name"}``, or ``{"names": [base, derived, ...]}``; some tools write plain text."""
    if classification is None or isinstance(classification, str):
        return classification
    if isinstance(classification, dict):
        if classification.get("name") is not None:
            return str(classification["name"])
        if classification.get("names"):
            return ": ".join(map(str, classification["names"]))
        if "name" in classification or "names" in classification:
            return None
    raise InputError(
        f"Expected properties.classification.name in feature {number} of {source}, got "
        f"{classification!r}."
    )


def _measurements(found: Any) -> dict[str, Any]:
    """QuPath: ``{name: value}``, in older versions ``[{"name", "value"}]``."""
    if isinstance(found, dict):
        return found
    return {entry["name"]: entry["value"] for entry in found or ()}


def _rings(geometry: Any, number: int, source: str) -> list[tuple[Any, float]]:
    """The rings of a shape, holes with a negative sign; a point is a ring of one."""
    kind = geometry.get("type") if isinstance(geometry, dict) else None
    if kind == "Point":
        return [([geometry["coordinates"]], 1.0)]
    if kind in ("Polygon", "MultiPolygon"):
        polygons = geometry["coordinates"] if kind == "MultiPolygon" else [geometry["coordinates"]]
        found = [
            (ring, -1.0 if hole else 1.0) for rings in polygons for hole, ring in enumerate(rings)
        ]
        if found and all(ring for ring, _ in found):
            return found
        kind = f"empty {kind}"
    raise InputError(
        f"Expected a Point, Polygon or MultiPolygon as feature {number} of {source}, got {kind}."
    )


def _points(rings: list[Any], source: str) -> Array:
    """The corners of all rings ``(p, 2)``; heights are left out."""
    corners = list(chain.from_iterable(rings))
    try:
        if min(map(len, corners), default=2) < 2:
            raise ValueError("a point of fewer than two numbers")
        # Far faster from one flat list than from a list of lists.
        flat = list(chain.from_iterable(point[:2] for point in corners))
        return np.array(flat, np.float64).reshape(-1, 2)
    except (TypeError, ValueError) as error:
        raise InputError(f"Expected coordinates [x, y] in {source}, got {error}.") from error


def _centres(rings: list[Any], owners: Array, signs: Array, count: int, source: str) -> Array:
    """Centres of area ``(count, 2)``; the mean of the corners where there is no area."""
    if not rings:
        return np.zeros((count, 2))
    lengths = np.array([len(ring) for ring in rings])
    starts = np.cumsum(lengths) - lengths
    points = _points(rings, source)
    # Around the shape's first corner: slides are 10^5 pixels wide, cells ten.
    begins = starts[np.searchsorted(owners, np.arange(count))]
    origin = points[begins]
    of_point = np.repeat(owners, lengths)
    p = points - origin[of_point]
    after = np.arange(len(p)) + 1
    after[starts + lengths - 1] = starts
    q = p[after]
    cross = p[:, 0] * q[:, 1] - q[:, 0] * p[:, 1]
    # Whichever way a ring runs, it counts by its sign.
    turn = np.sign(np.add.reduceat(cross, starts)) * signs
    weight = cross * np.repeat(turn, lengths)
    area = np.bincount(of_point, weight, count)
    corners = np.bincount(of_point, minlength=count)
    centres = np.empty((count, 2))
    scale = np.bincount(of_point, (p**2).sum(1), count)
    for axis in range(2):
        moment = np.bincount(of_point, (p + q)[:, axis] * weight, count)
        mean = np.bincount(of_point, p[:, axis], count) / corners
        flat = area <= 1e-12 * scale
        centres[:, axis] = np.where(flat, mean, moment / np.where(flat, 1, 3 * area))
    found: Array = centres + origin
    return found
