"""Planted cohorts: the truth is what it says, composition does not tell it, shortcuts do."""

import numpy as np
import pytest

from graphs.datasets import GRANULOCYTE, T_CELL, TOUCH, TUMOUR, planted_motif, planted_shortcut
from graphs.metrics import harrell
from neuralize.errors import InputError


@pytest.fixture(scope="module")
def cohort():
    return planted_motif(0)


def fractions(graph):
    patients = graph.patient_of_cell
    counts = np.zeros((len(graph.patient_names), len(graph.phenotype_names)))
    np.add.at(counts, (patients, graph.phenotypes), 1)
    return counts / counts.sum(1, keepdims=True)


def test_truth_by_distances():
    cohort = planted_motif(5, patients=3, images=2, cells=(60, 90))
    graph = cohort.graph
    for i in range(len(graph)):
        same = graph.images == graph.images[i]
        near = same & (np.linalg.norm(graph.positions - graph.positions[i], axis=1) <= TOUCH)
        kinds = set(graph.phenotypes[near & (np.arange(len(graph)) != i)])
        assert cohort.motif[i] == (graph.phenotypes[i] == T_CELL and TUMOUR in kinds)
        assert cohort.touched[i] == (graph.phenotypes[i] == TUMOUR and T_CELL in kinds)
        assert near.sum() - 1 == (graph.require_edges()[0] == i).sum()


def test_risk_is_infiltration_and_not_composition(cohort):
    table = cohort.patients
    assert len(cohort.outcome) == 120 and 60 <= cohort.outcome.event.sum() <= 100
    assert np.corrcoef(table["infiltration"], table["log_hazard"])[0, 1] > 0.95
    assert harrell(table["log_hazard"].to_numpy(), cohort.outcome) > 0.75
    for share in fractions(cohort.graph).T:
        if share.std() > 0:
            assert abs(np.corrcoef(share, table["infiltration"])[0, 1]) < 0.25
    whose = cohort.graph.patient_of_cell
    by_hand = np.bincount(whose, cohort.motif) / np.bincount(whose)
    assert np.corrcoef(by_hand, table["infiltration"])[0, 1] > 0.99
    # T cells that keep off the tumour are no mirror image of those that touch it
    t_cells = cohort.graph.phenotypes == T_CELL
    others = np.bincount(whose, t_cells & ~cohort.motif) / np.bincount(whose)
    x = np.stack([by_hand, others], 1) - [by_hand.mean(), others.mean()]
    assert np.linalg.eigvalsh(np.corrcoef(x.T)).min() > 0.15
    sizes = cohort.graph.cells_per_image
    assert sizes.min() >= 300 and sizes.max() <= 600


def test_seeds():
    small = {"patients": 4, "images": 1, "cells": (40, 60)}
    first, again, other = (planted_motif(s, **small) for s in (1, 1, 2))
    assert np.array_equal(first.graph.positions, again.graph.positions)
    assert np.array_equal(first.outcome.time, again.outcome.time)
    assert not np.array_equal(first.graph.phenotypes[:40], other.graph.phenotypes[:40])


@pytest.mark.parametrize("kind", ["phenotype", "density"])
def test_shortcut_goes_with_the_outcome_in_training_only(kind):
    gaps = {True: [], False: []}
    for seed in range(3):
        cohort = planted_shortcut(seed, kind, patients=80, images=1, cells=(60, 90))
        for train in (True, False):
            part = cohort.split(train)
            assert len(part.outcome) == 40
            has = np.bincount(part.graph.patient_of_cell, part.shortcut) > 0
            assert np.array_equal(has, part.patients["batch"].to_numpy() == 1)
            gaps[train].append(harrell(has.astype(float), part.outcome))
    assert np.mean(gaps[True]) > 0.65 > 0.58 > np.mean(gaps[False])


def test_shortcut_cells():
    stray = planted_shortcut(0, "phenotype", patients=8, images=1, cells=(60, 90))
    assert np.array_equal(stray.shortcut, stray.graph.phenotypes == GRANULOCYTE)
    dense = planted_shortcut(0, "density", patients=8, images=1, cells=(60, 90))
    degree = np.bincount(dense.graph.require_edges()[0], minlength=len(dense.graph))
    assert degree[dense.shortcut].mean() > 1.5 * degree[~dense.shortcut].mean()


def test_bad_input():
    with pytest.raises(InputError, match="40 cells per image"):
        planted_motif(0, cells=(10, 20))
    with pytest.raises(InputError, match="'phenotype' or 'density'"):
        planted_shortcut(0, "smell")
    with pytest.raises(InputError, match="Expected an agreement"):
        planted_shortcut(0, agreement=0.1)
    with pytest.raises(InputError, match="without other patients"):
        planted_motif(0, patients=2, images=1, cells=(40, 50)).split(train=False)
