"""Models from files: what is read equals what was saved, and nothing in a file runs unasked."""

from __future__ import annotations

import json
import os
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import pandas as pd
import pytest
import skops.io
import torch
from sklearn.cluster import BisectingKMeans, KMeans, MiniBatchKMeans
from sklearn.covariance import EllipticEnvelope
from sklearn.decomposition import PCA
from sklearn.ensemble import IsolationForest
from sklearn.linear_model import LinearRegression
from sklearn.mixture import GaussianMixture
from sklearn.neighbors import BallTree, KDTree, KernelDensity, LocalOutlierFactor, NearestNeighbors
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, StandardScaler
from sklearn.svm import OneClassSVM

from neuralize import SVDD, KernelKMeans, neuralize
from xai.errors import FileFormatError, InputError, UntrustedFileError
from xai.model_files import _SAFE, PICKLES, read_model
from xai.tree_checks import check_trees

X = np.random.default_rng(0).normal(size=(60, 4))

MODELS = [
    KMeans(3, n_init=1, random_state=0),
    MiniBatchKMeans(3, n_init=1, random_state=0),
    BisectingKMeans(3, random_state=0),
    GaussianMixture(2, random_state=0),
    KernelKMeans(2),
    SVDD(),
    OneClassSVM(gamma=0.1),
    KernelDensity(),
    KernelDensity(metric="manhattan", kernel="exponential"),
    NearestNeighbors(n_neighbors=3),
    NearestNeighbors(n_neighbors=3, algorithm="ball_tree"),
    LocalOutlierFactor(novelty=True),
    IsolationForest(n_estimators=5, random_state=0),
    EllipticEnvelope(random_state=0),
    PCA(2),
    make_pipeline(StandardScaler(), KMeans(3, n_init=1, random_state=0)),
]


class Payload:
    """Creates a folder when it is unpickled."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.marker),)


def same_decision(a: Any, b: Any) -> bool:
    return torch.equal(neuralize(a)(torch.tensor(X)), neuralize(b)(torch.tensor(X)))


@pytest.mark.parametrize("model", MODELS, ids=lambda model: type(model).__name__)
def test_skops_without_trust(tmp_path: Path, model: Any) -> None:
    skops.io.dump(model.fit(X), tmp_path / "model.skops")
    assert same_decision(read_model(tmp_path / "model.skops").model, model)


def test_pyod_by_skops_without_trust(tmp_path: Path) -> None:
    # One detector stands for all; the list is held complete by the next test.
    knn = pytest.importorskip("pyod.models.knn").KNN().fit(X)
    skops.io.dump(knn, tmp_path / "model.skops")
    assert same_decision(read_model(tmp_path / "model.skops").model, knn)


def test_every_converted_type_is_known_to_be_safe() -> None:
    pytest.importorskip("pyod")
    import neuralize.pyod_models  # noqa: F401
    from neuralize.convert import _convert

    packages = ("neuralize", "pyod", "xai")
    converted = {f"{t.__module__}.{t.__qualname__}" for t in _convert.registry}
    ours = {name for name in converted if name.partition(".")[0] in packages}
    networks = {"pyod.models.auto_encoder.AutoEncoder", "pyod.models.deep_svdd.DeepSVDD"}
    deep = {name for name in ours if name.startswith("neuralize.deep.")}  # these are .safetensors
    repaired = {"xai.repaired.Repaired"}  # a manifest and .safetensors
    assert ours - _SAFE - networks - deep - repaired == set()


@pytest.mark.parametrize("suffix", PICKLES)
def test_pickles_only_with_trust(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"model{suffix}"
    model = MODELS[0].fit(X)
    joblib.dump(model, path, compress=suffix == ".joblib")
    with pytest.raises(UntrustedFileError, match="--trust"):
        read_model(path)
    assert same_decision(read_model(path, trust=True).model, model)


@pytest.mark.parametrize("protocol", [0, 1, 2, 3, 4, 5])
@pytest.mark.parametrize("suffix", [*PICKLES, ".skops", ".npy", ".npz", ".csv", ".pt", ""])
def test_a_malicious_pickle_never_runs(tmp_path: Path, suffix: str, protocol: int) -> None:
    marker = tmp_path / "ran"
    path = tmp_path / f"model{suffix}"
    path.write_bytes(pickle.dumps(Payload(marker), protocol=protocol))
    with pytest.raises(UntrustedFileError, match="pickle"):
        read_model(path)
    assert not marker.exists()
    read_model(path, trust=True)
    assert marker.exists()  # the payload is one


@pytest.mark.parametrize("trust", [False, True])
def test_object_arrays_never_run(tmp_path: Path, trust: bool) -> None:
    marker = tmp_path / "ran"
    np.savez(tmp_path / "model.npz", centroids=np.array([[Payload(marker)]], dtype=object))
    with pytest.raises(FileFormatError, match="Python objects"):
        read_model(tmp_path / "model.npz", trust=trust)
    assert not marker.exists()


def test_an_unknown_type_in_skops_is_named(tmp_path: Path) -> None:
    path = tmp_path / "model.skops"
    skops.io.dump(make_pipeline(FunctionTransformer(os.mkdir), KMeans(2, n_init=1)), path)
    with pytest.raises(UntrustedFileError, match=r"mkdir.*--trust"):
        read_model(path)
    assert read_model(path, trust=True).model.steps[0][1].func is os.mkdir


def test_an_estimator_of_the_user_s_own_is_named(tmp_path: Path) -> None:
    path = tmp_path / "model.skops"
    skops.io.dump(Own(), path)
    with pytest.raises(UntrustedFileError, match=r"Own"):
        read_model(path)


class Own(KMeans):  # type: ignore[misc]
    """A type the list of safe ones cannot know."""


def test_a_type_that_is_not_installed(tmp_path: Path) -> None:
    """The schema names a class of a module that does not exist."""
    good, path = tmp_path / "good.skops", tmp_path / "model.skops"
    skops.io.dump(Own(), good)
    with zipfile.ZipFile(good) as source, zipfile.ZipFile(path, "w") as target:
        for name in source.namelist():
            content = source.read(name)
            if name == "schema.json":
                schema = json.loads(content)
                schema["__module__"] = "a_module_nobody_has"
                content = json.dumps(schema).encode()
            target.writestr(name, content)
    with pytest.raises(FileFormatError, match="a_module_nobody_has"):
        read_model(path, trust=True)


def crafted_tree(change: Callable[[Any], None]) -> IsolationForest:
    forest = IsolationForest(n_estimators=3, random_state=0).fit(X)
    change(forest.estimators_[1].tree_)
    return forest


def leave_left(tree: Any) -> None:
    tree.children_left[0] = 10**6


def leave_right(tree: Any) -> None:
    tree.children_right[0] = -7


def leave_features(tree: Any) -> None:
    tree.feature[0] = 4


def go_in_a_circle(tree: Any) -> None:
    tree.children_left[0] = 0


@pytest.mark.parametrize("change", [leave_left, leave_right, leave_features, go_in_a_circle])
def test_a_crafted_decision_tree_is_refused(tmp_path: Path, change: Callable[[Any], None]) -> None:
    skops.io.dump(crafted_tree(change), tmp_path / "model.skops")
    with pytest.raises(FileFormatError, match=r"Tree .*outside"):
        read_model(tmp_path / "model.skops")


def crafted(tree: KDTree | BallTree, place: int, change: Callable[[Any], Any]) -> Any:
    """The tree with one entry of its state changed."""
    state = list(tree.__getstate__())
    state[place] = change(np.array(state[place]) if isinstance(state[place], np.ndarray) else 0)
    tree.__setstate__(tuple(state))
    return tree


def row_outside(rows: Any) -> Any:
    rows[3] = 60
    return rows


def end_outside(nodes: Any) -> Any:
    nodes["idx_end"][-1] = 61
    return nodes


def last_leaf_goes_on(nodes: Any) -> Any:
    nodes["is_leaf"][-1] = 0
    return nodes


@pytest.mark.parametrize("kind", [KDTree, BallTree])
@pytest.mark.parametrize(
    ("place", "change"),
    [
        (1, row_outside),
        (2, end_outside),
        (2, last_leaf_goes_on),
        (3, lambda bounds: bounds[:, :-1].copy()),
        (5, lambda _: 20),
        (6, lambda _: 10**6),
        (12, lambda _: np.ones(3)),
    ],
    ids=["row", "end", "leaf", "bounds", "levels", "nodes", "weights"],
)
def test_a_crafted_neighbor_tree_is_refused(
    kind: type[Any], place: int, change: Callable[[Any], Any]
) -> None:
    tree = kind(X, leaf_size=5)
    check_trees({"model": [tree]})
    with pytest.raises(FileFormatError, match=f"{kind.__name__} .*outside"):
        check_trees({"model": [crafted(tree, place, change)]})


def test_a_crafted_metric_is_refused() -> None:
    tree = KDTree(X, metric="minkowski", p=3)
    check_trees(tree)
    metric = tree.__getstate__()[11]
    p, _, matrix = metric.__getstate__()
    metric.__setstate__((p, np.ones(2), matrix))
    with pytest.raises(FileFormatError, match=r"MinkowskiDistance64 .*outside"):
        check_trees(tree)


@pytest.mark.parametrize("suffix", [".npy", ".npz", ".csv"])
def test_centroids(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"model{suffix}"
    if suffix == ".npy":
        np.save(path, X[:3])
    elif suffix == ".npz":
        np.savez(path, centroids=X[:3], inertia=1.0)
    else:
        np.savetxt(path, X[:3], delimiter=",", fmt="%.17g")
    loaded = read_model(path)
    assert np.array_equal(loaded.model, X[:3])
    assert loaded.feature_names is None


def test_named_centroids_know_their_columns(tmp_path: Path) -> None:
    pd.DataFrame(X[:3], columns=list("abcd")).to_csv(tmp_path / "model.csv", index=False)
    assert read_model(tmp_path / "model.csv").feature_names == tuple("abcd")


def test_a_fitted_model_knows_its_columns(tmp_path: Path) -> None:
    frame = pd.DataFrame(X, columns=list("abcd"))
    pipeline = make_pipeline(StandardScaler(), KMeans(3, n_init=1)).fit(frame)
    skops.io.dump(pipeline, tmp_path / "model.skops")
    assert read_model(tmp_path / "model.skops").feature_names == tuple("abcd")


def test_an_archive_with_several_arrays_needs_the_name(tmp_path: Path) -> None:
    np.savez(tmp_path / "model.npz", a=X[:3], b=X[:2])
    with pytest.raises(InputError, match=r"'centroids'.*'a', 'b'"):
        read_model(tmp_path / "model.npz")


@pytest.mark.parametrize(
    "content", [b"PK\x03\x04 not a zip", b"\x00\x01\x02" * 30, b'{"a": 1}'], ids=str
)
@pytest.mark.parametrize("suffix", [".skops", ".npy", ".npz"])
def test_rubbish(tmp_path: Path, suffix: str, content: bytes) -> None:
    path = tmp_path / f"model{suffix}"
    path.write_bytes(content)
    with pytest.raises(FileFormatError, match="Cannot read"):
        read_model(path)


def test_a_zip_that_is_no_skops(tmp_path: Path) -> None:
    np.savez(tmp_path / "arrays.npz", a=X)
    (tmp_path / "arrays.npz").rename(tmp_path / "model.skops")
    with pytest.raises(FileFormatError, match=r"Cannot read .*model\.skops"):
        read_model(tmp_path / "model.skops")


def test_missing_empty_folder_unknown_and_truncated(tmp_path: Path) -> None:
    with pytest.raises(FileFormatError, match="No such file"):
        read_model(tmp_path / "nothing.skops")
    with pytest.raises(FileFormatError, match="directory"):
        read_model(tmp_path)
    (tmp_path / "empty.skops").touch()
    with pytest.raises(FileFormatError, match="empty"):
        read_model(tmp_path / "empty.skops")
    (tmp_path / "model.h5").write_bytes(b"HDF")
    with pytest.raises(FileFormatError, match=r"\.skops.*model\.h5"):
        read_model(tmp_path / "model.h5")
    whole = pickle.dumps(MODELS[0])
    (tmp_path / "cut.pkl").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(FileFormatError, match="Cannot unpickle"):
        read_model(tmp_path / "cut.pkl", trust=True)


def test_a_model_without_converter_is_still_a_file(tmp_path: Path) -> None:
    """What it is good for is for neuralize to say."""
    skops.io.dump(LinearRegression(), tmp_path / "model.skops")
    assert isinstance(read_model(tmp_path / "model.skops").model, LinearRegression)
