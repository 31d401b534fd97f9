"""Autoencoders, flows and mixtures on features, against dense numpy networks.

The oracles send *force* back, relevance per unit, which is LRP-0 without a division: relevance is
force times activation, and what a constant adds is absorbed as force times constant.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np

from neuralize.deep import Autoencoder, DeepGMM, RealNVP, Training, VariationalAutoencoder
from tests.neuralize.cases.data import Cases, load
from tests.neuralize.cases.deep_base import SHORT, deep_subject, fitted, weights_of
from tests.neuralize.oracles.base import Oracle, Shares, logsumexp, softmax
from tests.subject import Array, Subject

FLOW = Training(epochs=4, batch_size=32, progress=False)


class Dense:
    """Dense layers with merged normalisations; ``slope`` of negative units, none in the last."""

    def __init__(self, layers: list[tuple[Array, Array]], slope: float = 0.01) -> None:
        self.layers, self.slope = layers, slope

    @classmethod
    def read(cls, w: dict[str, Array], prefix: str) -> Dense:
        """An ``MLP`` or ``MLPDecoder`` from a state dict."""
        layers, i = [], 0
        while f"{prefix}.dense.{i}.weight" in w:
            matrix = w[f"{prefix}.dense.{i}.weight"]
            offset = w.get(f"{prefix}.dense.{i}.bias", np.zeros(len(matrix)))
            norm = f"{prefix}.norms.{i}"
            if f"{norm}.running_mean" in w:
                scale = 1 / np.sqrt(w[f"{norm}.running_var"] + 1e-4)
                scale = scale * w.get(f"{norm}.weight", 1.0)
                offset = scale * (offset - w[f"{norm}.running_mean"]) + w.get(f"{norm}.bias", 0.0)
                matrix = scale[:, None] * matrix
            layers.append((matrix, offset))
            i += 1
        return cls(layers)

    def forward(self, a: Array) -> tuple[Array, list[Array]]:
        slopes = []
        for i, (matrix, offset) in enumerate(self.layers):
            z = a @ matrix.T + offset
            last = i == len(self.layers) - 1
            slopes.append(np.ones_like(z) if last else np.where(z > 0, 1.0, self.slope))
            a = z * slopes[-1]
        return a, slopes

    def backward(self, force: Array, slopes: list[Array]) -> tuple[Array, Array]:
        """Force on the input, and what the biases absorb."""
        bias = np.zeros(len(force))
        for (matrix, offset), slope in zip(reversed(self.layers), reversed(slopes), strict=True):
            force = force * slope
            bias += force @ offset
            force = force @ matrix
        return force, bias


class Reconstruction(Oracle):
    """``||x - r||^2``, or the negative ELBO with the code at its mean."""

    def __init__(self, net: Any, variational: bool = False, elbo: bool = False) -> None:
        w = weights_of(net)
        self.mean, self.std = w["preprocessing.0.mean"], w["preprocessing.0.std"]
        self.encoder, self.decoder = Dense.read(w, "encoder"), Dense.read(w, "decoder")
        self.variational, self.elbo = variational, elbo
        self.noise = 2 * w["noise"] if elbo else 1.0
        self.constant = w["normalization"] if elbo else 0.0

    def _halves(self, x: Array) -> Any:
        x = (x - self.mean) / self.std
        h, up = self.encoder.forward(x)
        q = h.shape[1] // 2
        mu, v = (h[:, :q], h[:, q:]) if self.variational else (h, h[:, :0])
        r, down = self.decoder.forward(mu)
        return x, mu, v, r, up, down

    def evidence(self, x: Array) -> Array:
        x, mu, v, r, *_ = self._halves(x)
        error = ((x - r) ** 2).sum(1)
        if not self.elbo:
            return error
        divergence = 0.5 * (mu**2 + np.exp(v) - 1 - v).sum(1)
        return error / self.noise + divergence + self.constant

    def relevance(self, x: Array, target: Array | None) -> Shares:
        x, mu, v, r, up, down = self._halves(x)
        e = (x - r) / self.noise
        force, below = self.decoder.backward(-e, down)
        if self.elbo:
            force = force + mu / 2
        if self.variational:
            own = (np.exp(v) - 1 - v) / (2 * v) if self.elbo else np.zeros_like(v)
            force = np.concatenate([force, own], 1)
        force, above = self.encoder.backward(force, up)
        absorbed = {"bias": below + above}
        if self.elbo:
            absorbed["normalization"] = np.full(len(x), self.constant)
        return Shares(x * (e + force), absorbed)


class Couplings(Oracle):
    """RealNVP, coupling by coupling; gates are held constant."""

    def __init__(self, net: Any, features: bool = False, explained: bool = False) -> None:
        w = weights_of(net)
        self.w, self.explained = w, explained
        self.encoder = Dense.read(w, "features.encoder") if features else None
        outer = "features.preprocessing.0" if features else "preprocessing"
        self.mean, self.std = w[f"{outer}.mean"], w[f"{outer}.std"]
        self.inner = (w["preprocessing.mean"], w["preprocessing.std"]) if features else None
        self.constant = w["preprocessing.std"].size / 2 * np.log(2 * np.pi)
        self.constant += np.log(w["preprocessing.std"]).sum()
        self.count = 0
        while f"flow.couplings.{self.count}.stay" in w:
            self.constant -= w[f"flow.norms.{self.count}.log_scale"].sum()
            self.count += 1

    def _network(self, i: int) -> Dense:
        prefix, layers, j = f"flow.couplings.{i}.network", [], 0
        while f"{prefix}.{j}.weight" in self.w:
            layers.append((self.w[f"{prefix}.{j}.weight"], self.w[f"{prefix}.{j}.bias"]))
            j += 2
        return Dense(layers, slope=0.0)

    def _pass(self, x: Array) -> Any:
        x = (x - self.mean) / self.std
        up: list[Array] = []
        phi = x
        if self.encoder is not None and self.inner is not None:
            phi, up = self.encoder.forward(x)
            z = (phi - self.inner[0]) / self.inner[1]
        else:
            z = x
        steps, log_det = [], np.zeros(len(x))
        for i in range(self.count):
            scale = np.exp(self.w[f"flow.norms.{i}.log_scale"])
            z = z * scale + self.w[f"flow.norms.{i}.shift"]
            a, b = (self.w[f"flow.couplings.{i}.{n}"].astype(int) for n in ("stay", "move"))
            network = self._network(i)
            found, slopes = network.forward(z[:, a])
            u, t = np.split(found, 2, 1)
            s = 2.0 * np.tanh(u)
            z = z.copy()
            z[:, b] = z[:, b] * np.exp(s) + t
            log_det += s.sum(1)
            steps.append((scale, a, b, network, slopes, u, s))
        return x, up, z, log_det, steps

    def evidence(self, x: Array) -> Array:
        _, _, z, log_det, _ = self._pass(x)
        return 0.5 * (z**2).sum(1) - log_det + self.constant

    def relevance(self, x: Array, target: Array | None) -> Shares:
        x, up, z, log_det, steps = self._pass(x)
        force, bias = z / 2, np.zeros(len(x))
        absorbed = {"normalization": np.full(len(x), self.constant)}
        if not self.explained:
            absorbed["log-determinant"] = -log_det
        for i, (scale, a, b, network, slopes, u, s) in reversed(list(enumerate(steps))):
            on_u = -s / u if self.explained else np.zeros_like(u)
            through, took = network.backward(np.concatenate([on_u, force[:, b]], 1), slopes)
            bias += took
            force = force.copy()
            force[:, b] *= np.exp(s)
            force[:, a] += through
            shift = self.w[f"flow.norms.{i}.shift"]
            if i or self.encoder is not None:
                absorbed[f"flow.norms.{i}.shift"] = force @ shift
                force = force * scale
                continue
            # the first shift belongs to the units of the input, as standardising does
            values = force * (x * scale + shift)
            return Shares(values, {**absorbed, "bias": bias})
        assert self.encoder is not None and self.inner is not None
        force = force / self.inner[1]
        absorbed["preprocessing.mean"] = -force @ self.inner[0]
        force, took = self.encoder.backward(force, up)
        return Shares(force * x, {**absorbed, "bias": bias + took})


class MixtureOfCodes(Oracle):
    """``-log sum_k pi_k N(phi; mu_k, S_k)``, with what sklearn fitted; codes as in the encoder."""

    def __init__(self, net: Any, model: DeepGMM) -> None:
        w = weights_of(net)
        self.mixture = model.mixture_
        self.mean = w["features.preprocessing.0.mean"]
        self.std = w["features.preprocessing.0.std"]
        self.encoder = Dense.read(w, "features.encoder")
        self.precisions = np.linalg.inv(self.mixture.covariances_)

    def _energies(self, phi: Array) -> tuple[Array, Array, Array]:
        d = phi[:, None] - self.mixture.means_
        quadratic = 0.5 * d * np.einsum("kij,nkj->nki", self.precisions, d)
        _, log_det = np.linalg.slogdet(2 * np.pi * self.mixture.covariances_)
        return quadratic, 0.5 * log_det - np.log(self.mixture.weights_), d

    def evidence(self, x: Array) -> Array:
        phi, _ = self.encoder.forward((x - self.mean) / self.std)
        quadratic, constants, _ = self._energies(phi)
        return -logsumexp(-quadratic.sum(-1) - constants)

    def relevance(self, x: Array, target: Array | None) -> Shares:
        x = (x - self.mean) / self.std
        phi, up = self.encoder.forward(x)
        quadratic, constants, _ = self._energies(phi)
        r = softmax(-quadratic.sum(-1) - constants)
        force, bias = self.encoder.backward(np.einsum("nk,nki->ni", r, quadratic) / phi, up)
        absorbed = {
            "priors and log-determinants": r @ constants,
            "assignment entropy": (r * np.log(np.maximum(r, 1e-300))).sum(1),
            "bias": bias,
        }
        return Shares(force * x, absorbed)


def autoencoder(name: str, **options: Any) -> Subject:
    data = load(name)
    model = fitted(Autoencoder(training=SHORT, **options), data)
    return deep_subject(model, data, Reconstruction)


def variational(name: str, **options: Any) -> Subject:
    data = load(name)
    model = fitted(VariationalAutoencoder(training=SHORT, **options), data)
    elbo = options.get("score") == "elbo"
    return deep_subject(model, data, lambda net: Reconstruction(net, variational=True, elbo=elbo))


def flow(name: str, *, features: bool = False, **options: Any) -> Subject:
    data = load(name)
    below = Autoencoder(rep_dim=5, training=SHORT) if features else None
    model = RealNVP(features=below, couplings=3, hidden=(8, 8), limit=2.0, training=FLOW, **options)
    explained = options.get("log_determinant") == "explained"
    fitted(model, data)
    return deep_subject(
        model, data, lambda net: Couplings(net, features=features, explained=explained)
    )


def mixture(name: str, **options: Any) -> Subject:
    data = load(name)
    model = DeepGMM(Autoencoder(rep_dim=4, training=SHORT), reg_covar=1e-2, **options)
    fitted(model, data)
    return deep_subject(model, data, lambda net: MixtureOfCodes(net, model))


LIKELIHOODS: Cases = {
    "autoencoder": partial(autoencoder, "wine"),
    "autoencoder-bias": partial(autoencoder, "digits", bias=True),
    "vae": partial(variational, "wine"),
    "vae-elbo": partial(variational, "breast_cancer", score="elbo", bias=True),
    "real-nvp": partial(flow, "wine"),
    "real-nvp-explained": partial(flow, "breast_cancer", log_determinant="explained"),
    "real-nvp-on-codes": partial(flow, "digits", features=True),
    "deep-gmm": partial(mixture, "wine", n_components=3),
}
