r"""Readouts of the tumour microenvironment, image by image: who is there, and who is beside whom.

With :math:`n_a` cells of class a and :math:`N_{ab}` pairs of an a and a b within the radius:

* density :math:`n_a` per square millimetre, fraction :math:`n_a / n`, and the entropy
  :math:`-\sum_a p_a \ln p_a` of the fractions (Shannon, 1948);
* neighbours: the mean number of b within the radius around an a;
* mixing score :math:`N_{ab} / N_{aa}` (Keren et al., Cell 2018, with a immune and b tumour), and
  the same over its value for labels at random, :math:`N_{ab} (n_a - 1) / (2 N_{aa} n_b)`;
* infiltration: the share of the a with a b within the radius;
* colocalisation: the index of Morisita and Horn over the squares s of a grid,
  :math:`2 \sum_s p_{as} p_{bs} / (\sum_s p_{as}^2 + \sum_s p_{bs}^2)` with
  :math:`p_{as} = n_{as} / n_a` (Maley et al., Breast Cancer Research 2015).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd

from graphs.build import radius_graph
from graphs.cell_graph import Array, CellGraph
from graphs.tissue_area import TOTAL, Areas, squares, tissue_area
from graphs.tme_names import TmeName, TmeNames
from neuralize.errors import InputError


def tme_readouts(
    graph: CellGraph,
    *,
    radius: int = 20,
    areas: Areas = "occupied",
    side: float = 50.0,
    per: Literal["image", "patient"] = "image",
    progress: bool = True,
) -> pd.DataFrame:
    """Densities, fractions, neighbours, mixing and infiltration, named in OpenTME's scheme.

    Parameters
    ----------
    graph
        Cells in micrometres, in a plane; edges are not needed. With tissue regions, every readout
        but colocalisation is also made per region: of the cells a in it, with neighbours anywhere
        in the image (mixing: of pairs inside the region). Cells of unknown phenotype count in no
        class and in no total; cells of no known region count in the image only.
    radius
        Of a neighbourhood, whole micrometres, the circle itself included. There is no correction
        for circles that leave the image.
    areas
        How the area is judged, or what it is: see :func:`graphs.tissue_area.tissue_area`.
    side
        Of the squares for ``"occupied"`` areas and colocalisation, in micrometres.
    per
        One row per image, or per patient with the cells, pairs and areas of all images together.
    progress
        A bar over the images, if it takes longer than two seconds.

    Returns
    -------
    One row per image or patient. What is not defined, such as neighbours of cells that are not
    there, is NaN.

    Raises
    ------
    InputError
        Pixels of unknown size, cells in space, no phenotypes, classes that are written alike.

    Examples
    --------
    >>> cells = CellGraph(np.array([[0.0, 0], [10, 0], [0, 10]]), np.array([0, 1, 1]),
    ...                   ("Lymphocyte", "Carcinoma Cell"), np.zeros(3, int), ("i",), ("p",))
    >>> table = tme_readouts(cells)
    >>> table.loc["i", "NEIGHBORHOOD_COUNT_LYMPHOCYTE_CARCINOMA_CELL_20UM"]
    np.float64(2.0)
    """
    graph.require_micrometres("A neighbourhood")
    if not graph.phenotype_names:
        raise InputError("Expected cells with phenotypes, got none at all.")
    if isinstance(radius, bool) or radius != int(radius) or radius < 1:
        raise InputError(f"Expected radius in whole micrometres of at least 1, got {radius!r}.")
    if per not in ("image", "patient"):
        raise InputError(f"Expected per 'image' or 'patient', got {per!r}.")
    names = TmeNames(graph.phenotype_names, graph.region_names)
    counts = _Counts.of(graph, int(radius), per, progress)
    area = tissue_area(graph, areas, side)
    if per == "patient":
        codes = np.repeat(np.arange(len(graph.patient_names)), graph.images_per_patient)
        whole = np.zeros((len(graph.patient_names), area.shape[1]))
        np.add.at(whole, codes, area.to_numpy())  # unlike groupby, one NaN makes the sum unknown
        area = pd.DataFrame(whole, columns=area.columns)
    found: dict[TmeName, Array] = {}
    for number, tissue in enumerate((None, *names.tissues)):
        column = TOTAL if tissue is None else tissue
        size = area[column].to_numpy() if column in area else None
        _of_cells(found, names, counts, number, tissue, size)
        _of_pairs(found, names, counts, number, tissue, int(radius))
    _colocalisation(found, names, graph, side, per)
    index = pd.Index(graph.image_names if per == "image" else graph.patient_names, name=per)
    return pd.DataFrame({str(name): values for name, values in found.items()}, index=index)


@dataclass(frozen=True)
class _Counts:
    """Cells and directed pairs by group and tissue; tissue 0 is everything.

    Parameters
    ----------
    cells
        ``(g, t, c)``: cells of a class.
    pairs
        ``(g, t, c, c)``: cells of a class in the tissue, and their neighbours of another anywhere.
    inside
        ``(g, t, c, c)``: the same, if both are in the tissue.
    touched
        ``(g, t, c, c)``: of those cells, how many have such a neighbour.
    """

    cells: Array
    pairs: Array
    inside: Array
    touched: Array

    @classmethod
    def of(cls, graph: CellGraph, radius: int, per: str, progress: bool) -> _Counts:
        group = graph.images if per == "image" else graph.patient_of_cell
        groups = int(group.max()) + 1
        classes, tissues = len(graph.phenotype_names), len(graph.region_names)
        known = graph.phenotypes >= 0
        # Cells of no known region go to an extra tissue, which is dropped again.
        region = np.full(len(graph), tissues) if graph.regions is None else (
            np.where(graph.regions < 0, tissues, graph.regions)
        )  # fmt: skip
        place = (group * (tissues + 1) + region) * classes + graph.phenotypes

        def total(keys: Array, *shape: int) -> Array:
            full = (groups, tissues + 1, *shape)
            each = np.bincount(keys, minlength=int(np.prod(full))).reshape(full)
            found: Array = np.concatenate([each.sum(1, keepdims=True), each[:, :-1]], 1)
            return found.astype(np.float64)

        senders, receivers = radius_graph(graph, radius, progress=progress).require_edges()
        both = known[senders] & known[receivers]
        senders, receivers = senders[both], receivers[both]
        other = graph.phenotypes[receivers]
        same = region[senders] == region[receivers]
        touches = np.zeros((len(graph), classes), bool)
        touches[senders, other] = True
        cell, beside = np.nonzero(touches)
        keys = place[senders] * classes + other
        pairs, inside = (total(k, classes, classes) for k in (keys, keys[same]))
        inside[:, 0] = pairs[:, 0]
        return cls(
            total(place[known], classes),
            pairs,
            inside,
            total(place[cell] * classes + beside, classes, classes),
        )


def _over(above: Array, below: Array) -> Array:
    """A ratio, NaN where there is nothing below."""
    found: Array = np.divide(above, below, out=np.full(np.shape(above), np.nan), where=below != 0)
    return found


def _of_cells(
    found: dict[TmeName, Array], names: TmeNames, counts: _Counts, number: int,
    tissue: str | None, area: Array | None,
) -> None:  # fmt: skip
    end = "" if tissue is None else "_{tissue}"
    cells = counts.cells[:, number]
    everyone = cells.sum(1)
    if area is not None:
        found[TmeName("ABSOLUTE_AREA" + end, tissue=tissue)] = area
    shares = _over(cells, np.broadcast_to(everyone[:, None], cells.shape))
    for a, cell in enumerate(names.cells):
        found[TmeName("CELL_COUNT_{cell}" + end, cell=cell, tissue=tissue)] = cells[:, a]
        if area is not None:
            density = _over(cells[:, a], np.nan_to_num(area))
            found[TmeName("CELL_DENSITY_{cell}" + end, cell=cell, tissue=tissue)] = density
        found[TmeName("CELL_FRACTION_{cell}" + end, cell=cell, tissue=tissue)] = shares[:, a]
    logs = np.log(shares, out=np.zeros_like(shares), where=shares > 0)
    entropy = np.where(everyone > 0, -(shares * logs).sum(1), np.nan)
    found[TmeName("CELL_ENTROPY" + end, tissue=tissue)] = np.abs(entropy)


def _of_pairs(
    found: dict[TmeName, Array], names: TmeNames, counts: _Counts, number: int,
    tissue: str | None, radius: int,
) -> None:  # fmt: skip
    end = "_{cell}_{cell_b}_{radius}UM" + ("" if tissue is None else "_{tissue}")
    cells = counts.cells[:, number]
    inside = np.moveaxis(counts.inside[:, number], 0, -1)
    for a, cell in enumerate(names.cells):
        for b, cell_b in enumerate(names.cells):
            pairs, touched = counts.pairs[:, number, a, b], counts.touched[:, number, a, b]
            ratios = {
                "NEIGHBORHOOD_COUNT": _over(pairs, cells[:, a]),
                "INFILTRATION": _over(touched, cells[:, a]),
            }
            if a != b:
                # A pair of one class is met from both its ends.
                score = _over(inside[a, b], inside[a, a] / 2)
                ratios["MIXING_SCORE"] = score
                ratios["MIXING_SCORE_NORMALIZED"] = score * _over(cells[:, a] - 1, 2 * cells[:, b])
            for kind, values in ratios.items():
                name = TmeName(kind + end, cell=cell, cell_b=cell_b, radius=radius, tissue=tissue)
                found[name] = values


def _colocalisation(
    found: dict[TmeName, Array], names: TmeNames, graph: CellGraph, side: float, per: str
) -> None:
    square, image_of = squares(graph, side)
    group = graph.images if per == "image" else graph.patient_of_cell
    groups, classes = int(group.max()) + 1, len(names.cells)
    group_of = np.zeros(len(image_of), np.int64)
    group_of[square] = group
    known = graph.phenotypes >= 0
    keys = square[known] * classes + graph.phenotypes[known]
    n = np.bincount(keys, minlength=len(image_of) * classes).reshape(-1, classes)
    total = np.zeros((groups, classes))
    np.add.at(total, group_of, n)
    shares = _over(n.astype(np.float64), total[group_of])

    def over_squares(a: int, b: int) -> Array:
        return np.bincount(group_of, shares[:, a] * shares[:, b], groups)

    own = [over_squares(a, a) for a in range(classes)]
    for a, cell in enumerate(names.cells):
        for b in range(a + 1, classes):
            index = _over(2 * over_squares(a, b), own[a] + own[b])
            name = TmeName("COLOCALIZATION_{cell}_{cell_b}", cell=cell, cell_b=names.cells[b])
            found[name] = index
