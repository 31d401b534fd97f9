"""AnnData in squidpy's layout, read and written.

Positions in ``obsm["spatial"]``, neighbours in ``obsp["spatial_connectivities"]`` (row i holds
what cell i receives from) and their lengths in ``obsp["spatial_distances"]``.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from scipy import sparse

from graphs.cell_graph import Array, CellGraph
from graphs.readers.columns import Columns
from graphs.readers.contents import Table
from graphs.readers.tables import stem
from neuralize.errors import InputError

if TYPE_CHECKING:
    from anndata import AnnData

POSITIONS, CONNECTIVITIES, DISTANCES = "spatial", "spatial_connectivities", "spatial_distances"
OWN = "cell_graph"
"""Where :func:`to_anndata` keeps, in ``uns``, what AnnData has no place for."""


def from_anndata(source: Path | AnnData, columns: Columns | None) -> Table:
    """Cells of an AnnData object or ``.h5ad`` file.

    ``columns`` names columns of ``obs``; features may also be variables of ``X``; ``x``, ``y`` and
    ``z`` are not read, for positions are in ``obsm["spatial"]``.

    Raises
    ------
    InputError
        No positions, or columns that are not there.
    """
    path = source if isinstance(source, Path) else None
    adata: Any = _package().read_h5ad(path) if path is not None else source
    where = str(path) if path is not None else "the AnnData object"
    if POSITIONS not in adata.obsm:
        raise InputError(f"Expected positions in obsm['spatial'] of {where}, got "
                         f"{sorted(adata.obsm) or 'nothing'}.")  # fmt: skip
    places = np.asarray(adata.obsm[POSITIONS], np.float64)
    if places.ndim != 2 or places.shape[1] not in (2, 3):
        raise InputError(f"Expected obsm['spatial'] (n, 2) or (n, 3), got {places.shape}.")
    own = dict(adata.uns.get(OWN, {}))
    columns = columns or _own_columns(own, adata)
    axes = ("x", "y", "z")[: places.shape[1]]
    frame = adata.obs.reset_index(drop=True)
    measured = [name for name in columns.features if name not in frame.columns]
    columns = replace(columns, x="x", y="y", z="z" if len(axes) == 3 else None)
    frame = frame.assign(**dict(zip(axes, places.T, strict=True)))
    if measured and set(measured) <= set(adata.var_names):
        chosen: Any = adata[:, measured].X
        values = chosen.toarray() if hasattr(chosen, "toarray") else np.asarray(chosen)
        frame = pd.concat([frame, pd.DataFrame(values, columns=measured)], axis=1)
    if columns.cell_id is None and not own and "cell_id" not in frame.columns:
        frame["cell_id"] = adata.obs_names.to_numpy()
        columns = replace(columns, cell_id="cell_id")
    edges = _edges(adata.obsp[CONNECTIVITIES]) if CONNECTIVITIES in adata.obsp else None
    return Table(frame, columns, where, stem(path) if path is not None else "image",
                 unit=own.get("unit"), edges=edges)  # fmt: skip


def to_anndata(graph: CellGraph) -> AnnData:
    """The graph as AnnData in squidpy's layout; :func:`graphs.read_cells` reads it back.

    ``obs`` holds phenotype, image, patient, region and cell id; ``X`` the features; ``obsp`` the
    neighbours (1) and their distances; ``uns["cell_graph"]`` the unit.

    Raises
    ------
    InputError
        anndata is not installed.
    """
    n = len(graph)

    obs = pd.DataFrame(
        {
            "phenotype": _objects(graph.phenotypes, graph.phenotype_names),
            "image": _objects(graph.images, graph.image_names),
            "patient": _objects(graph.patient_of_cell, graph.patient_names),
        },
        index=pd.Index([str(k) for k in range(n)], dtype=object),
    )
    if graph.regions is not None:
        obs["region"] = _objects(graph.regions, graph.region_names)
    if graph.cell_ids is not None:
        ids = np.asarray(graph.cell_ids)
        obs["cell_id"] = ids if ids.dtype.kind in "iuf" else ids.astype(str).astype(object)
    features = np.zeros((n, 0), np.float32) if graph.features is None else graph.features
    adata = _package().AnnData(
        X=features,
        obs=obs,
        var=pd.DataFrame(index=pd.Index(list(graph.feature_names), dtype=object)),
    )
    adata.obsm[POSITIONS] = graph.positions
    adata.uns[OWN] = {"unit": graph.unit}
    if graph.edges is not None:
        senders, receivers = graph.edges
        lengths = np.linalg.norm(graph.positions[senders] - graph.positions[receivers], axis=1)
        at = (receivers, senders)
        adata.obsp[CONNECTIVITIES] = sparse.csr_matrix((np.ones(len(lengths)), at), (n, n))
        adata.obsp[DISTANCES] = sparse.csr_matrix((lengths, at), (n, n))
        adata.uns["spatial_neighbors"] = {
            "connectivities_key": CONNECTIVITIES,
            "distances_key": DISTANCES,
            "params": {},
        }
    return adata


def _package() -> Any:
    try:
        import anndata
    except ImportError as error:
        raise InputError(
            'AnnData needs the package anndata: pip install "unsupervised-xai[anndata]".'
        ) from error
    return anndata


def _objects(codes: Array, names: tuple[str, ...]) -> pd.Categorical:
    """Names by code, as Python strings: anndata cannot write the strings of pandas 3 yet."""
    index: Any = pd.Index(list(names), dtype=object)
    found: pd.Categorical = pd.Categorical.from_codes(codes, categories=index)
    return found


def _own_columns(own: dict[str, Any], adata: AnnData) -> Columns:
    """What :func:`to_anndata` wrote; for other objects, ``obs["phenotype"]``."""
    if not own:
        return Columns()

    def there(name: str) -> str | None:
        return name if name in adata.obs else None

    return Columns(
        image="image", patient="patient", cell_id=there("cell_id"), region=there("region"),
        features=tuple(adata.var_names),
    )  # fmt: skip


def _edges(matrix: Any) -> Array:
    found = sparse.coo_matrix(matrix)
    real = (found.data != 0) & (found.row != found.col)
    return np.stack([found.col[real], found.row[real]]).astype(np.int64)
