"""Random polytope descriptor (Joswig, Kaluba, Ruff, arXiv 2009.13987).

Directions ``u_i``, ``m`` of them, uniform on the sphere, and the centre ``c`` of the data give a
polytope: facet ``i`` has the offset ``h_i``, the ``l``-th largest projection ``<u_i, x - c>`` of
the training rows. With ``l = 1`` all of them are inside. A row's score says how much the polytope
must be blown up to hold it,

    ``o(x) = max_i <u_i, x - c> / h_i``,

1 on the boundary; with several classes, the smallest of their polytopes' scores. The construction
here is the idea as described there in words; the paper's own algorithm may differ in details.

Relevance: winner-take-all over facets, then ``R_k = u_ik (x_k - c_k) / h_i``, which needs no bias
and sums to ``o``. With a stiffness ``t`` the facets share by ``q = softmax(t s)`` over those with
``s_i = <u_i, x - c> / h_i > 0``: ``R_k = o sum_i q_i u_ik (x_k - c_k) / h_i / sum_i q_i s_i``.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from neuralize.chunks import join, rows_per_chunk
from neuralize.convert import register_converter
from neuralize.deep.detector import DeepDetector
from neuralize.deep.embedding import embed, frozen
from neuralize.deep.preprocessing import Standardize, fit_preprocessing, preprocessing
from neuralize.errors import InputError
from neuralize.layers import Elementwise
from neuralize.network import Neuralized
from neuralize.outlier import OutlierNetwork
from neuralize.propagate import Layer
from neuralize.rules.base import ratio
from neuralize.score_map import ScoreMap

BOUNDARY = 1 + 1e-5
"""The boundary as a threshold: training rows on a facet score 1 up to rounding of float32."""

AT_CENTER = "centre of the polytope"


class PolytopeGauge(Layer):
    """``min_k max_i <u_i, x - c_k> / h_ki``, ``(n, d) -> (n,)``; rule: the winner takes all.

    Parameters
    ----------
    polytopes, facets, width
        ``K``, ``m`` and ``d``: how many of each.
    stiffness
        Of the rule: facets share by soft-max weights; ``inf`` is winner-take-all.

    Examples
    --------
    >>> gauge = PolytopeGauge(1, 4, 2)
    >>> _ = gauge.directions.copy_(torch.tensor([[1.0, 0], [-1, 0], [0, 1], [0, -1]]))
    >>> gauge(torch.tensor([[0.5, 3.0]])).tolist()
    [3.0]
    """

    directions: Tensor
    centers: Tensor
    offsets: Tensor

    def __init__(
        self, polytopes: int, facets: int, width: int, *, stiffness: float = math.inf
    ) -> None:
        super().__init__()
        self.stiffness = stiffness
        self.register_buffer("directions", torch.zeros(facets, width))
        self.register_buffer("centers", torch.zeros(polytopes, width))
        self.register_buffer("offsets", torch.ones(polytopes, facets))

    def compute(self, x: Tensor) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        found = [self._winners(part) for part in x.split(self._rows(x))]
        scores, polytope, facet = (join(parts) for parts in zip(*found, strict=True))
        return scores, (polytope, facet)

    def _rows(self, x: Tensor) -> int:
        return rows_per_chunk(len(self.directions) * x.element_size())

    def _winners(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Score, polytope and facet of every row ``(n,)``."""
        largest = [
            ((x - center) @ self.directions.T / offset).max(1)
            for center, offset in zip(self.centers, self.offsets, strict=True)
        ]
        scores, polytope = torch.stack([found.values for found in largest], 1).min(1)
        facets = torch.stack([found.indices for found in largest], 1)
        return scores, polytope, facets.gather(1, polytope[:, None])[:, 0]

    def split(
        self, x: Tensor, z: Tensor, saved: Any, relevance: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        polytope, facet = saved
        delta = x - self.centers[polytope]
        force = self.directions[facet] / self.offsets[polytope, facet].unsqueeze(1)
        share = ratio(relevance, z)
        inside = z > 0  # elsewhere, no facet has a share of the score's sign
        if math.isfinite(self.stiffness) and bool(inside.any()):
            force[inside], mean = self._soft_force(delta[inside], polytope[inside])
            share[inside] = relevance[inside] / mean
        lost = torch.where(z == 0, relevance, torch.zeros_like(z))
        absorbed = {AT_CENTER: lost} if bool((lost != 0).any()) else {}
        return share.unsqueeze(1) * force * delta, absorbed

    def _soft_force(self, delta: Tensor, polytope: Tensor) -> tuple[Tensor, Tensor]:
        """``sum_i q_i u_i / h_i`` ``(n, d)`` and ``sum_i q_i s_i`` ``(n,)``."""
        forces, means = [], []
        rows = self._rows(delta)
        for part, own in zip(delta.split(rows), polytope.split(rows), strict=True):
            h = self.offsets[own]
            s = part @ self.directions.T / h
            q = torch.softmax((self.stiffness * s).masked_fill(s <= 0, -math.inf), 1)
            forces.append(q / h @ self.directions)
            means.append((q * s).sum(1))
        return join(forces), join(means)


class PolytopeScore(nn.Module):
    """Encoder, preprocessing and polytopes, ``(n, ...) -> (n,)``."""

    def __init__(
        self, features: nn.Module | None, steps: nn.Sequential, gauge: PolytopeGauge
    ) -> None:
        super().__init__()
        self.features = features
        self.preprocessing = steps
        self.gauge = gauge

    def forward(self, x: Tensor) -> Tensor:
        """Scores of rows."""
        x = x if self.features is None else self.features(x)
        scores: Tensor = self.gauge(self.preprocessing(x).flatten(1))
        return scores


class RandomPolytope(DeepDetector):
    """Convex polytopes with random facets around tables, pictures or embeddings.

    Parameters
    ----------
    n_facets
        ``m``. More of them fit more closely.
    rank
        ``l``: each facet leaves ``l - 1`` training rows outside.
    features
        Frozen encoder whose features ``(n, d)`` the polytope is fitted on; none when missing.
    preprocessing
        ``"standardize"`` or None; of the features where there is an encoder. Columns are scaled
        one by one, pictures as a whole (channel by channel).
    threshold
        ``"contamination"``, or ``"boundary"``: outliers are outside of the polytope, ``o > 1``.
        In many dimensions nearly every new row is outside, normal or not.
    contamination
        Share of training rows above the threshold.
    seed
        Of the directions.

    Attributes
    ----------
    classes_
        Labels of the polytopes, where ``fit`` got some.

    Examples
    --------
    >>> x = np.random.default_rng(0).normal(size=(200, 2))
    >>> detector = RandomPolytope(n_facets=50, rank=1, threshold="boundary").fit(x)
    >>> int(detector.predict(x).sum()), detector.predict([[9.0, 9.0]]).tolist()
    (0, [1])
    """

    evidence_name = "scale at which the polytope holds the row"
    classes_: tuple[int, ...]

    def __init__(
        self,
        *,
        n_facets: int = 4000,
        rank: int = 2,
        features: nn.Module | None = None,
        preprocessing: str | None = "standardize",
        threshold: Literal["contamination", "boundary"] = "contamination",
        contamination: float = 0.1,
        seed: int = 0,
    ) -> None:
        self.n_facets = n_facets
        self.rank = rank
        self.features = features
        self.preprocessing = preprocessing
        self.threshold = threshold
        self.contamination = contamination
        self.seed = seed

    def _labels(self, y: Any, n: int) -> Tensor | None:
        """Classes ``(n,)``, one polytope each."""
        if y is None:
            return None
        labels = np.asarray(y)
        if labels.shape != (n,) or not np.issubdtype(labels.dtype, np.integer):
            raise InputError(
                f"Expected a whole number as class for each of {n} rows, got {labels.dtype} of "
                f"shape {labels.shape}."
            )
        return torch.from_numpy(labels.astype(np.int64))

    def _train(self, x: Tensor, y: Tensor | None) -> tuple[nn.Module, dict[str, Any]]:
        if self.n_facets < 1 or self.rank < 1:
            raise InputError(
                "Expected at least 1 facet and rank 1, got "
                f"n_facets={self.n_facets}, rank={self.rank}."
            )
        if self.threshold not in ("contamination", "boundary"):
            raise InputError(
                f"Expected threshold 'contamination' or 'boundary', got {self.threshold!r}."
            )
        x = embed(self.features, x)
        steps = preprocessing(self.preprocessing, x.shape[1:])
        rows = fit_preprocessing(steps, x).flatten(1).double()
        labels = torch.zeros(len(x), dtype=torch.int64) if y is None else y
        self.classes_ = tuple(labels.unique().tolist())
        gauge = PolytopeGauge(len(self.classes_), self.n_facets, rows.shape[1])
        u = torch.randn(self.n_facets, rows.shape[1], dtype=torch.float64)
        gauge.directions.copy_(u / u.norm(dim=1, keepdim=True))
        for k, label in enumerate(self.classes_):
            inner = rows[labels == label]
            gauge.centers[k] = inner.mean(0)
            gauge.offsets[k] = self._offsets(inner - gauge.centers[k], gauge.directions.double())
        config = {
            "preprocessing": self.preprocessing,
            "width": list(x.shape[1:]),
            "classes": list(self.classes_),
        }
        encoder = None if self.features is None else frozen(self.features)
        return PolytopeScore(encoder, steps, gauge), config

    def _offsets(self, delta: Tensor, u: Tensor) -> Tensor:
        """The ``l``-th largest projections ``(m,)`` of ``(n, d)``."""
        if len(delta) < self.rank + 1:
            raise InputError(
                f"Expected more than rank={self.rank} rows of every class, got {len(delta)}."
            )
        at_once = rows_per_chunk(8 * len(delta))
        h = torch.cat([(delta @ part.T).topk(self.rank, 0).values[-1] for part in u.split(at_once)])
        flat = int((h <= 1e-6 * delta.norm(dim=1).max()).sum())
        if flat:
            raise InputError(
                f"Expected rows on both sides of their mean in every direction, but {flat} of "
                f"{len(h)} facets pass through it or behind it: the rows are (nearly) all the "
                f"same, or rank={self.rank} leaves too many of them outside. Lower the rank."
            )
        return h

    def _build(self, config: dict[str, Any], network: nn.Module | None) -> nn.Module:
        if self.features is not None and network is None:
            raise InputError("The polytope was fitted on features; pass their encoder as network=.")
        self.features = network
        self.classes_ = tuple(config["classes"])
        width = tuple(config["width"])
        gauge = PolytopeGauge(len(self.classes_), self.n_facets, math.prod(width))
        return PolytopeScore(network, preprocessing(config["preprocessing"], width), gauge)

    def _after(self, x: Tensor, y: Tensor | None) -> None:
        if self.threshold == "boundary":
            self.threshold_ = BOUNDARY

    def neuralized(self, stiffness: float = math.inf) -> OutlierNetwork:
        """The network equal to the score, on flat rows ``(n, d)`` or below its encoder.

        Raises
        ------
        InputError
            A stiffness that is not positive.
        """
        self._require_fitted()
        if not stiffness > 0:
            raise InputError(f"Expected a stiffness above 0, got {stiffness}.")
        module = self.module_
        assert isinstance(module, PolytopeScore)
        own = module.gauge
        polytopes, facets = own.offsets.shape
        gauge = PolytopeGauge(polytopes, facets, own.directions.shape[1], stiffness=stiffness)
        gauge.load_state_dict(own.state_dict())
        net = OutlierNetwork(
            [gauge],
            n_features=own.directions.shape[1],
            evidence_name=self.evidence_name,
            score_map=ScoreMap("decision_function"),
            threshold=self.threshold_,
            width=facets,
            model_name=type(self).__name__,
        )
        for step in module.preprocessing:
            if isinstance(step, Standardize):
                net.add_front([flat_standardize(step, self.config_["width"])])
        net.double()
        if module.features is not None:
            net.features = frozen(module.features)
            net.n_features = None
            net.native_dtype = None  # type: ignore[misc]  # the encoder keeps its own
        return net


def flat_standardize(step: Standardize, shape: Sequence[int]) -> Elementwise:
    """Standardisation of rows of ``shape`` as a step on flat rows."""
    size = (1, *shape) if len(shape) == 2 else tuple(shape)
    mean, std = (t.double().expand(size).flatten() for t in (step.mean, step.std))
    return Elementwise(1 / std, torch.zeros_like(std), mean)


@register_converter(RandomPolytope)
def convert_random_polytope(model: RandomPolytope, *, stiffness: float = math.inf) -> Neuralized:
    """Winner-take-all over facets, or soft-max shares with a finite ``stiffness``."""
    return model.neuralized(stiffness)
