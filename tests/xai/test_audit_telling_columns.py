"""Columns that decide alone or give the label away, and tables where none does."""

import numpy as np
import pytest
from sklearn.cluster import KMeans
from sklearn.datasets import load_breast_cancer, load_digits, load_wine
from sklearn.preprocessing import StandardScaler

from xai.audit import Audit

WINE = load_wine()
X = StandardScaler().fit_transform(WINE.data)


def placement(x, labels=None, model=None):
    if model is None:
        model = KMeans(3, n_init=1, random_state=0).fit(x)
    return Audit(model, x, labels=labels, checks=["placement"], progress=False).run()


def test_no_column_of_scaled_wine_decides_or_tells():
    report = placement(X, WINE.target)
    names = [p.measure.name for p in report.passed]
    assert "largest share of relevance one column takes (mean over rows)" in names
    assert "balanced accuracy for the label of the best single column" in names
    assert report.findings == ()


def test_breast_cancer_has_many_telling_columns_and_none_given_away():
    data = load_breast_cancer()
    report = placement(StandardScaler().fit_transform(data.data), data.target)
    assert not [f for f in report.findings if "gives the label away" in f.title]


@pytest.mark.parametrize("scale", [5.0, 12.0])
def test_a_column_in_another_unit_decides_alone(scale):
    rng = np.random.default_rng(0)
    x = np.column_stack([X, scale * rng.normal(size=len(X))])
    (finding,) = [f for f in placement(x).findings if f.title.startswith("One of")]
    assert finding.severity == "warning" and "feature 13" in finding.title
    assert finding.suspect["features"].tolist() == [13]


def test_a_leaking_column_is_named_and_tested():
    rng = np.random.default_rng(0)
    code = 4.0 * WINE.target + 0.1 * rng.normal(size=len(X))
    x = np.column_stack([X, code])
    (finding,) = [f for f in placement(x, WINE.target).findings if "away" in f.title]
    assert finding.severity in ("critical", "warning") and "feature 13" in finding.title
    # A model that leaves the column out is told of it, and not warned.
    centres = np.column_stack(
        [KMeans(3, n_init=1, random_state=0).fit(X).cluster_centers_, [0] * 3]
    )
    (finding,) = [f for f in placement(x, WINE.target, centres).findings if "away" in f.title]
    assert finding.severity == "info"


def test_a_column_ahead_of_good_ones_is_found_where_there_are_two_labels():
    """The next best tells 0.92 by itself, and half of the rows have the same value of the leak."""
    data = load_breast_cancer()
    rng = np.random.default_rng(0)
    code = 1.5 * (2 * data.target - 1) + 0.05 * rng.normal(size=len(data.target))
    x = np.column_stack([StandardScaler().fit_transform(data.data), code])
    (finding,) = [f for f in placement(x, data.target).findings if "away" in f.title]
    assert finding.severity in ("critical", "warning") and "feature 30" in finding.title
    again = np.column_stack([x, code])  # twice: neither is alone
    assert not [f for f in placement(again, data.target).findings if "away" in f.title]


def test_ten_labels_need_more_leaves_than_two():
    digits = load_digits()
    x = StandardScaler().fit_transform(digits.data[:600][:, 20:45])
    x = np.column_stack([x, digits.target[:600] - 4.5])
    (finding,) = [f for f in placement(x, digits.target[:600]).findings if "away" in f.title]
    assert finding.measure.value == 1.0 and "feature 25" in finding.title
