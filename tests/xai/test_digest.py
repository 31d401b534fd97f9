"""Digests: equal for equal things in every process, another for every other bit."""

import os
import subprocess
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.cluster import KMeans
from sklearn.ensemble import IsolationForest
from sklearn.mixture import GaussianMixture
from sklearn.svm import OneClassSVM
from torch import nn

from neuralize import neuralize
from xai.digest import code_digest, digest, file_digest

X = np.random.default_rng(0).normal(size=(60, 4))
MODELS = {
    "k-means": lambda: KMeans(3, n_init=1, random_state=0),
    "mixture": lambda: GaussianMixture(2, random_state=0),
    "forest": lambda: IsolationForest(n_estimators=5, random_state=0),
    "SVM": lambda: OneClassSVM(nu=0.2),
}


def network(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.ReLU(), nn.Flatten()).eval()


def values():
    """Digests of some models; another process must come to the same."""
    nets = {name: digest(neuralize(make().fit(X))) for name, make in MODELS.items()}
    return {**nets, "network": digest(network()), "function": digest(partial(_power, 3))}


def _power(exponent, x):
    return sum(x**k for k in range(exponent) if k not in {0, 7, 8})


def test_another_process_comes_to_the_same():
    code = "from tests.xai.test_digest import values; print(values())"
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONHASHSEED": "17"}
    root = Path(__file__).parents[2]
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=root, env=environment, capture_output=True, text=True
    )
    assert done.stdout.strip() == str(values()), done.stderr


def test_models_of_the_same_kind_with_other_numbers_are_others():
    for make in MODELS.values():
        assert digest(neuralize(make().fit(X))) != digest(neuralize(make().fit(X + X**2)))
    first, second = network(), network()
    assert digest(first) == digest(second) != digest(network(1))
    with torch.no_grad():
        second[1].running_mean[0] += 1e-6
    assert digest(first) != digest(second)
    third = network()
    third[1].eps = 1e-4
    assert digest(third) not in (digest(first), digest(second))
    assert digest(network().train()) != digest(first)


@pytest.mark.parametrize(
    ("a", "b"),
    [
        (1, 1.0),
        (1, True),
        ("1", 1),
        (b"a", "a"),
        ([1, 2], (1, 2)),
        ([[1], 2], [1, [2]]),
        (["ab", "c"], ["a", "bc"]),
        ({"a": 1}, {"b": 1}),
        (np.zeros((2, 3)), np.zeros((3, 2))),
        (np.zeros(3), np.zeros(3, dtype=np.float32)),
        (np.array(["a", 1], dtype=object), np.array(["a", 2], dtype=object)),
        (torch.zeros(3), torch.zeros(3, dtype=torch.bfloat16)),
        (None, ""),
        (lambda x: x + 1, lambda x: x + 2),
        (partial(_power, 2), partial(_power, 3)),
        (np.float32, np.float64),
    ],
)
def test_different_things_have_different_digests(a, b):
    assert digest(a) != digest(b)
    assert digest(a) == digest(a) and digest(b) == digest(b)


def test_order_of_sets_views_and_cycles_do_not_matter():
    assert digest({"a", "b", "c"}) == digest({"c", "b", "a"})
    x = np.arange(24.0).reshape(4, 6)
    assert digest(x.T) == digest(np.ascontiguousarray(x.T)) != digest(x)
    assert digest(x[:, ::2]) == digest(x[:, ::2].copy())
    loop = [1]
    loop.append(loop)
    assert digest(loop) == digest(loop)
    big = np.zeros((5000, 5000), dtype=np.float32)
    first = digest(big)
    big[-1, -1] = 1
    assert digest(big) != first


def test_files_and_folders(tmp_path):
    (tmp_path / "a").write_text("x")
    (tmp_path / "b").write_text("y")
    whole = file_digest(tmp_path)
    assert file_digest(tmp_path / "a") != file_digest(tmp_path / "b")
    (tmp_path / "b").rename(tmp_path / "c")
    assert file_digest(tmp_path) != whole
    assert len(code_digest()) == 64
