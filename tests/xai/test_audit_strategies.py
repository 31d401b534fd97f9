"""Strategies: marks that let pictures shine through, and clusters of maps with a reason."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.cluster import KMeans
from sklearn.datasets import load_sample_images
from sklearn.neighbors import KernelDensity

from xai.audit import Audit
from xai.audit.faint_marks import faint_mark
from xai.audit.marks import find_marks
from xai.audit.stamps import find_stamps
from xai.audit.strategies import Strategies
from xai.datasets import fashion_mnist
from xai.report.finding import Finding, NotAssessable, Passed

PLACE = np.zeros((28, 28), bool)
PLACE[12:17, 8:13] = True
CHECKERS = (np.indices((28, 28)).sum(0) // 2 % 2).astype(float)


def marked(x, rows, alpha=0.6):
    """Pictures in which a checkered square, half transparent, lies on these rows."""
    out = x.copy()
    blend = (1 - alpha) * x[rows] + alpha * CHECKERS.reshape(28, 28, *(1,) * (x.ndim - 3))
    out[rows] = np.where(PLACE.reshape(28, 28, *(1,) * (x.ndim - 3)), blend, x[rows])
    return out


def photographs(n, seed=0):
    """Real photographs in parts ``(n, 28, 28, 3)`` from 0 to 1."""
    rng = np.random.default_rng(seed)
    both = load_sample_images().images
    found = []
    for k in range(n):
        scale = int(rng.integers(1, 5))
        y, x = (int(rng.integers(size - 28 * scale)) for size in both[0].shape[:2])
        part = both[k % 2][y : y + 28 * scale, x : x + 28 * scale] / 255.0
        found.append(part.reshape(28, scale, 28, scale, 3).mean((1, 3)))
    return np.array(found)


def pointing(n, rows, seed=0):
    """Maps that say nothing, but for these rows, where a little more lies on the place."""
    shares = np.random.default_rng(seed).random((n, 28, 28))
    shares[rows] += 0.5 * PLACE
    return shares


@pytest.fixture(scope="module")
def dresses():
    x = fashion_mnist(classes=["Dress"]).images
    return x[:300], x[300:600]


def overlap(a, b):
    return (a & b).sum() / (a | b).sum()


@pytest.mark.parametrize("alpha", [0.4, 0.6])
def test_a_faint_mark_on_photographs_is_found_in_all_that_have_it(alpha):
    rows = np.arange(0, 240, 5)
    x = marked(photographs(240), rows, alpha)
    rng = np.random.default_rng(0)
    exact = [*find_marks(x, rng).marks, *find_stamps(x, rng)]  # where the sky behind it is the same
    assert all(len(mark.rows) < 0.7 * len(rows) for mark in exact)
    found = faint_mark(x, pointing(240, rows), rng)
    assert found is not None and found.is_apart
    assert overlap(found.pixels, PLACE) > 0.7
    assert found.rows.tolist() == rows.tolist()


@pytest.mark.parametrize("seed", range(2))
def test_photographs_alone_are_not_apart(seed):
    x = photographs(240, seed)
    found = faint_mark(x, pointing(240, np.arange(40), seed), np.random.default_rng(seed))
    assert found is not None and not found.is_apart


def test_a_density_that_minds_the_mark_is_told_so(dresses):
    train, new = dresses
    rows = np.arange(0, 300, 6)
    seen = marked(new, rows)
    model = KernelDensity(bandwidth=1.2).fit(train.reshape(300, -1))
    (found,) = Audit(model, seen, checks=[Strategies()], progress=False).run().answers
    assert isinstance(found, Finding) and found.severity in ("warning", "critical")
    assert found.suspect is not None and overlap(found.suspect["pixels"], PLACE) > 0.7
    assert set(found.suspect["rows"]) <= set(rows) and len(found.suspect["rows"]) > 40
    assert found.counterfactual is not None and "shine through" in found.explanation
    assert len(found.pictures) == 2


def test_clean_pictures_pass_and_say_how_many_clusters_there_are(dresses):
    train, new = dresses
    model = KernelDensity(bandwidth=1.2).fit(train.reshape(300, -1))
    groups = np.random.default_rng(0).choice(["a", "b"], 300)
    audit = Audit(model, new, groups=groups, checks=[Strategies(show=True)], progress=False)
    passed, shown = audit.run().answers
    assert isinstance(passed, Passed) and "eigengap" in passed.note
    assert isinstance(shown, Finding) and shown.severity == "info" and shown.pictures


@pytest.fixture(scope="module")
def two_sites():
    """Two kinds of blobs; a corner is bright at one site, to a degree that varies."""
    rng = np.random.default_rng(0)
    x = 0.1 * rng.random((200, 16, 16))
    x[:100, 2:7, 4:12] += rng.uniform(0.5, 1, (100, 1, 1))
    x[100:, 9:14, 4:12] += rng.uniform(0.5, 1, (100, 1, 1))
    site = np.array(["north", "south"])[np.arange(200) % 2]
    smooth = np.hypot(*(np.indices((16, 16)) - 15)) / 6
    x[site == "south"] += np.exp(-(smooth**2)) * rng.uniform(1.5, 3, (100, 1, 1))
    return x, site


def test_clusters_that_go_with_groups_are_suspected_and_tested(two_sites):
    x, site = two_sites
    south = np.flatnonzero(site == "south")
    model = KernelDensity(bandwidth=1.5).fit(x.reshape(len(x), -1))
    audit = Audit(model, x, groups=site, checks=[Strategies()], progress=False)
    findings = [a for a in audit.run().answers if isinstance(a, Finding)]
    found = next(f for f in findings if "group" in f.title)
    assert found.suspect is not None and found.counterfactual is not None
    rows = found.suspect["rows"]
    assert max(np.isin(rows, south).mean(), 1 - np.isin(rows, south).mean()) > 0.9


def test_clusters_that_point_outside_the_masks_are_suspected(two_sites):
    x, _ = two_sites
    data = np.r_[x[::2], x[1::6]]  # few with the corner
    model = KernelDensity(bandwidth=1.5).fit(data.reshape(len(data), -1))
    masks = np.ones((len(data), 16, 16), bool)
    masks[:, 9:, 9:] = False
    answers = Audit(model, data, masks=masks, checks=[Strategies()], progress=False).run().answers
    found = [a for a in answers if isinstance(a, Finding)]
    assert found and all("masks" in f.title for f in found)
    assert found[0].suspect is not None
    assert not masks[0][found[0].suspect["pixels"]].mean() > 0.2


def test_tables_and_few_rows_are_not_assessable():
    x = np.random.default_rng(0).random((30, 5))
    model = KMeans(2, n_init=1, random_state=0).fit(x)
    (answer,) = Audit(model, x, checks=[Strategies()], progress=False).run().answers
    assert isinstance(answer, NotAssessable) and "table" in answer.reason
    pictures = np.random.default_rng(0).random((30, 6, 6))
    model = KMeans(2, n_init=1, random_state=0).fit(pictures.reshape(30, -1))
    (answer,) = Audit(model, pictures, checks=[Strategies()], progress=False).run().answers
    assert isinstance(answer, NotAssessable) and "rows with relevance" in answer.reason
