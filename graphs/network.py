"""``CellGraphNet``: from a patient's cells to a log hazard.

A graph network in the manner of xCG (Sextro et al., arXiv 2411.07643), every operation of which has
a relevance rule. Per image: an encoder, then blocks ``h <- norm(h + relu(conv(h)))`` with a readout
``[max_i h_i, mean_i h_i]`` after each; the readouts are summed and mapped to the embedding of the
image. Covariates of the patient (stage, age) are added, attention pools the images of a patient
(Ilse et al., Attention-based deep multiple instance learning, ICML 2018), and a linear map gives
the log hazard of Cox's model.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor, nn

from graphs.adjacency import Adjacency
from graphs.inputs import GraphInput
from graphs.routes import aggregate, waypoint
from neuralize.errors import InputError

Conv = Literal["gin", "gcn", "sage"]
Readout = Literal["max", "mean", "sum"]


@dataclass(frozen=True)
class GraphConfig:
    """Size and make of a :class:`CellGraphNet`.

    Attributes
    ----------
    in_features
        Columns of the cells' features.
    hidden
        Width.
    blocks
        Number of convolutions.
    conv
        ``"gin"`` (Xu et al. 2019), ``"gcn"`` (Kipf and Welling 2017) or ``"sage"`` (Hamilton et
        al. 2017, mean).
    skip, norm
        Whether a block adds its input, and whether a BatchNorm follows.
    pool_ratio
        Share of an image's cells that TopK pooling keeps after each block (Gao and Ji 2019); None:
        all.
    readouts
        What is read after every block, side by side.
    covariates
        Names of the patient's covariates.
    """

    in_features: int
    hidden: int = 64
    blocks: int = 3
    conv: Conv = "gin"
    dropout: float = 0.1
    skip: bool = True
    norm: bool = True
    pool_ratio: float | None = None
    readouts: tuple[Readout, ...] = ("max", "mean")
    covariates: tuple[str, ...] = field(default=())

    def __post_init__(self) -> None:
        for name in ("in_features", "hidden", "blocks"):
            if getattr(self, name) < 1:
                raise InputError(f"Expected {name} of at least 1, got {getattr(self, name)}.")
        if self.conv not in ("gin", "gcn", "sage"):
            raise InputError(f"Expected conv 'gin', 'gcn' or 'sage', got {self.conv!r}.")
        if self.pool_ratio is not None and not 0 < self.pool_ratio <= 1:
            raise InputError(f"Expected pool_ratio in (0, 1], got {self.pool_ratio}.")
        unknown = set(self.readouts) - {"max", "mean", "sum"}
        if unknown or not self.readouts:
            raise InputError(f"Expected readouts among max, mean, sum, got {self.readouts}.")
        bad = [name for name in self.covariates if not name or "." in name]
        if bad:
            raise InputError(f"Expected names of covariates without a dot, got {bad[0]!r}.")


class CellGraphNet(nn.Module):
    """Log hazard of patients from their cell graphs.

    Parameters
    ----------
    config
        A :class:`GraphConfig`, or its fields by name.

    Examples
    --------
    >>> _ = torch.manual_seed(0)
    >>> net = CellGraphNet(in_features=2, hidden=8, blocks=2).eval()
    >>> edges = torch.tensor([[0, 1, 1, 2], [1, 0, 2, 1]])
    >>> data = GraphInput(torch.rand(3, 2), Adjacency.from_edges(edges, 3), (3,), (1,),
    ...                   torch.zeros(1, 0))
    >>> net(data).shape
    torch.Size([1])
    """

    def __init__(self, config: GraphConfig | None = None, **fields: Any) -> None:
        super().__init__()
        if config is None:
            config = GraphConfig(**fields)
        elif fields:
            raise InputError("Expected a config or its fields by name, got both.")
        self.config = config
        width, read = config.hidden, len(config.readouts) * config.hidden
        self.encoder = nn.Linear(config.in_features, width)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.blocks))
        self.head = nn.Sequential(nn.Linear(read, width), nn.ReLU(), nn.Linear(width, width))
        self.covariates = nn.ModuleDict(
            {name: nn.Linear(1, width, bias=False) for name in config.covariates}
        )
        self.register_buffer("covariate_center", torch.zeros(len(config.covariates)))
        self.register_buffer("covariate_scale", torch.ones(len(config.covariates)))
        self.attention = nn.Sequential(
            nn.Linear(width, 2 * width), nn.Tanh(), nn.Linear(2 * width, 1)
        )
        self.log_hazard = nn.Linear(width, 1, bias=False)

    covariate_center: Tensor
    covariate_scale: Tensor

    def forward(self, data: GraphInput) -> Tensor:
        """Log hazards ``(p,)``.

        Raises
        ------
        InputError
            Features or covariates of another number.
        """
        return self.of_features(data.x, data)

    def of_features(self, x: Tensor, data: GraphInput) -> Tensor:
        """Log hazards ``(p,)`` of the graphs in ``data`` with features ``x`` ``(n, f)``."""
        if x.shape[-1] != self.config.in_features:
            raise InputError(
                f"Expected {self.config.in_features} features per cell, got {x.shape[-1]}."
            )
        if data.covariates.shape != (len(data.images_per_patient), len(self.config.covariates)):
            raise InputError(
                f"Expected covariates ({len(data.images_per_patient)}, "
                f"{len(self.config.covariates)}): {', '.join(self.config.covariates) or 'none'}; "
                f"got {tuple(data.covariates.shape)}."
            )
        images = self.head(self._read(x, data))
        counts = torch.tensor(data.images_per_patient, device=x.device)
        values = (data.covariates - self.covariate_center) / self.covariate_scale
        values = values.repeat_interleave(counts, 0)
        for k, layer in enumerate(self.covariates.values()):
            images = images + layer(values[:, k : k + 1])
        hazard: Tensor = self.log_hazard(self._pooled(images, data.images_per_patient))
        return hazard.squeeze(1)

    def _read(self, x: Tensor, data: GraphInput) -> Tensor:
        """Readouts of every image, summed over the blocks ``(i, r)``."""
        adjacency, sizes, cells = data.adjacency, data.image_sizes, None
        h = waypoint(self.encoder(x), "layer", 0)
        total: Tensor | None = None
        for number, block in enumerate(self.blocks, 1):
            assert isinstance(block, Block)
            h = block(h, adjacency, cells)
            if block.pool is not None:
                kept, h = block.pool(h, sizes)
                cells = kept if cells is None else cells[kept]
                adjacency = adjacency.among(kept)
                sizes = tuple(map(block.pool.kept, sizes))
            h = waypoint(h, "layer", number, cells)
            read = readout(waypoint(h, "readout", number, cells), sizes, self.config.readouts)
            read = waypoint(read, "read", number)
            total = read if total is None else total + read
        assert total is not None
        return total

    def _pooled(self, images: Tensor, counts: Sequence[int]) -> Tensor:
        """Images of each patient, weighted by attention ``(p, f)``."""
        scores = self.attention(images).split(list(counts))
        patients = [
            (torch.softmax(score, 0) * part).sum(0, keepdim=True)
            for score, part in zip(scores, images.split(list(counts)), strict=True)
        ]
        return torch.cat(patients)

    def attention_weights(self, data: GraphInput) -> Tensor:
        """How much each image counts in its patient ``(i,)``; adds up to 1 per patient."""
        found: list[Tensor] = []
        handle = self.attention.register_forward_hook(lambda m, a, out: found.append(out.detach()))
        try:
            with torch.no_grad():
                self(data)
        finally:
            handle.remove()
        parts = found[0].squeeze(1).split(list(data.images_per_patient))
        return torch.cat([torch.softmax(part, 0) for part in parts])

    def extra_repr(self) -> str:
        return ", ".join(f"{name}={value!r}" for name, value in asdict(self.config).items())


class Block(nn.Module):
    """``norm(h + dropout(relu(conv(h))))``, then perhaps pooling."""

    def __init__(self, config: GraphConfig) -> None:
        super().__init__()
        self.conv = CONVOLUTIONS[config.conv](config.hidden)
        self.dropout = nn.Dropout(config.dropout)
        self.skip = config.skip
        self.norm = nn.BatchNorm1d(config.hidden) if config.norm else None
        ratio = config.pool_ratio
        self.pool = None if ratio is None else TopK(config.hidden, ratio)

    def forward(self, h: Tensor, adjacency: Adjacency, cells: Tensor | None) -> Tensor:
        y: Tensor = self.dropout(torch.relu(self.conv(h, adjacency, cells)))
        if self.skip:
            y = h + y
        if self.norm is not None:
            y = self.norm(y)
        return y


class ConvLinear(nn.Linear):
    """A linear map inside a convolution: composites give it another rule than the head."""


class GIN(nn.Module):
    """``mlp((A + I) h)`` (Xu et al., How powerful are graph neural networks, ICLR 2019)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.mlp = nn.Sequential(ConvLinear(width, width), nn.ReLU(), ConvLinear(width, width))

    def forward(self, h: Tensor, adjacency: Adjacency, cells: Tensor | None = None) -> Tensor:
        y: Tensor = self.mlp(aggregate(h, adjacency.with_self_loops(), cells))
        return y


class GCN(nn.Module):
    """``W D^-1/2 (A + I) D^-1/2 h + b`` (Kipf and Welling, ICLR 2017)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.linear = ConvLinear(width, width)

    def forward(self, h: Tensor, adjacency: Adjacency, cells: Tensor | None = None) -> Tensor:
        y: Tensor = self.linear(aggregate(h, adjacency.symmetric(), cells))
        return y


class SAGE(nn.Module):
    """``W [mean of neighbours, h] + b`` (Hamilton et al., NeurIPS 2017): one sum, one share."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.linear = ConvLinear(2 * width, width)

    def forward(self, h: Tensor, adjacency: Adjacency, cells: Tensor | None = None) -> Tensor:
        y: Tensor = self.linear(torch.cat([aggregate(h, adjacency.mean(), cells), h], -1))
        return y


CONVOLUTIONS: dict[str, type[nn.Module]] = {"gin": GIN, "gcn": GCN, "sage": SAGE}


class TopK(nn.Module):
    """Keeps the cells of an image with the largest score ``h p / |p|``, times its tanh.

    Gao and Ji, Graph U-Nets, ICML 2019. The gate is held constant when relevance passes; dropped
    cells keep what earlier readouts and their neighbours gave them.
    """

    def __init__(self, width: int, ratio: float) -> None:
        super().__init__()
        self.ratio = ratio
        self.direction = nn.Parameter(torch.randn(width) / math.sqrt(width))

    def kept(self, size: int) -> int:
        """How many of ``size`` cells are kept."""
        return math.ceil(self.ratio * size)

    def forward(self, h: Tensor, sizes: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Numbers of the kept cells ``(m,)``, ascending, and their features ``(m, f)``."""
        score = h @ (self.direction / self.direction.norm())
        with torch.no_grad():
            parts, start = [], 0
            for part in score.detach().split(list(sizes)):
                best = torch.topk(part, self.kept(len(part))).indices
                parts.append(best.sort().values + start)
                start += len(part)
            cells = torch.cat(parts)
        return cells, h[cells] * torch.tanh(score[cells])[:, None]


def readout(h: Tensor, sizes: Sequence[int], kinds: Sequence[Readout]) -> Tensor:
    """``[max_i h_i, mean_i h_i]`` of every image ``(i, r)``."""
    rows = []
    for part in h.split(list(sizes)):
        found = [
            part.amax(0) if kind == "max" else part.mean(0) if kind == "mean" else part.sum(0)
            for kind in kinds
        ]
        rows.append(torch.cat(found))
    return torch.stack(rows)
