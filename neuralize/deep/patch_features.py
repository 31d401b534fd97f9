"""Patches of a frozen backbone: what PatchCore, PaDiM and others take for their input.

Feature maps of chosen layers are average-pooled over a neighbourhood (Roth et al., CVPR 2022,
section 3.1), resized to the finest of their grids and joined along channels, so that every position
of that grid is one patch, ``(n, P, D)``.
"""

from __future__ import annotations

import copy
import difflib
import threading
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from neuralize.deep.preprocessing import Channel
from neuralize.errors import InputError

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


class _AllFound(Exception):
    """Every layer that was asked for has answered; what lies above is not needed."""


class PatchFeatures(nn.Module):
    """Patches ``(n, P, D)`` of pictures ``(n, c, h, w)``, from layers of a frozen backbone.

    The backbone is copied, stays in evaluation mode and is never trained; layers above the last one
    needed do not run.

    Parameters
    ----------
    backbone
        Any network over pictures.
    layers
        Paths of the modules whose outputs ``(n, c, h, w)`` are taken, as ``named_modules`` says.
    pool
        Side of the average pool; 1 for none. Border patches average over zeros outside.
    resize
        ``"bilinear"`` or ``"nearest"``.

    Raises
    ------
    InputError
        No layer, a path that is not in the backbone, an even pool.

    Examples
    --------
    >>> backbone = nn.Sequential(nn.Conv2d(3, 4, 3, 2, 1), nn.ReLU(), nn.Conv2d(4, 6, 3, 2, 1))
    >>> features = PatchFeatures(backbone, ["1", "2"])
    >>> features(torch.zeros(2, 3, 16, 16)).shape
    torch.Size([2, 64, 10])
    """

    def __init__(
        self, backbone: nn.Module, layers: Sequence[str], *, pool: int = 3, resize: str = "bilinear"
    ) -> None:
        super().__init__()
        if isinstance(layers, str) or not layers:
            raise InputError(f"Expected a list of at least one layer, got {layers!r}.")
        if pool < 1 or pool % 2 == 0:
            raise InputError(f"Expected an odd pool of at least 1, got {pool}.")
        if resize not in ("bilinear", "nearest"):
            raise InputError(f"Expected resize 'bilinear' or 'nearest', got {resize!r}.")
        known = [name for name, _ in backbone.named_modules() if name]
        for layer in layers:
            if layer not in known:
                near = difflib.get_close_matches(layer, known, 3) or known[:5]
                raise InputError(
                    f"Expected layers of {type(backbone).__name__} by their path, got {layer!r}; "
                    f"did you mean {', '.join(map(repr, near))}?"
                )
        self.layers, self.pool, self.resize = tuple(layers), pool, resize
        self.backbone = copy.deepcopy(backbone).requires_grad_(False).eval()

    def train(self, mode: bool = True) -> PatchFeatures:
        """As everywhere, but the backbone stays in evaluation mode."""
        super().train(mode)
        self.backbone.eval()
        return self

    def outputs(self, x: Tensor) -> list[Tensor]:
        """Outputs of the layers, in their order.

        Raises
        ------
        InputError
            A layer that did not run, or whose output is no feature map ``(n, c, h, w)``.
        """
        found: dict[str, Tensor] = {}
        here = threading.get_ident()  # the same backbone may run in several threads

        def keep(name: str) -> Any:
            def hook(module: nn.Module, args: Any, output: Any) -> None:
                if threading.get_ident() != here:
                    return
                if not isinstance(output, Tensor) or output.ndim != 4:
                    shape = tuple(output.shape) if isinstance(output, Tensor) else type(output)
                    raise InputError(
                        f"Expected a feature map (n, c, h, w) from layer {name!r}, got {shape}."
                    )
                last = len(found) + 1 == len(set(self.layers))
                # a ReLU in place above would otherwise write into it
                found[name] = output if last else output.clone()
                if last:
                    raise _AllFound

            return hook

        handles = [
            self.backbone.get_submodule(name).register_forward_hook(keep(name))
            for name in dict.fromkeys(self.layers)
        ]
        try:
            self.backbone(x)
        except _AllFound:
            return [found[name] for name in self.layers]
        finally:
            for handle in handles:
                handle.remove()
        missing = [name for name in self.layers if name not in found]
        raise InputError(f"Layers {', '.join(missing)} did not run in the backbone's forward pass.")

    def maps(self, x: Tensor) -> Tensor:
        """The joined maps ``(n, D, h, w)``."""
        parts = self.outputs(x)
        if self.pool > 1:
            parts = [F.avg_pool2d(part, self.pool, 1, self.pool // 2) for part in parts]
        finest = max((part.shape[2:] for part in parts), key=lambda size: size.numel())
        parts = [part if part.shape[2:] == finest else self._resized(part, finest)
                 for part in parts]  # fmt: skip
        return torch.cat(parts, 1) if len(parts) > 1 else parts[0]

    def _resized(self, part: Tensor, size: torch.Size) -> Tensor:
        smooth = {"align_corners": False} if self.resize == "bilinear" else {}
        return F.interpolate(part, size=tuple(size), mode=self.resize, **smooth)

    def forward(self, x: Tensor) -> Tensor:
        """Patches, row by row of the grid."""
        return self.maps(x).flatten(2).transpose(1, 2)


class ChannelNormalize(nn.Module):
    """``(x - mean) / std`` by channel, with the backbone's own constants.

    Grey pictures become as many channels as there are constants.

    Examples
    --------
    >>> ChannelNormalize((0.5, 0.5), (0.5, 0.25))(torch.ones(1, 1, 1, 1)).flatten().tolist()
    [1.0, 2.0]
    """

    mean: Tensor
    std: Tensor

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        if len(mean) != len(std) or not all(s > 0 for s in std):
            raise InputError(
                f"Expected a mean and a positive std per channel, got mean={mean}, std={std}."
            )
        self.register_buffer("mean", torch.tensor(mean, dtype=torch.float32)[:, None, None])
        self.register_buffer("std", torch.tensor(std, dtype=torch.float32)[:, None, None])

    def forward(self, x: Tensor) -> Tensor:
        """Normalised pictures."""
        return (x - self.mean) / self.std


def picture_steps(
    shape: Sequence[int], mean: Sequence[float] | None, std: Sequence[float] | None
) -> nn.Sequential:
    """What comes before a backbone: a channel axis where there is none, and its normalisation.

    Raises
    ------
    InputError
        Rows of ``shape`` that are no pictures, or that have other channels than the constants.

    Examples
    --------
    >>> picture_steps((28, 28), None, None)
    Sequential(
      (0): Channel()
    )
    """
    if (mean is None) != (std is None):
        raise InputError(f"Expected mean and std, or neither, got mean={mean}, std={std}.")
    steps: list[nn.Module] = [Channel()] if len(shape) == 2 else []
    if mean is None or std is None:
        return nn.Sequential(*steps)
    channels = 1 if len(shape) == 2 else shape[0]
    if len(shape) not in (2, 3) or channels not in (1, len(mean)):
        raise InputError(
            f"Expected pictures (n, h, w), (n, 1, h, w) or (n, {len(mean)}, h, w) for mean={mean}, "
            f"got rows of shape {tuple(shape)}. For other rows leave mean and std None."
        )
    return nn.Sequential(*steps, ChannelNormalize(mean, std))
