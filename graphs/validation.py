"""What a :class:`~graphs.cell_graph.CellGraph` must hold, checked when one is made."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from neuralize.errors import InputError

if TYPE_CHECKING:
    from graphs.cell_graph import CellGraph

Array = np.ndarray


def validated(graph: CellGraph) -> dict[str, Any]:
    """The fields of a graph in their own types.

    Raises
    ------
    InputError
        What does not hold, with the first cell, edge or image that breaks it.
    """
    positions = _positions(graph)
    n = len(positions)
    found: dict[str, Any] = {"positions": positions}
    for codes, names in (("phenotypes", "phenotype_names"), ("images", "image_names"),
                         ("regions", "region_names")):  # fmt: skip
        values = getattr(graph, codes)
        found[names] = tuple(map(str, getattr(graph, names)))
        _different(found[names], names)
        if values is not None:
            low = 0 if codes == "images" else -1
            found[codes] = _codes(values, n, len(found[names]), codes, low)
    found["patients"] = tuple(map(str, graph.patients))
    _in_order(found["images"], found["image_names"], found["patients"])
    if graph.features is not None:
        found["features"] = _features(graph, n)
    found["feature_names"] = tuple(map(str, graph.feature_names))
    if graph.cell_ids is not None and len(graph.cell_ids) != n:
        raise InputError(f"Expected {n} cell_ids, got {len(graph.cell_ids)}.")
    if graph.edges is not None:
        found["edges"] = _edges(graph.edges, found["images"])
    if graph.unit not in ("um", "px"):
        raise InputError(f"Expected unit 'um' or 'px', got {graph.unit!r}.")
    return found


def _positions(graph: CellGraph) -> Array:
    positions = np.asarray(graph.positions, np.float64)
    if positions.ndim != 2 or positions.shape[1] not in (2, 3) or not len(positions):
        raise InputError(
            f"Expected positions (n, 2) or (n, 3) of at least one cell, got {positions.shape}."
        )
    broken = np.flatnonzero(~np.isfinite(positions).all(1))
    if len(broken):
        raise InputError(
            f"Expected finite positions, got {positions[broken[0]].tolist()} for cell {broken[0]} "
            f"({len(broken)} of {len(positions)} cells). Drop these cells before."
        )
    return positions


def _codes(values: Any, n: int, count: int, name: str, low: int) -> Array:
    codes = np.asarray(values)
    if codes.shape != (n,):
        raise InputError(f"Expected {name} ({n},), one per cell, got {codes.shape}.")
    if not np.issubdtype(codes.dtype, np.integer):
        raise InputError(f"Expected {name} as whole numbers (codes), got {codes.dtype}.")
    broken = np.flatnonzero((codes < low) | (codes >= count))
    if len(broken):
        raise InputError(
            f"Expected {name} from {low} to {count - 1} ({count} names), got {codes[broken[0]]} "
            f"for cell {broken[0]}."
        )
    return codes.astype(np.int64)


def _different(names: tuple[str, ...], what: str) -> None:
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise InputError(f"Expected {what} that differ, got {twice!r} twice.")


def _in_order(images: Array, names: tuple[str, ...], patients: tuple[str, ...]) -> None:
    if len(patients) != len(names):
        raise InputError(
            f"Expected a patient for each of {len(names)} images, got {len(patients)}."
        )
    if (np.diff(images) < 0).any():
        at = int(np.flatnonzero(np.diff(images) < 0)[0]) + 1
        raise InputError(
            f"Expected the cells of an image to lie together, images ascending; cell {at} is of "
            f"image {images[at]} after one of image {images[at - 1]}. Sort by image."
        )
    empty = np.setdiff1d(np.arange(len(names)), images)
    if len(empty):
        raise InputError(f"Expected cells in every image, got none in {names[empty[0]]!r}.")
    seen: set[str] = set()
    for k, patient in enumerate(patients):
        if patient in seen and patient != patients[k - 1]:
            raise InputError(
                f"Expected the images of a patient to follow one another; patient {patient!r} "
                "comes in pieces. Sort by patient."
            )
        seen.add(patient)


def _features(graph: CellGraph, n: int) -> Array:
    features = np.asarray(graph.features)
    if features.shape != (n, len(graph.feature_names)):
        raise InputError(
            f"Expected features ({n}, {len(graph.feature_names)}), as many as feature_names, got "
            f"{features.shape}."
        )
    if not np.isfinite(features).all():
        row, column = np.argwhere(~np.isfinite(features))[0]
        raise InputError(
            f"Expected finite features, got {features[row, column]} for cell {row}, "
            f"{graph.feature_names[column]!r}."
        )
    return features


def _edges(values: Any, images: Array) -> Array:
    edges = np.asarray(values)
    if edges.ndim != 2 or edges.shape[0] != 2 or not np.issubdtype(edges.dtype, np.integer):
        raise InputError(
            f"Expected edges (2, e) of cell numbers, got {edges.shape} of {edges.dtype}."
        )
    edges = edges.astype(np.int64)
    if edges.size and (edges.min() < 0 or edges.max() >= len(images)):
        bad = int(np.flatnonzero(((edges < 0) | (edges >= len(images))).any(0))[0])
        raise InputError(
            f"Expected edges between cells 0 to {len(images) - 1}, got {edges[:, bad].tolist()} "
            f"as number {bad}."
        )
    across = np.flatnonzero(images[edges[0]] != images[edges[1]])
    if len(across):
        raise InputError(
            f"Expected edges within an image, got {len(across)} across images, the first from "
            f"cell {edges[0, across[0]]} to {edges[1, across[0]]}."
        )
    return edges
