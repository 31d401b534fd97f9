"""Similarity: a tag that makes pictures alike is found and tested, and only then."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.cluster import KMeans
from torch import nn

from neuralize import neuralize
from xai import bilrp
from xai.audit import Audit, AuditContext
from xai.audit.neighbour_pairs import Pool, common_maps, pool
from xai.audit.similarity import Similarity

SIZE, SIDE = 24, 4


class Upper(nn.Module):
    """The picture without its lower rows, where the tag is."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x[:, :, :17]


def encoder(weight: float, seed: int = 0) -> nn.Module:
    """Eight smooth filters, and one that answers a checkerboard."""
    torch.manual_seed(seed)
    first = nn.Conv2d(1, 9, 4, bias=True)
    board = torch.tensor(np.indices((4, 4)).sum(0) % 2 * 2.0 - 1)
    with torch.no_grad():
        first.weight[:8] = first.weight[:8].mean((2, 3), keepdim=True) + 0.3 * first.weight[:8]
        first.weight[8] = weight * board
        first.bias.zero_()
        first.bias[8] = -5.0 * weight
    return nn.Sequential(first, nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()).eval()


def pictures(n=160, tagged=0.3, seed=0):
    """Blobs at random places; some have a checkerboard at the bottom left."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:SIZE, :SIZE]
    centre, width = rng.uniform(4, 20, size=(n, 2, 1, 1)), rng.uniform(4, 7, size=(n, 1, 1))
    found = np.exp(-((y - centre[:, 0]) ** 2 + (x - centre[:, 1]) ** 2) / (2 * width**2))
    rows = np.flatnonzero(rng.random(n) < tagged)
    board = np.indices((SIDE, SIDE)).sum(0) % 2
    found[rows[:, None, None], np.arange(18, 22)[:, None], np.arange(2, 6)] = board
    return found[:, None].astype(np.float32), rows


def asked(below, x, clusters=4):
    with torch.no_grad():
        phi = below(torch.tensor(x)).numpy()
    model = KMeans(clusters, n_init=3, random_state=0).fit(phi)
    return Audit(model, x, features=below, checks=[Similarity()], progress=False).run()


@pytest.mark.parametrize("seed", range(2))
def test_a_tag_that_makes_rows_alike_is_found(seed):
    x, rows = pictures(seed=seed)
    (finding,) = asked(encoder(30.0), x).findings
    assert finding.severity in ("critical", "warning")
    place = finding.suspect["pixels"]
    assert place[18:22, 2:6].mean() >= 0.75
    assert np.isin(finding.suspect["rows"], rows).mean() >= 0.9
    assert len(finding.pictures) == 2 and finding.counterfactual is not None
    numbers = finding.counterfactual.numbers
    assert numbers["place replaced: share of the likeness that goes"] > 0.5


@pytest.mark.parametrize("seed", range(4))
def test_an_encoder_that_ignores_the_tag_is_not_accused(seed):
    x, _ = pictures(seed=seed)
    report = asked(nn.Sequential(Upper(), encoder(30.0)), x)
    assert not [f for f in report.findings if f.severity != "info"]


@pytest.mark.parametrize("seed", range(4))
def test_pictures_without_a_tag_pass(seed):
    x, _ = pictures(tagged=0.0, seed=seed)
    report = asked(encoder(30.0), x)
    assert not [f for f in report.findings if f.severity != "info"]


def test_common_maps_are_the_sums_of_bilrp_over_one_side():
    """With no mean taken off; what the other side absorbs counts as its own."""
    x, _ = pictures(n=6)
    below = encoder(1.0)
    net = neuralize(np.stack([np.zeros(9), np.ones(9)]), below)
    audit = AuditContext(net, x, progress=False)
    whole = pool(audit)
    bare = Pool(whole.rows, whole.unit, np.zeros_like(whole.mean))
    one, two = common_maps(audit, bare, np.array([0]), np.array([3]))
    a, b = (torch.tensor(x[whole.rows[[i]]]) for i in (0, 3))
    sim = bilrp(below, a, b, similarity="cosine")
    left = np.tensordot(sim.b.components, sim.a.factors, 1)
    right = np.tensordot(sim.a.components, sim.b.factors, 1)
    np.testing.assert_allclose(one[0], left, atol=1e-5 * np.abs(left).max())
    np.testing.assert_allclose(two[0], right, atol=1e-5 * np.abs(right).max())


def test_neighbours_leave_copies_and_the_row_itself_out():
    unit = np.array([[1.0, 0], [1, 0], [0.8, 0.6], [0, 1]])
    found = Pool(np.arange(4), unit, unit.mean(0)).nearest(np.array([0, 3]))
    assert found.tolist() == [2, 2]


def test_what_cannot_be_asked():
    x, _ = pictures(n=60)
    flat = x.reshape(60, -1)
    (answer,) = (
        Audit(KMeans(2, n_init=1).fit(flat), flat, checks=[Similarity()], progress=False)
        .run()
        .answers
    )
    assert "no encoder" in answer.reason
    (answer,) = asked(encoder(1.0), x[:40]).answers
    assert "Fewer than" in answer.reason
    (answer,) = asked(encoder(1.0), x[:, :, :12, :12]).answers
    assert "smaller than" in answer.reason


def test_the_same_seed_gives_the_same_answer():
    x, _ = pictures(tagged=0.0)
    one, two = (asked(encoder(1.0), x).answers[0] for _ in range(2))
    assert one.measure == two.measure
