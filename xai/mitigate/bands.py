r"""Layers before a network that take out high spatial frequencies, so that it cannot rest on them.

:class:`BlurFront` is the correction of Kauffmann et al., Nature Machine Intelligence 7, 2025: a
Gaussian blur of 11 pixels as the first layer, the detector then fitted again. :class:`LowPass` cuts
the discrete cosine transform instead, ``y = M_h x M_w^T`` with ``M = C^T diag(m) C``.

Frequencies are in cycles per pixel: 0.5 is the finest that a row or column of pixels can hold.
"""

from __future__ import annotations

import math

import numpy as np
import torch
import torch.nn.functional as F
from scipy.fft import dct
from torch import Tensor, nn

from neuralize.deep.patch_detector import gaussian_kernel
from xai.errors import InputError


class BlurFront(nn.Module):
    """A Gaussian blur of pictures ``(n, h, w)`` or ``(n, c, h, w)``, mirrored at the edges.

    Parameters
    ----------
    kernel
        Side of the window, odd. Its sigma is that of OpenCV, ``0.3 ((k - 1) / 2 - 1) + 0.8``.

    Raises
    ------
    InputError
        An even kernel or one below 3; by ``forward``, pictures smaller than the window.

    Examples
    --------
    >>> blur = BlurFront(11)
    >>> round(blur.sigma, 6), blur(torch.ones(1, 8, 8)).round(decimals=5).unique().tolist()
    (2.0, [1.0])
    """

    weights: Tensor

    def __init__(self, kernel: int = 11) -> None:
        super().__init__()
        if kernel < 3 or kernel % 2 == 0:
            raise InputError(f"Expected an odd kernel of at least 3 pixels, got {kernel}.")
        self.kernel = kernel
        self.register_buffer("weights", gaussian_kernel(self.sigma, kernel // 2).float())

    @property
    def sigma(self) -> float:
        """Standard deviation of the Gaussian, in pixels."""
        return 0.3 * ((self.kernel - 1) / 2 - 1) + 0.8

    @classmethod
    def against(cls, lowest: float, left: float = 0.05) -> BlurFront:
        """The smallest blur that leaves at most ``left`` of the amplitude from ``lowest`` on.

        Parameters
        ----------
        lowest
            Frequency in cycles per pixel, above 0.
        left
            Share of the amplitude, between 0 and 1.

        Raises
        ------
        InputError
            Frequencies at which a blur would leave no picture: below 0.01.

        Examples
        --------
        >>> BlurFront.against(0.25).kernel
        9
        """
        if not lowest >= 0.01 or not 0 < left < 1:
            raise InputError(
                "Expected a frequency of at least 0.01 cycles per pixel and a share between 0 and "
                f"1, got {lowest} and {left}."
            )
        kernel = 3
        while cls(kernel).response(lowest) > left:
            kernel += 2
        return cls(kernel)

    def response(self, frequency: float) -> float:
        """Share of the amplitude that is left at a frequency along one axis."""
        at = np.arange(self.kernel) - self.kernel // 2
        wave = np.cos(2 * np.pi * frequency * at)
        return abs(float(self.weights.double().numpy() @ wave))

    def forward(self, x: Tensor) -> Tensor:
        """Blurred pictures."""
        pad = self.kernel // 2
        h, w = x.shape[-2:]
        if min(h, w) <= pad:
            raise InputError(
                f"Expected pictures of more than {pad} pixels a side for a blur of {self.kernel}, "
                f"got {h} x {w}."
            )
        planes = x.reshape(-1, 1, h, w)
        planes = F.pad(planes, (pad, pad, pad, pad), mode="reflect")
        k = self.weights.to(x.dtype)
        planes = F.conv2d(planes, k.reshape(1, 1, -1, 1))
        planes = F.conv2d(planes, k.reshape(1, 1, 1, -1))
        return planes.reshape(x.shape)


class LowPass(nn.Module):
    """Pictures ``(..., h, w)`` without their cosine components above a frequency.

    Parameters
    ----------
    size
        Height and width of the pictures.
    highest
        In cycles per pixel along either axis.
    soft
        A Gaussian that falls to one half there, instead of a cut, which rings at edges.

    Raises
    ------
    InputError
        A frequency that is not between 0 and 0.5; by ``forward``, pictures of another size.

    Examples
    --------
    >>> stripes = torch.tensor([0.0, 1.0]).repeat(4).expand(1, 8, 8)
    >>> LowPass((8, 8), 0.2, soft=False)(stripes).std() < 0.3 * stripes.std()
    tensor(True)
    """

    rows: Tensor
    columns: Tensor

    def __init__(self, size: tuple[int, int], highest: float, *, soft: bool = True) -> None:
        super().__init__()
        if not 0 < highest <= 0.5:
            raise InputError(f"Expected a frequency above 0 and up to 0.5, got {highest}.")
        for name, n in zip(("rows", "columns"), size, strict=True):
            basis = dct(np.eye(n), axis=0, norm="ortho")
            frequency = np.arange(n) / (2 * n)
            if soft:
                kept = np.exp(-math.log(2) * (frequency / highest) ** 2)
            else:
                kept = (frequency <= highest).astype(float)
            self.register_buffer(name, torch.from_numpy((basis.T * kept) @ basis).float())

    def forward(self, x: Tensor) -> Tensor:
        """Pictures without these components."""
        if x.shape[-2:] != (len(self.rows), len(self.columns)):
            raise InputError(
                f"Expected pictures of {len(self.rows)} x {len(self.columns)} pixels, got "
                f"{x.shape[-2]} x {x.shape[-1]}."
            )
        along = x @ self.columns.T.to(x.dtype)
        return (along.transpose(-1, -2) @ self.rows.T.to(x.dtype)).transpose(-1, -2)
