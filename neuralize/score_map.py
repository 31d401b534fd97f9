"""From the evidence, which always counts upwards, back to the model's own number and sign."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class ScoreMap:
    """How the evidence maps onto the number the original model prints.

    ``original = offset + scale * evidence``, or ``offset + scale * exp(rate * evidence)`` with a
    rate.

    Parameters
    ----------
    name
        The model's own method, e.g. ``"decision_function"``.
    scale, offset, rate
        The map; ``scale < 0`` means the model counts the other way round.

    Examples
    --------
    >>> sign_turned = ScoreMap("score_samples", scale=-1.0)
    >>> sign_turned(torch.tensor([2.0])).tolist()
    [-2.0]
    >>> sign_turned.inverse(-2.0)
    2.0
    """

    name: str
    scale: float = 1.0
    offset: float = 0.0
    rate: float | None = None

    def __call__(self, evidence: Tensor) -> Tensor:
        """Evidence to the model's own number."""
        inner = evidence if self.rate is None else torch.exp(self.rate * evidence)
        return self.offset + self.scale * inner

    def inverse(self, original: float) -> float:
        """The evidence at which the model prints ``original``; infinite where it never does.

        >>> ScoreMap("score", scale=1.0, rate=-1.0).inverse(0.0)
        inf
        """
        inner = (original - self.offset) / self.scale
        if self.rate is None:
            return inner
        if inner <= 0:
            return math.copysign(math.inf, -self.rate)
        return math.log(inner) / self.rate

    def __str__(self) -> str:
        inner = "evidence" if self.rate is None else f"exp({self.rate:.6g} evidence)"
        scale = {1.0: "", -1.0: "-"}.get(self.scale, f"{self.scale:.6g} ")
        offset = "" if self.offset == 0 else f"{self.offset:+.6g}"
        return f"{self.name} = {scale}{inner} {offset}".rstrip()
