"""What a network is held against: a fitted model, real rows, and an independent answer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from neuralize import Neuralized

Array = NDArray[Any]


class Shares(Protocol):
    """What an oracle gives: values ``(n, d)``, None where undefined, and absorbed shares."""

    values: Array | None
    absorbed: dict[str, Array]


class Oracle(Protocol):
    """An independent answer, in float64 numpy."""

    kind: str

    def evidence(self, x: Array) -> Array:
        """``(n,)`` for outlier scores, ``(n, K)`` for clusters."""
        ...

    def relevance(self, x: Array, target: Array | None) -> Shares: ...

    def gap(self, x: Array, target: Array | None) -> Array:
        """Relative distance of each row to its nearest tie ``(n,)``; infinite without any."""
        ...

    def kink(self, x: Array, target: Array | None) -> Array:
        """The same to where the evidence has no derivative ``(n,)``."""
        ...


def sklearn_outliers(model: Any, x: Array) -> Array:
    """Whether the model calls a row an outlier: label -1."""
    return np.asarray(model.predict(x) == -1)


def pyod_outliers(model: Any, x: Array) -> Array:
    """Whether the model calls a row an outlier: label 1."""
    return np.asarray(model.predict(x) == 1)


def shift_and_refit(model: Any, x: Array) -> None:
    """Refit on fewer and moved rows; an array of centroids is moved in place."""
    if isinstance(model, np.ndarray):
        model += 1
    else:
        model.fit(x[len(x) // 8 :] + 1)


@dataclass
class Subject:
    """A fitted model, the way to its network, and what the network is held against.

    Attributes
    ----------
    model, net_factory
        ``net_factory(model)`` is the network; it is called again for every check.
    x_seen, x_unseen
        Rows the model was fitted on, and others.
    oracle
        From the network, because some options (the stiffness) are read off it.
    special
        Points exactly on centroids or support vectors ``(m, d)``.
    outliers
        The model's decision about each row.
    native
        The model's own number when it has no method called ``net.score_map.name``.
    refit, x_refit
        ``refit(model, x_refit)`` changes the model after the network was made; the rows seen and
        unseen when ``x_refit`` is missing.
    single_precision
        Whether the data and the model's constants survive float32.
    """

    model: Any
    net_factory: Callable[[Any], Neuralized]
    x_seen: Array
    x_unseen: Array
    oracle: Callable[[Neuralized], Oracle]
    special: Array | None = None
    outliers: Callable[[Any, Array], Array] = sklearn_outliers
    native: Callable[[Any, Array], Array] | None = None
    refit: Callable[[Any, Array], None] = shift_and_refit
    x_refit: Array | None = None
    single_precision: bool = True
    _answers: dict[str, Any] = field(default_factory=dict)

    @cached_property
    def x(self) -> Array:
        """Seen, then unseen rows ``(n, d)``."""
        return np.concatenate([self.x_seen, self.x_unseen])

    def net(self, dtype: torch.dtype = torch.float64) -> Neuralized:
        return self.net_factory(self.model).to(dtype=dtype)

    def targets(self, x: Array | None = None) -> list[Array | None]:
        """Explained clusters: the assigned one, then every cluster for all rows."""
        x = self.x if x is None else x
        evidence = self.answer("evidence") if x is self.x else self.reference().evidence(x)
        if evidence.ndim == 1:
            return [None]
        every = [np.full(len(x), c) for c in range(evidence.shape[1])]
        return [evidence.argmax(1), *every]

    def reference(self) -> Oracle:
        if "oracle" not in self._answers:
            self._answers["oracle"] = self.oracle(self.net())
        return self._answers["oracle"]  # type: ignore[no-any-return]

    def answer(self, name: str, target: Array | None = None) -> Any:
        """The oracle's answer about all rows, asked once; oracles are slow."""
        key = name if target is None else f"{name} {target.tolist()}"
        if key not in self._answers:
            arguments = (self.x,) if name == "evidence" else (self.x, target)
            self._answers[key] = getattr(self.reference(), name)(*arguments)
        return self._answers[key]
