"""A ViRelAy project, read back as ViRelAy does: by h5py, JSON and YAML."""

from __future__ import annotations

import json

import numpy as np
import pytest
from sklearn.cluster import KMeans
from sklearn.metrics import adjusted_rand_score
from sklearn.neighbors import KernelDensity

import xai
from xai.errors import InputError
from xai.export import virelay_project

h5py = pytest.importorskip("h5py")
yaml = pytest.importorskip("yaml")


@pytest.fixture(scope="module")
def pictures():
    """Two classes told by the upper half; in one, a third of the rows has a bright corner."""
    rng = np.random.default_rng(0)
    x = 0.2 * rng.random((120, 12, 12))
    x[:60, :5] += 0.6
    x[60:, 7:] += 0.6
    x[:20, 9:, 9:] += 0.9
    return x


@pytest.fixture(scope="module")
def relevance(pictures):
    flat = pictures.reshape(len(pictures), -1)
    model = KMeans(2, n_init=2, random_state=0).fit(flat)
    return xai.explain(model, pictures)


def test_it_reads_back_as_it_was(relevance, pictures, tmp_path):
    labels = np.where(np.arange(120) < 60, 'up: "a"', "down")
    path = virelay_project(relevance, tmp_path / "new", labels=labels, name="a: b", seed=0)
    project = yaml.safe_load(path.read_text())["project"]
    assert project["name"] == "a: b" and project["dataset"]["type"] == "hdf5"
    assert (project["dataset"]["input_width"], project["dataset"]["input_height"]) == (12, 12)
    names = {e["index"]: e for e in json.loads((path.parent / project["label_map"]).read_text())}

    with h5py.File(path.parent / project["dataset"]["path"]) as file:
        data, label = file["data"][()], file["label"][()]
    assert data.shape == (120, 3, 12, 12) and data.dtype == np.uint8
    span = np.ptp(pictures)
    np.testing.assert_allclose(data[:, 0] / 255, (pictures - pictures.min()) / span, atol=0.003)
    assert [names[i]["name"] for i in label] == labels.tolist()

    (source,) = project["attributions"]["sources"]
    with h5py.File(path.parent / source) as file:
        np.testing.assert_allclose(file["attribution"][:, 0], relevance.values, rtol=1e-6)
        np.testing.assert_allclose(file["prediction"][:, 0], relevance.evidence, rtol=1e-6)
        assert file["index"][()].tolist() == list(range(120))
        said = [names[i]["name"] for i in file["label"][()]]
    assert said == [f"cluster {k}" for k in relevance.target]

    (source,) = project["analyses"][0]["sources"]
    seen = []
    with h5py.File(path.parent / source) as file:
        for category, group in file.items():
            rows = group["index"][()]
            seen += rows.tolist()
            readable = {e["word_net_id"]: e["name"] for e in names.values()}[category]
            assert readable == f"cluster {relevance.target[rows[0]]}"
            spectral = group["embedding"]["spectral"]
            values = spectral.attrs["eigenvalue"]
            assert spectral.shape == (len(rows), len(values)) and abs(values[-1]) < 1e-6
            assert (np.diff(values) <= 1e-6).all()  # the leading one last, as CoRelAy has it
            assert group["embedding"]["tsne"].shape == (len(rows), 2)
            found = group["cluster"]["eigengap"][()]
            if rows[0] < 60:
                assert adjusted_rand_score(rows < 20, found) > 0.3
    assert sorted(seen) == list(range(120))


def test_channels_come_first_and_detectors_have_two_decisions(tmp_path):
    rng = np.random.default_rng(0)
    x = rng.random((60, 8, 8, 3))
    detector = KernelDensity(bandwidth=2.0).fit(x.reshape(60, -1))
    path = virelay_project(xai.explain(detector, x), tmp_path, tsne=False)
    with h5py.File(tmp_path / "attribution.h5") as file:
        assert file["attribution"].shape == (60, 3, 8, 8)
    with h5py.File(tmp_path / "analysis.h5") as file:
        (group,) = file.values()
        assert list(group["embedding"]) == ["spectral"] and len(group["index"]) == 60
    assert path == tmp_path / "project.yaml"


def test_what_does_not_fit_is_refused_and_leaves_nothing(relevance, tmp_path):
    with pytest.raises(InputError, match="one label for each of 120"):
        virelay_project(relevance, tmp_path / "a", labels=[1, 2])
    with pytest.raises(InputError, match="at least 10 maps"):
        virelay_project(relevance[:5], tmp_path / "a")
    table = xai.explain(KMeans(2, n_init=1, random_state=0).fit(np.eye(9)), np.eye(9))
    with pytest.raises(InputError, match="that of a table"):
        virelay_project(table, tmp_path / "a")
    assert not (tmp_path / "a").exists()
    virelay_project(relevance, tmp_path / "a", tsne=False)
    with pytest.raises(InputError, match="Already there"):
        virelay_project(relevance, tmp_path / "a")
