"""How answers are compared: tolerances, and the magnitude an error is measured against."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from neuralize import Attribution, Neuralized
from tests.subject import Array, Shares, Subject

EVIDENCE_TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-5}
VALUES_TOLERANCE = {torch.float64: 1e-8, torch.float32: 1e-4}
TIE = {torch.float64: 1e-9, torch.float32: 1e-4}
"""Rows nearer than this to a discrete choice (a tie of neighbours) have two right answers."""

KINK = 1e-6
"""Rows nearer than this to a kink have a derivative on either side of it."""


def as_input(x: Array, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return torch.from_numpy(np.array(x)).to(dtype)


def as_array(x: torch.Tensor) -> Array:
    return x.detach().to(torch.float64).numpy()


def pick(evidence: Array, target: Array | None) -> Array:
    return evidence if target is None else evidence[np.arange(len(target)), target]


def explain(net: Neuralized, x: Array, target: Array | None = None, **options: Any) -> Attribution:
    t = None if target is None else torch.from_numpy(target)
    return net.relevance(as_input(x, net.dtype), t, **options)


def shares_of(result: Attribution) -> tuple[Array, Array]:
    """Sum of all shares of each row, and the sum of their magnitudes."""
    values = as_array(result.values).reshape(len(result.values), -1)
    absorbed = [as_array(share) for share in result.absorbed.values()]
    magnitude = np.abs(values).sum(1) + sum(np.abs(share) for share in absorbed)
    return values.sum(1) + sum(absorbed), magnitude


def assert_close(found: Array, expected: Array, tolerance: float, scale: Array, what: str) -> None:
    assert found.shape == expected.shape, f"{what}: shape {found.shape}, expected {expected.shape}"
    allowed = tolerance * np.maximum(np.abs(expected), scale)
    error = np.abs(found - expected)
    worst = np.unravel_index(int(np.argmax(error - allowed)), error.shape)
    assert np.isfinite(found).all(), f"{what}: {np.sum(~np.isfinite(found))} values are not finite"
    assert (error <= allowed).all(), (
        f"{what}: found {found[worst]!r}, expected {expected[worst]!r} at {worst}, "
        f"off by {error[worst]:.3g} where {allowed[worst]:.3g} is allowed"
    )


def assert_conserves(result: Attribution, what: str) -> None:
    """Against the row's own shares, plus what rounding does to shares of the batch's size."""
    total, magnitude = shares_of(result)
    dtype = result.values.dtype
    tolerance = EVIDENCE_TOLERANCE[dtype]
    rounding = 32 * torch.finfo(dtype).eps / tolerance * np.median(magnitude)
    scale = magnitude + rounding
    assert_close(total, as_array(result.evidence), tolerance, scale, f"conservation, {what}")


def rounded(x: Array) -> Array:
    """The rows a float32 network is given."""
    return x.astype(np.float32).astype(np.float64)


def nearer(found: Array, one: Array, other: Array) -> Array:
    """The answer for the rows or for the rounded rows: in float32 both are right."""
    return np.where(np.abs(other - found) < np.abs(one - found), other, one)


def typical(a: Array) -> Array:
    """Magnitude below which an error is measured against the batch: the median of ``|a|``."""
    return np.broadcast_to(np.median(np.abs(a)), a.shape)


def scale_like(forward: torch.Tensor, scale: Array) -> Array:
    """A scale per row, repeated for every cluster where there are clusters."""
    return scale if forward.ndim == 1 else np.repeat(scale[:, None], forward.shape[1], 1)


def state(net: Neuralized) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in net.state_dict(keep_vars=False).items()}


def assert_same_state(net: Neuralized, before: dict[str, torch.Tensor]) -> None:
    after = net.state_dict()
    assert list(after) == list(before)
    for name, value in before.items():
        assert after[name].dtype == value.dtype and torch.equal(after[name], value), name


def cancelling(subject: Subject) -> Array:
    """Magnitude of the shares the evidence is made of, in the evidence's shape."""
    columns = []
    targets = subject.targets()
    for target in targets if targets[0] is None else targets[1:]:
        shares: Shares = subject.answer("relevance", target)
        size = sum((np.abs(share) for share in shares.absorbed.values()), np.zeros(len(subject.x)))
        if shares.values is not None:
            size = size + np.abs(shares.values).sum(1)
        columns.append(size)
    return columns[0] if targets[0] is None else np.stack(columns, 1)
