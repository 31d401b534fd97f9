"""Ensembles are what they say, and come back from disk as they were."""

import json

import numpy as np
import pytest
import torch

from graphs import CellGraphNet, GraphConfig, graph_input
from graphs.checkpoint import load_network, save_network
from graphs.datasets import planted_motif
from graphs.ensemble import GraphEnsemble, train_ensemble
from graphs.training import GraphTraining, predict
from neuralize.errors import CheckpointError, InputError

PLAN = GraphTraining(epochs=2, seed=7, progress=False)


@pytest.fixture(scope="module")
def cohort():
    return planted_motif(4, patients=6, images=2, cells=(40, 60))


@pytest.fixture(scope="module")
def trained(cohort):
    config = GraphConfig(6, 4, 1, covariates=("stage",))
    return train_ensemble(
        config, cohort.graph, cohort.outcome, cohort.patients, PLAN, members=3, how="median"
    )


def test_mean_and_median(cohort):
    nets = [CellGraphNet(in_features=6, hidden=4, blocks=1).eval() for _ in range(4)]
    data = graph_input(cohort.graph)
    alone = np.stack([net(data).detach().numpy() for net in nets])
    for k in (3, 4):
        for how in ("mean", "median"):
            found = GraphEnsemble(nets[:k], how)(data).detach().numpy()
            np.testing.assert_allclose(found, getattr(np, how)(alone[:k], 0), atol=1e-6)


def test_members_differ_by_seed_and_are_reproducible(cohort, trained):
    torch.manual_seed(0)
    state = torch.random.get_rng_state()
    config = GraphConfig(6, 4, 1, covariates=("stage",))
    single = train_ensemble(
        config, cohort.graph, cohort.outcome, cohort.patients,
        GraphTraining(epochs=2, seed=8, progress=False), members=1,
    )  # fmt: skip
    assert torch.equal(state, torch.random.get_rng_state())
    first, second = (dict(trained.members[k].named_parameters()) for k in (0, 1))
    again = dict(single.members[0].named_parameters())
    for name, values in second.items():
        assert torch.equal(values, again[name])
    assert not torch.equal(first["encoder.weight"], second["encoder.weight"])


def test_explained_and_predicted_alike(cohort, trained):
    from graphs import explain

    found = explain(trained, cohort.graph, cohort.patients, dtype=torch.float64, progress=False)
    hazards = predict(trained, cohort.graph, cohort.patients, progress=False)
    np.testing.assert_allclose(found.log_hazard, hazards, atol=1e-4)
    assert found.relative_conservation_error.max() < 1e-10


def test_files(cohort, trained, tmp_path):
    path = save_network(
        trained, tmp_path / "net.safetensors", cohort.graph.input_names, training=PLAN, unit="days"
    )
    assert sorted(p.name for p in tmp_path.iterdir()) == ["net.json", "net.safetensors"]
    model, manifest = load_network(path.with_suffix(".json"))
    assert isinstance(model, GraphEnsemble) and model.how == "median" and not model.training
    assert manifest.input_names == cohort.graph.input_names and manifest.unit == "days"
    assert manifest.training["seed"] == 7
    for one, other in ((model, trained), (model.members[1], trained.members[1])):
        for name, values in other.state_dict().items():
            assert torch.equal(one.state_dict()[name], values)
    before, after = (predict(m, cohort.graph, cohort.patients) for m in (trained, model))
    assert np.array_equal(before, after)
    assert model.members[0].covariate_scale != 1  # the buffers travel


def test_files_of_one_network(cohort, tmp_path):
    net = CellGraphNet(in_features=6, hidden=4, blocks=2, conv="sage", pool_ratio=0.5).double()
    save_network(net, tmp_path / "one.safetensors", cohort.graph.input_names)
    model, manifest = load_network(tmp_path / "one.safetensors")
    assert isinstance(model, CellGraphNet) and model.config == net.config
    assert manifest.how is None and model.encoder.weight.dtype == torch.float64
    assert torch.equal(model.encoder.weight, net.encoder.weight)


def test_bad_files(cohort, trained, tmp_path):
    names = cohort.graph.input_names
    with pytest.raises(CheckpointError, match=r"ending in .safetensors"):
        save_network(trained, tmp_path / "net.pt", names)
    with pytest.raises(CheckpointError, match="existing folder"):
        save_network(trained, tmp_path / "nowhere" / "net.safetensors", names)
    with pytest.raises(InputError, match="6 input_names"):
        save_network(trained, tmp_path / "net.safetensors", names[:2])
    path = save_network(trained, tmp_path / "net.safetensors", names)
    beside, content = path.with_suffix(".json"), path.read_bytes()
    text = beside.read_text()
    path.write_bytes(content[:-1] + b"\x00\x01")
    with pytest.raises(CheckpointError, match="is damaged"):
        load_network(path)
    path.write_bytes(content)
    for key, value, message in (
        ("format", 9, "expected format 1, got 9"),
        ("configs", [], "does not fit"),
        ("kind", "detector", "not a graph network's manifest"),
    ):
        beside.write_text(json.dumps(json.loads(text) | {key: value}))
        with pytest.raises(CheckpointError, match=message):
            load_network(path)
    beside.unlink()
    with pytest.raises(CheckpointError, match=r"Expected net.json beside"):
        load_network(path)


def test_bad_ensembles():
    with pytest.raises(InputError, match="at least one member"):
        GraphEnsemble([])
    nets = [CellGraphNet(in_features=k, hidden=4, blocks=1) for k in (2, 3)]
    with pytest.raises(InputError, match="in member 1"):
        GraphEnsemble(nets)
    with pytest.raises(InputError, match="'mean' or 'median'"):
        GraphEnsemble(nets[:1], "mode")
