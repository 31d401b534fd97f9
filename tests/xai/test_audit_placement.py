"""The placement check, its tests repeated slowly with the models' own methods."""

import numpy as np
import pytest
import torch
from sklearn.cluster import KMeans
from sklearn.covariance import EllipticEnvelope
from sklearn.ensemble import IsolationForest
from sklearn.neighbors import KernelDensity
from sklearn.svm import OneClassSVM

from neuralize import neuralize
from xai.audit import Audit
from xai.audit.edges import frame
from xai.audit.places import elsewhere, place_name
from xai.audit.trial import MAX_ROWS, RANDOM_PLACES
from xai.datasets import fashion_mnist, plant_mark
from xai.errors import InputError
from xai.report import Finding, NotAssessable


def audit(model, data, **options):
    report = Audit(model, data, checks=["placement"], progress=False, **options).run()
    return report


@pytest.fixture(scope="module")
def scene():
    """Dresses and T-shirts, a third of the dresses marked; half to fit, half to audit."""
    data = fashion_mnist("train", classes=["T-shirt/top", "Dress"])
    chosen = np.random.default_rng(0).permutation(len(data))[:800]
    images, names = data.images[chosen], data.names[chosen]
    rows = np.flatnonzero(names == "Dress")[::3]
    marked, place = plant_mark(images, rows, size=4)
    return images, marked, names, rows, place


def detectors():
    return [
        KernelDensity(bandwidth=1.0),
        OneClassSVM(nu=0.1),
        IsolationForest(n_estimators=50, random_state=0),
        KMeans(4, n_init=1, random_state=0),
    ]


@pytest.mark.parametrize("model", detectors(), ids=lambda m: type(m).__name__)
def test_the_mark_is_found_in_its_rows_and_its_absence_too(scene, model):
    images, marked, names, rows, _ = scene
    model.fit(marked[:400].reshape(400, -1))
    report = audit(model, marked[400:], labels=names[400:])
    (finding,) = report.findings
    assert set(finding.samples) == {f"row {i - 400}" for i in rows if i >= 400}
    assert "at the bottom right (rows 23 to 26, columns 23 to 26 of 28 x 28)" in finding.title
    assert "100% have label Dress" in finding.explanation
    assert len(finding.pictures) == 2
    model.fit(images[:400].reshape(400, -1))
    assert audit(model, images[400:]).findings == ()


def test_numbers_of_the_test_against_the_model_itself(scene):
    """Removing and adding the mark, repeated with scikit-learn's own methods."""
    _, marked, _, rows, place = scene
    fit, held = marked[:400].reshape(400, -1), marked[400:]
    model = OneClassSVM(nu=0.1).fit(fit)
    (finding,) = audit(model, held).findings
    numbers = finding.counterfactual.numbers
    held_rows = rows[rows >= 400] - 400
    assert len(held_rows) <= MAX_ROWS
    bare = np.setdiff1d(np.arange(len(held)), held_rows)
    before = held[held_rows].reshape(len(held_rows), -1)
    after = held[held_rows].copy()
    after[:, place] = np.median(held[bare][:, place], axis=0)
    after = after.reshape(len(after), -1)
    changed = (model.predict(before) != model.predict(after)).mean()
    assert numbers["mark removed: share of outlier decisions that change"] == changed

    def evidence(x):  # the network's, from the kernel written out
        support, g = model.support_vectors_, model._gamma
        weights = model.dual_coef_[0] / model.dual_coef_.sum()
        squared = ((x[:, None] - support[None]) ** 2).sum(2)
        return -np.log((weights * np.exp(-g * squared)).sum(1)) / g

    shift = (evidence(after) - evidence(before)) / evidence(held.reshape(len(held), -1)).std()
    name = "mark removed: shift of the scores (median, in standard deviations)"
    assert numbers[name] == pytest.approx(np.median(shift), rel=1e-6)
    size = "mark removed: size of the shift (median)"
    assert numbers[size] == pytest.approx(np.median(np.abs(shift)), rel=1e-6)


def test_relevance_at_the_mark_against_a_plain_sum(scene):
    _, marked, _, rows, place = scene
    model = KMeans(4, n_init=1, random_state=0).fit(marked[:400].reshape(400, -1))
    held = marked[400:]
    (finding,) = audit(model, held).findings
    net = neuralize(model)
    ratios = []
    for i in rows[rows >= 400] - 400:
        x = torch.as_tensor(held[i].reshape(1, -1))
        magnitude = np.abs(net.relevance(x).values.numpy().reshape(28, 28))
        ratios.append(magnitude[place].sum() / magnitude.sum() / place.mean())
    name = "relevance per pixel at the mark, as a multiple of the picture's average"
    assert finding.counterfactual.numbers[name] == pytest.approx(np.mean(ratios))


def test_a_mark_no_score_depends_on_is_only_worth_knowing(scene):
    """Centroids that agree at the mark's place: it cannot matter to any assignment."""
    _, marked, _, _, place = scene
    held = marked[400:]
    centroids = np.stack([held[:100].mean(0), held[100:200].mean(0) * 0.5])
    centroids[:, place] = 0.3
    report = audit(centroids.reshape(2, -1), held)
    (finding,) = report.findings
    assert finding.severity == "info" and report.exit_code == 0
    assert finding.counterfactual.numbers["mark removed: size of the shift (median)"] < 1e-12
    assert "hardly matters to the model" in finding.title


def test_the_same_seed_gives_the_same_numbers(scene):
    _, marked, _, _, _ = scene
    model = KMeans(4, n_init=1, random_state=0).fit(marked[:400].reshape(400, -1))
    first, second = (audit(model, marked[400:], seed=3).to_dict() for _ in range(2))
    assert first.pop("times") and second.pop("times")
    assert first == second


def test_pictures_without_ground_are_searched_for_stamps():
    rng = np.random.default_rng(0)
    images = rng.uniform(size=(60, 8, 8))
    model = KMeans(2, n_init=1, random_state=0).fit(images.reshape(60, -1))
    report = audit(model, images)
    (passed,) = [p for p in report.passed if p.measure.name == "marks found"]
    assert "on top of what the pictures show" in passed.note


def test_few_pictures_are_not_assessable():
    images = np.random.default_rng(0).uniform(size=(12, 8, 8))
    report = audit(KMeans(2, n_init=1, random_state=0).fit(images.reshape(12, -1)), images)
    assert any("12 rows are too few" in question.reason for question in report.not_assessable)


# -- edges -----------------------------------------------------------------------------------


def test_a_whitening_model_that_blows_up_a_quiet_border_is_found():
    """A Mahalanobis distance divides by variance: a border of faint noise decides it."""
    rng = np.random.default_rng(0)
    images = rng.normal(size=(600, 8, 8))
    images[:, 0] = rng.normal(scale=1e-3, size=(600, 8))
    model = EllipticEnvelope(support_fraction=1.0, random_state=0).fit(images.reshape(600, -1))
    # In new pictures the border is three times as noisy: nothing next to the content, yet ...
    new = rng.normal(size=(300, 8, 8))
    new[:, 0] = rng.normal(scale=3e-3, size=(300, 8))
    report = audit(model, new)
    (finding,) = [f for f in report.findings if "top border" in f.title]
    assert finding.severity in ("warning", "critical")
    assert not finding.measure.holds
    numbers = finding.counterfactual.numbers
    assert numbers["place replaced: size of the shift (median)"] > 0.5
    # ... not so where the border is as noisy as everything else.
    same = rng.normal(size=(600, 8, 8))
    model = EllipticEnvelope(support_fraction=1.0, random_state=0).fit(same.reshape(600, -1))
    assert audit(model, rng.normal(size=(300, 8, 8))).findings == ()


def test_frame_has_four_borders_and_four_corners():
    places = frame(28, 14)
    assert len(places) == 8
    assert places["the left border"].sum() == 28 and places["the top border"].sum() == 28
    assert places["the top left corner"][:4, :2].all()
    assert places["the bottom right corner"].sum() == 8


# -- tables ----------------------------------------------------------------------------------


def test_constant_features_the_model_takes_for_evidence():
    """Fitted where a feature varied, audited where it is stuck far away."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(300, 4))
    model = KernelDensity(bandwidth=0.5).fit(x)
    stuck = rng.normal(size=(200, 4))
    stuck[:, 2] = 6.0
    (finding,) = audit(model, stuck).findings
    assert finding.title.startswith("Relevance lies on constant features")
    assert finding.severity == "warning"
    assert "1 of 4 features are constant" in finding.explanation
    fine = rng.normal(size=(200, 4))
    fine[:, 2] = 0.0
    assert audit(model, fine).findings == ()


def test_a_nearly_constant_flag_that_decides_is_found_by_name():
    import pandas as pd

    rng = np.random.default_rng(0)
    x = rng.normal(size=(500, 3))
    flag = (np.arange(500) % 50 == 0).astype(float)
    frame = pd.DataFrame({"a": x[:, 0], "b": x[:, 1], "site flag": flag / flag.std(), "c": x[:, 2]})
    model = KernelDensity(bandwidth=1.0).fit(frame.to_numpy()[flag == 0])
    report = audit(model, frame)
    (finding,) = report.findings
    assert finding.severity == "warning"
    assert finding.title.startswith("site flag is the same in 98.0% of the rows")
    assert finding.samples == tuple(str(i) for i in range(0, 500, 50))
    without = frame.drop(columns="site flag")
    clean = KernelDensity(bandwidth=1.0).fit(without.to_numpy())
    assert audit(clean, without).findings == ()


def test_plain_tables_pass_with_a_word_on_what_was_looked_at():
    x = np.random.default_rng(0).normal(size=(100, 5))
    report = audit(KernelDensity().fit(x), x + 0.1)
    assert [p.note for p in report.passed] == [
        "No feature is constant.",
        "No feature is the same in 95% of the rows and different in 5.",
        "It is that of feature 4, of 5 columns.",
    ]


# -- masks -----------------------------------------------------------------------------------


def test_relevance_outside_the_masks_is_found():
    rng = np.random.default_rng(0)
    images = np.zeros((100, 8, 8))
    images[:, :4] = rng.uniform(size=(100, 4, 8))  # the background varies
    images[:, 4:] = 0.1 * rng.uniform(size=(100, 4, 8))  # what matters hardly does
    masks = np.zeros((100, 8, 8), dtype=bool)
    masks[:, 4:] = True
    model = KernelDensity(bandwidth=0.5).fit(images[:50].reshape(50, -1))
    report = audit(model, images[50:], masks=masks[50:])
    (finding,) = [f for f in report.findings if "outside the masks" in f.title]
    assert finding.severity in ("warning", "critical")
    report = audit(model, images[50:], masks=~masks[50:])
    assert not [f for f in report.findings if "outside the masks" in f.title]
    full = audit(model, images[50:], masks=np.ones((50, 8, 8)))
    assert any("leave nothing outside" in q.reason for q in full.not_assessable)


@pytest.mark.parametrize(
    ("data", "masks", "complaint"),
    [
        (np.zeros((4, 6)), np.ones((4, 6)), "the data are a table"),
        (np.zeros((4, 3, 2)), np.ones((4, 2, 2)), "Expected masks"),
        (np.zeros((4, 3, 2)), np.full((4, 3, 2), 0.5), "True and False"),
        (np.zeros((4, 3, 2)), np.zeros((4, 3, 2)), "empty one in row 0"),
    ],
)
def test_masks_that_do_not_fit_are_refused(data, masks, complaint):
    with pytest.raises(InputError, match=complaint):
        Audit(np.eye(6)[:2], data, masks=masks)


# -- places ----------------------------------------------------------------------------------


def test_elsewhere_stays_inside_and_apart():
    place = np.zeros((12, 10), dtype=bool)
    place[2:5, 7:9] = True
    shifts = elsewhere(place, np.random.default_rng(0))
    assert len(shifts) == len(set(shifts)) == RANDOM_PLACES
    for dy, dx in shifts:
        ys, xs = np.argwhere(place).T
        assert (ys + dy >= 0).all() and (ys + dy < 12).all()
        assert (xs + dx >= 0).all() and (xs + dx < 10).all()
        assert not place[ys + dy, xs + dx].any()


def test_a_place_too_large_to_be_put_apart_is_put_where_it_overlaps_least():
    place = np.zeros((5, 5), dtype=bool)
    place[:4, :4] = True
    assert elsewhere(place, np.random.default_rng(0)) == [(1, 1)]


@pytest.mark.parametrize(
    ("rows", "columns", "name"),
    [
        ((0, 2), (0, 2), "at the top left"),
        ((4, 5), (4, 5), "in the middle"),
        ((4, 6), (8, 9), "at the right"),
        ((8, 9), (0, 1), "at the bottom left"),
    ],
)
def test_place_names(rows, columns, name):
    place = np.zeros((10, 10), dtype=bool)
    place[rows[0] : rows[1] + 1, columns[0] : columns[1] + 1] = True
    assert place_name(place).startswith(name + " (")


def test_channels_first_and_last_are_the_same_pictures(scene):
    _, marked, _, _, _ = scene
    held = marked[400:]
    last = np.stack([held, held * 0.5, held * 0.25], axis=-1)
    first = np.moveaxis(last, -1, 1)
    fit = np.stack([marked[:400], marked[:400] * 0.5, marked[:400] * 0.25], axis=-1)
    centroids = KMeans(3, n_init=1, random_state=0).fit(fit.reshape(400, -1)).cluster_centers_
    swapped = np.moveaxis(centroids.reshape(3, 28, 28, 3), -1, 1).reshape(3, -1)
    a, b = (f.findings[0] for f in (audit(centroids, last), audit(swapped, first)))
    assert a.title == b.title and a.samples == b.samples
    for name, value in a.counterfactual.numbers.items():
        assert b.counterfactual.numbers[name] == pytest.approx(value, abs=1e-9)
    assert isinstance(a, Finding) and not isinstance(a, NotAssessable)
