"""Checks of graph networks, on networks whose log hazard is known on paper."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.stats import kruskal

from graphs import GraphEnsemble
from tests.xai.audit_graphs.hand_made import (
    GRANULOCYTE,
    SIDE,
    STROMA,
    cohort,
    join,
    log_hazards,
    net,
    with_fragments,
    with_offset,
    with_stray,
)
from xai.audit import GraphAudit
from xai.audit.graph_context import GraphContext
from xai.audit.graph_groups import rank_association
from xai.audit.graph_phenotypes import going_with_group
from xai.audit.graph_places import crowded, edges_of_images
from xai.audit.graph_trial import drawn
from xai.report import NotAssessable

GOOD = {"T cell": 2.0}
SITE = np.array(["north", "south"])[np.random.default_rng(5).permutation(40) % 2]
SOUTH = SITE == "south"


@pytest.fixture(scope="module")
def cells():
    return cohort()


def asked(model, graph, check, **options):
    report = GraphAudit(model, graph, checks=[check], progress=False, **options).run()
    return report


def worst(report):
    return [f for f in report.findings if f.severity != "info"]


# -- what the context computes -------------------------------------------------------------------


def test_risks_and_what_ifs_are_those_on_paper(cells):
    weights, degree = {"T cell": 2.0, "stain": -0.5}, 0.25
    context = GraphContext(net(weights, degree), cells)
    np.testing.assert_allclose(context.risks, log_hazards(cells, weights, degree), rtol=2e-6)
    rows = np.array([1, 4, 7])
    mine = context.cells_of(rows)
    x = context.inputs[mine].copy()
    x[:, 3] += 1.0
    np.testing.assert_allclose(context.rescore(rows, x).shift, -0.5, atol=2e-4)
    keep = np.isin(context.patient_of_cell, rows)
    rng = np.random.default_rng(0)
    keep[mine[rng.random(len(mine)) < 0.3]] = False
    part = cells.subset(keep)
    answer = context.rescore(rows, part)
    wanted = log_hazards(part, weights, degree) - log_hazards(cells, weights, degree)[rows]
    np.testing.assert_allclose(answer.shift, wanted, atol=2e-4)
    after = log_hazards(part, weights, degree) > np.median(context.risks)
    np.testing.assert_array_equal(answer.changed, after != context.decision[rows])


def test_patients_in_several_batches_get_the_same_risks(cells, monkeypatch):
    model = net(GOOD, 0.3)
    whole = GraphContext(model, cells).risks
    monkeypatch.setattr("xai.audit.graph_context.CELLS_AT_ONCE", 200)
    np.testing.assert_allclose(GraphContext(model, cells).risks, whole, rtol=1e-6)


def test_as_many_cells_are_drawn_as_asked_for_and_only_among_those():
    rng = np.random.default_rng(0)
    patient = np.repeat(np.arange(5), 20)
    among = rng.random(100) < 0.6
    counts = np.array([0, 3, 50, 1, 7])
    chosen = drawn(among, patient, counts, rng)
    assert not (chosen & ~among).any()
    there = np.bincount(patient[among], minlength=5)
    np.testing.assert_array_equal(np.bincount(patient[chosen], minlength=5),
                                  np.minimum(counts, there))  # fmt: skip


# -- groups --------------------------------------------------------------------------------------


def test_the_association_is_that_of_kruskal_and_wallis_within_labels():
    rng = np.random.default_rng(0)
    x, groups = rng.normal(size=(90, 3)).round(1), rng.integers(3, size=90)
    labels = rng.integers(2, size=90)
    for strata in (None, labels):
        parts = [np.arange(90)] if strata is None else [np.flatnonzero(labels == k) for k in (0, 1)]
        wanted = np.zeros(3)
        for rows in parts:
            h = [kruskal(*(x[rows][groups[rows] == g, c] for g in range(3))).statistic
                 for c in range(3)]  # fmt: skip
            wanted += np.array(h) / (len(rows) - 1) * len(rows) / 90
        np.testing.assert_allclose(rank_association(x, groups, strata), wanted, rtol=1e-12)


def test_a_batch_offset_that_decides_is_critical_and_names_the_feature(cells):
    moved = with_offset(cells, SOUTH, 1.0)
    report = asked(net({**GOOD, "stain": 1.0}), moved, "groups", groups=SITE)
    (finding,) = report.findings
    assert finding.severity == "critical"
    assert "stain" in finding.explanation
    assert finding.suspect.kind == "group" and finding.suspect.summary.endswith("by stain")
    assert finding.pictures and len(finding.samples) == 40
    numbers = finding.counterfactual.numbers
    shift = numbers["without the group: size of the shift (median)"]
    # every patient's mean stain moves by half of the offset, give or take chance
    spread = log_hazards(moved, {**GOOD, "stain": 1.0}).std()
    assert shift == pytest.approx(0.5 / spread, rel=0.15)


def test_an_offset_the_network_does_not_read_is_no_more_than_a_note(cells):
    report = asked(net(GOOD), with_offset(cells, SOUTH, 2.0), "groups", groups=SITE)
    (finding,) = report.findings
    assert finding.severity == "info" and "hardly" in finding.title
    assert report.exit_code == 0


def test_without_an_offset_groups_pass(cells):
    report = asked(net({**GOOD, "stain": 1.0}), cells, "groups", groups=SITE)
    assert not report.findings and len(report.passed) == 2


def test_groups_that_are_the_labels_cannot_be_assessed(cells):
    report = asked(net(GOOD), cells, "groups", groups=SITE, labels=SITE)
    (answer,) = report.answers
    assert isinstance(answer, NotAssessable) and "told apart" in answer.reason


def test_an_offset_that_goes_with_labels_is_not_taken_for_one_of_the_group(cells):
    """Tissue of the sick stains otherwise, and they are often from the south: good evidence."""
    rng = np.random.default_rng(2)
    sick = np.where(rng.random(40) < 0.8, SOUTH, ~SOUTH)
    moved = with_offset(cells, sick, 1.0)
    model = net({**GOOD, "stain": 1.0})
    assert worst(asked(model, moved, "groups", groups=SITE))
    assert not worst(asked(model, moved, "groups", groups=SITE, labels=sick))


# -- phenotypes ----------------------------------------------------------------------------------


def test_stray_cells_of_one_site_are_found_and_their_removal_is_exact(cells):
    stray = with_stray(cells, SOUTH)
    weights = {**GOOD, "granulocyte": 8.0}
    report = asked(net(weights), stray, "phenotypes", groups=SITE)
    (finding,) = worst(report)
    assert finding.severity == "critical" and "granulocyte" in finding.title
    assert finding.suspect.summary == "granulocyte"
    assert finding.suspect["features"].tolist() == [GRANULOCYTE]
    before, after = log_hazards(stray, weights), log_hazards(cells, weights)
    has = np.bincount(stray.patient_of_cell, stray.phenotypes == GRANULOCYTE) > 0
    changed = ((before > np.median(before)) != (after > np.median(before)))[has].mean()
    key = "without granulocyte: share of risk groups that change"
    assert finding.counterfactual.numbers[key] == pytest.approx(changed)
    assert set(finding.samples) == {f"P{k}" for k in np.flatnonzero(has)}


def test_stray_cells_that_count_as_what_they_are_are_no_more_than_a_note(cells):
    weights = {"stroma": -1.0, "granulocyte": -1.0, "T cell": 1.0}
    report = asked(net(weights), with_stray(cells, SOUTH), "phenotypes", groups=SITE)
    assert report.findings and not worst(report)
    assert report.exit_code == 0


def test_only_the_surplus_is_tested_and_what_is_rarer_for_it_is_not_suspected(cells):
    # the south has more stroma, so T cells are rarer there: one suspicion, not two
    rng = np.random.default_rng(3)
    more = SOUTH[cells.patient_of_cell] & (rng.random(len(cells)) < 0.7)
    skewed = replace(cells, phenotypes=np.where(more, STROMA, cells.phenotypes))
    context = GraphContext(net(GOOD), skewed, groups=SITE)
    ((code, found),) = going_with_group(context).items()
    assert found.instead == (1 - code,)  # T cells and stroma are all there is
    here = SOUTH if code == STROMA else ~SOUTH
    share = context.mean_inputs[:, code]
    wanted = (share[here].mean() - share[~here].mean()) / share[here].mean()
    assert found.surplus == pytest.approx(wanted)
    np.testing.assert_array_equal(found.patients, np.flatnonzero(here))


def test_relying_on_a_phenotype_is_no_objection_unless_it_is_named(cells):
    # rare, and all that matters
    rare = replace(cells, phenotypes=np.where(cells.phenotypes == 0, STROMA, GRANULOCYTE))
    few = np.random.default_rng(0).random(len(cells)) < 0.2
    rare = replace(rare, phenotypes=np.where(few, rare.phenotypes, STROMA))
    model = net({"granulocyte": 5.0})
    report = asked(model, rare, "phenotypes")
    assert [f.severity for f in report.findings] == ["info"]
    named = asked(model, rare, "phenotypes", suspects=["granulocyte"])
    assert [f.severity for f in named.findings] == ["critical"]
    innocent = asked(net(GOOD), rare, "phenotypes", suspects=["granulocyte"])
    assert not worst(innocent)


def test_a_feature_that_is_named_is_tested(cells):
    report = asked(net({"T cell": 1.0, "stain": 4.0}), cells, "phenotypes", suspects=["stain"])
    (finding,) = worst(report)
    assert finding.title == "The risk hangs on the feature stain."
    report = asked(net(GOOD), cells, "phenotypes", suspects="stain")
    assert not report.findings and "stain" in report.passed[-1].measure.name


# -- places --------------------------------------------------------------------------------------


def test_border_and_corners_are_those_of_the_lattice(cells):
    border, corner = edges_of_images(cells)
    rows, columns = np.divmod(np.arange(SIDE * SIDE), SIDE)
    outer = (np.minimum(rows, columns) == 0) | (np.maximum(rows, columns) == SIDE - 1)
    first = slice(0, SIDE * SIDE)
    assert (border[first] >= outer).all() and border[first].sum() < 2 * outer.sum()
    assert set(np.flatnonzero(corner[first])) <= {0, 7, 56, 63}
    assert corner.any()


def test_crowded_cells_are_the_fragments(cells):
    assert not crowded(cells).any()
    broken, fragments = with_fragments(cells, SOUTH)
    np.testing.assert_array_equal(crowded(broken), fragments)


def test_a_network_that_counts_neighbours_is_caught_where_cells_are_in_fragments(cells):
    broken, _ = with_fragments(cells, SOUTH)
    report = asked(net({"T cell": 0.1}, 0.5), broken, "places", join=join)
    (finding,) = worst(report)
    assert "crowded" in finding.title and set(finding.samples) == {
        f"P{k}" for k in np.flatnonzero(SOUTH)
    }
    assert not worst(asked(net(GOOD), broken, "places", join=join))
    assert not worst(asked(net({"T cell": 0.1}, 0.5), cells, "places", join=join))


def test_a_network_that_reads_the_border_is_caught(cells):
    border, _ = edges_of_images(cells)
    features = cells.features.copy()
    rng = np.random.default_rng(1)
    strength = rng.normal(3, 1, 40)[cells.patient_of_cell]
    features[:, 1] = np.where(border, strength, 0.0)
    cut = replace(cells, features=features)
    report = asked(net({"T cell": 0.1, "size": 4.0}), cut, "places")
    assert [f.title for f in worst(report)][:1] == [
        "Risks hang on cells at the border of the images."
    ]
    assert not worst(asked(net(GOOD), cut, "places"))


# -- collapse, conservation, stability -----------------------------------------------------------


def test_conservation_holds_for_ensembles_too(cells):
    small = cells.patient(*cells.patient_names[:10])
    model = GraphEnsemble([net(GOOD, 0.2), net({"stain": 1.0}), net({"size": -1.0})], "median")
    report = asked(model, small, "conservation")
    assert report.exit_code == 0 and report.passed[0].measure.value < 1e-12


def test_a_network_that_says_the_same_of_all_is_critical(cells):
    report = asked(net({}), cells, "collapse")
    assert report.severity == "critical"
    titles = [f.title for f in report.findings]
    assert "The network gives all patients nearly the same risk." in titles
    assert "Many patients are tied at the same risk." in titles


def test_a_readout_that_is_the_same_in_all_images_is_a_warning(cells):
    model = net(GOOD)
    report = asked(model, cells, "collapse")  # one of two units reads a constant
    assert not worst(report)
    with torch.no_grad():
        model.encoder.weight.zero_()
    titles = [f.title for f in asked(model, cells, "collapse").findings]
    assert "What is read out of the tissue is nearly the same in all images." in titles


def test_it_is_said_where_places_do_not_matter(cells):
    report = asked(net(GOOD), cells, "collapse")
    assert [f.title for f in report.findings] == ["It hardly matters which cell lies where."]


def test_moving_cells_needs_to_know_how_they_are_joined(cells):
    report = asked(net(GOOD), cells, "stability")
    assert "join=" in report.not_assessable[0].reason
    assert len(report.passed) == 1 and not report.findings


def test_a_network_that_hangs_on_single_edges_is_unstable(cells):
    # neighbours at 10 are joined up to 12: jittered lattices lose and win few edges, diagonals none
    assert not asked(net(GOOD, 0.01), cells, "stability", join=join).findings
    report = asked(net({"T cell": 0.001}, 2.0), cells, "stability", join=lambda g: join_at(g, 10.0))
    assert report.findings and report.severity == "warning"
    assert report.findings[0].counterfactual.before_after


def join_at(graph, radius):
    from graphs import radius_graph

    return radius_graph(graph, radius)
