"""Training with outlier exposure (Hendrycks, Mazeika, Dietterich, ICLR 2019, arXiv 1812.04606).

Beside normal rows (``y = 0``) a network sees rows of something else (``y = 1``), the *outlier
exposure*: not the anomalies to be found, which nobody has, but any data that are not normal. Every
batch is half normal, half exposed, however few outliers there are; so a training with one outlier
takes as many steps as one with all.

What must not happen is that the exposed rows are normal ones: they would be pushed out.
"""

from __future__ import annotations

import warnings
from abc import abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from neuralize.deep.detector import DeepDetector
from neuralize.deep.networks import Architecture, as_json, planned, rebuilt
from neuralize.deep.preprocessing import fit_preprocessing, preprocessing
from neuralize.deep.training import Batches, Objective, Training, train
from neuralize.errors import InputError, TrainingWarning

NEAR = 0.25
"""An outlier is a near copy below this share of the distance that normal rows usually keep.

Of Fashion-MNIST, different pictures of one class keep at least 0.43, and copies with a noise of
0.02 about 0.14.
"""

USUAL_OF = 512
"""Normal rows that distance is measured on."""

DISTANCES_AT_ONCE = 2**23


class ExposedDetector(DeepDetector):
    """Base of the detectors that learn from normal rows and outlier exposure.

    ``fit(X, y)`` takes one label per row: 0 normal, 1 exposed as an outlier. Preprocessing is
    fitted on the normal rows, and the threshold is a quantile of their scores.

    A subclass has ``network``, ``preprocessing``, ``bias`` and ``training`` among its parameters,
    and gives :meth:`_module`, :meth:`_objective`, :meth:`_probability` and the width of its
    representation.

    Attributes
    ----------
    overlapping_
        Numbers of the exposed rows that are copies of a normal row, or nearly.

    Warns
    -----
    TrainingWarning
        Exposed rows overlap the normal ones.
    """

    network: str | Architecture | nn.Module
    preprocessing: str | None
    bias: bool
    training: Training

    outputs: ClassVar[int | None] = None
    """Width of what the network must return; any when None."""

    overlapping_: NDArray[Any]

    # These two are for _train; a subclass that trains in its own way has no use for them.

    def _module(self, steps: nn.Module, network: nn.Module) -> nn.Module:
        """The decision: rows to scores ``(n,)``."""
        raise NotImplementedError

    def _objective(self) -> Objective:
        """Loss of what the network returns ``(n, q)``, and of the labels."""
        raise NotImplementedError

    @abstractmethod
    def _probability(self, score: Tensor) -> Tensor:
        """What the objective takes for the probability of an outlier, from scores ``(n,)``."""

    def _width(self) -> int | None:
        """Width of a named network's representation; its own when None."""
        return None

    def _check(self) -> None:
        """Raise :class:`InputError` for hyper-parameters that cannot be."""

    def probability(self, X: Any) -> NDArray[Any]:
        """What the objective takes for the probability of an outlier ``(n,)``, not calibrated.

        It grows with the score, and saturates where the score does not.
        """
        scores = torch.from_numpy(self.decision_function(X))
        found: NDArray[Any] = self._probability(scores).numpy()
        return found

    def _labels(self, y: Any, n: int) -> Tensor:
        return exposure_labels(y, n)

    def _presumed_normal(self, y: Tensor | None, n: int) -> Tensor:
        assert y is not None
        return y == 0

    def _train(self, x: Tensor, y: Tensor | None) -> tuple[nn.Module, dict[str, Any]]:
        assert y is not None
        self._check()
        exposed = y == 1
        steps = preprocessing(self.preprocessing, tuple(x.shape[1:]))
        fit_preprocessing(steps, x[~exposed])
        with torch.no_grad():
            inner = steps(x)
        self._warn_of_overlap(inner, exposed)
        width = {} if self._width() is None else {"rep_dim": self._width()}
        network, plan = planned(
            self.network, tuple(inner.shape[1:]), bias=self.bias, affine=self.bias, **width
        )
        self._require_outputs(network, inner[:1])
        losses = train(network, self._objective(), Batches(inner, y, outliers=exposed),
                       self.training, what=f"training {type(self).__name__}")  # fmt: skip
        self.history_[type(self).__name__] = losses
        config = {"preprocessing": self.preprocessing, "network": as_json(plan)}
        return self._module(steps, network), config

    def _build(self, config: dict[str, Any], network: nn.Module | None) -> nn.Module:
        steps = preprocessing(config["preprocessing"], self.input_shape_)
        return self._module(steps, rebuilt(config["network"], network))

    def _require_outputs(self, network: nn.Module, x: Tensor) -> None:
        was = network.training
        network.eval()
        with torch.no_grad():
            outputs = network(x)
        network.train(was)
        if outputs.ndim != 2 or self.outputs not in (None, outputs.shape[1]):
            want = "(n, q)" if self.outputs is None else f"(n, {self.outputs})"
            raise InputError(
                f"Expected outputs {want} from the network of {type(self).__name__}, got "
                f"{tuple(outputs.shape)} for one row; end it with nn.Flatten(), or a dense layer "
                "of that width."
            )

    def _warn_of_overlap(self, inner: Tensor, exposed: Tensor) -> None:
        found = overlap(inner[~exposed], inner[exposed])
        numbers = exposed.nonzero()[:, 0].numpy()
        self.overlapping_ = np.sort(numbers[np.concatenate([found.copies, found.near])])
        if len(self.overlapping_):
            warnings.warn(
                f"{len(self.overlapping_)} of {len(numbers)} outliers overlap the normal rows: "
                f"{len(found.copies)} are copies of one, {len(found.near)} nearly so (closer than "
                f"{NEAR:g} of the distance that normal rows usually keep). They are rows "
                f"{_some(self.overlapping_)}; all are in overlapping_. The network is told that "
                "they are both; leave them out.",
                TrainingWarning,
                stacklevel=4,
            )


def exposure_labels(y: Any, n: int) -> Tensor:
    """Labels 0 (normal) and 1 (exposed outlier) as float32 ``(n,)``.

    Raises
    ------
    InputError
        No labels, other values, or one of the two missing.

    Examples
    --------
    >>> exposure_labels([0, 0, 1], 3).tolist()
    [0.0, 0.0, 1.0]
    """
    if y is None:
        raise InputError(
            "Expected labels y, one per row: 0 normal, 1 exposed as an outlier. Without any "
            "outliers use DeepSVDD."
        )
    labels = np.asarray(y)
    if labels.shape != (n,) or not np.isin(labels, (0, 1)).all():
        values = [str(value) for value in np.unique(labels)[:6]]
        raise InputError(
            f"Expected {n} labels among 0 (normal) and 1 (exposed as an outlier), got shape "
            f"{labels.shape} with values {', '.join(values)}."
        )
    found = torch.from_numpy(labels.astype(np.float32))
    if bool((found == found[0]).all()):
        only, missing, instead = (
            ("normal", "outliers", "Add rows of something else with y = 1, or use DeepSVDD.")
            if found[0] == 0
            else ("exposed outliers", "normal ones", "Label normal rows with y = 0.")
        )
        raise InputError(
            f"Expected rows of both kinds, got only {only} and no {missing}. {instead}"
        )
    return found


@dataclass(frozen=True)
class Overlap:
    """Exposed rows, by number, that are copies of a normal row, and near copies."""

    copies: NDArray[Any]
    near: NDArray[Any]


def overlap(normals: Tensor, outliers: Tensor) -> Overlap:
    """Which ``outliers`` ``(m, ...)`` are also among the ``normals`` ``(n, ...)``.

    A copy is equal bit by bit. A near copy is closer to a normal row than :data:`NEAR` times the
    median distance of a normal row to the nearest other one.

    Examples
    --------
    >>> normals = torch.tensor([[0.0, 0.0], [0.0, 4.0], [4.0, 0.0]])
    >>> overlap(normals, torch.tensor([[4.0, 0.0], [2.0, 2.0], [0.0, 0.1]]))
    Overlap(copies=array([0]), near=array([2]))
    """
    a, b = normals.flatten(1), outliers.flatten(1)
    known = {row.tobytes() for row in (a + 0.0).numpy()}  # -0.0 is 0.0
    copy = np.array([row.tobytes() in known for row in (b + 0.0).numpy()])
    sample = torch.arange(len(a))[:: max(1, len(a) // USUAL_OF)]
    apart = _nearest(a[sample], a, second=True)
    apart = apart[(apart > 0) & apart.isfinite()]  # rows that occur twice tell nothing
    limit = NEAR * float(apart.median()) if len(apart) else 0.0
    near = (_nearest(b, a).numpy() < limit) & ~copy
    return Overlap(np.flatnonzero(copy), np.flatnonzero(near))


def _nearest(rows: Tensor, others: Tensor, *, second: bool = False) -> Tensor:
    """Distance of each row to the nearest, or second nearest, of the others ``(n,)``."""
    rank = 2 if second else 1
    if len(others) < rank:
        return torch.full((len(rows),), torch.inf)
    mean = others.mean(0)
    others = others - mean
    found = []
    for part in (rows - mean).split(max(1, DISTANCES_AT_ONCE // len(others))):
        found.append(torch.cdist(part, others).topk(rank, largest=False).values[:, -1])
    return torch.cat(found)


def _some(numbers: NDArray[Any], limit: int = 8) -> str:
    shown = ", ".join(map(str, numbers[:limit]))
    return shown + (f" and {len(numbers) - limit} more" if len(numbers) > limit else "")
