"""Stability: what hangs on noise is told, what does not passes; old rows against new ones."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.cluster import KMeans
from sklearn.datasets import load_digits, load_wine
from sklearn.neighbors import KernelDensity
from sklearn.preprocessing import StandardScaler
from torch import nn

from neuralize import InputError, neuralize
from xai.audit import Audit, AuditContext
from xai.audit.harmless import changes, shift
from xai.audit.new_rows import largest_difference
from xai.audit.stability import FLIPS, Stability


def asked(model, x, **options):
    return Audit(model, x, checks=[Stability(**options)], progress=False).run()


def test_a_clustering_of_a_table_is_stable():
    x = StandardScaler().fit_transform(load_wine().data)
    report = asked(KMeans(3, n_init=3, random_state=0).fit(x[::2]), x[1::2])
    assert not report.findings and len(report.passed) == 2


def test_pictures_get_three_changes():
    x = load_digits().images[:300] / 16
    report = asked(KMeans(4, n_init=2, random_state=0).fit(x.reshape(300, -1)), x)
    names = " ".join(a.measure.name for a in [*report.passed, *report.findings])
    assert all(word in names for word in ("shifted", "brighter", "noise"))
    assert not [f for f in report.findings if f.severity != "info"]


def board(size=32, factor=1.0):
    """Sees the finest stripes and nothing else."""
    pattern = np.indices((size, size)).sum(0) % 2 * 2.0 - 1
    net = nn.Sequential(nn.Flatten(), nn.Linear(size * size, 2, bias=False))
    with torch.no_grad():
        row = torch.tensor(factor * pattern.ravel(), dtype=torch.float32)
        net[1].weight.copy_(torch.stack([row, -row]))
    return net


@pytest.mark.filterwarnings("ignore::neuralize.errors.AmplificationWarning")
def test_a_model_of_high_frequencies_is_a_warning():
    """Smooth pictures: all that decides is what lies below 8 bits."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:32, :32] / 32
    low = rng.uniform(-1, 1, size=(80, 2))
    pictures = (low[:, :1, None] * y + low[:, 1:, None] * x).astype(np.float32)
    pictures += rng.normal(0, 1e-4, pictures.shape).astype(np.float32)
    report = asked(board(), pictures)
    (noise,) = [f for f in report.findings if "given noise" in f.title]
    assert noise.severity == "warning" and noise.measure.value > FLIPS
    assert noise.samples and noise.counterfactual is not None


def test_shift_repeats_edges_and_maps_are_moved_back():
    picture = np.arange(12.0).reshape(1, 3, 4)
    assert shift(picture, (1, 0))[0].tolist() == [
        [0, 1, 2, 3], [0, 1, 2, 3], [4, 5, 6, 7],
    ]  # fmt: skip
    assert shift(picture, (0, -1))[0, 0].tolist() == [1, 2, 3, 3]
    data = np.random.default_rng(0).normal(size=(8, 6, 7, 3))
    audit = AuditContext(neuralize(data.reshape(8, -1)[:2]), data, progress=False)
    rows = np.arange(8)
    change = changes(audit)[0]
    before, after = change.aligned(data, change.altered(rows, audit.rng), rows)
    np.testing.assert_allclose(before, after)


def test_jitter_leaves_constant_columns_alone():
    x = np.random.default_rng(0).normal(size=(50, 3))
    x[:, 1] = 7
    audit = AuditContext(neuralize(x[:2]), x, progress=False)
    (change,) = changes(audit)
    moved = change.altered(np.arange(50), audit.rng) - x
    assert not moved[:, 1].any()
    np.testing.assert_allclose(moved[:, [0, 2]].std(0) / x[:, [0, 2]].std(0), 0.01, rtol=0.3)


def test_a_density_that_knows_its_rows_by_heart():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(300, 8))
    model = KernelDensity(bandwidth=0.3).fit(x[:150])
    net = neuralize(model)
    net.threshold = float(np.quantile(net(torch.tensor(x[:150])).numpy(), 0.95))
    (finding,) = [
        f for f in asked(net, x[150:], fitted_on=x[:150]).findings if "Evidence" in f.title
    ]
    assert finding.severity == "warning" and "higher on new rows" in finding.title


@pytest.mark.parametrize("seed", range(4))
def test_new_rows_like_the_old_ones_pass(seed):
    x = np.random.default_rng(seed).normal(size=(300, 5))
    model = KMeans(3, n_init=2, random_state=0).fit(x[:150])
    report = asked(model, x[150:], fitted_on=x[:150])
    assert not report.findings and len(report.passed) == 4


def test_new_rows_from_elsewhere_have_other_maps():
    x = np.random.default_rng(0).normal(size=(400, 5))
    x[200:, 3] *= 4
    model = KernelDensity(bandwidth=1.0).fit(x[:200])
    report = asked(model, x[200:], fitted_on=x[:200])
    (finding,) = [f for f in report.findings if "lie elsewhere" in f.title]
    assert "feature 3" in finding.explanation


def test_old_rows_of_another_shape_are_refused():
    x = np.random.default_rng(0).normal(size=(60, 4))
    with pytest.raises(InputError, match="shape"):
        asked(KMeans(2, n_init=1).fit(x), x, fitted_on=x[:, :3])


def test_largest_difference_is_of_standardised_means():
    rng = np.random.default_rng(0)
    one, two = rng.normal(size=(40, 3)), rng.normal([0, 0, 2], size=(60, 3))
    found, bar = largest_difference(one, two, rng)
    both = np.concatenate([one, two])
    np.testing.assert_allclose(found, (two.mean(0) - one.mean(0)) / both.std(0))
    assert np.abs(found[2]) > bar > np.abs(found[0])
