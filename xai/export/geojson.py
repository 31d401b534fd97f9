"""Cells and parts as GeoJSON that QuPath opens by drag and drop: detections and annotations.

QuPath works in pixels of the whole slide, so micrometres are divided by the slide's micrometres per
pixel. Colours are three numbers from 0 to 255, measurements finite numbers by name; each object has
a UUID, the same whenever the same cell is written.
"""

from __future__ import annotations

import json
import math
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Literal

import numpy as np
from scipy.spatial import cKDTree

from xai.errors import InputError
from xai.plot.palette import category_colors, rgb
from xai.plot.scales import SIGNED, symmetric_limit
from xai.relevance import Array
from xai.storage import replacing

if TYPE_CHECKING:
    from graphs.cell_graph import CellGraph
    from graphs.relevance import GraphRelevance

NAMESPACE = uuid.UUID("6f0d6d5e-62b7-5d0c-9a53-0f7f1c1d2f4e")
DIGITS = 3
"""Decimals of a coordinate in pixels."""
CORNERS = np.stack([f(np.arange(8) * np.pi / 4 + np.pi / 8) for f in (np.cos, np.sin)], 1)
LARGEST = 5.0
"""Radius in micrometres above which no cell is drawn unless asked for."""


def cells_to_geojson(
    relevance: GraphRelevance,
    path: str | Path,
    *,
    image: str | None = None,
    mpp: float | None = None,
    origin: Sequence[float] = (0.0, 0.0),
    shape: Literal["polygon", "point"] = "polygon",
    radius: float | None = None,
    object_type: Literal["detection", "cell"] = "detection",
    colors: Literal["phenotype", "relevance"] = "phenotype",
    limit: float | None = None,
    quantile: float | None = None,
) -> Path:
    """Write the cells of one image; the path.

    Every cell has its phenotype as classification and its ``relevance`` as measurement, by which
    QuPath's measurement maps colour it; with a partition ``relevance of the part``, too.

    Parameters
    ----------
    image
        Which one; may be left out if there is only one.
    mpp
        Micrometres per pixel of the slide: required for positions in micrometres, refused for those
        in pixels.
    origin
        Where the image's coordinates begin on the slide, in pixels.
    shape
        ``"polygon"``: octagons around the centres, which are no outlines. ``"point"``.
    radius
        Of the octagons, in the graph's unit. Unless given, 0.45 of the median distance to the
        nearest cell, at most 5 micrometres.
    object_type
        QuPath's name for them.
    colors
        ``"relevance"`` gives every object a colour of its own, which goes before its class.
    limit, quantile
        End of those colours over all images, see :func:`xai.plot.scales.symmetric_limit`.

    Raises
    ------
    InputError
        No such image, ``mpp`` missing or not meant, cells in space, relevance that is not finite.
    """
    if shape not in ("polygon", "point"):
        raise InputError(f"Expected shape 'polygon' or 'point', got {shape!r}.")
    if object_type not in ("detection", "cell"):
        raise InputError(f"Expected object_type 'detection' or 'cell', got {object_type!r}.")
    if colors not in ("phenotype", "relevance"):
        raise InputError(f"Expected colors 'phenotype' or 'relevance', got {colors!r}.")
    graph = relevance.graph
    name, mine = _cells(graph, image)
    pixels = _pixels(graph, mpp, origin)
    paint = _paint(relevance.cells, limit, quantile)
    centres = pixels(graph.positions[mine, :2])
    size = _radius(graph, graph.positions[mine, :2], radius) / (mpp or 1.0)
    palette = category_colors(graph.phenotype_names)
    classes = [{"name": n, "color": rgb(palette[n])} for n in graph.phenotype_names]
    values, partition = relevance.cells[mine], relevance.partition
    parts = None
    if partition is not None:
        parts = partition.sums(relevance.cells)[partition.codes[mine]]

    def features() -> Iterator[dict[str, Any]]:
        for k, (i, centre) in enumerate(zip(mine, centres, strict=True)):
            measured = {"relevance": float(values[k])}
            if parts is not None:
                measured["relevance of the part"] = float(parts[k])
            properties: dict[str, Any] = {"objectType": object_type, "measurements": measured}
            if graph.phenotypes[i] >= 0:
                properties["classification"] = classes[graph.phenotypes[i]]
            if colors == "relevance":
                properties["color"] = paint(values[k])
            if graph.cell_ids is not None:
                properties["metadata"] = {"cell": str(graph.cell_ids[i])}
            geometry = _point(centre) if shape == "point" else _polygon(centre + size * CORNERS)
            yield _feature(f"{name}\n{k}", geometry, properties)

    return _write(Path(path), features())


def parts_to_geojson(
    relevance: GraphRelevance,
    path: str | Path,
    *,
    image: str | None = None,
    mpp: float | None = None,
    origin: Sequence[float] = (0.0, 0.0),
    limit: float | None = None,
    quantile: float | None = None,
) -> Path:
    """Write the squares of a grid as locked annotations, coloured by their relevance; the path.

    Parameters
    ----------
    image, mpp, origin
        As for :func:`cells_to_geojson`.
    limit, quantile
        End of the colours over the parts of all images.

    Raises
    ------
    InputError
        Relevance without a grid, or what :func:`cells_to_geojson` refuses.
    """
    partition = relevance.partition
    if partition is None or partition.bounds is None or partition.size is None:
        raise InputError("Expected relevance of a grid, got none; use grid_relevance.")
    graph = relevance.graph
    name, _ = _cells(graph, image)
    pixels = _pixels(graph, mpp, origin)
    sums = partition.sums(relevance.cells)
    paint = _paint(sums, limit, quantile)
    square = np.array([[0, 0], [1, 0], [1, 1], [0, 1]]) * partition.size
    mine = np.flatnonzero(partition.images == graph.image_names.index(name))

    def features() -> Iterator[dict[str, Any]]:
        for g in mine:
            assert partition is not None and partition.bounds is not None
            properties = {
                "objectType": "annotation",
                "name": partition.names[g],
                "color": paint(sums[g]),
                "isLocked": True,
                "measurements": {"relevance": float(sums[g]), "cells": int(partition.cells[g])},
            }
            geometry = _polygon(pixels(partition.bounds[g] + square))
            yield _feature(f"part\n{name}\n{partition.names[g]}", geometry, properties)

    return _write(Path(path), features())


def _cells(graph: CellGraph, image: str | None) -> tuple[str, Array]:
    """The image's name, and which cells are in it."""
    known = graph.image_names
    if image is None and len(known) > 1:
        raise InputError(
            f"Expected image=, one of the {len(known)} ({', '.join(map(repr, known[:3]))} ...): "
            "QuPath's objects belong to one."
        )
    name = known[0] if image is None else image
    if name not in known:
        raise InputError(
            f"Expected an image of the {len(known)} explained "
            f"({', '.join(map(repr, known[:3]))} ...), got {name!r}."
        )
    if graph.positions.shape[1] != 2:
        raise InputError("Expected cells in a plane, got cells in space.")
    return name, np.flatnonzero(graph.images == known.index(name))


def _pixels(
    graph: CellGraph, mpp: float | None, origin: Sequence[float]
) -> Callable[[Array], Array]:
    """Positions of the graph on the slide, in pixels."""
    if graph.unit == "px" and mpp is not None:
        raise InputError("Expected no mpp: the positions are in pixels already.")
    if graph.unit == "um" and mpp is None:
        raise InputError(
            "Expected mpp, the micrometres per pixel of the slide: the positions are in "
            "micrometres, and QuPath's are in pixels."
        )
    if mpp is not None and not (math.isfinite(mpp) and mpp > 0):
        raise InputError(f"Expected mpp, micrometres per pixel, above 0, got {mpp}.")
    corner = np.asarray(origin, np.float64)
    if corner.shape != (2,) or not np.isfinite(corner).all():
        raise InputError(f"Expected an origin of two numbers, got {origin!r}.")
    return lambda positions: positions / (mpp or 1.0) + corner


def _radius(graph: CellGraph, positions: Array, radius: float | None) -> float:
    """Radius of the octagons in the graph's unit."""
    if radius is not None:
        if not (math.isfinite(radius) and radius > 0):
            raise InputError(f"Expected a radius above 0, got {radius}.")
        return radius
    distinct = np.unique(positions, axis=0)
    if len(distinct) < 2:
        return LARGEST
    found = 0.45 * float(np.median(np.asarray(cKDTree(distinct).query(distinct, 2)[0])[:, 1]))
    return min(found, LARGEST) if graph.unit == "um" else found


def _paint(
    values: Array, limit: float | None, quantile: float | None
) -> Callable[[float], list[int]]:
    """The signed colour of a value, as three numbers from 0 to 255."""
    end = symmetric_limit(values, limit=limit, quantile=quantile)
    return lambda value: [round(255 * c) for c in SIGNED((value / end + 1) / 2)[:3]]


def _point(place: Array) -> dict[str, Any]:
    return {"type": "Point", "coordinates": np.round(place, DIGITS).tolist()}


def _polygon(corners: Array) -> dict[str, Any]:
    ring = np.round(corners, DIGITS).tolist()
    return {"type": "Polygon", "coordinates": [[*ring, ring[0]]]}


def _feature(key: str, geometry: dict[str, Any], properties: dict[str, Any]) -> dict[str, Any]:
    return {
        "type": "Feature",
        "id": str(uuid.uuid5(NAMESPACE, key)),
        "geometry": geometry,
        "properties": properties,
    }


def _write(path: Path, features: Iterable[dict[str, Any]]) -> Path:
    """One feature per line, so that a slide's million cells need not be in memory at once."""
    with replacing(path) as file:
        _stream(features, file)
    return path


def _stream(features: Iterable[dict[str, Any]], file: IO[bytes]) -> None:
    file.write(b'{"type": "FeatureCollection", "features": [')
    for k, feature in enumerate(features):
        text = json.dumps(feature, allow_nan=False, separators=(",", ":"))
        file.write((",\n" if k else "\n").encode() + text.encode())
    file.write(b"\n]}\n")
