"""Keeping the relevance of cells with their graph: NPZ and JSON that read back equal, no pickle."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

import numpy as np

from graphs.cell_graph import CellGraph
from graphs.partition import Partition
from graphs.relevance import GraphRelevance
from xai.errors import FileFormatError, InputError
from xai.header_files import KINDS, read_json, read_npz, write_json, write_npz
from xai.relevance import Array
from xai.storage import replacing

FORMAT = "unsupervised-xai graph relevance"
VERSION = 1

GRAPH_ARRAYS = ("positions", "phenotypes", "images")
OPTIONAL_ARRAYS = ("edges", "features", "regions")
GRAPH_NAMES = ("phenotype_names", "image_names", "patients", "feature_names", "region_names")

Write = Callable[[dict[str, Any], dict[str, Array], IO[bytes]], None]
Read = Callable[[IO[bytes]], tuple[Any, dict[str, Array]]]

WRITERS: dict[str, Write] = {".npz": write_npz, ".json": write_json}
READERS: dict[str, Read] = {".npz": read_npz, ".json": read_json}


def save_graph_relevance(relevance: GraphRelevance, path: str | Path) -> Path:
    """Write relevance with its graph and partition, whole or not at all; the path.

    Parameters
    ----------
    path
        ``.npz``, or ``.json`` for other programs and small graphs.

    Raises
    ------
    FileFormatError
        Another suffix.
    InputError
        Cell ids that are neither texts nor whole numbers, settings that are no plain values.

    Examples
    --------
    >>> from tempfile import TemporaryDirectory
    >>> cells = CellGraph(np.zeros((2, 2)), np.array([0, -1]), ("T cell",), np.zeros(2, int),
    ...                   ("slide",), ("patient",))
    >>> found = GraphRelevance(np.ones((2, 1)), cells, np.array([2.5]), {"bias": np.array([0.5])})
    >>> with TemporaryDirectory() as folder:
    ...     load_graph_relevance(save_graph_relevance(found, Path(folder, "found.npz"))).accounts()
             log_hazard  cells  bias  error
    patient
    patient         2.5    2.0   0.5    0.0
    """
    path = Path(path)
    write = WRITERS.get(path.suffix.lower())
    if write is None:
        raise FileFormatError(f"Expected a name ending in {' or '.join(WRITERS)}, got {path}.")
    header, arrays = _parts(relevance)
    with replacing(path) as file:
        write(header, arrays, file)
    return path


def load_graph_relevance(path: str | Path) -> GraphRelevance:
    """Read what :func:`save_graph_relevance` wrote.

    Raises
    ------
    FileFormatError
        Another suffix; a file that is damaged, or of something else.
    """
    path = Path(path)
    read = READERS.get(path.suffix.lower())
    if read is None:
        raise FileFormatError(f"Expected a name ending in {' or '.join(READERS)}, got {path}.")
    with path.open("rb") as file:
        try:
            return _whole(*read(file))
        except (KeyError, TypeError, ValueError, OverflowError, RecursionError) as error:
            raise FileFormatError(
                f"Expected relevance of cells saved by this package in {str(path)!r}, but it "
                f"cannot be read as that: {error}"
            ) from error


def _parts(relevance: GraphRelevance) -> tuple[dict[str, Any], dict[str, Array]]:
    """A header of plain values, and arrays by name."""
    graph, partition = relevance.graph, relevance.partition
    arrays: dict[str, Array] = {"values": relevance.values, "log_hazard": relevance.log_hazard}
    arrays |= {name: getattr(graph, name) for name in GRAPH_ARRAYS}
    for name in OPTIONAL_ARRAYS:
        if getattr(graph, name) is not None:
            arrays[name] = getattr(graph, name)
    for k, share in enumerate(relevance.absorbed.values()):
        arrays[f"absorbed_{k}"] = np.asarray(share)
    header: dict[str, Any] = {"format": FORMAT, "version": VERSION, "unit": graph.unit}
    header |= {name: list(getattr(graph, name)) for name in GRAPH_NAMES}
    header["absorbed"] = list(relevance.absorbed)
    header["composite"] = relevance.composite
    try:
        header["settings"] = json.loads(json.dumps(relevance.settings, allow_nan=False))
    except (TypeError, ValueError) as error:
        raise InputError(f"Expected settings of plain values, got {error}.") from error
    if relevance.reference is not None:
        arrays["reference"] = np.array([relevance.reference], np.float64)
    header["cell_ids"] = None
    if graph.cell_ids is not None:
        ids = np.asarray(graph.cell_ids)
        if ids.dtype.kind in "iu":
            arrays["cell_ids"] = ids
        elif all(isinstance(cell, str) for cell in ids.tolist()):
            header["cell_ids"] = ids.tolist()
        else:
            raise InputError("Expected cell_ids that are all texts, or all whole numbers.")
    header["parts"] = None
    if partition is not None:
        header["parts"] = list(partition.names)
        arrays |= {"part_codes": partition.codes, "part_images": partition.images}
        if partition.bounds is not None:
            arrays["part_bounds"] = partition.bounds
        if partition.size is not None:
            arrays["part_size"] = np.array([partition.size], np.float64)
    return header, arrays


def _whole(header: Any, arrays: dict[str, Array]) -> GraphRelevance:
    """Relevance from its parts, checked; errors are the built-in ones."""
    _expect(isinstance(header, dict) and header.get("format") == FORMAT, f"no {FORMAT!r} header")
    _expect(header["version"] == VERSION, f"version {header['version']!r} is not {VERSION}")
    for name, array in arrays.items():
        _expect(array.dtype.kind in KINDS, f"{name} holds {array.dtype}, not numbers")
    for name in (*GRAPH_NAMES, "absorbed"):
        _expect(_texts(header[name]), f"{name} are no texts")
    _expect(isinstance(header["composite"], str), "composite is no text")
    _expect(isinstance(header["settings"], dict), "settings are no object")
    ids = arrays.get("cell_ids")
    if header["cell_ids"] is not None:
        _expect(_texts(header["cell_ids"]), "cell_ids are no texts")
        ids = np.array(header["cell_ids"], object)
    fields: dict[str, Any] = {name: arrays[name] for name in GRAPH_ARRAYS}
    fields |= {name: tuple(header[name]) for name in GRAPH_NAMES}
    fields |= {name: arrays.get(name) for name in OPTIONAL_ARRAYS}
    graph = CellGraph(**fields, cell_ids=ids, unit=header["unit"])
    n, p = len(graph), len(graph.patient_names)
    values, hazards = arrays["values"], arrays["log_hazard"]
    _expect(values.ndim == 2 and len(values) == n, f"values have the shape {values.shape}")
    _expect(hazards.shape == (p,), f"log_hazard has the shape {hazards.shape}")
    absorbed = {name: arrays[f"absorbed_{k}"] for k, name in enumerate(header["absorbed"])}
    for name, share in absorbed.items():
        _expect(share.shape == (p,), f"absorbed {name!r} has the shape {share.shape}")
    reference = arrays.get("reference")
    return GraphRelevance(
        values,
        graph,
        hazards,
        absorbed,
        _partition(header["parts"], arrays, graph),
        header["composite"],
        None if reference is None else float(reference[0]),
        header["settings"],
    )


def _partition(names: Any, arrays: dict[str, Array], graph: CellGraph) -> Partition | None:
    if names is None:
        return None
    _expect(_texts(names), "parts are no texts")
    codes, images, g = arrays["part_codes"], arrays["part_images"], len(names)
    _expect(codes.shape == (len(graph),) and images.shape == (g,), "parts are of other cells")
    _expect(np.array_equal(np.unique(codes), np.arange(g)), "a part has no cells")
    _expect(np.array_equal(images[codes], graph.images), "a part is of several images")
    bounds, size = arrays.get("part_bounds"), arrays.get("part_size")
    wanted = (g, graph.positions.shape[1])
    _expect(bounds is None or bounds.shape == wanted, "bounds are of other parts")
    return Partition(codes, tuple(names), images, bounds, None if size is None else float(size[0]))


def _expect(holds: Any, complaint: str) -> None:
    if not holds:
        raise ValueError(complaint)


def _texts(names: Any) -> bool:
    return isinstance(names, list) and all(isinstance(name, str) for name in names)
