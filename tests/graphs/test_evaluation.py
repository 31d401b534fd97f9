"""Deletion curves and AUROC against loops and sklearn, and what they must tell apart."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score
from torch import Tensor, nn

from graphs import CellGraph, CellGraphNet, GraphInput, concatenated, graph_input, grid_partition
from graphs.evaluation import (
    DeletionCurves,
    auroc,
    cell_auroc,
    deletion_curves,
    log_hazards,
    part_auroc,
    part_effects,
    ranks_in_patients,
    relevance_share,
)
from graphs.partition import partition_by
from neuralize.errors import InputError

Array = np.ndarray


def tissue(seed: int, sizes: dict[str, list[int]]) -> CellGraph:
    """Patients with images of so many cells, random edges in both directions."""
    dice = np.random.default_rng(seed)
    graphs = []
    for patient, counts in sizes.items():
        for number, n in enumerate(counts):
            pairs = dice.integers(0, n, (2, 2 * n))
            pairs = pairs[:, pairs[0] != pairs[1]]
            graphs.append(
                CellGraph(
                    dice.uniform(0, 100, (n, 2)),
                    dice.integers(-1, 3, n),
                    ("T", "tumour", "stroma"),
                    np.zeros(n, int),
                    (f"{patient}_{number}",),
                    (patient,),
                    np.unique(np.concatenate([pairs, pairs[::-1]], 1), axis=1),
                )
            )
    return concatenated(graphs)


COHORT = tissue(0, {"a": [12, 9], "b": [20], "c": [7, 5, 8]})


def net(seed: int = 0) -> CellGraphNet:
    torch.manual_seed(seed)
    return CellGraphNet(in_features=3, hidden=8, blocks=2)


def one_by_one(model: CellGraphNet, graph: CellGraph, keep: Array, x: Array | None = None) -> float:
    """Log hazard of one patient, the smaller graph built anew by loops."""
    left = np.flatnonzero(keep).tolist()
    number = {cell: k for k, cell in enumerate(left)}
    assert graph.edges is not None
    edges = [
        (number[a], number[b]) for a, b in graph.edges.T.tolist() if a in number and b in number
    ]
    images = [int(i) for i in np.unique(graph.images[left])]
    smaller = CellGraph(
        graph.positions[left],
        graph.phenotypes[left],
        graph.phenotype_names,
        np.array([images.index(int(graph.images[cell])) for cell in left]),
        tuple(graph.image_names[i] for i in images),
        tuple(graph.patients[i] for i in images),
        np.array(edges, int).reshape(-1, 2).T,
    )
    with torch.no_grad():
        data = graph_input(smaller)
        features = data.x if x is None else torch.from_numpy(x)[left]
        return float(model.eval().of_features(features.float(), data))


@pytest.mark.parametrize("removal", ["delete", "mean", "unknown"])
def test_deletion_curves_against_loops(removal: Any) -> None:
    model = net()
    scores = np.random.default_rng(1).normal(size=len(COHORT))
    shares = (0, 0.1, 0.35, 0.8)
    curves = deletion_curves(model, COHORT, scores, shares=shares, removal=removal, progress=False)
    filled = {"mean": COHORT.inputs().mean(0), "unknown": np.zeros(3)}
    for p, name in enumerate(COHORT.patient_names):
        mine = [c for c in range(len(COHORT)) if COHORT.patients[COHORT.images[c]] == name]
        graph = COHORT.patient(name)
        for way, found in ((-1, curves.raising), (1, curves.lowering)):
            order = sorted(range(len(mine)), key=lambda k: way * scores[mine[k]])
            for step, share in enumerate(shares):
                gone = order[: int(share * len(mine) + 1e-9)]
                keep = np.ones(len(mine), bool)
                x = None
                if removal == "delete":
                    keep[gone] = False
                else:
                    x = graph.inputs().astype(np.float64)
                    x[gone] = filled[removal]
                expected = one_by_one(model, graph, keep, x)
                assert abs(found[p, step] - expected) < 1e-5


def test_a_mean_from_elsewhere_is_used() -> None:
    model, scores = net(), np.arange(len(COHORT))
    own = deletion_curves(model, COHORT, scores, removal="mean", progress=False)
    same = deletion_curves(
        model, COHORT, scores, removal="mean", mean=COHORT.inputs().mean(0), progress=False
    )
    zero = deletion_curves(model, COHORT, scores, removal="mean", mean=np.zeros(3), progress=False)
    unknown = deletion_curves(model, COHORT, scores, removal="unknown", progress=False)
    assert np.array_equal(own.raising, same.raising)
    assert np.array_equal(zero.lowering, unknown.lowering)
    assert not np.allclose(own.raising, zero.raising)


class Additive(nn.Module):
    """``f = sum_i x_i . w``: relevance is known, and deletion must take it cell by cell."""

    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.tensor([2.0, -1.0, 0.5]))

    def of_features(self, x: Tensor, data: GraphInput) -> Tensor:
        image = (x @ self.w).split(list(data.image_sizes))
        sums = torch.stack([part.sum() for part in image])
        return torch.stack([part.sum() for part in sums.split(list(data.images_per_patient))])


def test_the_true_contributions_give_the_largest_areas() -> None:
    model = Additive()
    truth = COHORT.inputs() @ np.array([2.0, -1.0, 0.5])
    best = deletion_curves(model, COHORT, truth, progress=False).areas()
    codes = COHORT.patient_of_cell
    for p in range(3):
        mine = np.sort(truth[codes == p])[::-1]
        shares = np.linspace(0, 0.5, 21)
        gone = [int(s * len(mine) + 1e-9) for s in shares]
        drop = [mine[:k].sum() for k in gone]
        rise = [-mine[::-1][:k].sum() for k in gone]
        area = [sum((v[i] + v[i + 1]) / 2 for i in range(20)) / 20 for v in (drop, rise)]
        assert best.iloc[p].tolist() == pytest.approx([*area, sum(area)], abs=1e-5)
    for seed in range(5):
        noise = truth + np.random.default_rng(seed).normal(size=len(truth))
        worse = deletion_curves(model, COHORT, noise, progress=False).areas()
        assert (worse.both <= best.both + 1e-5).all()
    reversed_order = deletion_curves(model, COHORT, -truth, progress=False).areas()
    assert np.allclose(reversed_order.both, -best.both, atol=1e-5)


def test_random_orders_have_no_area_on_average() -> None:
    """Also where removal itself changes the risk, as with a sum over cells it does."""
    found = []
    for seed in range(60):
        scores = np.random.default_rng(seed).random(len(COHORT))
        found.append(
            deletion_curves(
                Additive(), COHORT, scores, shares=(0, 0.2, 0.5), progress=False
            ).areas()
        )
    both = np.array([one.both.mean() for one in found])
    raising = np.array([one.raising.mean() for one in found])
    error = both.std(ddof=1) / np.sqrt(len(both))
    assert abs(both.mean()) < 3 * error
    assert abs(raising.mean()) > 3 * error


def test_log_hazards_are_those_of_eval_mode_and_leave_the_model() -> None:
    model = net().train()
    found = log_hazards(model, COHORT)
    assert model.training
    with torch.no_grad():
        expected = model.eval()(graph_input(COHORT)).numpy()
    assert np.array_equal(found, expected.astype(np.float64))


def test_ranks_in_patients_keep_the_order_of_ties() -> None:
    order = np.random.default_rng(2).integers(0, 4, len(COHORT)).astype(float)
    ranks, sizes = ranks_in_patients(order, COHORT)
    codes = COHORT.patient_of_cell
    for i in range(len(COHORT)):
        mine = np.flatnonzero(codes == codes[i])
        before = sum(order[j] < order[i] or (order[j] == order[i] and j < i) for j in mine)
        assert ranks[i] == before
        assert sizes[i] == len(mine)


def test_auroc_is_sklearns() -> None:
    dice = np.random.default_rng(3)
    for _ in range(20):
        scores = dice.integers(0, 6, 30).astype(float)
        truth = dice.random(30) < 0.3
        if 0 < truth.sum() < 30:
            assert auroc(scores, truth) == pytest.approx(roc_auc_score(truth, scores), abs=1e-12)
    assert np.isnan(auroc(np.arange(3.0), np.zeros(3, bool)))


def test_cell_auroc_compares_within_images_and_averages_patients() -> None:
    dice = np.random.default_rng(4)
    scores, truth = dice.normal(size=len(COHORT)), dice.random(len(COHORT)) < 0.4
    truth[COHORT.images == 4] = True
    found = cell_auroc(scores, truth, COHORT)
    for patient in COHORT.patient_names:
        areas = []
        for image in range(len(COHORT.image_names)):
            mine = COHORT.images == image
            if COHORT.patients[image] == patient and 0 < truth[mine].sum() < mine.sum():
                areas.append(roc_auc_score(truth[mine], scores[mine]))
        assert found[patient] == pytest.approx(np.mean(areas), abs=1e-12)
    # what differs between images only must not count
    shifted = cell_auroc(scores + 100 * COHORT.images, truth, COHORT)
    assert np.allclose(shifted, found)
    none = cell_auroc(scores, np.zeros(len(COHORT), bool), COHORT)
    assert none.isna().all()
    assert list(none.index) == ["a", "b", "c"]


@pytest.mark.parametrize("sign", ["positive", "absolute"])
def test_relevance_share(sign: Any) -> None:
    dice = np.random.default_rng(5)
    scores, chosen = dice.normal(size=len(COHORT)), dice.random(len(COHORT)) < 0.4
    found = relevance_share(scores, chosen, COHORT, sign)
    for p, patient in enumerate(COHORT.patient_names):
        whole = part = 0.0
        for i in np.flatnonzero(COHORT.patient_of_cell == p):
            size = abs(scores[i]) if sign == "absolute" else max(scores[i], 0.0)
            whole, part = whole + size, part + size * bool(chosen[i])
        assert found[patient] == pytest.approx(part / whole, abs=1e-12)


def test_part_auroc_against_pairs() -> None:
    dice = np.random.default_rng(6)
    scores, truth = dice.integers(-3, 4, len(COHORT)), dice.random(len(COHORT)) < 0.4
    squares = grid_partition(COHORT, 40)
    found = part_auroc(scores, truth, squares, COHORT)
    for patient in COHORT.patient_names:
        areas = []
        for image in range(len(COHORT.image_names)):
            if COHORT.patients[image] != patient:
                continue
            pairs = []
            parts = np.flatnonzero(squares.images == image)
            for g in parts:
                for h in parts:
                    in_g, in_h = squares.codes == g, squares.codes == h
                    if truth[in_g].sum() > truth[in_h].sum():
                        a, b = scores[in_g].sum(), scores[in_h].sum()
                        pairs.append(1.0 if a > b else 0.5 if a == b else 0.0)
            if pairs:
                areas.append(np.mean(pairs))
        assert found[patient] == pytest.approx(np.mean(areas), abs=1e-12)


def test_part_auroc_of_single_cells_is_cell_auroc() -> None:
    dice = np.random.default_rng(7)
    scores, truth = dice.normal(size=len(COHORT)), dice.random(len(COHORT)) < 0.4
    alone = partition_by(COHORT, np.arange(len(COHORT)))
    found = part_auroc(scores, truth, alone, COHORT)
    assert np.allclose(found, cell_auroc(scores, truth, COHORT))


def test_areas_are_named_by_patients() -> None:
    curves = DeletionCurves(np.array([0, 0.2]), np.array([[1.0, 0]]), np.array([[1.0, 1]]))
    assert curves.areas(["x"]).loc["x"].tolist() == [0.5, 0.0, 0.5]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"scores": np.zeros(3)}, r"score for each of 61 cells, got shape \(3,\)"),
        ({"scores": np.full(61, np.nan)}, "finite scores, got nan for cell 0"),
        ({"shares": (0, 1)}, "ascend from 0 to below 1"),
        ({"shares": (0.1, 0.2)}, "ascend from 0 to below 1"),
        ({"shares": (0, 0.3, 0.2)}, "ascend from 0 to below 1"),
        ({"removal": "blur"}, "removal 'delete', 'mean' or 'unknown', got 'blur'"),
        ({"removal": "mean", "mean": np.zeros(5)}, r"a mean \(3,\), got \(5,\)"),
    ],
)
def test_deletion_refuses(change: dict[str, Any], message: str) -> None:
    given = {"scores": np.zeros(61), "progress": False, **change}
    with pytest.raises(InputError, match=message):
        deletion_curves(net(), COHORT, **given)


def test_truth_must_be_booleans_of_the_cells() -> None:
    scores = np.zeros(61)
    with pytest.raises(InputError, match="61 booleans, got shape \\(61,\\) of float64"):
        cell_auroc(scores, scores, COHORT)
    with pytest.raises(InputError, match="61 booleans, got shape \\(4,\\) of bool"):
        relevance_share(scores, np.zeros(4, bool), COHORT)
    other = grid_partition(COHORT.patient("a"), 10)
    with pytest.raises(InputError, match="partition of 61 cells, got one of 21"):
        part_auroc(scores, np.zeros(61, bool), other, COHORT)


def test_part_effects_against_single_deletions() -> None:
    model, squares = net(), grid_partition(COHORT, 60)
    found = part_effects(model, COHORT, squares, progress=False)
    for g in range(len(squares)):
        patient = COHORT.patients[squares.images[g]]
        mine = np.array(COHORT.patients)[COHORT.images] == patient
        keep = (squares.codes != g)[mine]
        graph = COHORT.patient(patient)
        expected = one_by_one(model, graph, np.ones(len(graph), bool))
        assert abs(found[g] - (expected - one_by_one(model, graph, keep))) < 1e-5
    with pytest.raises(InputError, match="two parts per patient, got one of patient 'b'"):
        part_effects(model, COHORT, grid_partition(COHORT, 1000), progress=False)
    with pytest.raises(InputError, match="partition of 61 cells, got one of 21"):
        part_effects(model, COHORT, grid_partition(COHORT.patient("a"), 10), progress=False)
