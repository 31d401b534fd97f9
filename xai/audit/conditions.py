"""What devices, codecs and resamplers do to pictures, done on purpose: for counterfactuals.

All take pictures ``(n, h, w, c)`` between 0 and 1 and give as many of the same shape.
"""

from __future__ import annotations

import io
from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image
from scipy import ndimage

from xai.relevance import Array


def blurred(pictures: Array, sigma: float) -> Array:
    """Gaussian blur with a standard deviation in pixels."""
    out: Array = ndimage.gaussian_filter(pictures, (0, sigma, sigma, 0), mode="nearest")
    return out


def noisy(pictures: Array, sigma: float, rng: np.random.Generator) -> Array:
    """Independent Gaussian noise, cut to the range."""
    out: Array = np.clip(pictures + rng.normal(0, sigma, pictures.shape), 0, 1)
    return out


def compressed(pictures: Array, quality: int) -> Array:
    """Through JPEG and back, in eight bits.

    Examples
    --------
    >>> grey = np.linspace(0, 1, 64).reshape(1, 8, 8, 1)
    >>> bool(np.abs(compressed(grey, 90) - grey).max() < 0.05)
    True
    """
    out = np.empty_like(pictures, dtype=np.float64)
    levels = np.rint(np.clip(pictures, 0, 1) * 255).astype(np.uint8)
    for before, after in zip(levels, out, strict=True):
        if before.shape[-1] == 3:
            after[:] = _through_jpeg(before, quality)
        else:
            for channel in range(before.shape[-1]):
                after[..., channel] = _through_jpeg(before[..., channel], quality)
    return out


def _through_jpeg(levels: Array, quality: int) -> Array:
    file = io.BytesIO()
    Image.fromarray(levels).save(file, "JPEG", quality=quality)
    return np.asarray(Image.open(file), dtype=np.float64) / 255


def resized(pictures: Array, factor: float) -> Array:
    """Smaller by a factor with antialiasing, and back to the same size."""
    h, w = pictures.shape[1:3]
    x = torch.from_numpy(np.ascontiguousarray(np.moveaxis(pictures, -1, 1)))
    size = (max(1, round(h * factor)), max(1, round(w * factor)))
    small = torch.nn.functional.interpolate(x, size=size, mode="bilinear", antialias=True)
    back = torch.nn.functional.interpolate(small, size=(h, w), mode="bilinear", antialias=True)
    return np.moveaxis(back.numpy(), 1, -1)


def tinted(pictures: Array, log_gains: Sequence[float]) -> Array:
    """Channels brighter or darker by a factor each, cut to the range."""
    tint: Array = np.clip(pictures * np.exp(np.asarray(log_gains)), 0, 1)
    return tint
