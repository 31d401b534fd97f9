"""Relevance in another basis: dense oracles, other libraries, networks with a planted answer."""

from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy import fft
from sklearn.cluster import KMeans
from sklearn.datasets import load_digits
from sklearn.decomposition import PCA
from sklearn.mixture import GaussianMixture
from sklearn.neighbors import KernelDensity, NearestNeighbors
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import Tensor, nn

import xai
from neuralize import UnsupportedModelError, neuralize
from neuralize.composites import epsilon_gamma_box, epsilon_plus, epsilon_plus_flat
from neuralize.lrp import LRP
from neuralize.rules.named import Epsilon, Flat, Gamma, Pass
from neuralize.torchvision_guard import import_zennit
from xai.errors import InputError
from xai.virtual_layers import (
    DCT,
    DFT,
    Basis,
    LayerSample,
    LinearBasis,
    drsa,
    layer_sample,
    pca_basis,
    prca,
)

Array = NDArray[Any]


def pictures(*shape: int, seed: int = 0) -> Array:
    return np.random.default_rng(seed).normal(size=shape)


def convolutional(channels: int = 1, size: int = 8, bias: bool = False, seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(channels, 4, 3, padding=1, bias=bias), nn.ReLU(),
        nn.Conv2d(4, 3, 3, bias=bias), nn.ReLU(),
        nn.Flatten(), nn.Linear(3 * (size - 2) ** 2, 3, bias=bias),
    ).double()  # fmt: skip


def explicit_dct(n: int) -> Array:
    """Rows are the cosines, written out entry by entry."""
    c = np.empty((n, n))
    for k in range(n):
        for i in range(n):
            scale = np.sqrt(1 / n) if k == 0 else np.sqrt(2 / n)
            c[k, i] = scale * np.cos(np.pi * (2 * i + 1) * k / (2 * n))
    return c


def gradient_form(model: nn.Module, x: Array, target: Array) -> Array:
    """Context of a network of ReLUs without biases under LRP-0: its gradient."""
    leaf = torch.tensor(x, requires_grad=True)
    model(leaf)[torch.arange(len(x)), torch.as_tensor(target)].sum().backward()
    assert leaf.grad is not None
    return leaf.grad.numpy()


# -- the transforms ----------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(5, 6), (3, 8, 7), (4, 4)])
def test_transforms_are_scipys(shape: tuple[int, ...]) -> None:
    x = pictures(2, *shape)
    t = torch.tensor(x)
    h = fft.dctn(x, type=2, norm="ortho", axes=(-2, -1))
    assert DCT().forward(t).numpy() == pytest.approx(h, abs=1e-12)
    assert DFT().forward(t).numpy() == pytest.approx(fft.rfft2(x, norm="ortho"), abs=1e-12)
    for basis in (DCT(), DFT()):
        assert basis.inverse(basis.forward(t), t).numpy() == pytest.approx(x, abs=1e-12)


def test_channels_last_are_transformed_over_height_and_width() -> None:
    x = pictures(2, 5, 6, 3)
    h = fft.dctn(x, type=2, norm="ortho", axes=(1, 2))
    assert DCT((-3, -2)).forward(torch.tensor(x)).numpy() == pytest.approx(h, abs=1e-12)
    y = fft.rfft2(x, norm="ortho", axes=(1, 2))
    assert DFT((-3, -2)).forward(torch.tensor(x)).numpy() == pytest.approx(y, abs=1e-12)


@pytest.mark.parametrize("size", [(6, 6), (5, 7)])
def test_fourier_relevance_is_that_of_the_whole_spectrum_with_pairs_merged(
    size: tuple[int, int],
) -> None:
    x, c = pictures(1, *size)[0], pictures(1, *size, seed=1)[0]
    h, w = size
    # R_k = y_k sum_x Winv_xk c_x over the full spectrum, by an explicit matrix
    full = np.zeros(size)
    for ky in range(h):
        for kx in range(w):
            wave = np.exp(
                2j * np.pi * (ky * np.arange(h)[:, None] / h + kx * np.arange(w)[None] / w)
            ) / np.sqrt(h * w)
            y = (x * wave.conj()).sum()
            full[ky, kx] = (y * (wave * c).sum()).real
    assert full.sum() == pytest.approx((x * c).sum())
    half = full[:, : w // 2 + 1].copy()
    for kx in range(1, (w + 1) // 2):
        for ky in range(h):
            half[ky, kx] += full[-ky % h, w - kx]
    basis = DFT(width=w)
    found = basis.contributions(basis.forward(torch.tensor(x[None])), torch.tensor(c[None]))
    assert found[0].numpy() == pytest.approx(half, abs=1e-12)


def test_frequencies_are_in_cycles_per_pixel() -> None:
    assert DFT(width=7).frequency((5, 4))[1, 2] == pytest.approx(np.hypot(1 / 5, 2 / 7))
    assert DFT(width=6).frequency((5, 4))[-1, 3] == pytest.approx(np.hypot(1 / 5, 1 / 2))
    assert DCT().frequency((3, 4, 8))[2, 1, 6] == pytest.approx(np.hypot(1 / 8, 6 / 16))
    x = np.cos(2 * np.pi * 3 * (np.arange(16) + 0.5) / 16)[None, None] * np.ones((1, 16, 1))
    h = DCT().forward(torch.tensor(x))[0].abs()
    assert DCT().frequency((16, 16)).ravel()[int(h.argmax())] == pytest.approx(3 / 16)


# -- networks ----------------------------------------------------------------------------------


@pytest.mark.parametrize("transform", ["dct", "dft"])
@pytest.mark.parametrize("zeros", [False, True])
def test_frequencies_of_a_network_are_those_of_its_gradient_form(
    transform: str, zeros: bool
) -> None:
    model, x = convolutional(2), pictures(3, 2, 8, 8)
    if zeros:  # where a division by the input has nothing to divide by
        x[:, :, :, :4] = 0
        x[0] = 0
        x[0, 0, 3, 3] = 1
    # a stabilizer, however small, keeps out neurons that see only zeros, as the gradient does
    composite = epsilon_plus(1e-14).with_rules(layer_map=[(nn.Conv2d, Epsilon(1e-14))])
    found = xai.frequency(model, x, None, composite, transform)  # type: ignore[arg-type]
    c = gradient_form(model, x, found.target)  # type: ignore[arg-type]
    if transform == "dct":
        cos = explicit_dct(8)
        expected = (cos @ x @ cos.T) * (cos @ c @ cos.T)
    else:
        y, d = (np.fft.rfft2(t, norm="ortho") for t in (x, c))
        expected = (y.conj() * d).real * np.array([1, 2, 2, 2, 1])
    assert found.values == pytest.approx(expected, abs=1e-10)
    assert found.whole == pytest.approx(x * c, abs=1e-10)
    assert np.abs(found.conservation_error).max() < 1e-10


@pytest.mark.parametrize("composite", ["epsilon", "epsilon_plus", "epsilon_alpha2_beta1"])
def test_relevance_is_that_of_a_network_with_the_inverse_transform_as_first_layer(
    composite: str,
) -> None:
    model, x = convolutional(bias=True), pictures(2, 1, 8, 8)
    s = np.kron(explicit_dct(8), explicit_dct(8)).T
    synthesis = nn.Linear(64, 64, bias=False).double()
    synthesis.weight.data = torch.tensor(s)
    with_layer = nn.Sequential(nn.Flatten(), synthesis, nn.Unflatten(1, (1, 8, 8)), *model)
    h = fft.dctn(x, norm="ortho", axes=(-2, -1))
    found = xai.frequency(model, x, 1, composite)
    rules = LRP(with_layer, composite).composite.with_rules(name_map=[(["1"], Epsilon(0.0))])
    trace = LRP(with_layer, rules).trace(torch.tensor(h))
    seed = torch.zeros(2, 3).double()
    seed[:, 1] = trace.output[:, 1]
    values, absorbed = trace.relevance(seed)
    assert found.values == pytest.approx(values.numpy(), rel=1e-7, abs=1e-9)
    for name, share in absorbed.items():
        if share.abs().max() > 1e-12:
            assert found.absorbed[name] == pytest.approx(share.numpy(), abs=1e-9)
    assert np.abs(found.conservation_error).max() < 1e-10


def test_a_deep_detector_is_explained_by_frequency_like_by_pixel() -> None:
    from neuralize.deep import DeepSVDD, Training

    pictures = np.random.default_rng(0).random((40, 1, 16, 16), dtype=np.float32)
    quick = Training(epochs=1, batch_size=20, seed=0, progress=False)
    net = neuralize(DeepSVDD(preprocessing=None, training=quick, pretraining=quick).fit(pictures))
    by_pixel = xai.explain(net, pictures[:5], progress=False)
    found = xai.frequency(net, pictures[:5], progress=False)
    assert np.allclose(found.evidence, by_pixel.evidence, rtol=1e-5)
    assert np.allclose(found.whole, by_pixel.values, atol=1e-5 * np.abs(by_pixel.values).max())
    assert (np.abs(found.conservation_error) <= 1e-4 * np.abs(found.evidence)).all()


@pytest.mark.parametrize("p", [1.0, 2.0, 4.0])
def test_distances_to_a_bank_go_on_into_frequencies_without_a_division(p: float) -> None:
    """Pixels near zero, where the bank's are not, once made relevance explode."""
    from neuralize.deep import D2Neighbors

    bank, x = np.random.default_rng(0).random((12, 1, 6, 6)), 1e-9 * np.ones((2, 1, 6, 6))
    x[:, :, :3] = np.random.default_rng(1).random((2, 1, 3, 6))
    detector = D2Neighbors(p=p).fit(bank)
    found = xai.frequency(detector, x, progress=False)
    g = detector.stiffness_
    d = x.reshape(2, 1, 36) - bank.reshape(1, 12, 36).astype(np.float32)
    force = np.sign(d) * np.abs(d) ** (p - 1)
    h = (d * force).sum(2)
    weight = np.exp(-g * h)
    evidence = -np.log(weight.mean(1)) / g
    weight *= (evidence / weight.sum(1))[:, None] / h
    cos = explicit_dct(6)
    total = np.einsum("nm,nmd->nd", weight, force).reshape(2, 1, 6, 6)
    expected = (cos @ x @ cos.T) * (cos @ total @ cos.T)
    assert found.evidence == pytest.approx(evidence, rel=1e-4)
    assert found.values == pytest.approx(expected, abs=1e-4 * np.abs(expected).max())
    assert np.abs(found.conservation_error).max() < 1e-4 * evidence.min()


def test_an_offset_is_absorbed_where_frequencies_are_explained() -> None:
    """``w (x - m) / s``: the mean, which has no frequency, would go to pixels near zero."""

    class Normalized(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("mean", torch.tensor(0.4).double())
            self.linear = nn.Linear(36, 2, bias=False).double()

        def forward(self, x: Tensor) -> Tensor:
            return self.linear(((x - self.mean) / 0.2).flatten(1))  # type: ignore[no-any-return]

    torch.manual_seed(0)
    model, x = Normalized(), 1e-9 * np.ones((2, 6, 6))
    x[:, :3] = np.random.default_rng(1).random((2, 3, 6))
    found = xai.frequency(model, x, 1, "epsilon")
    w = model.linear.weight.detach().numpy()[1].reshape(6, 6) / 0.2
    cos = explicit_dct(6)
    assert found.values == pytest.approx((cos @ x @ cos.T) * (cos @ w @ cos.T), abs=1e-4)
    assert found.absorbed["mean"] == pytest.approx(-0.4 * w.sum() * np.ones(2), abs=1e-4)
    by_pixel = xai.explain(model, x, 1, "epsilon", progress=False)
    assert by_pixel.values == pytest.approx((x - 0.4) * w, abs=1e-4)  # no evidence is absorbed


def test_input_rules_of_a_zennit_composite_give_way_too() -> None:
    zennit = import_zennit()
    model, x = convolutional(), pictures(2, 1, 8, 8)
    theirs = zennit.composites.EpsilonGammaBox(low=-3.0, high=3.0)
    found = xai.frequency(model, x, 0, theirs)
    expected = xai.frequency(model, x, 0, epsilon_gamma_box(-3.0, 3.0))
    gamma = epsilon_plus().with_rules(layer_map=[(nn.Conv2d, Gamma(0.25))])
    assert expected.values == pytest.approx(xai.frequency(model, x, 0, gamma).values, abs=1e-12)
    assert found.values == pytest.approx(expected.values, abs=1e-9)


def test_input_rules_give_way_to_those_of_hidden_layers() -> None:
    model, x = convolutional(), pictures(2, 1, 8, 8)
    expected = xai.frequency(model, x, 0, epsilon_plus())
    by_first_map = xai.frequency(model, x, 0, epsilon_plus_flat())
    by_name = xai.frequency(model, x, 0, epsilon_plus().with_rules(name_map=[(["0"], Flat())]))
    for found in (by_first_map, by_name):
        assert found.values == pytest.approx(expected.values, abs=1e-12)


@pytest.mark.parametrize("transform", ["dct", "dft"])
@pytest.mark.parametrize("n", [1, 4, 7])
def test_bands_and_their_maps_add_up(transform: str, n: int) -> None:
    model, x = convolutional(3, bias=True), pictures(3, 3, 8, 8)
    x[1, :, :3] = 0
    found = xai.frequency(model, x, 2, None, transform, batch_size=2)  # type: ignore[arg-type]
    total = found.values.reshape(3, -1).sum(1)
    assert found.bands(n).sum(1) == pytest.approx(total, abs=1e-10)
    assert found.radial()[1].sum(1) == pytest.approx(total, abs=1e-10)
    maps = found.maps(n)
    assert maps.sum(0) == pytest.approx(found.whole, abs=1e-10)
    assert pytest.approx(found.bands(n), abs=1e-10) == maps.reshape(n, 3, -1).sum(2).T
    assert found.pixels((0.0, 1.0)) == pytest.approx(found.whole, abs=1e-10)
    # one coefficient: R_ik = S_ik h_k c_i
    if transform == "dct":
        mask = np.zeros((3, 8, 8), bool)
        mask[1, 2, 5] = True
        wave = np.outer(explicit_dct(8)[2], explicit_dct(8)[5])
        h = fft.dctn(x, norm="ortho", axes=(-2, -1))[:, 1, 2, 5]
        context = found.whole[2, 1] / x[2, 1]
        assert found.pixels(mask)[2, 1] == pytest.approx(wave * h[2] * context, abs=1e-10)


def test_a_network_that_reads_a_high_frequency_is_found_out() -> None:
    n = 16
    wave = np.outer(explicit_dct(n)[13], explicit_dct(n)[12])
    model = nn.Sequential(nn.Flatten(), nn.Linear(n * n, 2, bias=False)).double()
    model[1].weight.data = torch.tensor(np.stack([wave.ravel(), -wave.ravel()]))  # type: ignore[union-attr]
    # strong low frequencies, which the network does not see
    low = np.zeros((4, n, n))
    low[:, :4, :4] = 30 * pictures(4, 4, 4)
    x = fft.idctn(low, norm="ortho", axes=(1, 2)) + 2 * wave
    x[:, :, :1] = 0
    found = xai.frequency(model, x, 0)
    edges = np.linspace(0, found.basis.frequency((n, n)).max(), 5)  # type: ignore[attr-defined]
    home = np.searchsorted(edges, np.hypot(13, 12) / (2 * n)) - 1
    share = found.bands(4)[:, home] / found.values.reshape(4, -1).sum(1)
    assert share == pytest.approx(1, abs=1e-9)
    largest = np.abs(found.values.reshape(4, -1)).argmax(1)
    assert {divmod(int(k), n) for k in largest} == {(13, 12)}
    energy = fft.dctn(x, norm="ortho", axes=(1, 2)) ** 2
    assert {divmod(int(k), n) for k in energy.reshape(4, -1).argmax(1)} != {(13, 12)}


def test_relevance_that_zeros_carry_is_absorbed_by_name() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 2)).double()
    x = pictures(2, 4, 4)
    x[:, 0] = 0
    # Pass hands on relevance place by place, whatever the input is there
    composite = epsilon_plus().with_rules(name_map=[(["1"], Pass())])
    found = xai.frequency(model, x, 0, composite)
    plain = xai.explain(model, x, 0, composite)
    at_zeros = plain.values[:, 0].sum(1)
    assert np.abs(at_zeros).min() > 0
    assert found.absorbed["relevance at zero inputs"] == pytest.approx(at_zeros)
    assert np.abs(found.conservation_error).max() < 1e-10


# -- linear bases ------------------------------------------------------------------------------


def test_any_invertible_map_is_exact() -> None:
    model, x = convolutional(), pictures(3, 1, 8, 8)
    t = pictures(64, 64, seed=5)
    composite = epsilon_plus(0.0).with_rules(layer_map=[(nn.Conv2d, Epsilon(0.0))])
    found = xai.in_basis(model, x, LinearBasis(torch.tensor(t)), 0, composite)
    c = gradient_form(model, x, np.zeros(3, int)).reshape(3, -1)
    expected = (x.reshape(3, -1) @ t.T) * (c @ np.linalg.inv(t))
    assert found.values == pytest.approx(expected, rel=1e-7, abs=1e-7)
    assert found.maps(5).sum(0) == pytest.approx(found.whole, abs=1e-10)
    assert found.remainders == {}


@pytest.mark.parametrize("whiten", [False, True])
@pytest.mark.parametrize("q", [64, 10])
def test_principal_components_are_scikit_learns_and_name_what_they_leave(
    whiten: bool, q: int
) -> None:
    model, data = convolutional(), pictures(200, 64) * np.linspace(1, 3, 64) + 1
    fitted = PCA(q, whiten=whiten).fit(data)
    own = pca_basis(data.reshape(200, 1, 8, 8), q, whiten=whiten)
    theirs = pca_basis(fitted, whiten=whiten)
    x = data[:3].reshape(3, 1, 8, 8)
    h = theirs.forward(torch.tensor(x)).numpy()
    assert h == pytest.approx(fitted.transform(data[:3]), abs=1e-9)
    assert np.abs(own.forward(torch.tensor(x)).numpy()) == pytest.approx(np.abs(h), abs=1e-8)
    composite = epsilon_plus(0.0).with_rules(layer_map=[(nn.Conv2d, Epsilon(0.0))])
    found = xai.in_basis(model, x, theirs, 1, composite)
    c = gradient_form(model, x, np.ones(3, int)).reshape(3, -1)
    spread = np.sqrt(fitted.explained_variance_) if whiten else np.ones(q)
    expected = h * (c @ (fitted.components_.T * spread))
    assert found.values == pytest.approx(expected, abs=1e-8)
    assert found.absorbed["mean of the basis"] == pytest.approx(c @ fitted.mean_, abs=1e-8)
    assert ("outside the basis" in found.absorbed) == (q < 64)
    assert np.abs(found.conservation_error).max() < 1e-10
    rest = sum(found.pixels(name) for name in found.remainders)
    assert found.maps(4).sum(0) + rest == pytest.approx(found.whole, abs=1e-10)


def test_whitening_does_not_change_relevance() -> None:
    data = pictures(100, 64)
    x = data[:2].reshape(2, 1, 8, 8)
    a, b = (
        xai.in_basis(convolutional(), x, pca_basis(data, 20, whiten=w), 0) for w in (False, True)
    )
    assert a.values == pytest.approx(b.values, abs=1e-9)


# -- models without an encoder -----------------------------------------------------------------


@pytest.fixture(scope="module")
def digits() -> Array:
    return load_digits().data[:300] / 16


def test_frequencies_of_k_means_are_those_of_k_means_on_frequencies(digits: Array) -> None:
    model = KMeans(4, n_init=1, random_state=0).fit(digits)
    transform = np.kron(explicit_dct(8), explicit_dct(8))
    moved = neuralize(model.cluster_centers_ @ transform.T, stiffness=1.0)
    net = neuralize(model, stiffness=1.0)
    x = digits[:6].reshape(-1, 8, 8)
    found = xai.frequency(net, x)
    expected = xai.explain(moved, digits[:6] @ transform.T)
    assert found.target is not None
    assert found.target.tolist() == expected.target.tolist()
    assert found.values.reshape(6, -1) == pytest.approx(expected.values, abs=1e-9)


@pytest.mark.parametrize("transform", ["dct", "dft"])
@pytest.mark.parametrize(
    "model",
    [
        KMeans(4, n_init=1, random_state=0),
        KernelDensity(bandwidth=0.8),
        NearestNeighbors(n_neighbors=3),
        PCA(8),
        GaussianMixture(2, covariance_type="diag", random_state=0, reg_covar=1e-2),
        make_pipeline(StandardScaler(), KMeans(3, n_init=1, random_state=0)),
    ],
    ids=["k-means", "KDE", "neighbours", "PCA", "mixture", "scaled"],
)
def test_bands_of_fitted_models_add_up(transform: str, model: Any, digits: Array) -> None:
    keep = digits.std(0) > 0  # a scaler cannot divide by the others
    data = digits + (~keep) * pictures(300, 64) * 0.1
    model.fit(data)
    x = data[-3:].reshape(-1, 8, 8) + 0.1 * pictures(3, 8, 8)
    found = xai.frequency(model, x, transform=transform)  # type: ignore[arg-type]
    plain = xai.explain(model, x)
    scale = np.abs(plain.values).sum()
    assert found.evidence == pytest.approx(plain.evidence)
    assert found.whole == pytest.approx(plain.values, abs=1e-10 * scale)
    assert np.abs(found.conservation_error).max() < 1e-10 * scale
    maps = found.maps(5)
    assert maps.sum(0) == pytest.approx(found.whole, abs=1e-10 * scale)
    assert pytest.approx(found.bands(5), abs=1e-10 * scale) == maps.reshape(5, 3, -1).sum(2).T


def test_single_coefficients_of_nearest_neighbour(digits: Array) -> None:
    model = NearestNeighbors(n_neighbors=1).fit(digits[:50])
    x = digits[60:62]
    found = xai.frequency(neuralize(model), x.reshape(-1, 8, 8), transform="dft")
    for i in range(2):
        d = np.sqrt(((x[i] - digits[:50]) ** 2).sum(1))
        delta = (x[i] - digits[d.argmin()]).reshape(8, 8)
        power = np.abs(np.fft.rfft2(delta, norm="ortho")) ** 2 * np.array([1, 2, 2, 2, 1])
        assert found.values[i] == pytest.approx(power / d.min(), abs=1e-9)


def test_an_incomplete_basis_of_a_fitted_model_names_the_rest(digits: Array) -> None:
    model = KMeans(4, n_init=1, random_state=0).fit(digits)
    basis = pca_basis(digits, 10)
    found = xai.in_basis(model, digits[:4].reshape(-1, 8, 8), basis)
    assert found.values.shape == (4, 10)
    assert set(found.absorbed) == {"outside the basis"}
    assert np.abs(found.conservation_error).max() < 1e-10
    total = found.maps(3).sum(0) + found.pixels("outside the basis")
    assert total == pytest.approx(found.whole, abs=1e-10)


def test_a_model_on_an_encoder_is_explained_below_it() -> None:
    torch.manual_seed(0)
    encoder = nn.Sequential(nn.Conv2d(1, 4, 3, bias=False), nn.ReLU(), nn.Flatten()).double()
    x = pictures(20, 1, 6, 6)
    with torch.no_grad():
        features = encoder(torch.tensor(x)).numpy()
    net = neuralize(KMeans(3, n_init=1, random_state=0).fit(features), features=encoder)
    found = xai.frequency(net, x[:4], composite="epsilon")
    plain = xai.explain(net, x[:4], composite="epsilon")
    assert found.evidence == pytest.approx(plain.evidence)
    assert found.whole == pytest.approx(plain.values, rel=1e-6, abs=1e-9)
    assert np.abs(found.conservation_error).max() < 1e-10
    assert found.maps(4).sum(0) == pytest.approx(found.whole, abs=1e-10)


# -- inner layers and subspaces ----------------------------------------------------------------


def test_context_of_a_layer_is_the_gradient_form_also_where_it_is_zero() -> None:
    model, x = convolutional(), pictures(3, 1, 8, 8)
    composite = epsilon_plus(0.0).with_rules(layer_map=[(nn.Conv2d, Epsilon(0.0))])
    sample = layer_sample(model, x, "1", 2, composite)
    with torch.no_grad():
        a = model[:2](torch.tensor(x))  # type: ignore[index]
    c = gradient_form(model[2:], a.numpy(), np.full(3, 2))  # type: ignore[index]
    assert (a == 0).any()
    assert sample.activations == pytest.approx(a.movedim(1, -1).reshape(-1, 4).numpy(), abs=1e-12)
    assert sample.contexts == pytest.approx(np.moveaxis(c, 1, -1).reshape(-1, 4), abs=1e-10)


def test_maps_of_subspaces_at_a_layer_add_up_to_the_pixel_map() -> None:
    model, x = convolutional(2, bias=True), pictures(3, 2, 8, 8)
    sample = layer_sample(model, x, "1", 0, "epsilon_plus_flat", places=20)
    assert sample.activations.shape == (60, 4)
    basis = drsa(sample, 2, 2, steps=20, restarts=1)
    found = xai.in_basis(model, x, basis, 0, "epsilon_plus_flat", layer="1", batch_size=2)
    plain = xai.explain(model, x, 0, "epsilon_plus_flat")
    assert found.values.shape == (3, 4, 8, 8)
    assert found.whole == pytest.approx(plain.values, abs=1e-10)
    assert found.maps().sum(0) == pytest.approx(plain.values, abs=1e-9)
    assert np.abs(found.conservation_error).max() < 1e-10
    assert [name for name, _ in found.masks()] == ["subspace 1", "subspace 2"]


def test_relevance_past_a_layer_is_named() -> None:
    class Residual(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.inner = nn.Linear(5, 5).double()
            self.last = nn.Linear(5, 2).double()

        def forward(self, x: Tensor) -> Tensor:
            return self.last(x + self.inner(x).relu())

    x = pictures(4, 5)
    found = xai.in_basis(
        Residual(), x, LinearBasis(torch.eye(5).double()), 0, "epsilon", layer="inner"
    )
    assert np.abs(found.absorbed["past the layer"]).min() > 0
    assert np.abs(found.conservation_error).max() < 1e-10


def planted(seed: int = 0) -> tuple[Array, Array, Array]:
    """Data that vary most along one direction, and a linear network that reads another."""
    rng = np.random.default_rng(seed)
    q = np.linalg.qr(rng.normal(size=(6, 6)))[0]
    noise, varying, mattering = (rng.normal(size=(200, k)) for k in (6, 1, 1))
    x = 0.1 * noise + 10 * varying * q[0] + mattering * q[1]
    # with every row its mirror image, so that the two directions are uncorrelated exactly
    x = np.concatenate([x, x - 2 * (x @ q[0])[:, None] * q[0]])
    return x, q[0], q[1]


def test_prca_finds_what_is_relevant_and_pca_what_varies() -> None:
    x, varies, matters = planted()
    model = nn.Sequential(nn.Linear(6, 2, bias=False), nn.ReLU(), nn.Linear(2, 1, bias=False))
    model = model.double()
    model[0].weight.data = torch.tensor(np.stack([matters, -matters]))  # type: ignore[union-attr]
    model[2].weight.data.fill_(1)  # type: ignore[union-attr, operator]
    basis = prca(layer_sample(model, x, None, 0, "epsilon"), 1)
    assert abs(basis.matrix[0].numpy() @ matters) > 0.999
    assert abs(pca_basis(x, 1).matrix[0].numpy() @ varies) > 0.999
    share = {
        name: xai.in_basis(model, x, b, 0, "epsilon").values.sum()
        for name, b in {"prca": basis, "pca": pca_basis(x, 1)}.items()
    }
    total = model(torch.tensor(x)).sum().item()
    assert share["prca"] / total == pytest.approx(1, abs=1e-3)
    assert abs(share["pca"] / total) < 0.05


def test_prca_maximises_relevance() -> None:
    rng = np.random.default_rng(0)
    a, c = rng.normal(size=(2, 50, 5))
    sample = LayerSample(a, c, None, None)

    def caught(u: Array) -> float:
        return float(np.mean([(u.T @ a[n]) @ (u.T @ c[n]) for n in range(50)]))

    best = caught(prca(sample, 2).matrix.numpy().T)
    others = [caught(np.linalg.qr(rng.normal(size=(5, 2)))[0]) for _ in range(300)]
    assert best > max(others)
    whole = prca(sample).matrix.numpy()
    assert whole @ whole.T == pytest.approx(np.eye(5), abs=1e-12)
    assert caught(whole.T) == pytest.approx((a * c).sum(1).mean())


def test_drsa_separates_two_planted_subspaces() -> None:
    rng = np.random.default_rng(1)
    q = np.linalg.qr(rng.normal(size=(6, 6)))[0]
    first = np.arange(400) < 200
    a = 0.1 * rng.normal(size=(400, 6))
    # either the first pair of directions is active, or the second; all four are relevant
    a += np.where(
        first[:, None], rng.normal(size=(400, 2)) @ q[:2], rng.normal(size=(400, 2)) @ q[2:4]
    )
    c = a @ q[:4].T @ q[:4]
    sample = LayerSample(a, c, None, None)
    basis = drsa(sample, 2, 2, steps=200, restarts=2, seed=0)
    u = basis.matrix.numpy()
    assert u @ u.T == pytest.approx(np.eye(4), abs=1e-10)
    # overlap of each found subspace with each planted one, 1 for the same
    overlap = np.array(
        [
            [np.square(part @ plant.T).sum() / 2 for plant in (q[:2], q[2:4])]
            for part in (u[:2], u[2:])
        ]
    )
    assert np.sort(overlap.max(1)).min() > 0.98
    assert overlap.argmax(1).tolist() in ([0, 1], [1, 0])
    # PRCA finds all four directions but has no reason to keep the pairs apart
    again = drsa(sample, 2, 2, steps=200, restarts=2, seed=0)
    assert torch.equal(again.matrix, basis.matrix)


# -- the model, pictures and errors ------------------------------------------------------------


def test_the_model_is_as_before() -> None:
    model = convolutional(bias=True).train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    parameters = list(model.parameters())
    x = pictures(2, 1, 8, 8)
    xai.in_basis(model, x, LinearBasis(torch.eye(4).double(), dim=1), 0, layer="1").maps(2)
    with pytest.raises(InputError):
        xai.in_basis(model, x, LinearBasis(torch.eye(5).double(), dim=1), 0, layer="1")
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert all(p is q for p, q in zip(parameters, model.parameters(), strict=True))
    assert model.training
    assert all(not m._forward_hooks and not m._forward_pre_hooks for m in model.modules())
    assert all(p.grad is None and p.requires_grad for p in model.parameters())


@pytest.mark.parametrize("kind", ["dct", "dft", "basis", "rows"])
def test_figures_show_numbers_that_add_up(kind: str) -> None:
    if kind == "rows":
        x = pictures(3, 6)
        model = nn.Linear(6, 2).double()
        found = xai.in_basis(model, x, pca_basis(pictures(50, 6), 3), 0)
    else:
        model, x = convolutional(3, bias=True), pictures(3, 3, 8, 8)
        data = pictures(250, 192)
        found = (
            xai.in_basis(model, x, pca_basis(data, 20), 0)
            if kind == "basis"
            else xai.frequency(model, x, 0, None, kind)  # type: ignore[arg-type]
        )
    figure = found.plot(3, row=1)
    figure.draw_without_rendering()
    bars = [patch.get_width() for patch in figure.axes[0].patches]
    assert sum(bars) == pytest.approx(found.evidence[1])
    images = [ax.images[0].get_array() for ax in figure.axes[1:] if ax.images]
    if kind != "rows":
        whole, *maps = [np.asarray(image) for image in images[1:]]
        assert np.sum(maps, axis=0) == pytest.approx(whole, abs=1e-10)
    with pytest.raises(InputError, match="row"):
        found.plot(row=3)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda m, x: xai.frequency(m, x, transform="fft"), "'dct' or 'dft'"),
        (lambda m, x: xai.frequency(m, x.reshape(2, -1)), "pictures"),
        (lambda m, x: xai.frequency(m, x).bands(0), "at least one band"),
        (lambda m, x: xai.frequency(m, x).pixels("low"), "Expected one of"),
        (lambda m, x: xai.frequency(m, x).pixels(np.ones((3, 3), bool)), "mask"),
        (lambda m, x: xai.in_basis(m, x, DCT(), layer="nowhere"), "No module 'nowhere'"),
        (lambda m, x: xai.in_basis(m, x, LinearBasis(torch.eye(5))), "width of the basis"),
        (lambda m, x: xai.in_basis(m, x, DCT(), [[0], [1]]), "one target"),
        (lambda m, x: xai.in_basis(np.eye(64), x, DCT(), layer="0"), "no network"),
        (lambda m, x: LinearBasis(torch.ones(3, 2)), "q <= d"),
        (lambda m, x: LinearBasis(torch.ones(2, 3)), "rank 1"),
        (lambda m, x: prca(LayerSample(x, x[:1], None, None)), "one shape"),
        (lambda m, x: drsa(LayerSample(x[0, 0], x[0, 0], None, None), 9), "fit into"),
        (lambda m, x: drsa(LayerSample(x[0, 0], 0 * x[0, 0], None, None), 1), "none to"),
    ],
)  # fmt: skip
def test_what_cannot_be_done_is_refused(call: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        call(convolutional(), pictures(2, 1, 8, 8))


def test_a_layer_merged_with_its_batchnorm_is_refused_by_name() -> None:
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Flatten(), nn.Linear(72, 2))
    x = pictures(2, 1, 8, 8).astype(np.float32)
    with pytest.raises(InputError, match="BatchNorm after a convolution"):
        xai.in_basis(model, x, LinearBasis(torch.eye(2), dim=1), layer="0")


def test_a_model_without_an_exact_form_is_refused(digits: Array) -> None:
    model = NearestNeighbors(n_neighbors=2, p=1).fit(digits[:20])
    with pytest.raises(UnsupportedModelError, match="linear map"):
        xai.frequency(model, digits[30:31].reshape(1, 8, 8))


def test_a_basis_is_a_basis() -> None:
    assert all(issubclass(kind, Basis) for kind in (DCT, DFT, LinearBasis))
