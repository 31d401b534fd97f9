"""Ensembles: which rows a member gets, averages, pictures beside rows, files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import skops.io
import torch
from pyod.models.knn import KNN
from sklearn.cluster import KMeans
from sklearn.datasets import load_digits
from sklearn.ensemble import IsolationForest
from sklearn.neighbors import KernelDensity, NearestNeighbors
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import nn

import xai
from neuralize import InputError, UnfittedModelError, UnsupportedModelError, neuralize
from neuralize.deep import DeepSAD, DeepSVDD, RandomPolytope, Training
from neuralize.deep.ensemble import Ensemble
from neuralize.deep.ensemble_network import EnsembleNetwork
from neuralize.errors import CheckpointError

SHORT = Training(epochs=3, batch_size=32, progress=False)


def rows(n: int = 90, d: int = 4, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(n, d)) * np.arange(1, d + 1)


def mixed() -> dict[str, Any]:
    return {
        "kde": KernelDensity(bandwidth=2.0),
        "svdd": DeepSVDD(training=SHORT),
        "knn": KNN(n_neighbors=5),
    }


def pictures() -> np.ndarray:
    return load_digits().images[:120] / 16


def svdd_on_pictures() -> DeepSVDD:
    network = nn.Sequential(
        nn.Conv2d(1, 3, 3, bias=False), nn.LeakyReLU(), nn.Flatten(), nn.Linear(108, 4, bias=False)
    )
    return DeepSVDD(network=network, training=SHORT)


def assert_adds_up(found: Any, tolerance: float = 1e-5) -> None:
    total = found.values.flatten(1).sum(1) + sum(found.absorbed.values())
    size = found.values.abs().flatten(1).sum(1) + sum(s.abs() for s in found.absorbed.values())
    assert float(((found.evidence - total).abs() / size).max()) < tolerance


def test_the_score_is_the_average_of_what_members_print_themselves() -> None:
    x, new = rows(), rows(20, seed=1)
    bag = Ensemble(mixed()).fit(x)
    z = {}
    kde = KernelDensity(bandwidth=2.0).fit(x)
    svdd = DeepSVDD(training=SHORT).fit(x)
    knn = KNN(n_neighbors=5).fit(x)
    for name, score in {
        "kde": lambda r: -kde.score_samples(r),
        "svdd": svdd.decision_function,
        "knn": knn.decision_function,
    }.items():
        z[name] = (score(new) - score(x).mean()) / score(x).std()
        np.testing.assert_allclose(bag.member_scores(new)[name], z[name], rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(
        bag.decision_function(new), sum(z.values()) / 3, rtol=1e-3, atol=1e-4
    )
    assert bag.predict(x).mean() == pytest.approx(0.1, abs=0.02)


def test_members_are_copied_unless_they_are_fitted_already() -> None:
    members = mixed()
    bag = Ensemble(members).fit(rows())
    with pytest.raises(UnfittedModelError):
        neuralize(members["svdd"])
    fitted = dict(bag.members_)
    other = rows(60, seed=2) + 1
    again = Ensemble(fitted, prefit=True).fit(other)
    assert again.members_["kde"] is fitted["kde"]
    for scores in again.member_scores(other).values():
        assert scores.mean() == pytest.approx(0, abs=1e-4)
        assert scores.std() == pytest.approx(1, abs=1e-4)
    with pytest.raises(UnfittedModelError):
        Ensemble(mixed(), prefit=True).fit(rows())


def test_reference_rows_standardise_and_set_the_threshold() -> None:
    x, held_out = rows(), rows(70, seed=3)
    bag = Ensemble(mixed(), contamination=0.2).fit(x, reference=held_out)
    for scores in bag.member_scores(held_out).values():
        assert scores.mean() == pytest.approx(0, abs=1e-5)
    assert bag.predict(held_out).mean() == pytest.approx(0.2, abs=0.02)
    # the nearest neighbour of a training row is itself
    nearest = Ensemble({"knn": KNN(n_neighbors=1)}).fit(x, reference=held_out)
    assert (nearest.member_scores(x)["knn"] < nearest.member_scores(held_out)["knn"].min()).all()


def test_weights_choose_between_members() -> None:
    x = rows()
    alone = Ensemble({"kde": KernelDensity(bandwidth=2.0)}).fit(x)
    bag = Ensemble(mixed(), weights={"kde": 5, "svdd": 0, "knn": 0}).fit(x)
    np.testing.assert_allclose(bag.decision_function(x), alone.decision_function(x), rtol=1e-9)
    one = neuralize(alone).relevance(torch.from_numpy(x))
    some = neuralize(bag).relevance(torch.from_numpy(x))
    torch.testing.assert_close(some.values, one.values, rtol=1e-9, atol=1e-12)


def test_relevance_is_the_average_of_the_members_relevances() -> None:
    x = torch.from_numpy(rows()).float()
    bag = Ensemble(mixed()).fit(x)
    found = neuralize(bag).relevance(x)
    expected = sum(
        neuralize(member).relevance(x).values.double() / bag.scales_[name] / 3
        for name, member in bag.members_.items()
    )
    torch.testing.assert_close(found.values, expected, rtol=1e-4, atol=1e-6)
    assert_adds_up(found)
    assert {"kde: offset", "svdd: offset", "knn: offset", "svdd: center"} <= set(found.absorbed)
    margin = neuralize(bag).relevance(x, output="margin")
    torch.testing.assert_close(margin.evidence, found.evidence - bag.threshold_)
    assert_adds_up(margin)


def test_members_on_rows_and_on_pictures_mix() -> None:
    x = pictures()
    bag = Ensemble(
        {
            "kde": KernelDensity(bandwidth=0.8),
            "svdd": svdd_on_pictures(),
            "polytope": RandomPolytope(n_facets=100),
        }
    ).fit(x)
    found = xai.explain(bag, x[:7])
    assert found.values.shape == (7, 8, 8)
    np.testing.assert_allclose(found.evidence, bag.decision_function(x[:7]), rtol=1e-5)
    assert float(found.relative_conservation_error.max()) < 1e-5
    parts = [
        neuralize(bag.members_["kde"]).relevance(torch.from_numpy(x[:7]).flatten(1)).values,
        neuralize(bag.members_["svdd"]).relevance(torch.from_numpy(x[:7])).values.flatten(1),
        neuralize(bag.members_["polytope"]).relevance(torch.from_numpy(x[:7]).flatten(1)).values,
    ]
    expected = sum(
        part.double() / scale / 3 for part, scale in zip(parts, bag.scales_.values(), strict=True)
    )
    np.testing.assert_allclose(found.values.reshape(7, -1), expected, rtol=1e-3, atol=1e-5)
    other = xai.explain(bag, x[:7], composite="epsilon_plus")
    assert np.abs(other.values - found.values).max() > 1e-4
    with pytest.raises(InputError, match="shape \\(8, 8\\)"):
        bag.decision_function(x.reshape(len(x), -1))


def test_a_fitted_member_that_takes_other_rows_is_named() -> None:
    members = {"kde": KernelDensity().fit(rows(d=3)), "knn": NearestNeighbors().fit(rows())}
    with pytest.raises(InputError, match="'kde' \\(KernelDensity\\) takes \\(3,\\)"):
        Ensemble(members, prefit=True).fit(rows())


def test_an_encoder_below_a_member() -> None:
    torch.manual_seed(0)
    x = pictures().astype(np.float32)
    encoder = nn.Sequential(nn.Flatten(), nn.Linear(64, 6), nn.ReLU(), nn.Linear(6, 5))
    with torch.no_grad():
        phi = encoder(torch.from_numpy(x)).numpy()
    on_features = neuralize(KernelDensity().fit(phi), encoder)
    bag = Ensemble(
        {"features": on_features, "kde": KernelDensity().fit(x.reshape(len(x), -1))}, prefit=True
    ).fit(x)
    found = neuralize(bag).relevance(torch.from_numpy(x[:9]), composite="epsilon")
    assert found.values.shape == (9, 8, 8)
    assert any(name.startswith("features: encoder") for name in found.absorbed)
    assert_adds_up(found)


def test_labels_reach_the_detectors_that_take_some() -> None:
    x, y = rows(), np.array([0] * 80 + [-1] * 10)
    bag = Ensemble({"sad": DeepSAD(training=SHORT), "kde": KernelDensity()}).fit(x, y)
    sad = DeepSAD(training=SHORT).fit(x, y)
    np.testing.assert_array_equal(
        bag.members_["sad"].decision_function(x), sad.decision_function(x)
    )


def test_step_functions_and_ensembles_are_members_too() -> None:
    x = rows()
    inner = Ensemble({"kde": KernelDensity(), "knn": KNN()})
    bag = Ensemble(
        {"inner": inner, "forest": IsolationForest(n_estimators=10, random_state=0)}
    ).fit(x)
    net = neuralize(bag)
    assert (net.differentiable, net.row_independent) == (False, True)
    assert net.method.startswith("LRP, ")
    found = net.relevance(torch.from_numpy(x))
    assert {"inner: kde: offset", "inner: offset", "forest: expected path length"} <= set(
        found.absorbed
    )
    assert_adds_up(found, 1e-12)


def test_a_pipeline_may_end_in_an_ensemble() -> None:
    x = rows() * [1, 100, 0.01, 1] + 3
    pipeline = make_pipeline(StandardScaler(), Ensemble(mixed())).fit(x)
    net = neuralize(pipeline)
    inner = neuralize(pipeline[-1])
    scaled = torch.from_numpy(pipeline[:-1].transform(x))
    np.testing.assert_allclose(net(torch.from_numpy(x)), pipeline.decision_function(x), rtol=1e-5)
    found, expected = net.relevance(torch.from_numpy(x)), inner.relevance(scaled)
    torch.testing.assert_close(found.values, expected.values, rtol=1e-6, atol=1e-9)
    assert_adds_up(found)


def test_columns_of_a_table_are_remembered() -> None:
    frame = pd.DataFrame(rows(), columns=list("abcd"))
    bag = Ensemble(mixed()).fit(frame)
    turned = xai.explain(bag, frame[["d", "a", "c", "b"]])
    assert turned.feature_names == ("a", "b", "c", "d")
    np.testing.assert_allclose(turned.evidence, bag.decision_function(frame), rtol=1e-6)


# -- files ---------------------------------------------------------------------------------------


def test_saved_and_loaded_scores_and_explanations_are_the_same(tmp_path: Path) -> None:
    frame = pd.DataFrame(rows(), columns=list("abcd"))
    members = mixed() | {"piped": make_pipeline(StandardScaler(), KernelDensity())}
    bag = Ensemble(members, weights=dict(zip(members, [1, 2, 3, 4], strict=True))).fit(frame)
    again = Ensemble.load(bag.save(tmp_path / "bag"))
    np.testing.assert_array_equal(again.decision_function(frame), bag.decision_function(frame))
    np.testing.assert_array_equal(again.predict(frame), bag.predict(frame))
    assert list(again.feature_names_in_) == list("abcd")
    x = torch.from_numpy(rows())
    torch.testing.assert_close(
        neuralize(again).relevance(x).values, neuralize(bag).relevance(x).values, rtol=0, atol=0
    )
    assert [path.name for path in tmp_path.iterdir()] == ["bag"]
    with pytest.raises(CheckpointError, match="does not exist yet"):
        bag.save(tmp_path / "bag")
    again.fit(frame)  # a loaded ensemble is standardised anew, its members stay
    np.testing.assert_allclose(again.decision_function(frame), bag.decision_function(frame))


def test_an_architecture_of_ones_own_is_passed_when_loading(tmp_path: Path) -> None:
    x = pictures()
    bag = Ensemble({"svdd": svdd_on_pictures(), "kde": KernelDensity()}).fit(x)
    path = bag.save(tmp_path / "bag")
    with pytest.raises(InputError, match="network="):
        Ensemble.load(path)
    network = svdd_on_pictures().network
    assert isinstance(network, nn.Module)
    again = Ensemble.load(path, networks={"svdd": network})
    np.testing.assert_array_equal(again.decision_function(x), bag.decision_function(x))
    with pytest.raises(CheckpointError, match="no members"):
        Ensemble.load(path, networks={"ae": network})


def test_types_that_are_not_known_are_not_restored(tmp_path: Path) -> None:
    x = rows()
    bag = Ensemble(
        {"forest": IsolationForest(n_estimators=5, random_state=0), "kde": KernelDensity()}
    ).fit(x)
    path = bag.save(tmp_path / "bag")
    with pytest.raises(CheckpointError, match=r"sklearn.tree._tree.Tree.*trusted="):
        Ensemble.load(path)
    again = Ensemble.load(path, trusted=("sklearn.tree._tree.Tree",))
    np.testing.assert_array_equal(again.decision_function(x), bag.decision_function(x))


def exchanged(folder: Path) -> None:
    skops.io.dump(KernelDensity().fit(rows(seed=9)), folder / "member_0.skops")


def truncated(folder: Path) -> None:
    file = folder / "member_1.safetensors"
    file.write_bytes(file.read_bytes()[:-3])


def member_missing(folder: Path) -> None:
    (folder / "member_2.skops").unlink()


def manifest_missing(folder: Path) -> None:
    (folder / "ensemble.json").unlink()


def manifest_of_something_else(folder: Path) -> None:
    (folder / "ensemble.json").write_text('{"members": 3}')


def of_another_version(folder: Path) -> None:
    manifest = json.loads((folder / "ensemble.json").read_text())
    (folder / "ensemble.json").write_text(json.dumps(manifest | {"format": 99}))


@pytest.mark.parametrize(
    "damage",
    [exchanged, truncated, member_missing, manifest_missing, manifest_of_something_else,
     of_another_version],
)  # fmt: skip
def test_damaged_folders_are_refused(tmp_path: Path, damage: Any) -> None:
    path = Ensemble(mixed()).fit(rows()).save(tmp_path / "bag")
    damage(path)
    with pytest.raises(CheckpointError):
        Ensemble.load(path)


def test_nothing_is_left_where_a_member_cannot_be_written(tmp_path: Path) -> None:
    network = neuralize(KernelDensity().fit(rows()))
    bag = Ensemble({"kde": KernelDensity().fit(rows()), "net": network}, prefit=True).fit(rows())
    with pytest.raises(CheckpointError, match="'net'"):
        bag.save(tmp_path / "bag")
    with pytest.raises(CheckpointError, match="existing folder"):
        bag.save(tmp_path / "missing" / "bag")
    assert not list(tmp_path.iterdir())


# -- bad input -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"members": {}}, InputError, "at least one member"),
        ({"members": [KernelDensity()]}, InputError, "dict of detectors"),
        ({"members": {1: KernelDensity()}}, InputError, "names as keys"),
        ({"members": {"k": KMeans(2, n_init=1)}}, UnsupportedModelError, "is a cluster"),
        ({"members": {"k": StandardScaler()}}, UnsupportedModelError, "No converter"),
        ({"weights": {"kde": 1}}, InputError, "weight for each"),
        ({"weights": {"kde": 1, "svdd": -1, "knn": 1}}, InputError, "weights >= 0"),
        ({"weights": {"kde": 0, "svdd": 0, "knn": 0}}, InputError, "not all zero"),
        ({"contamination": 1.0}, InputError, "contamination"),
    ],
)  # fmt: skip
def test_bad_options_are_refused(options: dict[str, Any], error: Any, message: str) -> None:
    with pytest.raises(error, match=message):
        Ensemble(**{"members": mixed(), **options}).fit(rows())


def test_bad_rows_are_refused() -> None:
    bag = Ensemble({"kde": KernelDensity(), "knn": KNN()})
    with pytest.raises(UnfittedModelError):
        bag.decision_function(rows())
    bad = rows()
    bad[3, 1] = np.nan
    with pytest.raises(InputError, match="row 3"):
        bag.fit(bad)
    bag.fit(rows())
    for x, message in ((rows(d=3), "shape \\(4,\\)"), (rows()[:0], "at least one row")):
        with pytest.raises(InputError, match=message):
            bag.predict(x)
    net = neuralize(bag)
    assert isinstance(net, EnsembleNetwork)
    with pytest.raises(InputError, match="row 3"):
        net.relevance(torch.from_numpy(bad))
    with pytest.raises(InputError, match="no member is a network"):
        net.relevance(torch.from_numpy(rows()), composite="epsilon")
    with pytest.raises(InputError, match="takes no target"):
        net.relevance(torch.from_numpy(rows()), 1)


def test_a_member_without_any_opinion_is_named() -> None:
    with pytest.raises(InputError, match="'knn' gives all 4 reference rows"):
        Ensemble({"knn": NearestNeighbors(n_neighbors=1)}).fit(rows(4))
