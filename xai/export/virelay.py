"""A project for ViRelAy, the viewer of SpRAy: pictures, relevance, and its spectral clusters.

Anders, Neumann, Samek, Mueller, Lapuschkin. Software for dataset-wide XAI, arXiv 2106.13200. The
layout is that of ViRelAy's documentation and CoRelAy's example: ``project.yaml`` names a dataset,
attributions and one analysis per decision, all HDF5, and ``label-map.json`` names the labels.

    virelay folder/project.yaml
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from sklearn.manifold import TSNE

from xai.audit.pooling import averaged
from xai.errors import InputError
from xai.new_files import new_files
from xai.plot.images import channel_axis, relevance_map
from xai.relevance import Array, Relevance
from xai.spray import SpectralClusters, spectral_clusters

FILES = ("dataset.h5", "attribution.h5", "analysis.h5", "label-map.json", "project.yaml")

LEAST = 10
"""Fewer maps of a decision have no clusters to look for."""

SIDE = 32
"""Maps are averaged down to about this many pixels a side before they are compared."""

MOST_EMBEDDED = 5000
"""t-SNE takes minutes beyond; then the analysis has the spectral embedding alone."""


def virelay_project(
    relevance: Relevance,
    folder: str | Path,
    *,
    labels: ArrayLike | None = None,
    name: str = "",
    tsne: bool = True,
    seed: int = 0,
    overwrite: bool = False,
) -> Path:
    """Write a ViRelAy project with the clusters of relevance maps of every decision.

    Parameters
    ----------
    relevance
        Of pictures, ``(n, h, w)``, ``(n, h, w, c)`` or ``(n, c, h, w)``. Its decisions are the
        clusters it explains, or whether the outlier score is above the threshold.
    folder
        Gets the five files; made where it is missing.
    labels
        Class of every picture ``(n,)``; the decisions when missing.
    name
        What the project is called; after the model when missing.
    tsne
        Whether to add a t-SNE of the spectral embedding, up to 5,000 maps a decision.
    seed
        Of the clusters and of the t-SNE.
    overwrite
        Whether files of these names may be replaced.

    Returns
    -------
    Path
        Of ``project.yaml``.

    Raises
    ------
    InputError
        Relevance of a table, labels of another length, no decision with ten maps, files that are
        there already.
    ImportError
        h5py is missing: ``pip install unsupervised-xai[virelay]``.
    """
    h5py = _h5py()
    if not relevance.is_image:
        raise InputError("Expected relevance of pictures for ViRelAy, got that of a table.")
    decisions, codes = _decisions(relevance)
    given = codes if labels is None else np.asarray(labels)
    if given.shape != (len(relevance),):
        raise InputError(
            f"Expected one label for each of {len(relevance)} maps, got {given.shape}."
        )
    classes, own = np.unique(given.astype(str), return_inverse=True)
    if labels is None:
        classes, own = np.array([], str), codes
    first = len(classes)  # decisions come after the labels in the label map
    found = _clusters(relevance, codes, len(decisions), seed)
    names = [*classes.tolist(), *decisions]
    target = (codes + first).astype(np.uint16)
    embedded = tsne and max(len(rows) for rows, _ in found.values()) <= MOST_EMBEDDED
    with new_files(Path(folder), FILES, overwrite=overwrite) as scratch:
        with h5py.File(scratch / FILES[0], "w") as file:
            file["data"] = _bytes(relevance.inputs)
            file["label"] = own.astype(np.uint16)
        with h5py.File(scratch / FILES[1], "w") as file:
            file["index"] = np.arange(len(relevance), dtype=np.uint32)
            file["attribution"] = _channels_first(relevance.values).astype(np.float32)
            file["label"] = target
            file["prediction"] = np.reshape(relevance.evidence, (-1, 1)).astype(np.float32)
        with h5py.File(scratch / FILES[2], "w") as file:
            for code, (rows, clusters) in found.items():
                group = file.create_group(_identifier(first + code))
                _analysis(group, decisions[code], rows, clusters, embedded, seed)
        label_map = [
            {"index": i, "word_net_id": _identifier(i), "name": str(label)}
            for i, label in enumerate(names)
        ]
        (scratch / FILES[3]).write_text(json.dumps(label_map, indent=1), "utf-8")
        (scratch / FILES[4]).write_text(_project(relevance, name), "utf-8")
    return Path(folder) / FILES[4]


def _h5py() -> Any:
    try:
        import h5py
    except ImportError as error:
        raise ImportError(
            "ViRelAy reads HDF5, and h5py is missing: pip install unsupervised-xai[virelay]"
        ) from error
    return h5py


def _decisions(relevance: Relevance) -> tuple[list[str], Array]:
    """Names of the decisions, and which of them each map is about ``(n,)``."""
    if relevance.kind == "cluster":
        assert relevance.target is not None
        kinds, codes = np.unique(relevance.target, return_inverse=True)
        return [f"cluster {kind}" for kind in kinds], codes
    if relevance.threshold is None:
        return ["outlier score"], np.zeros(len(relevance), int)
    return ["normal", "abnormal"], (relevance.evidence > relevance.threshold).astype(int)


def _clusters(
    relevance: Relevance, codes: Array, count: int, seed: int
) -> dict[int, tuple[Array, SpectralClusters]]:
    """Rows and their clusters, for every decision with enough maps that are not zero."""
    maps = relevance_map(relevance.values)
    factor = max(1, round(max(maps.shape[1:]) / SIDE))
    maps = averaged(maps[..., None], factor).reshape(len(maps), -1)
    found = {}
    for code in range(count):
        rows = np.flatnonzero((codes == code) & maps.any(1))
        if len(rows) >= LEAST:
            found[code] = rows, spectral_clusters(maps[rows], seed=seed)
    if not found:
        raise InputError(f"Expected at least {LEAST} maps of one decision, got fewer of each.")
    return found


def _analysis(
    group: Any, name: str, rows: Array, clusters: SpectralClusters, tsne: bool, seed: int
) -> None:
    """Embeddings and clusters of one decision; eigenvalues of the Laplacian, the leading last."""
    group["name"] = name
    group["index"] = rows.astype(np.uint32)
    spectral = clusters.vectors[:, ::-1]
    embedding, cluster = group.create_group("embedding"), group.create_group("cluster")
    embedding["spectral"] = spectral.astype(np.float32)
    embedding["spectral"].attrs["eigenvalue"] = (1 - clusters.eigenvalues[::-1]).astype(np.float32)
    if tsne:
        perplexity = min(30.0, (len(rows) - 1) / 3)
        flat = TSNE(perplexity=perplexity, init="pca", random_state=seed).fit_transform(spectral)
        embedding["tsne"] = flat.astype(np.float32)
        embedding["tsne"].attrs["embedding"] = "spectral"
    cluster["eigengap"] = clusters.labels.astype(np.uint32)
    cluster["eigengap"].attrs["embedding"] = "spectral"
    cluster["eigengap"].attrs["k"] = clusters.count


def _identifier(index: int) -> str:
    """ViRelAy finds the name of a category by its "WordNet ID", which need not be one."""
    return f"{index:08d}"


def _bytes(inputs: Array) -> Array:
    """Pictures ``(n, 3, h, w)`` of 8 bits: the data's range is what black and white are."""
    planes = _channels_first(inputs).astype(np.float32)
    planes = planes.repeat(3, 1) if planes.shape[1] == 1 else planes[:, :3]
    low, scale = planes.min(), np.ptp(planes) or 1.0
    whole: Array = np.round(255 * (planes - low) / scale).astype(np.uint8)
    return whole


def _channels_first(pictures: Array) -> Array:
    axis = channel_axis(pictures.shape[1:])
    if axis is None:
        return pictures[:, None]
    moved: Array = np.moveaxis(pictures, axis, 1)
    return moved


def _project(relevance: Relevance, name: str) -> str:
    """The project file; JSON strings are YAML strings, whatever they hold."""
    pictures = _channels_first(relevance.inputs[:1])
    return f"""project:
  name: {json.dumps(name or f"Relevance of {relevance.model_name}")}
  model: {json.dumps(relevance.model_name)}
  label_map: {FILES[3]}
  dataset:
    name: {json.dumps(name or "audited pictures")}
    type: hdf5
    path: {FILES[0]}
    input_width: {pictures.shape[3]}
    input_height: {pictures.shape[2]}
    up_sampling_method: none
    down_sampling_method: none
  attributions:
    attribution_method: {json.dumps(relevance.method)}
    attribution_strategy: predicted_label
    sources:
    - {FILES[1]}
  analyses:
  - analysis_method: SpRAy
    sources:
    - {FILES[2]}
"""
