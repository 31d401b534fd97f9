"""Models the artefacts are planted for, small enough to fit hundreds of times."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from sklearn.cluster import KMeans
from sklearn.mixture import GaussianMixture
from sklearn.neighbors import KernelDensity
from sklearn.svm import OneClassSVM
from torch import nn

from neuralize import Neuralized, neuralize
from neuralize.deep import FCDD, DeepSVDD, HypersphereClassifier, PatchCore, Training
from neuralize.deep.networks import Architecture
from xai.encoder import Encoder
from xai.encoder_heads import fit_head
from xai.pretrained import cifar_resnet20

Array = np.ndarray


@dataclass(frozen=True)
class Recipe:
    """How one model is fitted.

    Attributes
    ----------
    fit
        From pictures ``(n, c, h, w)``, outliers of other classes or None, labels, a front that
        sees the pictures first or None, and a seed, to a network.
    outlier
        Whether it is a detector, fitted on one class.
    coloured
        Whether it is fitted on colour pictures.
    """

    fit: Callable[[Array, Array, Array, nn.Module | None, int], Neuralized]
    outlier: bool
    coloured: bool


def _front(front: nn.Module | None) -> nn.Module:
    return nn.Sequential(front or nn.Identity(), nn.Flatten())


def _through(front: nn.Module | None, x: Array) -> Array:
    with torch.no_grad():
        return _front(front)(torch.from_numpy(x)).numpy()


def shallow(
    make: Callable[[Array, int], object], dtype: torch.dtype = torch.float32
) -> Callable[..., Neuralized]:
    def fit(x: Array, outliers: Array, y: Array, front: nn.Module | None, seed: int) -> Neuralized:
        flat = _through(front, x).astype(np.float64)
        model = make(flat, seed)
        model.fit(flat)
        if front is None:
            return neuralize(model, features=nn.Flatten(), dtype=dtype)
        return neuralize(model, features=_front(front), dtype=dtype)

    return fit


def bandwidth(x: Array) -> float:
    """A quarter of the spread, as for Fashion-MNIST elsewhere in these benchmarks."""
    return float(np.sqrt(x.var(0).sum()) / 4)


def training(epochs: int, seed: int, **options: object) -> Training:
    return Training(epochs=epochs, batch_size=64, seed=seed, progress=False, **options)


def _deep(x: Array) -> dict[str, object]:
    side = x.shape[-1]
    return {
        "network": Architecture(
            kind="lenet", input_shape=(x.shape[1], side, side), channels=(8, 16), rep_dim=32
        ),
        "preprocessing": None,
    }


class Behind(nn.Module):
    """A network behind a front, for deep detectors that are to ignore something."""

    def __init__(self, front: nn.Module, network: nn.Module) -> None:
        super().__init__()
        self.front, self.network = front, network

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.network(self.front(x))


def deep_svdd(
    x: Array, outliers: Array, y: Array, front: nn.Module | None, seed: int
) -> Neuralized:
    model = DeepSVDD(**_deep(x), pretraining=training(4, seed), training=training(6, seed, lr=1e-4))
    return _fronted(model.fit(_seen(front, x)), front)


def hsc(x: Array, outliers: Array, y: Array, front: nn.Module | None, seed: int) -> Neuralized:
    rows = np.concatenate([_seen(front, x), _seen(front, outliers)])
    labels = np.repeat([0, 1], [len(x), len(outliers)])
    model = HypersphereClassifier(**_deep(x), training=training(6, seed))
    return _fronted(model.fit(rows, labels), front)


def fcdd(x: Array, outliers: Array, y: Array, front: nn.Module | None, seed: int) -> Neuralized:
    rows = np.concatenate([_seen(front, x), _seen(front, outliers)])
    labels = np.repeat([0, 1], [len(x), len(outliers)])
    model = FCDD(preprocessing="contrast", training=training(6, seed, lr=1e-3))
    return _fronted(model.fit(rows, labels), front)


def _seen(front: nn.Module | None, x: Array) -> Array:
    if front is None:
        return x
    with torch.no_grad():
        return front(torch.from_numpy(x)).numpy()


def _fronted(model: object, front: nn.Module | None) -> Neuralized:
    if front is None:
        return neuralize(model)
    # The detector's own network, after what it does not get to see.
    module = model.module_
    net = neuralize(model)
    net.network = nn.Sequential(front, net.network) if hasattr(net, "network") else module
    return net


def patchcore(
    x: Array, outliers: Array, y: Array, front: nn.Module | None, seed: int
) -> Neuralized:
    backbone = cifar_resnet20()
    if front is not None:
        backbone = nn.Sequential(front, backbone)
    layer = "layer2" if front is None else "1.layer2"
    model = PatchCore(backbone, layers=[layer], coreset=500, mean=None, std=None, seed=seed)
    return neuralize(model.fit(x))


def encoder_kmeans(
    x: Array, outliers: Array, y: Array, front: nn.Module | None, seed: int
) -> Neuralized:
    return fit_head(_encoder(front), x, "kmeans:5", seed=seed)


def similarity(
    x: Array, outliers: Array, y: Array, front: nn.Module | None, seed: int
) -> Neuralized:
    return fit_head(_encoder(front), x, "similarity", labels=y, seed=seed)


def _encoder(front: nn.Module | None) -> Encoder:
    network: nn.Module = cifar_resnet20()
    if front is not None:
        network = nn.Sequential(front, network)
    return Encoder(network, "ResNet-20")


MODELS: dict[str, Recipe] = {
    "k-means": Recipe(shallow(lambda x, s: KMeans(5, n_init=3, random_state=s)), False, False),
    "GMM": Recipe(
        shallow(
            lambda x, s: GaussianMixture(4, covariance_type="diag", reg_covar=1e-2, random_state=s)
        ),
        False,
        False,
    ),
    "KDE": Recipe(shallow(lambda x, s: KernelDensity(bandwidth=bandwidth(x))), True, False),
    "OC-SVM": Recipe(shallow(lambda x, s: OneClassSVM(nu=0.1, gamma="scale")), True, False),
    "Deep SVDD": Recipe(deep_svdd, True, False),
    "HSC": Recipe(hsc, True, False),
    "FCDD": Recipe(fcdd, True, False),
    "k-means on features": Recipe(encoder_kmeans, False, True),
    "PatchCore": Recipe(patchcore, True, True),
    "encoder similarity": Recipe(similarity, False, True),
}

warnings.filterwarnings("ignore", category=UserWarning)
