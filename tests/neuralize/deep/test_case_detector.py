"""Cases from patches: rules, three levels that add up, and confounds."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.cluster import KMeans
from sklearn.covariance import EmpiricalCovariance, LedoitWolf
from sklearn.metrics import roc_auc_score
from sklearn.neighbors import KernelDensity, NearestNeighbors
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import nn

from neuralize import InputError, UnfittedModelError, UnsupportedModelError, neuralize
from neuralize.deep import (
    BinaryClassifier,
    DeepSAD,
    DeepSVDD,
    HypersphereClassifier,
    RandomPolytope,
    Training,
)
from neuralize.deep.case_detector import CaseDetector
from neuralize.deep.case_patches import Patches, case_weights
from neuralize.deep.confounds import audit_confounds
from neuralize.deep.ensemble import Ensemble

SHORT = Training(epochs=3, batch_size=64, progress=False)
RULES = ["top", "max", "quantile", "mean"]


def slides(count: int = 20, d: int = 5, seed: int = 0) -> list[np.ndarray]:
    """Cases of 3 to 14 patches."""
    rng = np.random.default_rng(seed)
    return [rng.normal(size=(rng.integers(3, 15), d)) for _ in range(count)]


def by_hand(scores: np.ndarray, rule: str, share: float, quantile: float) -> float:
    """A case's score by numpy's own functions."""
    if rule == "quantile":
        return float(np.quantile(scores, quantile))
    if rule == "max":
        return float(scores.max())
    if rule == "mean":
        return float(scores.mean())
    count = next(k for k in range(1, len(scores) + 1) if k + 1e-9 >= share * len(scores))
    return float(np.sort(scores)[-count:].mean())


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("share, quantile", [(0.1, 0.9), (0.34, 0.5), (1.0, 1.0), (1e-6, 0.0)])
def test_weights_give_the_rule_s_score(rule: Any, share: float, quantile: float) -> None:
    rng = np.random.default_rng(1)
    case = rng.permutation(np.repeat(np.arange(30), rng.integers(1, 25, 30)))
    scores = rng.normal(size=len(case)).round(1)  # ties
    w = case_weights(scores, case, rule, share=share, quantile=quantile)
    assert (w >= 0).all()
    for c in range(30):
        own = case == c
        assert w[own].sum() == pytest.approx(1, abs=1e-12)
        expected = by_hand(scores[own], rule, share, quantile)
        assert w[own] @ scores[own] == pytest.approx(expected, abs=1e-12)


def test_a_tenth_of_thirty_patches_is_three() -> None:
    w = case_weights(np.arange(30.0), np.zeros(30, dtype=int), "top", share=0.1)
    assert np.flatnonzero(w).tolist() == [27, 28, 29]


def test_a_list_of_cases_and_patches_with_numbers_are_the_same() -> None:
    parts = slides()
    names = [f"case {9 - i}" for i in range(len(parts))]
    x, ids = np.concatenate(parts), np.repeat(names, [len(part) for part in parts])
    order = np.random.default_rng(0).permutation(len(x))
    one = CaseDetector(LedoitWolf()).fit(parts, names)
    two = CaseDetector(LedoitWolf()).fit(x[order], ids[order])
    found = dict(zip(Patches.of(x[order], ids[order]).names, two.decision_scores_, strict=True))
    np.testing.assert_allclose(one.decision_scores_, [found[name] for name in names])
    np.testing.assert_allclose(
        one.decision_function(x, ids), one.decision_function(parts), rtol=1e-12
    )
    assert one.predict(parts).mean() == pytest.approx(0.1)


@pytest.mark.parametrize("rule", RULES)
def test_every_level_adds_up(rule: Any) -> None:
    train, test = slides(), slides(6, seed=1)
    pipeline = make_pipeline(StandardScaler(), KernelDensity(bandwidth=0.7))
    detector = CaseDetector(pipeline, aggregation=rule, share=0.3, quantile=0.8).fit(train)
    found = detector.explain(test)
    kde = pipeline.fit(np.concatenate(train))
    net = neuralize(kde)
    for number, part in enumerate(test):
        evidence = net(torch.from_numpy(part)).numpy()
        expected = by_hand(evidence, rule, 0.3, 0.8)
        assert found.scores[number] == pytest.approx(expected, rel=1e-9)
        own = found.case == number
        np.testing.assert_allclose(found.evidence[own], evidence, rtol=1e-9)
        assert found.shares[own].sum() == pytest.approx(expected, rel=1e-9)
        rows = found.of_case(number)
        patches = np.flatnonzero(own)
        for row in rows:
            patch = found.explained[row]
            alone = net.relevance(torch.from_numpy(part[patches == patch])).values[0].numpy()
            np.testing.assert_allclose(
                found.dimensions[row], found.weights[patch] * alone, rtol=1e-8
            )
            assert found.dimensions[row].sum() == pytest.approx(found.shares[patch], rel=1e-9)
        unexplained = sorted(set(patches) - set(found.explained[rows]))
        assert not found.weights[unexplained].any()
    assert found.relative_conservation_error < 1e-12
    np.testing.assert_array_equal(found.values, found.dimensions)


def encoder() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Conv2d(4, 6, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
    )  # fmt: skip


def stained(count: int = 10, seed: int = 0) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    return [rng.normal(size=(rng.integers(3, 30), 1, 8, 8)).astype("float32") for _ in range(count)]


@pytest.mark.parametrize(
    "head", [NearestNeighbors(n_neighbors=3), EmpiricalCovariance(), DeepSVDD(training=SHORT)]
)
def test_pixels_add_up_through_an_encoder(head: Any) -> None:
    network = encoder()
    detector = CaseDetector(head, features=network, share=0.2).fit(stained())
    found = detector.explain(stained(seed=1), composite="epsilon")
    assert found.values.shape == (len(found.explained), 1, 8, 8)
    assert found.dimensions.shape == (len(found.explained), 6)
    assert found.relative_conservation_error < 1e-5
    pixels = found.values.sum((1, 2, 3))
    biases = sum(part for name, part in found.absorbed.items() if name.startswith("encoder "))
    np.testing.assert_allclose(
        pixels + biases, found.dimensions.sum(1), rtol=1e-3, atol=1e-4 * np.abs(pixels).max()
    )
    assert np.abs(biases).max() > 1e-6
    # the same patch, explained by the detector's network on the encoder
    flat = np.concatenate(stained(seed=1))[found.explained[:5]]
    net = neuralize(detector.detector_, network)
    alone = net.relevance(torch.from_numpy(flat), composite="epsilon").values.numpy()
    weights = found.weights[found.explained[:5]].reshape(-1, 1, 1, 1)
    np.testing.assert_allclose(found.values[:5], weights * alone, rtol=2e-3, atol=1e-5)


def test_pictures_without_an_encoder_are_explained_as_they_are() -> None:
    cases = stained()
    detector = CaseDetector(KernelDensity()).fit(cases)
    found = detector.explain(cases)
    assert found.values.shape[1:] == (1, 8, 8)
    np.testing.assert_array_equal(found.values.reshape(len(found.values), -1), found.dimensions)


def test_a_margin_is_absorbed_by_the_case() -> None:
    detector = CaseDetector(LedoitWolf()).fit(slides())
    score, margin = detector.explain(slides()), detector.explain(slides(), output="margin")
    np.testing.assert_allclose(margin.scores, score.scores - detector.threshold_)
    np.testing.assert_array_equal(margin.case_absorbed["threshold"], -detector.threshold_)
    np.testing.assert_array_equal(margin.dimensions, score.dimensions)
    assert margin.relative_conservation_error < 1e-12
    np.testing.assert_array_equal(margin.scores > 0, detector.predict(slides()) == 1)


def test_tables_of_every_level() -> None:
    train = slides(d=3)
    frame = pd.DataFrame(np.concatenate(train), columns=["red", "green", "blue"])
    ids = np.repeat([f"s{i}" for i in range(len(train))], [len(part) for part in train])
    places = np.stack([np.arange(len(ids)) % 4 + 2, np.arange(len(ids)) // 4], 1)
    detector = CaseDetector(LedoitWolf(), share=0.4).fit(frame, ids)
    found = detector.explain(frame, ids, positions=places)
    cases, patches, dims = (found.to_frame(level) for level in ("cases", "patches", "dimensions"))
    assert list(dims.columns) == ["case", "red", "green", "blue"]
    total = patches.groupby("case", sort=False)["relevance"].sum()
    np.testing.assert_allclose(total[cases.index], cases["score"], rtol=1e-12)
    sums = dims.groupby("case", sort=False)[["red", "green", "blue"]].sum()
    np.testing.assert_allclose(sums.loc[list(found.names)], found.case_dimensions, rtol=1e-12)
    np.testing.assert_allclose(sums.sum(axis=1)[cases.index], cases["score"], rtol=1e-9)
    assert found.dimension_shares.sum() == pytest.approx(1)
    grid = found.grid("s3")
    assert np.nansum(grid) == pytest.approx(cases.loc["s3", "score"])
    assert np.isfinite(grid).sum() == cases.loc["s3", "patches"]
    own = patches[patches["case"] == "s3"].iloc[1]
    assert found.grid("s3", "evidence")[
        int(own["row"]) - places[ids == "s3", 0].min(),
        int(own["column"]) - places[ids == "s3", 1].min(),
    ] == pytest.approx(own["evidence"])


def test_any_detector_of_patches() -> None:
    train = slides()
    bag = Ensemble({"kde": KernelDensity(), "polytope": RandomPolytope(n_facets=50)})
    for head in (bag, RandomPolytope(n_facets=50), DeepSVDD(training=SHORT)):
        found = CaseDetector(head).fit(train).explain(train)
        assert found.relative_conservation_error < 1e-5
    fitted = LedoitWolf().fit(np.concatenate(train))
    again = CaseDetector(fitted, prefit=True).fit(slides(seed=5))
    assert again.detector_ is fitted


@pytest.mark.parametrize("head", [BinaryClassifier, HypersphereClassifier, DeepSAD])
def test_heads_that_learn_from_outliers(head: Any) -> None:
    train = slides(30)
    others = np.random.default_rng(3).normal(size=(150, 5)) + 4
    settings = Training(epochs=12, batch_size=64, lr=1e-2, progress=False)
    detector = CaseDetector(head(training=settings)).fit(train, outliers=others)
    abnormal = [case.copy() for case in slides(30, seed=1)]
    for case in abnormal:
        case[:2] += 4
    test = slides(30, seed=2) + abnormal
    y = np.repeat([0, 1], 30)
    assert roc_auc_score(y, detector.decision_function(test)) > 0.95
    assert len(detector.decision_scores_) == 30
    assert detector.explain(test).relative_conservation_error < 1e-5


def test_other_cases_may_set_the_threshold() -> None:
    detector = CaseDetector(NearestNeighbors(n_neighbors=2), contamination=0.2).fit(slides())
    before, held_out = detector.threshold_, slides(25, seed=7)
    detector.calibrate(held_out)
    assert detector.predict(held_out).mean() == pytest.approx(0.2)
    assert detector.threshold_ > before  # training patches are their own neighbours


# -- confounds -----------------------------------------------------------------------------------

SCANNER, ABNORMAL = 17, [3, 5]


def clinic(count: int, sites: np.ndarray, abnormal: np.ndarray, shift: float) -> list[np.ndarray]:
    """Cases of 20 patches, 64 dimensions: one knows the scanner, two the abnormal."""
    rng = np.random.default_rng(count)
    cases = []
    for site, ill in zip(sites, abnormal, strict=True):
        case = rng.normal(size=(20, 64))
        case[:, SCANNER] += shift * site
        if ill:
            case[:4, ABNORMAL] += 4
        cases.append(case)
    return cases


@pytest.mark.parametrize("head", [NearestNeighbors(n_neighbors=5), LedoitWolf()])
def test_a_planted_scanner_dimension_is_found_by_its_share(head: Any) -> None:
    rng = np.random.default_rng(0)
    nothing = np.zeros(60, dtype=int)
    detector = CaseDetector(head).fit(clinic(60, nothing, nothing, 0))  # one scanner
    sites, labels = rng.integers(0, 2, 200), (rng.random(200) < 0.3).astype(int)
    found = audit_confounds(detector, clinic(200, sites, labels, 6), sites=sites, labels=labels)
    assert found.scanner_dimensions.tolist() == [SCANNER]
    assert found.scanner_share > 5 * found.expected_share
    assert found.dimensions.index[0] == SCANNER
    assert found.site_auc[0] == found.site_auc[1] > 0.95
    assert found.anomaly_auc is not None and found.anomaly_auc < found.site_auc[0]
    scores = found.relevance.scores
    assert found.anomaly_auc == pytest.approx(roc_auc_score(labels, scores))
    usual = labels == 0
    assert found.site_auc[1] == pytest.approx(roc_auc_score(sites[usual], scores[usual]))
    means = np.stack([case.mean(0) for case in clinic(200, sites, labels, 6)])[usual]
    direct = roc_auc_score(sites[usual], means[:, SCANNER])
    assert found.dimension_auc[SCANNER] == pytest.approx(direct)
    # the difference between sites is a sum over dimensions; here nothing is absorbed
    one, two = (scores[usual & (sites == site)].mean() for site in (found.site, 1 - found.site))
    assert found.score_gap == pytest.approx(one - two)
    assert found.dimension_gap.sum() == pytest.approx(found.score_gap)
    assert found.scanner_gap / found.score_gap > 0.8
    assert f"{found.scanner_share:.1%}" in str(found)


def test_without_a_scanner_nothing_is_found() -> None:
    rng = np.random.default_rng(1)
    sites, labels = rng.integers(0, 3, 200), (rng.random(200) < 0.3).astype(int)
    nothing = np.zeros(60, dtype=int)
    detector = CaseDetector(LedoitWolf()).fit(clinic(60, nothing, nothing, 0))
    found = audit_confounds(
        detector, clinic(200, sites, labels, 0), sites=sites, labels=labels, limit=0.5
    )
    assert found.scanner_dimensions.tolist() == []
    assert (found.scanner_share, found.expected_share) == (0, 0)
    assert max(found.site_auc.values()) < 0.65
    assert found.anomaly_auc is not None and found.anomaly_auc > 0.9
    assert set(found.dimensions.index[:2]) == set(ABNORMAL)


def test_abnormal_cases_that_one_site_has_do_not_make_a_scanner() -> None:
    sites = np.repeat([0, 1], 100)
    labels = np.where(sites == 1, np.arange(200) % 2, 0)
    nothing = np.zeros(60, dtype=int)
    detector = CaseDetector(LedoitWolf()).fit(clinic(60, nothing, nothing, 0))
    cases = clinic(200, sites, labels, 0)
    blind = audit_confounds(detector, cases, sites=sites, limit=0.5)
    told = audit_confounds(detector, cases, sites=sites, labels=labels, limit=0.5)
    assert set(ABNORMAL) <= set(blind.scanner_dimensions) and blind.anomaly_auc is None
    assert told.scanner_dimensions.tolist() == []


# -- bad input -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"aggregation": "median"}, InputError, "aggregation"),
        ({"share": 0.0}, InputError, "share"),
        ({"quantile": 1.1}, InputError, "quantile"),
        ({"contamination": 0}, InputError, "contamination"),
        ({"detector": KMeans(2, n_init=1)}, UnsupportedModelError, "is a cluster"),
        ({"detector": LedoitWolf(), "prefit": True}, UnfittedModelError, "not fitted"),
        ({"features": nn.Unflatten(1, (5, 1))}, InputError, "features"),
    ],
)  # fmt: skip
def test_bad_options_are_refused(options: dict[str, Any], error: Any, message: str) -> None:
    with pytest.raises(error, match=message):
        CaseDetector(**{"detector": LedoitWolf(), **options}).fit(slides())


def test_bad_patches_are_refused() -> None:
    detector = CaseDetector(LedoitWolf())
    with pytest.raises(UnfittedModelError):
        detector.predict(slides())
    x = np.concatenate(slides())
    with pytest.raises(InputError, match="case of every patch"):
        detector.fit(x)
    with pytest.raises(InputError, match="case for each"):
        detector.fit(x, [1, 2])
    with pytest.raises(InputError, match="one shape"):
        detector.fit([np.zeros((2, 3)), np.zeros((2, 4))])
    with pytest.raises(InputError, match="at least one patch"):
        detector.fit([np.zeros((2, 3)), np.zeros((0, 3))])
    with pytest.raises(InputError, match="name of its own"):
        detector.fit(slides(), ["a"] * 20)
    with pytest.raises(InputError, match="takes none"):
        detector.fit(slides(), outliers=x)
    detector.fit(slides())
    bad = x.copy()
    bad[4, 2] = np.inf
    for rows, ids, message in (
        (bad, np.zeros(len(x)), "row 4"), (x[:, :3], np.zeros(len(x)), "shape \\(5,\\)"),
    ):  # fmt: skip
        with pytest.raises(InputError, match=message):
            detector.explain(rows, ids)
    with pytest.raises(InputError, match="no encoder"):
        detector.explain(slides(), composite="epsilon")
    with pytest.raises(InputError, match="'margin'"):
        detector.explain(slides(), output="evidence")
    for places in (np.zeros((3, 2), dtype=int), np.zeros((len(x), 2))):
        with pytest.raises(InputError, match="row and column"):
            detector.explain(x, np.zeros(len(x)), positions=places)
    found = detector.explain(slides())
    for wrong, message in (
        (lambda: found.grid(0), "positions"), (lambda: found.of_case("no"), "one of 20 cases"),
        (lambda: found.to_frame("pixels"), "level"),
    ):  # fmt: skip
        with pytest.raises(InputError, match=message):
            wrong()


@pytest.mark.parametrize(
    ("sites", "labels", "message"),
    [
        (np.zeros(20), None, "at least two sites"),
        (np.arange(3), None, "site for each of 20"),
        (np.arange(20) % 2, np.zeros(20), "labels 0 and 1"),
        (np.arange(20) % 2, np.arange(20) % 2, "normal cases of every site"),
    ],
)
def test_sites_that_do_not_fit_are_refused(sites: Any, labels: Any, message: str) -> None:
    detector = CaseDetector(LedoitWolf()).fit(slides())
    with pytest.raises(InputError, match=message):
        audit_confounds(detector, slides(), sites=sites, labels=labels)
