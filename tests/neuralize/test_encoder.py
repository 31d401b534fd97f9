"""A model on top of an encoder: its evidence, and relevance down to the encoder's input."""

import numpy as np
import pytest
import torch
from sklearn.cluster import KMeans
from torch import nn

from neuralize import InputError, NoRuleError, neuralize
from neuralize.torchvision_guard import import_zennit

zennit = import_zennit()


def encoder(*, bias: bool, activation: type[nn.Module] = nn.ReLU) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, bias=bias), activation(), nn.MaxPool2d(2), nn.Flatten(),
        nn.Linear(36, 6, bias=bias),
    ).double()  # fmt: skip


@pytest.fixture
def images() -> torch.Tensor:
    return torch.rand(20, 1, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def fitted(features: nn.Module, images: torch.Tensor) -> tuple[KMeans, np.ndarray]:
    with torch.no_grad():
        phi = features(images).numpy()
    return KMeans(3, n_init=1, random_state=0).fit(phi), phi


def test_evidence_is_that_of_the_features(images: torch.Tensor) -> None:
    features = encoder(bias=True)
    model, phi = fitted(features, images)
    net = neuralize(model, features)
    np.testing.assert_array_equal(net.predict(images), model.predict(phi))
    with torch.no_grad():
        np.testing.assert_allclose(net(images), neuralize(model)(torch.from_numpy(phi)))


def test_relevance_is_the_dense_products_of_both_parts(images: torch.Tensor) -> None:
    """LRP-0 through a bias-free ReLU network is its Jacobian times the input, output by output."""
    features = encoder(bias=False)
    model, phi = fitted(features, images)
    composite = zennit.composites.LayerMapComposite(
        [
            (nn.ReLU, zennit.rules.Pass()),
            ((nn.Conv2d, nn.Linear), zennit.rules.Epsilon(epsilon=1e-12)),
        ]
    )
    net = neuralize(model, features)
    found = net.relevance(images, composite=composite)
    head = neuralize(model).relevance(torch.from_numpy(phi))
    for row in range(3):
        image = images[row : row + 1]
        jacobian = torch.autograd.functional.jacobian(lambda x: features(x)[0], image)[:, 0]
        shares = jacobian * image / features(image)[0][:, None, None, None]
        expected = torch.einsum("f,fchw->chw", head.values[row], shares)
        torch.testing.assert_close(found.values[row], expected.detach(), rtol=1e-7, atol=1e-9)
    total = found.values.flatten(1).sum(1) + sum(found.absorbed.values())
    torch.testing.assert_close(total, found.evidence)
    assert float(sum(found.absorbed.values()).abs().max()) < 1e-8


def test_biases_are_absorbed_by_name_and_the_encoder_is_as_before(images: torch.Tensor) -> None:
    features = encoder(bias=True)
    before = {name: value.clone() for name, value in features.state_dict().items()}
    parameters = list(features.parameters())
    model, _ = fitted(features, images)
    composite = zennit.composites.EpsilonPlus()
    found = neuralize(model, features).relevance(images, composite=composite)
    total = found.values.flatten(1).sum(1) + sum(found.absorbed.values())
    torch.testing.assert_close(total, found.evidence)
    assert float(found.absorbed["encoder bias"].abs().min()) > 0
    assert all(torch.equal(before[name], value) for name, value in features.state_dict().items())
    assert all(a is b for a, b in zip(parameters, features.parameters(), strict=True))
    assert not any(module._forward_hooks for module in features.modules())


def test_modules_without_a_rule_are_refused_by_path(images: torch.Tensor) -> None:
    features = encoder(bias=True)
    model, _ = fitted(features, images)
    composite = zennit.composites.LayerMapComposite([(nn.Linear, zennit.rules.Epsilon())])
    with pytest.raises(NoRuleError, match=r"'0' \(Conv2d\)"):
        neuralize(model, features).relevance(images, composite=composite)


def test_activations_need_no_entry_in_the_map(images: torch.Tensor) -> None:
    features = encoder(bias=True, activation=nn.GELU)
    model, _ = fitted(features, images)
    layers = [((nn.Conv2d, nn.Linear), zennit.rules.Epsilon())]
    composite = zennit.composites.LayerMapComposite(layers)
    found = neuralize(model, features).relevance(images, composite=composite)
    total = found.values.flatten(1).sum(1) + sum(found.absorbed.values())
    torch.testing.assert_close(total, found.evidence)


def test_misuse(images: torch.Tensor) -> None:
    features = encoder(bias=True)
    model, phi = fitted(features, images)
    with pytest.raises(InputError, match="composite"):
        neuralize(model, features).relevance(images, composite=3)
    with pytest.raises(InputError, match="no encoder"):
        neuralize(model).relevance(torch.from_numpy(phi), composite=zennit.composites.EpsilonPlus())
    with pytest.raises(InputError, match=r"\(n, d\)"):
        neuralize(model, features[:3])(images)
