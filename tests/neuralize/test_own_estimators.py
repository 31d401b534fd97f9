"""KernelKMeans and SVDD as estimators: optimal, and honest about what they fitted."""

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.datasets import load_breast_cancer, load_wine, make_circles
from sklearn.exceptions import NotFittedError
from sklearn.metrics import adjusted_rand_score
from sklearn.svm import OneClassSVM

from neuralize import SVDD, KernelKMeans

WINE = load_wine().data
WINE = (WINE - WINE.mean(0)) / WINE.std(0)


def kernel(a, b, gamma):
    return np.exp(-gamma * ((a[:, None] - b[None]) ** 2).sum(-1))


# -- SVDD ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("nu", [0.05, 0.3, 0.8])
@pytest.mark.parametrize("gamma", [0.02, 0.2])
def test_svdd_meets_its_optimality_conditions(nu, gamma):
    """``min_a a^T K a, 0 <= a_i <= 1 / (nu n), sum a = 1``: the sphere's dual for this kernel."""
    model = SVDD(nu=nu, gamma=gamma).fit(WINE)
    support, a = model.support_vectors_, model.dual_coef_
    bound = 1 / (nu * len(WINE))
    np.testing.assert_allclose(a.sum(), 1, rtol=1e-9)
    assert ((a > 0) & (a <= bound * (1 + 1e-9))).all()
    center_norm = a @ kernel(support, support, gamma) @ a
    np.testing.assert_allclose(model.center_norm_squared_, center_norm, rtol=1e-9)

    def distance(x):
        return 1 - 2 * kernel(x, support, gamma) @ a + center_norm

    decision = model.decision_function(WINE)
    np.testing.assert_allclose(decision, model.radius_squared_ - distance(WINE), atol=1e-9)
    on_the_sphere = support[a < bound * (1 - 1e-6)]
    np.testing.assert_allclose(distance(on_the_sphere), model.radius_squared_, atol=1e-4)
    is_support = (WINE[:, None] == support[None]).all(-1).any(1)
    assert (decision[~is_support] > -1e-4).all()
    at_bound = support[a >= bound * (1 - 1e-6)]
    assert (distance(at_bound) >= model.radius_squared_ - 1e-4).all()
    assert (decision < -1e-4).mean() <= nu


def test_svdd_decides_as_the_one_class_machine():
    """A Gaussian kernel maps onto a sphere, where both problems are one (equal nu and gamma)."""
    x = load_breast_cancer().data[:300]
    x = (x - x.mean(0)) / x.std(0)
    ours = SVDD(nu=0.2, gamma=0.03).fit(x[:200])
    theirs = OneClassSVM(nu=0.2, gamma=0.03, tol=1e-6).fit(x[:200])
    clear = np.abs(theirs.decision_function(x)) > 1e-3
    assert clear.mean() > 0.8
    assert (ours.predict(x)[clear] == theirs.predict(x)[clear]).all()
    assert set(ours.predict(x)) == {-1, 1}
    assert (ours.predict(x) == np.where(ours.decision_function(x) >= 0, 1, -1)).all()


@pytest.mark.parametrize("wrong", [{"nu": 0.0}, {"nu": 1.5}, {"gamma": -1.0}, {"gamma": "wide"}])
def test_svdd_refuses_wrong_parameters(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        SVDD(**wrong).fit(WINE)


# -- kernel k-means ------------------------------------------------------------------------------


def soft_minima(model, x):
    """``o_k(x) = -(1/g) log sum_j a_j exp(-g ||x - u_j||^2)`` per cluster."""
    k = kernel(x, model.support_vectors_, model.gamma_)
    clusters = range(model.n_clusters)
    sums = [
        k[:, model.support_labels_ == c] @ model.support_weights_[model.support_labels_ == c]
        for c in clusters
    ]
    return -np.log(np.stack(sums, 1)) / model.gamma_


@pytest.mark.parametrize("n_support", [None, 1, 7])
def test_kernel_k_means_assigns_by_its_support(n_support):
    model = KernelKMeans(3, n_support=n_support, random_state=0).fit(WINE[:120])
    for c in range(3):
        mine = model.support_labels_ == c
        assert 1 <= mine.sum() <= (n_support or 120)
        np.testing.assert_allclose(model.support_weights_[mine].sum(), 1)
    np.testing.assert_allclose(model.transform(WINE), soft_minima(model, WINE), rtol=1e-9)
    np.testing.assert_array_equal(model.predict(WINE), soft_minima(model, WINE).argmin(1))
    np.testing.assert_array_equal(model.labels_, model.predict(WINE[:120]))
    again = clone(model)
    np.testing.assert_array_equal(again.fit_predict(WINE[:120]), model.labels_)
    assert model.n_features_in_ == 13
    np.testing.assert_allclose(model.gamma_, 1 / (13 * WINE[:120].var()))


def test_kernel_k_means_of_all_points_is_a_density_per_cluster():
    """Without a limit on the support, every training point is in the bank exactly once."""
    model = KernelKMeans(3, random_state=0).fit(WINE)
    assert len(model.support_vectors_) == len(WINE)
    found = model.support_vectors_[np.lexsort(model.support_vectors_.T)]
    np.testing.assert_allclose(found, WINE[np.lexsort(WINE.T)])


def test_kernel_k_means_separates_rings():
    x, rings = make_circles(240, noise=0.04, factor=0.3, random_state=0)
    model = KernelKMeans(2, gamma=8.0, n_init=20, random_state=0).fit(x)
    assert adjusted_rand_score(rings, model.labels_) > 0.9


def test_estimators_are_not_fitted_before_fit():
    for model in (SVDD(), KernelKMeans(2)):
        with pytest.raises(NotFittedError):
            model.predict(WINE)


@pytest.mark.parametrize(
    ("wrong", "word"),
    [
        ({"n_clusters": 0}, "clusters"),
        ({"n_clusters": 500}, "clusters"),
        ({"n_support": 0}, "n_support"),
        ({"gamma": -1.0}, "gamma"),
    ],
)
def test_kernel_k_means_refuses_wrong_parameters(wrong, word):
    with pytest.raises(ValueError, match=word):
        KernelKMeans(**{"n_clusters": 3, **wrong}).fit(WINE)
