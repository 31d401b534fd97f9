r"""D2Neighbors (Kauffmann et al., Nature Machine Intelligence 7, 2025, arXiv 2408.08041).

The soft minimum of distances to all training rows ``u_j``,

    ``o(x) = -(1/g) log mean_j exp(-g h_j)``,  ``h_j = ||x - u_j||_p^p``,

or ``h_j = ||B (x - u_j)||^2`` behind a blur ``B``. The stiffness ``g`` is such that the training
rows, each without itself, have a mean perplexity ``exp(H(softmax(-g h)))`` of a share of their
number, a quarter in the paper.

Relevance: take-most over the training rows, ``R_j = p_j o``; of each distance
``|x_i - u_ij|^p / h_j``, and behind a blur ``(x - u_j)_i [B^T B (x - u_j)]_i / h_j``, which adds up
whatever ``B`` is. On the features of a network it goes on into the network
(``split="euler"``, see :mod:`neuralize.deep.bank_distances`).
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm import tqdm

from neuralize.deep.bank_distances import SPLITS, Split, power_distances
from neuralize.deep.detector import SCORED_AT_ONCE, DeepDetector
from neuralize.deep.patch_detector import gaussian_kernel
from neuralize.deep.patch_features import PatchFeatures, picture_steps
from neuralize.deep.score_pools import soft_max
from neuralize.errors import InputError
from neuralize.network import Neuralized

ORDERS = (1.0, 2.0, 4.0)


class BlurMetric(nn.Module):
    """``x -> B^T B x`` for flattened pictures ``(n, c h w)``; ``B`` a Gaussian blur.

    Outside a picture it sees zeros, so that ``B`` is symmetric.
    """

    kernel: Tensor

    def __init__(self, sigma: float, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.shape = shape
        kernel = gaussian_kernel(sigma, math.ceil(3 * sigma)).float()
        self.register_buffer("kernel", kernel, persistent=False)

    def blur(self, x: Tensor) -> Tensor:
        """``B x``."""
        h, w = self.shape[1:]
        k, pad = self.kernel.to(x.dtype), len(self.kernel) // 2
        planes = x.reshape(-1, 1, h, w)
        planes = F.conv2d(planes, k.reshape(1, 1, -1, 1), padding=(pad, 0))
        planes = F.conv2d(planes, k.reshape(1, 1, 1, -1), padding=(0, pad))
        return planes.reshape(x.shape)

    def forward(self, x: Tensor) -> Tensor:
        """``B^T B x``."""
        return self.blur(self.blur(x))


class D2NeighborsScore(nn.Module):
    """``(n, ...) -> (n,)``: preprocessing, a network if there is one, distances, soft minimum."""

    bank: Tensor
    bank_force: Tensor | None
    stiffness: Tensor

    def __init__(
        self, steps: nn.Module, network: nn.Module | None, bank: Tensor, p: float,
        metric: BlurMetric | None, split: Split,
    ) -> None:  # fmt: skip
        super().__init__()
        self.preprocessing, self.network, self.metric = steps, network, metric
        self.p, self.split = p, split
        self.register_buffer("bank", bank)
        self.register_buffer("bank_force", None if metric is None else torch.zeros_like(bank))
        self.register_buffer("stiffness", torch.ones((), dtype=torch.float64))

    def represent(self, x: Tensor) -> Tensor:
        """What distances are taken of ``(n, d)``."""
        z: Tensor = self.preprocessing(x)
        return (z if self.network is None else self.network(z)).flatten(1)

    def distances(self, z: Tensor) -> Tensor:
        """``h`` ``(n, m)``."""
        return power_distances(z, self.bank, self.p, self.metric, self.bank_force, self.split)

    def forward(self, x: Tensor) -> Tensor:
        """Scores of rows."""
        h = self.distances(self.represent(x))
        return soft_max(h, dim=1, stiffness=-float(self.stiffness))


class D2Neighbors(DeepDetector):
    """Soft minimum of the distances to all training rows, of pixels, columns or features.

    Parameters
    ----------
    p
        1, 2 or 4.
    backbone
        Distances are taken of its output, or of ``layers``; of the rows themselves when missing.
        Copied and kept as it is.
    layers
        Paths of modules, whose feature maps are joined as those of
        :class:`~neuralize.deep.PatchCore`.
    blur
        Sigma of a Gaussian blur of pictures before the distances, in pixels (``p=2``, no backbone).
    perplexity
        Share of the training rows that a row's soft minimum effectively averages over.
    mean, std
        By channel, subtracted and divided by first; None for neither.
    split
        How a distance goes into the backbone: ``"euler"`` or ``"all"``.
    contamination
        Share of the training rows above the threshold, each scored without itself.

    Raises
    ------
    InputError
        By ``fit``: options or rows that do not fit.

    Examples
    --------
    >>> import numpy as np
    >>> x = np.random.default_rng(0).random((20, 6))
    >>> detector = D2Neighbors(p=4).fit(x)
    >>> detector.decision_function(x[:2]).shape, float(detector.stiffness_) > 0
    ((2,), True)
    """

    evidence_name = "soft minimum of the distances to the training rows"

    def __init__(
        self,
        *,
        p: float = 2.0,
        backbone: nn.Module | None = None,
        layers: Sequence[str] | None = None,
        blur: float | None = None,
        perplexity: float = 0.25,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        split: Split = "euler",
        contamination: float = 0.1,
    ) -> None:
        self.p = p
        self.backbone = backbone
        self.layers = layers
        self.blur = blur
        self.perplexity = perplexity
        self.mean = mean
        self.std = std
        self.split = split
        self.contamination = contamination

    @property
    def stiffness_(self) -> float:
        """``g`` of the fitted detector."""
        self._require_fitted()
        return float(self.module_.stiffness)  # type: ignore[arg-type]

    def _train(self, x: Tensor, y: Tensor | None) -> tuple[nn.Module, dict[str, Any]]:
        if not 0 < self.perplexity < 1:
            raise InputError(f"Expected perplexity as a share, got {self.perplexity}.")
        if len(x) < 3:
            raise InputError(f"Expected at least 3 rows to calibrate on, got {len(x)}.")
        module = self._empty(self.backbone, (0, 0))
        rows = max(1, SCORED_AT_ONCE // max(1, x[0].numel()))
        bar = tqdm(x.split(rows), delay=2, desc="representing the training rows")
        with torch.no_grad():
            module.bank = bank = torch.cat([module.represent(part) for part in bar])
            if module.metric is not None:
                module.bank_force = torch.cat([module.metric(part) for part in bank.split(rows)])
            bar = tqdm(bank.split(rows), delay=2, desc="distances between the training rows")
            h = torch.cat([module.distances(part) for part in bar]).double()
        others = h.fill_diagonal_(math.inf)
        module.stiffness.fill_(calibrated_stiffness(others, self.perplexity * len(x)))
        g = float(module.stiffness)
        pooled = torch.logsumexp(-g * others, 1) - math.log(len(x) - 1)
        self._left_out = (-pooled / g).numpy()
        return module, {"bank": list(bank.shape)}

    def _empty(self, backbone: Any, bank: Sequence[int]) -> D2NeighborsScore:
        if self.p not in ORDERS or self.split not in SPLITS:
            raise InputError(
                f"Expected p 1, 2 or 4 and split 'euler' or 'all', got {self.p} and {self.split!r}."
            )
        plain = len(self.input_shape_) == 1 and self.mean is None and self.std is None
        steps = nn.Sequential() if plain else picture_steps(self.input_shape_, self.mean, self.std)
        network: nn.Module | None = None
        if self.layers is not None:
            if not isinstance(backbone, nn.Module):
                raise InputError("Expected a backbone that has the layers, got none.")
            network = PatchFeatures(backbone, self.layers)
        elif backbone is not None:
            network = Frozen(backbone)
        metric = None
        if self.blur is not None:
            if self.p != 2 or network is not None or not self.blur > 0 or plain:
                raise InputError(
                    "Expected a positive blur of pictures, with p=2 and no backbone, got "
                    f"blur={self.blur}, p={self.p}, rows of shape {self.input_shape_}."
                )
            shape = steps(torch.zeros(1, *self.input_shape_)).shape[1:]
            metric = BlurMetric(self.blur, tuple(shape))
        return D2NeighborsScore(
            steps, network, torch.zeros(*bank), float(self.p), metric, self.split
        )

    def _build(self, config: dict[str, Any], network: nn.Module | None) -> nn.Module:
        if self.backbone is not None and network is None:
            raise InputError(
                "The detector was fitted on a backbone of the user's own; pass it as network=."
            )
        return self._empty(network if self.backbone is not None else None, config["bank"])

    def neuralized(self) -> Neuralized:
        """The network equal to the decision; :func:`neuralize.neuralize` calls this."""
        net = super().neuralized()
        if self.backbone is None:
            # a bank is read once for all rows of a chunk
            numbers = max(1, math.prod(self.input_shape_))
            net.encoder_rows = max(1, min(1024, 4 * SCORED_AT_ONCE // numbers))
        return net


class Frozen(nn.Module):
    """A copy of a network that stays in evaluation mode."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.inner = copy.deepcopy(network).requires_grad_(False).eval()

    def train(self, mode: bool = True) -> Frozen:
        """As everywhere, but the network stays in evaluation mode."""
        super().train(mode)
        self.inner.eval()
        return self

    def forward(self, x: Tensor) -> Tensor:
        """The network's output."""
        output: Tensor = self.inner(x)
        return output


def calibrated_stiffness(h: Tensor, perplexity: float, tolerance: float = 1e-8) -> float:
    """``g`` for which the mean of ``exp(H(softmax(-g h_i)))`` over rows is ``perplexity``.

    By bisection: the mean falls from the number of others to one.

    Parameters
    ----------
    h
        Distances ``(n, n)``, infinite on the diagonal.
    perplexity
        Between 1 and ``n - 1``; the nearest reachable stiffness otherwise.

    Examples
    --------
    >>> h = torch.tensor([[torch.inf, 1.0, 2.0], [1.0, torch.inf, 2.0], [2.0, 2.0, torch.inf]])
    >>> round(calibrated_stiffness(h, 1.9), 3)
    0.823
    """
    finite = h[h.isfinite()]
    scale = float(finite.mean())
    if not scale > 0:
        raise InputError("Expected training rows that differ, got all of them the same.")
    low, high = math.log(1e-9 / scale), math.log(1e9 / scale)
    while high - low > tolerance:
        middle = (low + high) / 2
        log_p = torch.log_softmax(-math.exp(middle) * h, 1)
        entropy = -(log_p.exp() * log_p.masked_fill(log_p.isinf(), 0)).sum(1)
        if float(entropy.exp().mean()) > perplexity:
            low = middle
        else:
            high = middle
    return math.exp((low + high) / 2)
