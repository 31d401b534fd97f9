"""Maps of a fully convolutional network brought to the size of the picture by Gaussians.

Liznerski et al., Explainable Deep One-Class Classification, ICLR 2021, Algorithm 1. A unit ``d`` of
the map ``A`` looks at ``r`` pixels around ``c(d) = s + d j``, mostly at those in the middle, so

    ``A'_p = sum_d A_d G(p - c(d))``, ``G`` a Gaussian cut to the ``r`` pixels of the field:

one transposed convolution with a fixed kernel and stride ``j``. ``G`` sums to ``j`` per axis, so
that a constant map keeps its height, and the mean of ``A'`` is that of ``A`` where no field leaves
the picture. A field of even size has its centre between two pixels: they share the peak.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from neuralize.deep.receptive_field import ReceptiveField
from neuralize.errors import InputError

SIGMA_SMALL, SIGMA_AT_224 = 1.2, 8.0
"""The authors' sigma for pictures of 28 and 32 pixels, and of 224."""


def default_sigma(size: tuple[int, int]) -> float:
    """Width of the Gaussian for pictures of ``size``: 1.2 up to 32 pixels, 8 at 224.

    In between in proportion to the side. (For MVTec the authors take 12.)

    Examples
    --------
    >>> default_sigma((28, 28)), default_sigma((224, 224))
    (1.2, 8.0)
    """
    return max(SIGMA_SMALL, SIGMA_AT_224 * min(size) / 224)


def gaussian(size: int, sigma: float) -> Tensor:
    """Weights ``(size,)`` in float64 that sum to one; of even size with two equal peaks.

    Examples
    --------
    >>> [round(w, 4) for w in gaussian(3, 1.0).tolist()]
    [0.2741, 0.4519, 0.2741]
    >>> [round(w, 4) for w in gaussian(4, 1.0).tolist()]
    [0.1888, 0.3112, 0.3112, 0.1888]
    """
    odd = size - 1 if size % 2 == 0 else size
    offset = torch.arange(odd, dtype=torch.float64) - (odd - 1) / 2
    weights = torch.exp(-(offset**2) / (2 * sigma**2))
    if odd != size:
        middle = odd // 2
        weights = torch.cat([weights[: middle + 1], weights[middle:]])
    return weights / weights.sum()


class GaussianUpsampling(nn.Module):
    """``A`` ``(n, u, v)`` to ``A'`` ``(n, h, w)``. Has no parameters and nothing to store.

    Parameters
    ----------
    field
        Receptive field of the units.
    size
        Height and width of the pictures.
    sigma
        Of the Gaussian in pixels; by the size when missing.

    Raises
    ------
    InputError
        A sigma that is not positive.

    Examples
    --------
    >>> field = ReceptiveField((14, 14), (2, 2), (6, 6), (0.5, 0.5))
    >>> up = GaussianUpsampling(field, (28, 28))
    >>> spot = torch.zeros(1, 14, 14)
    >>> spot[0, 3, 5] = 1.0
    >>> heat = up(spot)[0]
    >>> (heat > 0.9 * heat.max()).nonzero().tolist()
    [[6, 10], [6, 11], [7, 10], [7, 11]]
    """

    down: Tensor
    right: Tensor

    def __init__(
        self, field: ReceptiveField, size: tuple[int, int], sigma: float | None = None
    ) -> None:
        super().__init__()
        self.field, self.size = field, size
        self.sigma = default_sigma(size) if sigma is None else sigma
        if not self.sigma > 0:
            raise InputError(f"Expected sigma above 0, got {sigma}.")
        down, right = (gaussian(r, self.sigma) * j for r, j in zip(field.r, field.j, strict=True))
        self.register_buffer("down", down[None, None, :, None], persistent=False)
        self.register_buffer("right", right[None, None, None, :], persistent=False)

    def forward(self, maps: Tensor) -> Tensor:
        """Upsampled maps."""
        (jv, jh), (top, left) = self.field.j, self.field.first
        # a Gaussian is a product: one axis after the other
        high = F.conv_transpose2d(maps[:, None], self.down.to(maps), stride=(jv, 1))
        wide = F.conv_transpose2d(high, self.right.to(maps), stride=(1, jh))
        h, w = self.size
        bottom, end = h - top - wide.shape[-2], w - left - wide.shape[-1]
        # negative padding crops: pixel 0 of the picture is row -top of what came out
        return F.pad(wide, (left, end, top, bottom))[:, 0]
