"""Strategies of detectors against plain loops, and detectors with a planted Clever Hans."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest
import torch
from matplotlib.figure import Figure
from scipy.stats import spearmanr, ttest_rel
from sklearn.cluster import KMeans
from sklearn.decomposition import PCA
from sklearn.metrics import average_precision_score, roc_auc_score
from sklearn.neighbors import KernelDensity
from sklearn.svm import OneClassSVM
from torch import nn

import xai
from neuralize import InputError, neuralize
from xai.evaluate.agreement import GIVEN
from xai.evaluate.strategies import strategies


def planted(n=40, side=6, seed=0):
    """Pictures with a bright 2 x 2 defect, and a faint mark in the corner of every anomaly."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(2 * n, side, side)) * 0.3
    masks = np.zeros(x.shape, bool)
    for row in range(n):
        i, j = rng.integers(1, side - 1, 2)
        masks[row, i - 1 : i + 1, j : j + 2] = True
    x[masks] += 1.5
    x[:n, side - 1, 0] += 2.0
    return x, masks


@pytest.fixture(scope="module")
def data():
    normal = np.random.default_rng(5).normal(size=(150, 36)) * 0.3
    x, masks = planted()
    detectors = {
        "KDE": KernelDensity(bandwidth=0.6).fit(normal),
        "SVM": OneClassSVM(nu=0.1, gamma=0.5).fit(normal),
        "corner": neuralize(_Corner()),
    }
    return detectors, x, masks, normal


class _Corner(nn.Module):
    """Sees nothing but the corner: a Clever Hans."""

    def forward(self, x):
        return (x.flatten(1)[:, 30:31] * 2.0).sum(1)


@pytest.fixture(scope="module")
def found(data):
    detectors, x, masks, normal = data
    rng = np.random.default_rng(0)
    return strategies(
        detectors, x, masks, methods=["gradient", "random"], background=normal,
        maps={"noise": rng.normal(size=x.shape)}, progress=False,
    )  # fmt: skip


def test_every_number_of_the_table_in_loops(found, data):
    detectors, x, masks, _ = data
    labels = np.arange(80) < 40
    for name, model in detectors.items():
        relevance = xai.explain(model, x, progress=False)
        r, t = relevance.values.reshape(80, -1)[:40], masks.reshape(80, -1)[:40]
        line = found.table.loc[name]
        assert line["auroc"] == pytest.approx(roc_auc_score(labels, relevance.evidence))
        cosine = [
            a @ b / np.linalg.norm(a) / np.linalg.norm(b) for a, b in zip(r, t * 1.0, strict=True)
        ]
        precision = [average_precision_score(b, a) for a, b in zip(r, t, strict=True)]
        mass = [a[b].clip(0).sum() / a.clip(0).sum() if (a > 0).any() else 0.0
                for a, b in zip(r, t, strict=True)]  # fmt: skip
        for measure, values in (
            ("cosine", cosine), ("average_precision", precision), ("mass_inside", mass),
        ):  # fmt: skip
            assert line[measure] == pytest.approx(np.mean(values), abs=1e-6)
            assert line[f"{measure}_error"] == pytest.approx(
                np.std(values, ddof=1) / np.sqrt(40), abs=1e-6
            )
        assert line["gap"] == pytest.approx(line["auroc"] - line["cosine"])
        assert line["auroc_low"] < line["auroc"] <= line["auroc_high"]
        assert line["rows"] == line["rows_partial"] == 40


def test_the_planted_clever_hans_is_named_and_no_other(found):
    assert found.cases == ["corner"]
    assert found.table.loc["corner", "auroc"] > 0.99
    assert found.table.loc["KDE", "cosine"] > 0.3
    assert "corner" in repr(found)


def test_agreement_of_detectors_row_by_row(found, data):
    _, x, _, _ = data
    r = {
        n: xai.explain(m, x[:40], progress=False).values.reshape(40, -1) for n, m in data[0].items()
    }
    for a in r:
        for b in r:
            pairs = list(zip(r[a], r[b], strict=True))
            cosine = [p @ q / np.linalg.norm(p) / np.linalg.norm(q) for p, q in pairs]
            ranks = [spearmanr(p, q).statistic for p, q in pairs]
            assert found.agreement.loc[a, b] == pytest.approx(np.mean(cosine), abs=1e-6)
            assert found.rank_agreement.loc[a, b] == pytest.approx(np.mean(ranks), abs=1e-6)
    assert found.agreement.loc["KDE", "SVM"] > 0.9 > found.agreement.loc["KDE", "corner"]


def test_baselines_and_their_verdicts(found, data):
    detectors, x, masks, _ = data
    line = found.baselines.loc[("KDE", "gradient")]
    net = neuralize(detectors["KDE"])
    leaf = torch.tensor(x[:40].reshape(40, -1), requires_grad=True)
    (gradient,) = torch.autograd.grad(net(leaf).sum(), leaf)
    squared, t = gradient.numpy() ** 2, masks.reshape(80, -1)[:40] * 1.0
    cosine = (squared * t).sum(1) / np.linalg.norm(squared, axis=1) / np.linalg.norm(t, axis=1)
    assert line["cosine"] == pytest.approx(cosine.mean())
    own = found.per_row.query("detector == 'KDE' and method == 'LRP'")["cosine"].to_numpy()
    assert line["cosine_difference"] == pytest.approx((own - cosine).mean())
    p = ttest_rel(own, cosine).pvalue * 3  # three other explanations
    assert line["cosine_p_value"] == pytest.approx(min(1, p))
    for name in ("KDE", "SVM"):
        for method in ("random", "noise"):
            verdicts = found.baselines.loc[
                (name, method), ["cosine_verdict", "average_precision_verdict"]
            ]
            assert verdicts.tolist() == ["LRP better", "LRP better"]
    assert set(found.per_row["detector"]) == {"KDE", "SVM", "corner", GIVEN}
    assert len(found.per_row) == 40 * (3 * 3 + 1)


def test_methods_by_detector(data):
    detectors, x, masks, _ = data
    found = strategies(detectors, x, masks, methods={"KDE": ["gradient"]}, progress=False)
    assert list(found.baselines.index) == [("KDE", "gradient")]


def test_real_valued_truth(data):
    detectors, x, masks, _ = data
    truth = np.random.default_rng(0).random(x.shape) * np.where(masks, 3.0, 0.04)
    truth[40:] = 0
    found = strategies({"KDE": detectors["KDE"]}, x, truth, progress=False)
    r = xai.explain(detectors["KDE"], x[:40], progress=False).values.reshape(40, -1)
    t = truth[:40].reshape(40, -1)
    cosine = [a @ b / np.linalg.norm(a) / np.linalg.norm(b) for a, b in zip(r, t, strict=True)]
    assert found.table["cosine"].item() == pytest.approx(np.mean(cosine))
    precision = [average_precision_score(b > 0.1 * b.max(), a) for a, b in zip(r, t, strict=True)]
    assert found.table["average_precision"].item() == pytest.approx(np.mean(precision))
    np.testing.assert_array_equal(found.truth, truth[:40])


def test_truth_that_is_everywhere_has_a_cosine_and_nothing_to_miss(data, tmp_path):
    detectors, x, masks, _ = data
    full = masks.copy()
    full[0] = True
    found = strategies({"KDE": detectors["KDE"]}, x, full, progress=False)
    assert (found.table["rows"].item(), found.table["rows_partial"].item()) == (40, 39)
    first = found.per_row.iloc[0]
    assert np.isnan(first["average_precision"]) and np.isnan(first["mass_inside"])
    r = xai.explain(detectors["KDE"], x[:1], progress=False).values
    assert first["cosine"] == pytest.approx(r.sum() / np.linalg.norm(r) / 6)
    everywhere = strategies({"KDE": detectors["KDE"]}, x, full | full.any((1, 2), keepdims=True),
                            progress=False)  # fmt: skip
    assert everywhere.table["average_precision"].isna().item()
    content = json.loads(everywhere.to_json(tmp_path / "all.json").read_text())
    assert content["table"][0]["average_precision"] is None


def test_labels_say_what_is_abnormal_and_masks_of_normal_rows_do_not_matter(data):
    detectors, x, masks, _ = data
    labels = np.arange(80) < 40
    dirty = masks.copy()
    dirty[60:] = True
    a = strategies({"KDE": detectors["KDE"]}, x, masks, progress=False)
    b = strategies({"KDE": detectors["KDE"]}, x, dirty, labels.astype(int), progress=False)
    pd.testing.assert_frame_equal(a.table, b.table)


def test_fewer_rows_are_explained_and_all_are_scored(data):
    detectors, x, masks, _ = data
    every = strategies({"KDE": detectors["KDE"]}, x, masks, progress=False)
    few = strategies({"KDE": detectors["KDE"]}, x, masks, max_rows=10, seed=1, progress=False)
    assert len(few.rows) == 10 and set(few.rows) <= set(range(40))
    assert few.table["auroc"].item() == every.table["auroc"].item()
    part = every.per_row.set_index("row").loc[few.rows, "cosine"]
    assert few.table["cosine"].item() == pytest.approx(part.mean())


def test_features_channels_frames_and_batchwise_detectors():
    x, masks = planted()
    encoder = nn.Sequential(nn.AvgPool2d(2), nn.Flatten())  # of what is positive: no cancelling
    both = np.stack([np.abs(x), x.clip(0), x**2], 1)
    with torch.no_grad():
        phi = encoder(torch.tensor(both[40:])).numpy()
    detectors = {"PCA on features": (PCA(2).fit(phi), encoder)}
    found = strategies(detectors, both, masks, progress=False)
    assert found.table["rows"].item() == 40
    twice = strategies(detectors, both, np.repeat(masks[:, None], 3, 1), progress=False)
    values = found.relevance("PCA on features").values
    t = masks[:40].reshape(40, -1) * 1.0
    summed = values.sum(1).reshape(40, -1)
    cosine = (summed * t).sum(1) / np.linalg.norm(summed, axis=1) / np.linalg.norm(t, axis=1)
    assert found.table["cosine"].item() == pytest.approx(cosine.mean())
    assert twice.table["cosine"].item() != pytest.approx(cosine.mean())
    ecod = pytest.importorskip("pyod.models.ecod")
    frame = pd.DataFrame(x.reshape(80, -1)[:, :6], columns=list("abcdef"))
    truth = masks.reshape(80, -1)[:, :6].copy()
    truth[:40, 0] = True
    turned = KernelDensity().fit(frame[list("fedcba")][40:])
    found = strategies({"ECOD": ecod.ECOD().fit(frame[40:]), "KDE": turned}, frame, truth,
                       methods=["gradient"], progress=False)  # fmt: skip
    assert list(found.baselines.index) == [("KDE", "gradient")]  # steps have no gradient
    own = xai.explain(ecod.ECOD().fit(frame[40:]), frame, progress=False)
    np.testing.assert_allclose(found.relevance("ECOD").values, own.values[:40])


def test_composites_by_name():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Flatten(), nn.Linear(36, 12), nn.ReLU(), nn.Linear(12, 1)).float()
    with torch.no_grad():
        net[3].weight.abs_()  # nothing cancels at the output
    x, masks = planted()
    both = {"a": net, "b": net}
    found = strategies(both, x.astype("float32"), masks, composite={"a": "epsilon", "b": "gamma"},
                       progress=False)  # fmt: skip
    own = xai.explain(net, x[:40].astype("float32"), composite="gamma", progress=False)
    np.testing.assert_allclose(found.relevance("b").values, own.values)
    assert not np.allclose(found.relevance("a").values, own.values)


@pytest.mark.parametrize("kind", [None, "gap", "agreement", "maps"])
def test_figures(found, kind):
    figure = found.plot(kind)
    assert isinstance(figure, Figure)
    figure.draw_without_rendering()
    texts = {
        t.get_text() for f in figure.subfigs for ax in f.axes for t in [ax.title, ax.xaxis.label]
    }
    if kind in (None, "gap"):
        assert any("cosine of relevance" in text for text in texts)
    if kind in (None, "maps"):
        assert {"input", "truth", "KDE", "SVM", "corner"} <= texts
        images = [ax.images[0] for f in figure.subfigs for ax in f.axes if ax.images]
        scales = {im.norm.vmax for im in images if im.cmap.name == "signed"}
        assert sum(im.cmap.name == "signed" for im in images) == 4 * 3
        assert len(scales) == 1  # one symmetric scale for all detectors


def test_figures_of_chosen_rows_and_of_tables(found, data):
    figure = found.plot("maps", rows=[7, 3])
    labels = [ax.get_ylabel() for f in figure.subfigs for ax in f.axes]
    assert [label for label in labels if label.startswith("row")] == ["row 7", "row 3"]
    with pytest.raises(InputError, match=r"got \[50\]"):
        found.plot("maps", rows=[50])
    with pytest.raises(InputError, match="kind"):
        found.plot("bars")
    detectors, x, masks, _ = data
    table = strategies({"KDE": detectors["KDE"]}, x.reshape(80, -1), masks.reshape(80, -1),
                       progress=False)  # fmt: skip
    assert isinstance(table.plot(), Figure)
    with pytest.raises(InputError, match="pictures"):
        table.plot("maps")


def test_files_and_html(found, tmp_path):
    back = pd.read_csv(found.to_csv(tmp_path / "table.csv"), index_col="detector")
    pd.testing.assert_frame_equal(
        back.drop(columns="clever_hans"), found.table, check_dtype=False, check_index_type=False
    )
    assert back["clever_hans"].tolist() == [False, False, True]
    content = json.loads(found.to_json(tmp_path / "all.json").read_text())
    assert content["cases"] == ["corner"]
    assert content["agreement"]["KDE"]["SVM"] == found.agreement.loc["KDE", "SVM"]
    assert [line["detector"] for line in content["table"]] == ["KDE", "SVM", "corner"]
    assert content["baselines"][0]["method"] == "gradient"
    html = found._repr_html_()
    assert "corner." in html and "data:image/png" in html


def test_names_are_escaped():
    x, masks = planted()
    found = strategies({"<b>$x$": neuralize(_Corner())}, x, masks, progress=False)
    assert "<b>" not in found._repr_html_()


def test_misuse(data):
    detectors, x, masks, _ = data
    one = {"KDE": detectors["KDE"]}
    empty = masks.copy()
    empty[2] = False
    with pytest.raises(InputError, match=r"1 empty ones \(first: row 2\)"):
        strategies(one, x, empty, np.arange(80) < 40, progress=False)
    with pytest.raises(InputError, match="shape of the data"):
        strategies(one, x, masks[:5], progress=False)
    with pytest.raises(InputError, match="got 0 and 80"):
        strategies(one, x, np.zeros_like(masks), progress=False)
    with pytest.raises(InputError, match="got 40 and 0"):
        strategies(one, x[:40], masks[:40], progress=False)
    with pytest.raises(InputError, match="80 labels"):
        strategies(one, x, masks, [0, 1, 1], progress=False)
    with pytest.raises(InputError, match="not negative"):
        strategies(one, x, x, progress=False)
    with pytest.raises(InputError, match="dict of fitted"):
        strategies({}, x, masks, progress=False)
    with pytest.raises(InputError, match="groups: expected an outlier detector"):
        strategies({"groups": KMeans(2, n_init=1).fit(x.reshape(80, -1))}, x, masks, progress=False)
    with pytest.raises(InputError, match=r"net: expected one outlier score.*\(80, 3\)"):
        net = nn.Sequential(nn.Flatten(), nn.Linear(36, 3)).double()
        strategies({"net": net}, x, masks, progress=False)
    with pytest.raises(InputError, match="methods of"):
        strategies(one, x, masks, methods=["saliency"], progress=False)
    with pytest.raises(InputError, match="list of methods"):
        strategies(one, x, masks, methods="gradient", progress=False)
    with pytest.raises(InputError, match="'SVM', which is none"):
        strategies(one, x, masks, methods={"SVM": ["gradient"]}, progress=False)
    with pytest.raises(InputError, match=r"maps\['residual'\]"):
        strategies(one, x, masks, maps={"residual": x[0]}, progress=False)
    with pytest.raises(InputError, match="max_rows"):
        strategies(one, x, masks, max_rows=1, progress=False)
    with pytest.raises(InputError, match="name the detector otherwise"):
        strategies({GIVEN: detectors["KDE"]}, x, masks, progress=False)
    with pytest.raises(InputError, match="KDE, SVM, corner, got"):
        strategies(detectors, x, masks, progress=False).relevance("forest")
