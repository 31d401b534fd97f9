"""Tables of methods, and what they call better."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import ttest_rel
from sklearn.cluster import KMeans
from sklearn.datasets import load_iris
from sklearn.neighbors import KernelDensity

import xai
from neuralize import InputError, UnsupportedModelError, neuralize
from xai.evaluate import compare, paired_verdict, pixel_flipping
from xai.evaluate.comparison import verdict_table

IRIS = load_iris().data


def test_the_table_is_made_of_single_experiments():
    model = KernelDensity(bandwidth=0.5).fit(IRIS[:50])
    x, reference = IRIS[50:70], IRIS[:50]
    table = compare(model, x, reference=reference, replace="mean")
    assert list(table.index) == ["lrp", *xai.baselines.BASELINES]
    for method in ("lrp", "integrated_gradients", "nearest_neighbor_difference"):
        relevance = xai.explain(model, x, method=method, background=reference)
        result = pixel_flipping(model, x, relevance, replace="mean", reference=reference)
        np.testing.assert_allclose(table.loc[method, "auc"], result.auc().mean())
        np.testing.assert_allclose(
            table.loc[method, "standard_error"], result.summary()["standard_error"]
        )
        assert table.loc[method, "seed_error"] == 0
    assert table.loc["random", "seed_error"] > 0
    np.testing.assert_allclose(
        table["difference"].iloc[1:], table["auc"].iloc[1:] - table.loc["lrp", "auc"]
    )


def test_lrp_beats_random_on_clusters_and_outliers():
    kmeans = KMeans(3, n_init=1, random_state=0).fit(IRIS)
    table = compare(kmeans, IRIS, ["random"], reference=IRIS)
    assert table.loc["random", "verdict"] == "LRP better"
    kde = KernelDensity(bandwidth=0.5).fit(IRIS[:50])
    sampled = compare(
        kde, IRIS[50:80], ["random"], reference=IRIS[:50], replace="conditional_sample"
    )
    assert sampled.loc["random", "verdict"] == "LRP better"
    assert sampled.loc["lrp", "seed_error"] > 0


def test_step_functions_are_compared_without_gradients():
    net = neuralize(KernelDensity(bandwidth=0.5).fit(IRIS[:50]))
    net.differentiable = False
    table = compare(net, IRIS[50:60], reference=IRIS[:50], replace="mean")
    assert list(table.index) == ["lrp", "nearest_neighbor_difference", "random"]
    with pytest.raises(UnsupportedModelError):
        compare(net, IRIS[50:60], ["gradient"], reference=IRIS[:50], replace="mean")
    with pytest.raises(InputError, match="seed"):
        compare(net, IRIS[50:60], reference=IRIS[:50], seeds=[])


def test_the_verdict_is_scipys_paired_t():
    rng = np.random.default_rng(0)
    lrp = rng.normal(size=12)
    for shift, verdict in ((2.0, "LRP better"), (-2.0, "LRP worse"), (0.0, "undecided")):
        other = lrp + shift + 0.5 * rng.normal(size=12)
        line = paired_verdict(lrp, other, n_comparisons=3)
        p = min(1.0, 3 * ttest_rel(other, lrp).pvalue)
        np.testing.assert_allclose(line["p_value"], p)
        np.testing.assert_allclose(line["difference"], (other - lrp).mean())
        np.testing.assert_allclose(
            line["difference_error"], (other - lrp).std(ddof=1) / np.sqrt(12)
        )
        assert line["verdict"] == verdict


def test_many_comparisons_need_stronger_evidence():
    lrp = np.zeros(8)
    other = np.array([0.5, -0.1, 0.6, 0.4, -0.2, 0.5, 0.1, 0.3])
    assert paired_verdict(lrp, other)["verdict"] == "LRP better"
    assert paired_verdict(lrp, other, n_comparisons=10)["verdict"] == "undecided"


def test_rows_without_a_curve_leave_every_method():
    areas = {
        "lrp": np.array([[0.1, np.nan, 0.3], [0.1, 0.2, 0.3]]),
        "random": np.array([[0.5, 0.9, 0.7], [0.7, 0.9, 0.7]]),
    }
    table = verdict_table(areas)
    np.testing.assert_allclose(table["auc"], [0.2, 0.65])
    np.testing.assert_allclose(table["seed_error"], [0.0, 0.05])
    assert np.isnan(table.loc["lrp", "difference"])
