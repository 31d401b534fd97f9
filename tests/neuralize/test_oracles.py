"""The oracles themselves, against the models' own methods and against brute force."""

import numpy as np
import pytest
from sklearn.cluster import BisectingKMeans, KMeans
from sklearn.covariance import EmpiricalCovariance, MinCovDet
from sklearn.datasets import load_breast_cancer, load_iris, load_wine
from sklearn.decomposition import PCA, KernelPCA
from sklearn.ensemble import IsolationForest
from sklearn.mixture import BayesianGaussianMixture, GaussianMixture
from sklearn.neighbors import KernelDensity, LocalOutlierFactor, NearestNeighbors
from sklearn.svm import OneClassSVM

from tests.neuralize import oracles as o

WINE = load_wine().data
WINE = (WINE - WINE.mean(0)) / WINE.std(0)
SEEN, UNSEEN = WINE[:120], WINE[120:]
X = np.concatenate([SEEN[:15], UNSEEN[:15], UNSEEN[:3] * 4])


def conserves(oracle, x=X, target=None):
    """Shares add up to the evidence of the target."""
    evidence = oracle.evidence(x)
    if target is not None:
        evidence = evidence[np.arange(len(x)), target]
    shares = oracle.relevance(x, target)
    total = shares.values.sum(1) + sum(shares.absorbed.values())
    np.testing.assert_allclose(total, evidence, rtol=1e-9, atol=1e-9 * np.abs(evidence).max())


def rotating_targets(n_clusters, x=X):
    return np.arange(len(x)) % n_clusters


@pytest.mark.parametrize("stiffness", [0.1, 3.0, np.inf])
def test_nearest_centroid(stiffness):
    model = KMeans(4, n_init=1, random_state=0).fit(SEEN)
    oracle = o.NearestCentroid(o.squared(model.cluster_centers_), 4, stiffness)
    h = model.transform(X) ** 2
    evidence = oracle.evidence(X)
    assert (evidence.argmax(1) == model.predict(X)).all()
    ordered = np.sort(h, 1)
    np.testing.assert_allclose(evidence.max(1), ordered[:, 1] - ordered[:, 0], rtol=1e-9)
    for c in range(4):
        conserves(oracle, target=np.full(len(X), c))


def test_midpoint_rule_is_the_difference_of_squared_distances():
    rng = np.random.default_rng(0)
    x, own, other = rng.normal(size=(3, 7))
    w, m = 2 * (own - other), (own + other) / 2
    np.testing.assert_allclose((x - m) * w, (x - other) ** 2 - (x - own) ** 2, atol=1e-12)


def test_bisecting_tree():
    model = BisectingKMeans(5, random_state=0).fit(SEEN)
    oracle = o.BisectingTree(model, o.squared, 0.3)
    assert (oracle.evidence(X).argmax(1) == model.predict(X)).all()
    assert ((oracle.evidence(X) > 0).sum(1) == 1).all()
    conserves(oracle, target=rotating_targets(5))


@pytest.mark.parametrize("form", ["stable", "midpoint"])
def test_kernel_clusters(form):
    labels = KMeans(3, n_init=1, random_state=0).fit_predict(SEEN)
    weights = np.zeros(len(SEEN))
    for k in range(3):
        weights[labels == k] = 1 / (labels == k).sum()
    oracle = o.KernelClusters(o.squared, SEEN, labels, weights, 0.2, 1.0, form)
    fresh = UNSEEN[:6]
    for row, x in enumerate(fresh):  # log-mean-exp written out
        own = [
            -np.log(np.mean([np.exp(-0.2 * ((x - u) ** 2).sum()) for u in SEEN[labels == k]])) / 0.2
            for k in range(3)
        ]
        expected = min(own[k] for k in (1, 2)) - own[0]
        np.testing.assert_allclose(oracle.evidence(fresh)[row, 0], expected, rtol=1e-9)
    conserves(oracle, fresh, rotating_targets(3, fresh))


@pytest.mark.parametrize("form", ["full", "tied", "diag", "spherical"])
@pytest.mark.parametrize("prior", [None, "dirichlet_process", "dirichlet_distribution"])
def test_mixture(form, prior):
    options = {"n_components": 3, "covariance_type": form, "random_state": 0, "max_iter": 500}
    if prior is None:
        model = GaussianMixture(**options).fit(SEEN)
    else:
        model = BayesianGaussianMixture(weight_concentration_prior_type=prior, **options).fit(SEEN)
    oracle = mixture(model, "outlier")
    np.testing.assert_allclose(-oracle.evidence(X), model.score_samples(X), rtol=1e-9)
    conserves(oracle)
    oracle = mixture(model, "cluster")
    p = np.clip(model.predict_proba(X), 1e-300, 1)
    close = (p > 1e-6) & (p < 1 - 1e-6)
    logit = np.log(p) - np.log1p(-np.where(close, p, 0.5))
    np.testing.assert_allclose(oracle.evidence(X)[close], logit[close], rtol=1e-6)
    assert (oracle.evidence(X).argmax(1) == model.predict(X)).all()
    conserves(oracle, target=rotating_targets(3))


def mixture(model, decision):
    parts = o.energies(model.means_, o.mixture_precisions(model))
    return o.Mixture(parts, o.mixture_constants(model), decision)


@pytest.mark.parametrize("kernel", ["gaussian", "exponential"])
def test_kernel_density(kernel):
    weights = np.random.default_rng(0).uniform(0.5, 2, len(SEEN))
    model = KernelDensity(bandwidth=0.9, kernel=kernel).fit(SEEN, sample_weight=weights)
    gamma = 1 / (2 * 0.9**2) if kernel == "gaussian" else 1 / 0.9
    parts = o.squared(SEEN) if kernel == "gaussian" else o.euclidean(SEEN)
    oracle = o.SoftNearest(parts, weights, gamma)
    shifted = -gamma * oracle.evidence(X)
    near = X[:30]  # far out scikit-learn's tree loses digits that the plain sum keeps
    difference = model.score_samples(near) - shifted[:30]  # the kernel's normalisation
    np.testing.assert_allclose(difference, difference[0], rtol=1e-9)
    conserves(oracle)


def test_one_class_svm():
    model = OneClassSVM(nu=0.2, gamma=0.05).fit(SEEN)
    dual = model.dual_coef_[0]
    oracle = o.SoftNearest(o.squared(model.support_vectors_), dual, 0.05)
    kernel_sum = dual.sum() * np.exp(-0.05 * oracle.evidence(X))
    np.testing.assert_allclose(kernel_sum, model.score_samples(X), rtol=1e-9, atol=1e-12)
    conserves(oracle)


@pytest.mark.parametrize("split", ["signed", "nonnegative"])
@pytest.mark.parametrize("kind", [EmpiricalCovariance, MinCovDet])
def test_mahalanobis(kind, split):
    model = kind().fit(SEEN)
    oracle = o.Ellipsoid(model.location_, model.precision_, split)
    np.testing.assert_allclose(oracle.evidence(X), model.mahalanobis(X), rtol=1e-8)
    conserves(oracle)


@pytest.mark.parametrize("split", ["signed", "nonnegative"])
def test_pca_residual(split):
    model = PCA(4, whiten=True).fit(SEEN)
    oracle = o.Residual(model.mean_, model.components_, split)
    reconstruction = model.inverse_transform(model.transform(X))
    np.testing.assert_allclose(oracle.evidence(X), ((X - reconstruction) ** 2).sum(1), rtol=1e-9)
    conserves(oracle)


def kernel_pca(kernel, n_components=5, train=SEEN):
    model = KernelPCA(n_components, kernel=kernel, gamma=0.05).fit(train)
    return model, o.FeatureSpaceResidual(
        train, kernel, 0.05, model.eigenvectors_, model.eigenvalues_
    )


@pytest.mark.parametrize("kernel", ["rbf", "linear"])
def test_kernel_pca_residual_is_what_transform_leaves(kernel):
    model, oracle = kernel_pca(kernel)
    k, own = oracle.gram(X, SEEN), np.array([oracle.gram(row[None], row[None])[0, 0] for row in X])
    centred = own - 2 * k.mean(1) + oracle.k.mean()
    expected = centred - (model.transform(X) ** 2).sum(1)
    np.testing.assert_allclose(oracle.evidence(X), expected, atol=1e-9 * centred.max())
    np.testing.assert_allclose(oracle.mixture(X).sum(1), 1, rtol=1e-9)
    conserves(oracle)


def test_kernel_pca_reconstruction_in_an_explicit_feature_space():
    """Build phi from the kernel matrix; the claims behind ``R_j = gamma_j o`` are then vectors."""
    _, oracle = kernel_pca("rbf")
    everything = np.concatenate([SEEN, X[15:]])
    values, vectors = np.linalg.eigh(oracle.gram(everything, everything))
    phi = vectors * np.sqrt(np.maximum(values, 0))
    support, x = phi[: len(SEEN)], phi[len(SEEN) :]

    gamma = oracle.mixture(X[15:])
    reconstruction = gamma @ support
    mean = support.mean(0)
    axes = (support - mean).T @ oracle.alphas
    np.testing.assert_allclose(axes.T @ axes, np.eye(5), atol=1e-8)
    np.testing.assert_allclose(mean + (x - mean) @ axes @ axes.T, reconstruction, atol=1e-8)
    residual = x - reconstruction
    np.testing.assert_allclose((residual**2).sum(1), oracle.evidence(X[15:]), atol=1e-10)

    def distances(points):
        return ((points[:, None] - support[None]) ** 2).sum(-1)

    h, evidence = distances(x), oracle.evidence(X[15:])
    # Moving phi(x) to its reconstruction changes the gamma-weighted distances by o in all ...
    change = h - distances(reconstruction)
    np.testing.assert_allclose((gamma * change).sum(1), evidence, atol=1e-8)
    # ... but not each distance by o: phi(u_j) has a residual of its own.
    assert np.abs(change - evidence[:, None]).max() > 0.01 * evidence.max()

    # R_j = gamma_j o rests on translation equivariance instead: as a function of the distances,
    # k_j = 1 - h_j / 2, a common shift of all h leaves gamma and takes the shift off o.
    def from_distances(h):
        k = 1 - h / 2
        centred = k - k.mean(1, keepdims=True) - oracle.k.mean(0) + oracle.k.mean()
        scores = centred @ oracle.alphas
        return 1 - 2 * k.mean(1) + oracle.k.mean() - (scores**2).sum(1)

    np.testing.assert_allclose(from_distances(h), evidence, atol=1e-10)
    np.testing.assert_allclose(from_distances(h - evidence[:, None]), 0, atol=1e-10)
    step = 1e-6
    for j in (0, 40, 119):
        moved = h.copy()
        moved[:, j] += step
        slope = (from_distances(moved) - evidence) / step
        np.testing.assert_allclose(slope, gamma[:, j], atol=1e-6)


@pytest.mark.parametrize("aggregation", ["largest", "mean", "median"])
@pytest.mark.parametrize(("k", "p"), [(5, 2.0), (4, 1.0), (6, 3.0)])
def test_neighbours(aggregation, k, p):
    model = NearestNeighbors(n_neighbors=k, p=p).fit(SEEN)
    oracle = o.Neighbours(o.minkowski(SEEN, p), k, aggregation)
    d, _ = model.kneighbors(X)
    reduce = {"largest": np.max, "mean": np.mean, "median": np.median}[aggregation]
    np.testing.assert_allclose(oracle.evidence(X), reduce(d, 1), rtol=1e-9)
    conserves(oracle)


def test_local_factor():
    model = LocalOutlierFactor(12, novelty=True).fit(SEEN)
    oracle = o.LocalFactor(o.euclidean(SEEN), SEEN, 12)
    np.testing.assert_allclose(-oracle.evidence(X), model.score_samples(X), rtol=1e-9)
    conserves(oracle)


@pytest.mark.parametrize("max_features", [1.0, 0.5])
def test_path_length(max_features):
    model = IsolationForest(n_estimators=15, max_features=max_features, random_state=0).fit(SEEN)
    oracle = o.PathLength(model)
    np.testing.assert_allclose(-(2 ** oracle.evidence(X)), model.score_samples(X), rtol=1e-9)
    conserves(oracle)


def test_path_length_starts_where_the_training_samples_end_on_average():
    """The roots' expectation is the mean path length of each tree's own samples."""
    model = IsolationForest(n_estimators=8, max_samples=64, random_state=0).fit(SEEN)
    oracle = o.PathLength(model)
    for tree, samples, expected in zip(
        model.estimators_, model.estimators_samples_, oracle.expected, strict=True
    ):
        inside = SEEN[samples].astype(np.float32)
        leaves = tree.apply(inside)
        np.testing.assert_allclose(expected[0], expected[leaves].mean(), rtol=1e-12)


@pytest.mark.parametrize("n_bins", [10, "auto"])
def test_histograms(n_bins):
    hbos = pytest.importorskip("pyod.models.hbos")
    model = hbos.HBOS(n_bins=n_bins).fit(SEEN)
    oracle = o.Histograms(model)
    np.testing.assert_allclose(oracle.evidence(X), model.decision_function(X), rtol=1e-9)


@pytest.mark.parametrize("name", ["ecod", "copod"])
@pytest.mark.parametrize("load", [load_iris, load_breast_cancer])
def test_tails(name, load):
    module = pytest.importorskip(f"pyod.models.{name}")
    data = load().data
    model = getattr(module, name.upper())().fit(data[:100])
    oracle = {"ecod": o.EmpiricalTails, "copod": o.CopulaTails}[name](data[:100])
    x = data[90:120]
    np.testing.assert_allclose(oracle.evidence(x), model.decision_function(x), rtol=1e-9)
    np.testing.assert_allclose(oracle.terms(x), model.O[-len(x) :], rtol=1e-9)


def test_cluster_distance():
    cblof = pytest.importorskip("pyod.models.cblof")
    for weighted in (False, True):
        model = cblof.CBLOF(4, alpha=0.7, use_weights=weighted, random_state=0).fit(SEEN)
        sizes = model.cluster_sizes_ if weighted else None
        oracle = o.ClusterDistance(model.cluster_centers_, model.large_cluster_labels_, sizes)
        np.testing.assert_allclose(oracle.evidence(X), model.decision_function(X), rtol=1e-9)
        conserves(oracle)


def test_component_distances():
    pca = pytest.importorskip("pyod.models.pca")
    model = pca.PCA(n_selected_components=4).fit(SEEN)
    oracle = o.Behind(
        o.ComponentDistances(o.euclidean(model.selected_components_), model.selected_w_components_),
        o.element_wise(model.scaler_.transform),
    )
    np.testing.assert_allclose(oracle.evidence(X), model.decision_function(X), rtol=1e-9)
    conserves(oracle)


def test_projection_is_split_by_its_own_metric():
    scores = PCA(4, whiten=True).fit(SEEN)
    matrix = scores.components_ / np.sqrt(scores.explained_variance_)[:, None]
    offset = -matrix @ scores.mean_
    z = scores.transform(SEEN)
    parts = o.projected(z[:20], matrix, offset)(X)
    direct = o.squared(z[:20])(scores.transform(X)).sum(-1)
    np.testing.assert_allclose(parts.sum(-1), direct, rtol=1e-7, atol=1e-9)
    assert parts.shape == (len(X), 20, X.shape[1])


def test_steps_lead_back_to_the_input_columns():
    mask = np.arange(13) % 3 == 0
    inner = o.Residual(np.zeros(5), np.eye(5)[:2], "nonnegative")
    oracle = o.Behind(inner, o.selection(mask))
    shares = oracle.relevance(X, None)
    assert (shares.values[:, ~mask] == 0).all()
    conserves(oracle)
    matrix = np.random.default_rng(0).normal(size=(5, 13))
    conserves(o.Behind(inner, o.wsquared(matrix, np.ones(5))))
