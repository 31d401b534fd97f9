"""Adapters beside frozen convolutions, ``W * x + a * x``, and folding them into one kernel.

A 1 x 1 kernel ``a`` is a 3 x 3 one that is zero around its centre, so ``W * x + a * x =
(W + centre(a)) * x`` for every stride (Deecke et al., ICML 2021; Rebuffi et al., CVPR 2018).
"""

from __future__ import annotations

import copy

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from neuralize.errors import InputError

TRAINED = (nn.Linear, nn.modules.batchnorm._BatchNorm)
"""What is trained of a frozen network, beside its adapters."""


class AdaptedConv2d(nn.Module):
    """``W * x + a * x``, a frozen 3 x 3 convolution beside a 1 x 1 one, which starts at zero.

    Attributes
    ----------
    frozen, adapter
        The two.
    parts
        Their outputs are added here, pass by pass, where somebody made it a list.
    merged
        Whether it runs as one convolution with the folded kernel.
    """

    parts: list[Tensor] | None = None
    merged: bool = False

    def __init__(self, conv: nn.Conv2d) -> None:
        super().__init__()
        self.frozen = conv.requires_grad_(False)
        stride = (conv.stride[0], conv.stride[1])
        self.adapter = nn.Conv2d(
            conv.in_channels, conv.out_channels, 1, stride, groups=conv.groups, bias=False
        ).to(conv.weight)
        nn.init.zeros_(self.adapter.weight)
        # output (i, j) of the convolution is centred on input (i, j) * stride - shift
        assert not isinstance(conv.padding, str)
        self.shift = [p - d for p, d in zip(conv.padding, conv.dilation, strict=True)]

    def forward(self, x: Tensor) -> Tensor:
        """What the convolution gives, and what the adapter adds."""
        if self.merged:
            conv = self.frozen
            return F.conv2d(
                x, self.kernel, conv.bias, conv.stride, conv.padding, conv.dilation, conv.groups
            )
        a, b = self.frozen(x), self.adapter(self._centres(x))
        if self.parts is not None:
            self.parts += a, b
        z: Tensor = a + b
        return z

    def _centres(self, x: Tensor) -> Tensor:
        top, left = self.shift
        if top < 0 or left < 0:
            height, width = x.shape[-2:]
            rows = slice(max(0, -top), height - max(0, -top))
            x = x[..., rows, slice(max(0, -left), width - max(0, -left))]
        if top > 0 or left > 0:
            x = F.pad(x, (max(0, left),) * 2 + (max(0, top),) * 2)
        return x

    @property
    def kernel(self) -> Tensor:
        """The folded kernel."""
        return self.frozen.weight + F.pad(self.adapter.weight, (1, 1, 1, 1))

    def folded(self) -> nn.Conv2d:
        """The one convolution that does the same."""
        conv = copy.deepcopy(self.frozen)
        with torch.no_grad():
            conv.weight.copy_(self.kernel)
        return conv


def adaptable(network: nn.Module) -> list[str]:
    """Paths of the 3 x 3 convolutions, which can take an adapter.

    Examples
    --------
    >>> adaptable(nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 8, 1)))
    ['0']
    """
    return [
        name
        for name, module in network.named_modules()
        if isinstance(module, nn.Conv2d)
        and module.kernel_size == (3, 3)
        and module.padding_mode == "zeros"
        and not isinstance(module.padding, str)
    ]


def adapt(network: nn.Module, paths: list[str] | None = None) -> nn.Module:
    """A copy with adapters beside the convolutions at ``paths``, and all else frozen but BN, dense.

    Raises
    ------
    InputError
        No 3 x 3 convolution, or a path that is not one.

    Examples
    --------
    >>> network = nn.Sequential(nn.Conv2d(1, 2, 3, padding=1), nn.BatchNorm2d(2))
    >>> [name for name, p in adapt(network).named_parameters() if p.requires_grad]
    ['0.adapter.weight', '1.weight', '1.bias']
    """
    adapted = copy.deepcopy(network).requires_grad_(False)
    known = adaptable(adapted)
    chosen = known if paths is None else paths
    if not chosen or not set(chosen) <= set(known):
        raise InputError(
            "Expected paths of 3 x 3 convolutions (zero padding, given as a number) in the "
            f"network, got {chosen}; it has {known}."
        )
    for module in adapted.modules():
        if isinstance(module, TRAINED):
            module.requires_grad_(True)
    for path in chosen:
        conv = adapted.get_submodule(path)
        assert isinstance(conv, nn.Conv2d)
        adapted = _replaced(adapted, path, AdaptedConv2d(conv))
    return adapted


def fold(network: nn.Module) -> nn.Module:
    """A copy whose adapters are added to the centres of the kernels beside them: the same function.

    Examples
    --------
    >>> network = nn.Sequential(nn.Conv2d(1, 2, 3, stride=2, padding=1), nn.BatchNorm2d(2))
    >>> adapted = adapt(network)
    >>> _ = nn.init.normal_(adapted[0].adapter.weight)
    >>> x = torch.randn(1, 1, 7, 7)
    >>> torch.allclose(fold(adapted)(x), adapted(x), atol=1e-6), type(fold(adapted)[0]).__name__
    (True, 'Conv2d')
    """
    folded = copy.deepcopy(network)
    for path, module in list(folded.named_modules()):
        if isinstance(module, AdaptedConv2d):
            folded = _replaced(folded, path, module.folded())
    return folded


def _replaced(network: nn.Module, path: str, module: nn.Module) -> nn.Module:
    if not path:
        return module
    above, _, name = path.rpartition(".")
    setattr(network.get_submodule(above), name, module)
    return network
