"""BiLRP against loops over components, against Jacobians, and its accounts."""

import gc
import weakref
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

import xai
from neuralize import NoRuleError
from neuralize.composites import AVERAGES, Composite, epsilon
from neuralize.engine.operations.elementwise import SumKind
from neuralize.errors import AmplificationWarning
from neuralize.lrp import LRP, Trace
from neuralize.rules.named import Norm
from xai.errors import FileFormatError, InputError
from xai.pair_explainer import Choice

Array = NDArray[Any]
D = 7


class Encoder(nn.Module):
    """Convolutions, a residual addition, ReLUs in place, average over all positions."""

    def __init__(self, bias: bool = True, rectified: bool = False) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first = nn.Conv2d(3, 5, 3, padding=1, bias=bias)
        self.second = nn.Conv2d(5, 5, 3, padding=1, bias=bias)
        self.act = nn.ReLU(inplace=True)
        self.head = nn.Linear(5, D, bias=bias)
        self.rectified = rectified
        self.double()

    def forward(self, x: Tensor) -> Tensor:
        h = self.act(self.first(x))
        h = self.act(self.second(h) + h)
        z: Tensor = self.head(h.mean((2, 3)))
        return z.relu() if self.rectified else z


class Words(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.words = nn.Embedding(11, 6)
        self.out = nn.Linear(6, 4)
        self.double()

    def forward(self, ids: Tensor, mask: Tensor | None = None) -> Tensor:
        h: Tensor = torch.relu(self.out(self.words(ids)))
        return h if mask is None else h * mask[..., None]


def images(n: int = 1) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    a = torch.randn(n, 3, 6, 7, dtype=torch.float64, generator=generator)
    b = torch.randn(n, 3, 8, 5, dtype=torch.float64, generator=generator)
    return a, b


def brute_force(model: nn.Module, a: Tensor, b: Tensor, composite: Any, scale: float) -> Array:
    """Component by component, one target at a time, outer products written out."""
    total: Array = np.zeros((*a.shape[2:], *b.shape[2:]))
    for m in range(D):
        maps = []
        for x in (a, b):
            trace = LRP(model, composite).trace(x)
            seed = torch.zeros_like(trace.output)
            seed[0, m] = trace.output[0, m]
            maps.append(trace.relevance(seed)[0][0].sum(0).numpy())
        total += np.multiply.outer(*maps) * scale
    return total


def close(found: Array, expected: Array, relative: float = 1e-10) -> None:
    np.testing.assert_allclose(found, expected, rtol=0, atol=relative * np.abs(expected).max())


@pytest.mark.parametrize("similarity", ["dot", "cosine"])
@pytest.mark.parametrize(
    "composite", ["epsilon", "epsilon_plus", "epsilon_plus_flat", "epsilon_alpha2_beta1", "cp_lrp"]
)
def test_pairs_are_the_sum_over_components(composite: str, similarity: Any) -> None:
    model, (a, b) = Encoder(), images()
    found = xai.bilrp(model, a, b, composite, similarity=similarity)
    with torch.no_grad():
        phi, psi = model(a)[0], model(b)[0]
    scale = 1.0 if similarity == "dot" else float(1 / (phi.norm() * psi.norm()))
    close(found.matrix(), brute_force(model, a, b, composite, scale))
    assert found.similarity == pytest.approx(float(phi @ psi) * scale, rel=1e-12)


def test_lrp_0_without_biases_is_the_product_of_jacobians() -> None:
    """``R_ij = sum_m (J_a x_a)_mi (J_b x_b)_mj``: the Hessian of the similarity, times inputs."""
    model, (a, b) = Encoder(bias=False), images()
    exact = epsilon(0.0).with_rules(layer_map=[((SumKind, *AVERAGES), Norm(0.0))])
    found = xai.bilrp(model, a, b, exact)
    left, right = (
        (torch.autograd.functional.jacobian(lambda x: model(x)[0], x)[:, 0] * x).sum(1).numpy()
        for x in (a, b)
    )
    close(found.matrix(), np.einsum("mij,mkl->ijkl", left, right))
    assert found.total == pytest.approx(found.similarity, rel=1e-10)


@pytest.mark.parametrize("similarity", ["dot", "cosine"])
@pytest.mark.parametrize("composite", ["epsilon", "epsilon_plus"])
def test_similarity_is_relevance_plus_named_absorption(composite: str, similarity: Any) -> None:
    model, (a, b) = Encoder(), images()
    found = xai.bilrp(model, a, b, composite, similarity=similarity)
    added = found.matrix().sum() + sum(found.absorbed.values())
    assert added == pytest.approx(found.similarity, rel=1e-9)
    assert found.relative_conservation_error < 1e-10
    assert found.approximation_error < 1e-12
    assert found.accounts().loc["input", "input"] == pytest.approx(found.total)
    # each term by itself, from the shares of single passes
    shares = []
    for x in (a, b):
        trace = LRP(model, composite).trace(x, keep=True)
        norm = 1.0 if similarity == "dot" else float(trace.output.norm())
        own = [trace.relevance(torch.eye(D)[m] * trace.output / norm)[1] for m in range(D)]
        shares.append(np.array([float(one["bias"]) for one in own]))
    assert found.absorbed["bias of a, bias of b"] == pytest.approx(float(shares[0] @ shares[1]))
    totals = found.b.factors.sum((1, 2))
    assert found.absorbed["bias of a, input of b"] == pytest.approx(float(shares[0] @ totals))


def test_components_that_are_zero_for_either_input_cost_nothing() -> None:
    model, (a, b) = Encoder(rectified=True), images()
    with torch.no_grad():
        live = int(((model(a) > 0) & (model(b) > 0)).sum())
    assert 0 < live < D
    found = xai.bilrp(model, a, b, "epsilon_plus")
    assert len(found.a.factors) == live
    close(found.matrix(), brute_force(model, a, b, "epsilon_plus", 1.0))


def test_views_are_those_of_the_matrix() -> None:
    found = xai.bilrp(Encoder(), *images(), "epsilon")
    full = found.matrix()
    pooled = found.pooled(4)
    assert pooled.shape == (2, 2, 2, 2)
    for i, j, k, m in np.ndindex(2, 2, 2, 2):
        block = full[4 * i : 4 * i + 4, 4 * j : 4 * j + 4, 4 * k : 4 * k + 4, 4 * m : 4 * m + 4]
        assert pooled[i, j, k, m] == pytest.approx(block.sum(), abs=1e-12)
    left, right = found.marginals()
    close(left, full.sum((2, 3)))
    close(right, full.sum((0, 1)))
    close(found.given((slice(1, 3), slice(2, 6))), full[1:3, 2:6].sum((0, 1)))
    mask = np.zeros((8, 5), bool)
    mask[2, 1] = mask[5, 3] = True
    close(found.given(mask, "b"), full[:, :, mask].sum(-1))


@pytest.mark.parametrize("strip", [1, 2**22])
def test_top_pairs_are_the_largest_of_all(strip: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("xai.similarity.STRIP", strip)
    found = xai.bilrp(Encoder(), *images(), "epsilon")
    full, top = found.matrix(), found.top_pairs(6, size=3)
    expected = np.sort(np.abs(found.pooled(3)).ravel())[::-1][:6]
    np.testing.assert_allclose([abs(pair.relevance) for pair in top], expected)
    for pair in top:
        assert full[(*pair.a, *pair.b)].sum() == pytest.approx(pair.relevance)
    assert len(found.top_pairs(10**6, size=4)) == 16


def test_memory_changes_nothing_but_the_number_of_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []
    batched = Trace.batched

    def counting(self: Any, seeds: Tensor) -> Any:
        sizes.append(len(seeds))
        return batched(self, seeds)

    monkeypatch.setattr("neuralize.lrp.Trace.batched", counting)
    model, (a, b) = Encoder(), images()
    whole = xai.bilrp(model, a, b, "epsilon_plus")
    assert sizes == [4, 3, 4, 3]
    sizes.clear()
    slices = xai.bilrp(model, a, b, "epsilon_plus", memory=1)
    assert sizes == [4, 1, 1, 1] * 2
    close(slices.a.factors, whole.a.factors, 1e-13)
    assert slices.absorbed == pytest.approx(whole.absorbed)


def test_forward_passes_are_freed() -> None:
    model, (a, b) = Encoder(), images()
    seen: list[Any] = []
    handle = model.second.register_forward_hook(lambda m, i, o: seen.append(weakref.ref(o)))
    found = xai.bilrp(model, a, b, "epsilon_plus")
    handle.remove()
    gc.collect()
    assert found is not None and len(seen) == 2
    assert [ref() for ref in seen] == [None, None]


def test_leading_directions_are_exact_at_full_rank_and_report_what_they_lose() -> None:
    model, (a, b) = Encoder(), images()
    exact = xai.bilrp(model, a, b, "epsilon")
    reference = np.random.default_rng(0).normal(size=(20, D))
    options: dict[str, Any] = {"reduce": "leading", "reference": reference}
    rotated = xai.bilrp(model, a, b, "epsilon", n_directions=D, **options)
    close(rotated.matrix(), exact.matrix())
    few = xai.bilrp(model, a, b, "epsilon", n_directions=2, **options)
    with torch.no_grad():
        phi, psi = (model(x)[0].numpy() for x in (a, b))
    basis = np.linalg.svd(reference)[2][:2]
    kept = (basis @ phi) @ (basis @ psi)
    assert few.approximated == pytest.approx(kept)
    assert few.approximation_error == pytest.approx(abs(kept - phi @ psi) / abs(phi @ psi))
    largest = xai.bilrp(model, a, b, "epsilon", reduce="leading", n_directions=3)
    kept = np.sort(np.abs(phi * psi))[-3:]
    np.testing.assert_allclose(
        np.sort(np.abs(largest.a.components * largest.b.components)), kept, rtol=1e-10
    )


def test_random_directions_are_right_on_average_with_the_error_they_report() -> None:
    """Statistics of many draws against the closed form of the variance."""
    generator = torch.Generator().manual_seed(3)
    phi, psi = torch.randn(2, 1, 12, dtype=torch.float64, generator=generator)
    psi = psi + phi
    draws = []
    for seed in range(3000):
        directions = Choice("dot", "random", 4, None, seed).directions(phi, psi)
        p = directions.seeds(phi, 0, 4).sum(2)[:, 0]
        q = directions.seeds(psi, 0, 4).sum(2)[:, 0]
        draws.append(float(p @ q))
    error = directions.standard_error(phi[0], psi[0])
    assert error is not None
    y = float(phi[0] @ psi[0])
    assert abs(np.mean(draws) - y) < 4 * error / np.sqrt(len(draws))
    assert np.std(draws) == pytest.approx(error, rel=0.06)


def test_random_directions_keep_the_pairs_in_expectation() -> None:
    model, (a, b) = Encoder(), images()
    exact = xai.bilrp(model, a, b, "epsilon").pooled(4)
    tries = [
        xai.bilrp(
            model, a, b, "epsilon", reduce="random", n_directions=5, seed=seed, progress=False
        ).pooled(4)
        for seed in range(60)
    ]
    error = np.std(tries, axis=0) / np.sqrt(len(tries))
    assert (np.abs(np.mean(tries, axis=0) - exact) < 4.5 * error).all()
    full = xai.bilrp(model, a, b, "epsilon", reduce="random", n_directions=D)
    close(full.pooled(4), exact)
    assert full.standard_error == 0


def test_several_pairs_float32_and_batches() -> None:
    model, (a, b) = Encoder().float(), images(3)
    alone = [xai.bilrp(model, a[i : i + 1], b[i : i + 1], "epsilon_plus") for i in range(3)]
    for size in (1, 2):
        found = xai.bilrp(model, a, b, "epsilon_plus", batch_size=size)
        for one, expected in zip(found, alone, strict=True):
            close(one.a.factors, expected.a.factors, 1e-5)
            assert one.relative_conservation_error < 1e-5


def test_tokens_masks_and_selected_means() -> None:
    ids_a, ids_b = torch.tensor([[1, 5, 2, 0]]), torch.tensor([[5, 3, 9]])
    mask = torch.tensor([[1.0, 1, 1, 0]], dtype=torch.float64)
    found = xai.bilrp(
        Words(), {"ids": ids_a, "mask": mask}, ids_b, "epsilon", select=lambda h: h.sum(1)
    )
    assert found.matrix().shape == (4, 3)
    assert found.relative_conservation_error < 1e-10
    np.testing.assert_array_equal(found.matrix()[3], 0)  # masked
    model = Words()
    with torch.no_grad():
        y = model(ids_a[:, :3]).sum(1) @ model(ids_b).sum(1).T
    assert found.similarity == pytest.approx(float(y))
    assert [t.get_text() for t in found.plot().axes[0].get_yticklabels()] == ["1", "5", "2", "0"]


def test_two_encoders() -> None:
    text = nn.Sequential(Words(), nn.Flatten(), nn.Linear(12, D).double())
    a, _ = images()
    found = xai.bilrp((Encoder(), text), a, torch.tensor([[4, 2, 7]]), "epsilon")
    assert found.matrix().shape == (6, 7, 3)
    assert found.relative_conservation_error < 1e-10
    assert "Figure" in type(found.plot()).__name__


def test_attention_gets_its_own_preset() -> None:
    torch.manual_seed(0)

    class Attends(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed = nn.Conv2d(3, 8, 2, 2)
            self.attention = nn.MultiheadAttention(8, 2, batch_first=True)

        def forward(self, x: Tensor) -> Tensor:
            h = self.embed(x).flatten(2).transpose(1, 2)
            out: Tensor = h + self.attention(h, h, h, need_weights=False)[0]
            return out[:, 0]

    found = xai.bilrp(Attends().double(), *images())
    assert found.composite == "AttnLRP"
    assert found.relative_conservation_error < 1e-8
    assert xai.bilrp(Encoder(), *images()).composite == "EpsilonGamma"


def test_the_model_stays_as_it_was() -> None:
    model, (a, b) = Encoder().train(), images()
    before = {name: t.clone() for name, t in model.state_dict().items()}
    xai.bilrp(model, a, b, "epsilon_plus")
    assert model.training
    assert all(torch.equal(before[name], t) for name, t in model.state_dict().items())
    assert all(p.grad is None for p in model.parameters())


def test_plot_card_and_file(tmp_path: Path) -> None:
    found = xai.bilrp(Encoder(), *images(), "epsilon_plus", reduce="random", n_directions=3)
    figure = found.plot(n=5, size=3)
    lines, bar = figure.axes
    (collection,) = lines.collections
    assert len(collection.get_segments()) == 5
    low, high = bar.get_ylim()
    assert low == -high
    strongest = found.top_pairs(1, 3)[0]
    assert high == pytest.approx(abs(strongest.relevance))
    html = found._repr_html_()
    assert "bias" in html and "standard error" in html
    back = xai.SimilarityRelevance.load(found.save(tmp_path / "pairs.npz"))
    assert [path.name for path in tmp_path.iterdir()] == ["pairs.npz"]
    np.testing.assert_array_equal(back.matrix(), found.matrix())
    assert back.absorbed == found.absorbed
    assert (back.standard_error, repr(back)) == (found.standard_error, repr(found))
    (tmp_path / "other.npz").write_bytes(b"no archive")
    with pytest.raises(FileFormatError, match="cannot be read"):
        xai.SimilarityRelevance.load(tmp_path / "other.npz")


def test_large_matrices_are_refused_unless_forced(monkeypatch: pytest.MonkeyPatch) -> None:
    found = xai.bilrp(Encoder(), *images(), "epsilon")
    monkeypatch.setattr("xai.similarity.MATRIX_BYTES", 1000)
    with pytest.raises(InputError, match="force=True"):
        found.matrix()
    assert found.matrix(force=True).shape == (6, 7, 8, 5)
    assert len(found.top_pairs(2, size=3)) == 2


def test_noise_warns() -> None:
    """Large weights of both signs that cancel: relevance many times the similarity."""
    model = nn.Sequential(nn.Linear(2, 2, bias=False), nn.Linear(2, 1, bias=False)).double()
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor([[1.0, 0.0], [0.0, 1.0]]))
        model[1].weight.copy_(torch.tensor([[1000.0, -999.0]]))
    x = torch.ones(1, 2, dtype=torch.float64)
    with pytest.warns(AmplificationWarning, match="'1'"):
        xai.bilrp(model, x, x, "epsilon")


@pytest.mark.parametrize(
    "options, words",
    [
        ({"similarity": "l2"}, "'dot' or 'cosine'"),
        ({"n_directions": 3}, "together"),
        ({"reduce": "random"}, "together"),
        ({"reduce": "sketch", "n_directions": 2}, "'random', 'leading'"),
        ({"reduce": "random", "n_directions": 0}, "n_directions >= 1"),
        ({"reduce": "random", "n_directions": 8}, "at most 7"),
        ({"reduce": "random", "n_directions": 2, "reference": np.ones((2, D))}, "leading"),
        ({"reduce": "leading", "n_directions": 2, "reference": np.ones((2, 3))}, r"\(r, 7\)"),
        ({"reduce": "leading", "n_directions": 3, "reference": np.ones((2, D))}, "at most 2"),
        ({"memory": 0}, "memory"),
        ({"batch_size": 0.5}, "batch_size"),
        ({"seed": -1}, "seed"),
        ({"device": "nowhere"}, "device"),
        ({"select": lambda y: y.sum(0)}, "per row"),
    ],
)
def test_options_that_do_not_fit(options: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=words):
        xai.bilrp(Encoder(), *images(), "epsilon", **options)


def test_inputs_that_do_not_fit() -> None:
    model, (a, b) = Encoder(), images()
    with pytest.raises(InputError, match="as many rows"):
        xai.bilrp(model, a, torch.cat([b, b]), "epsilon")
    with pytest.raises(InputError, match="one length"):
        xai.bilrp(model.first, a, b, "epsilon")
    with pytest.raises(InputError, match="finite"):
        xai.bilrp(model, a * torch.nan, b, "epsilon")
    with pytest.raises(InputError, match="floating"):
        xai.bilrp(model, a.to(torch.uint8), b, "epsilon")
    with pytest.raises(InputError, match=r"a\[None\]"):
        xai.bilrp(model, a[0, 0, 0], b, "epsilon")
    with pytest.raises(InputError, match="empty mapping"):
        xai.bilrp(model, {}, b, "epsilon")
    with pytest.raises(NoRuleError, match="first"):
        xai.bilrp(model, a, b, Composite("empty"))
    zero = nn.Sequential(nn.Flatten(), nn.Linear(126, 2, bias=False)).double()
    nn.init.zeros_(zero[1].weight)
    with pytest.raises(InputError, match="no cosine"):
        xai.bilrp(zero, a, a, "epsilon", similarity="cosine")


def test_regions_that_do_not_fit() -> None:
    found = xai.bilrp(Encoder(), *images(), "epsilon")
    for region, words in (
        ((slice(0, 2),), "2 slices"),
        ((slice(9, 12), slice(0, 2)), "empty"),
        (np.ones((6, 7)), "booleans"),
    ):
        with pytest.raises(InputError, match=words):
            found.given(region)
    with pytest.raises(InputError, match="side"):
        found.given((slice(0, 1), slice(0, 1)), "c")
    with pytest.raises(InputError, match="at least 1 pixel"):
        found.pooled(0)
    with pytest.raises(InputError, match="at least one pair"):
        found.top_pairs(0)
