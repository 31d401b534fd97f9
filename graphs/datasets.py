"""Synthetic cohorts of cell graphs with a known cause of risk, cell by cell.

``planted_motif``: patients die sooner the more of their cells are T cells that touch a tumour cell.
How many cells there are of each kind varies, T cells most, but not with the risk; only where the T
cells lie does. Both matter for the truth: did the number of T cells give the risk away, no network
would need the neighbours; and were it the same everywhere, T cells that keep off the tumour would
say as much with the opposite sign, a network could learn either, and neither explanation would be
wrong. ``planted_shortcut``: most of the risk is left to the motif, but some images carry an
artefact, and among the training patients it goes with a short survival.

Survival follows ``S(t) = exp(-e^f (t / b)^a)`` (Weibull), ``f`` the log hazard, and censoring an
exponential time.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from scipy.spatial import cKDTree

from graphs.cell_graph import CellGraph, concatenated
from graphs.survival import Outcome
from neuralize.errors import InputError

if TYPE_CHECKING:
    import pandas as pd

Array = np.ndarray
Shortcut = Literal["phenotype", "density"]

PHENOTYPES = ("tumour", "T cell", "B cell", "macrophage", "stroma", "granulocyte")
TUMOUR, T_CELL, B_CELL, MACROPHAGE, STROMA, GRANULOCYTE = range(6)
SPACING = 11.0
"""Micrometres between neighbouring cells before they are jittered."""
INSIDE = 0.095
"""Share of T cells inside the tumour among all cells, at most: below the least share of T cells."""
TOUCH = 16.0
"""Cells with centres this near, in micrometres, touch: the edges of the graph."""
WEIBULL_SHAPE, WEIBULL_DAYS = 1.3, 1500.0


@dataclass(frozen=True, eq=False)
class PlantedCohort:
    """A cohort whose risk is known.

    Attributes
    ----------
    graph
        All patients, with edges between cells that touch.
    outcome
        Survival in days.
    patients
        One row per patient: ``stage`` and ``age`` (covariates), ``log_hazard`` (the true one),
        ``infiltration`` (T cells that touch tumour cells, as a share of all cells; a mean over
        images),
        ``batch`` (1: with the artefact) and ``train``.
    motif
        Which cells are T cells that touch a tumour cell ``(n,)``.
    touched
        Which cells are tumour cells that touch a T cell ``(n,)``.
    shortcut
        Which cells belong to the artefact ``(n,)``.
    """

    graph: CellGraph
    outcome: Outcome
    patients: pd.DataFrame
    motif: Array
    touched: Array
    shortcut: Array

    def split(self, train: bool) -> PlantedCohort:
        """The training patients, or the others.

        Raises
        ------
        InputError
            There are none.
        """
        chosen = self.patients["train"].to_numpy() == train
        if not chosen.any():
            raise InputError(
                "Expected a cohort with training patients and others, got one without "
                f"{'training' if train else 'other'} patients."
            )
        cells = chosen[self.graph.patient_of_cell]
        return PlantedCohort(
            self.graph.subset(cells), self.outcome[chosen], self.patients[chosen],
            self.motif[cells], self.touched[cells], self.shortcut[cells],
        )  # fmt: skip


def planted_motif(
    seed: int = 0,
    patients: int = 120,
    images: int = 2,
    cells: tuple[int, int] = (300, 600),
    *,
    effect: float = 1.5,
    stage_effect: float = 0.3,
    censored: float = 0.3,
) -> PlantedCohort:
    """A cohort in which T cells that touch tumour cells raise the risk.

    Parameters
    ----------
    seed
        Of everything; the same seed gives the same cohort.
    patients, images, cells
        Number of patients, of images of each, and the range of cells per image.
    effect
        Log hazard per standard deviation of the infiltration.
    stage_effect
        Log hazard per stage; stage does not depend on the cells, and age has no effect.
    censored
        About which share of patients is censored.

    Raises
    ------
    InputError
        Fewer than 2 patients, no image, or images of fewer than 40 cells.

    Examples
    --------
    >>> cohort = planted_motif(0, patients=4, images=1, cells=(60, 80))
    >>> cohort.graph.phenotype_names[:2], len(cohort.outcome)
    (('tumour', 'T cell'), 4)
    >>> bool((cohort.graph.phenotypes[cohort.motif] == T_CELL).all())
    True
    """
    if patients < 2 or images < 1 or cells[0] < 40 or cells[1] < cells[0]:
        raise InputError(
            "Expected at least 2 patients, 1 image each and 40 cells per image, got "
            f"patients={patients}, images={images}, cells={cells}."
        )
    rng = np.random.default_rng(seed)
    parts = []
    for p in range(patients):
        level = rng.uniform(0.05, 0.95)
        for i in range(images):
            part = float(np.clip(level + rng.normal(0, 0.08), 0.02, 0.98))
            found = tissue(rng, int(rng.integers(cells[0], cells[1] + 1)), part)
            parts.append(replace(found, image_names=(f"P{p:03d}_{i}",), patients=(f"P{p:03d}",)))
    graph = concatenated(parts)
    motif, touched = touching(graph)
    table = _clinical(rng, graph, motif)
    standard = table["infiltration"] - table["infiltration"].mean()
    table["log_hazard"] = effect * standard / max(standard.std(), 1e-9)
    table["log_hazard"] += stage_effect * (table["stage"] - 2)
    return PlantedCohort(
        graph, _survival(rng, table, censored), table, motif, touched, np.zeros(len(graph), bool)
    )


def planted_shortcut(
    seed: int = 0,
    kind: Shortcut = "phenotype",
    patients: int = 120,
    images: int = 2,
    cells: tuple[int, int] = (300, 600),
    *,
    effect: float = 1.0,
    batch_effect: float = 1.5,
    agreement: float = 0.95,
    stage_effect: float = 0.3,
    censored: float = 0.3,
) -> PlantedCohort:
    """A cohort in which an artefact goes with the outcome among the training patients.

    Half of the patients, those of ``train``, come from two sites, of which one has sicker patients
    and, in its images, an artefact. Among the other half the artefact means nothing.

    The other parameters and the errors are those of :func:`planted_motif`.

    Parameters
    ----------
    kind
        ``"phenotype"``: stray cells are called granulocytes, which no other image has.
        ``"density"``: in spots, every cell was segmented into three fragments.
    effect
        Log hazard per standard deviation of the infiltration, in all patients.
    batch_effect
        Half the difference of the log hazard between the two sites.
    agreement
        Share of the training patients whose artefact goes with their site.

    Examples
    --------
    >>> cohort = planted_shortcut(0, "phenotype", patients=8, images=1, cells=(60, 80))
    >>> len(cohort.split(train=True).outcome)
    4
    >>> bool((cohort.graph.phenotypes[cohort.shortcut] == GRANULOCYTE).all())
    True
    """
    if kind not in ("phenotype", "density"):
        raise InputError(f"Expected kind 'phenotype' or 'density', got {kind!r}.")
    if not 0.5 <= agreement <= 1:
        raise InputError(f"Expected an agreement from 0.5 to 1, got {agreement}.")
    clean = planted_motif(
        seed, patients, images, cells, effect=effect, stage_effect=stage_effect, censored=censored
    )
    rng = np.random.default_rng([seed, 1])
    table = clean.patients.copy()
    train = np.arange(patients) % 2 == 0
    site = rng.permutation(np.arange(patients) // 2 % 2)
    agrees = rng.uniform(size=patients) < np.where(train, agreement, 0.5)
    table["train"] = train
    table["batch"] = np.where(agrees, site, 1 - site)
    table["log_hazard"] += batch_effect * (2 * site - 1)
    parts, of_artefact = [], []
    for k, name in enumerate(clean.graph.image_names):
        image = clean.graph.image(name)
        flags = np.zeros(len(image), bool)
        if table["batch"][clean.graph.patients[k]]:
            add = _stray if kind == "phenotype" else _fragments
            image, flags = add(rng, image)
        parts.append(image)
        of_artefact.append(flags)
    graph = concatenated(parts)
    motif, touched = touching(graph)
    outcome = _survival(rng, table, censored)
    return PlantedCohort(graph, outcome, table, motif, touched, np.concatenate(of_artefact))


def tissue(rng: np.random.Generator, n: int, infiltration: float) -> CellGraph:
    """One image of ``n`` cells: tumour nests in stroma, with immune cells in and around them.

    ``infiltration``, from 0 to 1, says how many T cells are inside the nests, up to ``INSIDE`` of
    all cells; how many cells there are of each kind does not depend on it.
    """
    side = int(np.ceil(np.sqrt(n / 0.85)))
    rows, columns = np.divmod(np.arange(side * side), side)
    points = np.stack([columns + 0.5 * (rows % 2), rows * np.sqrt(0.75)], 1) * SPACING
    points = points[np.sort(rng.permutation(len(points))[:n])]
    points = points + rng.uniform(-0.22, 0.22, points.shape) * SPACING

    shares = {T_CELL: 0.15, B_CELL: 0.05, MACROPHAGE: 0.08, TUMOUR: 0.38}
    spread = {T_CELL: 0.35, B_CELL: 0.15, MACROPHAGE: 0.15, TUMOUR: 0.15}
    counts = {
        kind: round(n * share * rng.uniform(1 - spread[kind], 1 + spread[kind]))
        for kind, share in shares.items()
    }
    inside = {
        T_CELL: min(round(n * INSIDE * infiltration), counts[T_CELL]),
        MACROPHAGE: round(counts[MACROPHAGE] * rng.uniform(0.1, 0.9)),
    }
    # the nests: as many places as it takes, those nearest to a few centres of different weight
    centres = points[rng.choice(n, 3, replace=False)]
    distance = np.linalg.norm(points[:, None] - centres, axis=2) / rng.uniform(0.7, 1.3, 3)
    depth = np.argsort(distance.min(1) + rng.normal(0, 2, n))
    nest, rest = np.split(depth, [counts[TUMOUR] + sum(inside.values())])

    phenotypes = np.full(n, STROMA)
    phenotypes[nest] = TUMOUR
    places = rng.permutation(nest)
    for kind, count in inside.items():
        phenotypes[places[:count]] = kind
        places = places[count:]
    # outside, T cells keep off the tumour as far as there is room; B cells gather beside them
    tumour = cKDTree(points[nest])
    off = tumour.query(points[rest])[0] > TOUCH
    far = np.concatenate([rng.permutation(rest[off]), rng.permutation(rest[~off])])
    phenotypes[far[: counts[T_CELL] - inside[T_CELL]]] = T_CELL
    free = far[counts[T_CELL] - inside[T_CELL] :]
    follicle = points[rng.choice(rest)]
    free = free[np.argsort(np.linalg.norm(points[free] - follicle, axis=1), kind="stable")]
    phenotypes[free[: counts[B_CELL]]] = B_CELL
    scattered = rng.permutation(free[counts[B_CELL] :])
    phenotypes[scattered[: counts[MACROPHAGE] - inside[MACROPHAGE]]] = MACROPHAGE
    return CellGraph(
        points, phenotypes, PHENOTYPES, np.zeros(n, int), ("image",), ("patient",),
        edges=_edges(points),
    )  # fmt: skip


def touching(graph: CellGraph) -> tuple[Array, Array]:
    """Which T cells touch a tumour cell, and which tumour cells they touch, ``(n,)`` each."""
    a, b = graph.require_edges()
    pairs = (graph.phenotypes[a] == T_CELL) & (graph.phenotypes[b] == TUMOUR)
    motif, touched = np.zeros((2, len(graph)), bool)
    motif[a[pairs]] = True
    touched[b[pairs]] = True
    return motif, touched


def _edges(points: Array) -> Array:
    pairs = cKDTree(points).query_pairs(TOUCH, output_type="ndarray").T
    return np.concatenate([pairs, pairs[::-1]], 1).astype(np.int64)


def _stray(rng: np.random.Generator, image: CellGraph) -> tuple[CellGraph, Array]:
    """Six in a hundred stroma cells come out as granulocytes."""
    stroma = np.flatnonzero(image.phenotypes == STROMA)
    count = max(3, round(0.06 * len(image)))
    flags = np.zeros(len(image), bool)
    flags[rng.permutation(stroma)[:count]] = True
    return replace(image, phenotypes=np.where(flags, GRANULOCYTE, image.phenotypes)), flags


def _fragments(rng: np.random.Generator, image: CellGraph) -> tuple[CellGraph, Array]:
    """In a spot of the stroma every cell becomes three fragments of its kind."""
    stroma = np.flatnonzero(image.phenotypes == STROMA)
    centre = image.positions[rng.choice(stroma)]
    near = stroma[np.argsort(np.linalg.norm(image.positions[stroma] - centre, axis=1))]
    spot = near[: max(4, round(0.06 * len(image)))]
    more = np.repeat(spot, 2)
    positions = np.concatenate(
        [image.positions, image.positions[more] + rng.normal(0, 2.5, (len(more), 2))]
    )
    flags = np.zeros(len(positions), bool)
    flags[spot] = True
    flags[len(image) :] = True
    found = replace(
        image, positions=positions,
        phenotypes=np.concatenate([image.phenotypes, image.phenotypes[more]]),
        images=np.zeros(len(positions), int), edges=_edges(positions),
    )  # fmt: skip
    return found, flags


def _clinical(rng: np.random.Generator, graph: CellGraph, motif: Array) -> pd.DataFrame:
    import pandas as pd

    share = np.bincount(graph.images, motif) / graph.cells_per_image
    names = graph.patient_names
    by_patient = pd.Series(share).groupby(np.array(graph.patients)).mean()
    return pd.DataFrame(
        {
            "stage": rng.choice([1.0, 2.0, 3.0], len(names), p=[0.5, 0.3, 0.2]),
            "age": rng.normal(66, 9, len(names)).round(),
            "infiltration": by_patient.loc[list(names)].to_numpy(),
            "log_hazard": 0.0,
            "batch": 0,
            "train": True,
        },
        index=pd.Index(names, name="patient"),
    )


def _survival(rng: np.random.Generator, table: Any, censored: float) -> Outcome:
    n = len(table)
    hazard = np.exp(table["log_hazard"].to_numpy())
    death = WEIBULL_DAYS * (rng.exponential(size=n) / hazard) ** (1 / WEIBULL_SHAPE)
    # the mean of the censoring times that censors the wished share of these patients on average
    means = np.geomspace(0.02, 200, 200) * np.median(death)
    expected = np.array([(1 - np.exp(-death / mean)).mean() for mean in means])
    mean = means[np.argmin(np.abs(expected - censored))]
    end = rng.exponential(mean, n) if censored > 0 else np.full(n, np.inf)
    time = np.maximum(np.minimum(death, end), 1.0)
    return Outcome(tuple(table.index), time, death <= end, "days")
