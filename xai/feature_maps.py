"""Which layers of an encoder give feature maps, and which of them patches are taken from."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from neuralize.encoder import evaluating
from neuralize.errors import InputError
from xai.encoder import Encoder
from xai.relevance import Array


def feature_maps(encoder: Encoder, x: Array) -> dict[str, tuple[int, int]]:
    """Layers of the network that give feature maps ``(n, c, h, w)``: their ``(h, w)``, as run."""
    found: dict[str, tuple[int, int]] = {}

    def keep(name: str) -> Any:
        def hook(module: nn.Module, args: Any, output: Any) -> None:
            if isinstance(output, Tensor) and output.ndim == 4:
                found[name] = (output.shape[2], output.shape[3])

        return hook

    handles = [
        module.register_forward_hook(keep(name))
        for name, module in encoder.network.named_modules()
        if name
    ]
    try:
        with torch.no_grad(), evaluating(encoder):
            encoder(torch.from_numpy(x[:1].copy()))
    finally:
        for handle in handles:
            handle.remove()
    return found


def middle_layers(found: dict[str, tuple[int, int]], encoder: Encoder) -> list[str]:
    """The last layer at the third and second coarsest resolutions, of the outermost there are.

    In a ResNet these are ``layer2`` and ``layer3``, those of the paper.
    """
    sizes = sorted({size for size in found.values() if size != (1, 1)}, reverse=True)
    if not sizes:
        raise InputError(
            f"{encoder.name} has no layer with feature maps (n, c, h, w), which patchcore takes "
            "its patches from. Take another head, or name layers: patchcore:LAYER,LAYER."
        )
    chosen = []
    for size in sizes[-3:-1] or sizes[-1:]:
        names = [name for name, there in found.items() if there == size]
        outermost = min(name.count(".") for name in names)
        chosen.append([name for name in names if name.count(".") == outermost][-1])
    return chosen
