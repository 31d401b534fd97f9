"""Coverage: which rule each operation of a network got, and what it did with relevance.

Sums alone do not tell whether a map can be used: naive rules on networks with signed or depthwise
layers add up and still explode. So every line also carries its *amplification*, the sum of absolute
relevance it hands on over the sum of absolute relevance it got.
"""

from __future__ import annotations

import csv
import io
import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from neuralize.engine.steps import Record
from neuralize.errors import AmplificationWarning, InputError
from neuralize.lrp import LRP

LIMIT = 100.0
"""Amplification beyond which a map is noise: a preset that reaches it warns."""


@dataclass(frozen=True)
class Line:
    """One module or operation, all of its calls together.

    Attributes
    ----------
    path, operation, rule
        Where, what, and under which rule; ``"exact"`` where values only move.
    calls
        How often it ran in one forward pass.
    reached
        Whether any relevance arrived; otherwise its outcome does not matter to the output.
    incoming, outgoing
        Sum of relevance from above and of what went on below.
    absorbed
        What stayed here, by name.
    amplification
        Sum of ``|R|`` below over sum of ``|R|`` above.
    total_amplification
        Sum of ``|R|`` below over sum of ``|R|`` at the output: what has built up so far.
    not_finite
        Entries that are NaN or infinite.
    """

    path: str
    operation: str
    rule: str
    calls: int = 1
    reached: bool = False
    incoming: float = math.nan
    outgoing: float = math.nan
    absorbed: dict[str, float] = field(default_factory=dict)
    amplification: float = math.nan
    total_amplification: float = math.nan
    not_finite: int = 0


@dataclass(frozen=True)
class Coverage:
    """The table of a network's operations and rules; prints as text.

    Attributes
    ----------
    lines
        In the order of the forward pass.
    evidence, relevance, absorbed
        Sum of what was explained, of relevance at the input, and of what was absorbed by name.
    amplification
        ``sum |R| / |sum R|`` at the input.
    composite
        Name of the composite.
    """

    lines: tuple[Line, ...]
    evidence: float
    relevance: float
    absorbed: dict[str, float]
    amplification: float
    composite: str

    @property
    def conservation_error(self) -> float:
        """``|evidence - relevance - absorbed|`` over the largest of the three."""
        absorbed = sum(self.absorbed.values())
        scale = max(abs(self.evidence), abs(self.relevance), abs(absorbed), 1e-300)
        return abs(self.evidence - self.relevance - absorbed) / scale

    @property
    def not_finite(self) -> int:
        """Entries of relevance that are NaN or infinite, in all operations."""
        return sum(line.not_finite for line in self.lines)

    @property
    def worst(self) -> Line | None:
        """The operation that amplifies most; one with NaN before all others."""
        reached = [x for x in self.lines if x.reached and not math.isnan(x.amplification)]
        if not reached:
            return None
        return max(reached, key=lambda line: (line.not_finite > 0, line.amplification))

    def rows(self) -> list[dict[str, Any]]:
        """One dictionary per line, for tables and files."""
        return [
            {
                "path": line.path, "operation": line.operation, "rule": line.rule,
                "calls": line.calls, "reached": line.reached, "in": line.incoming,
                "out": line.outgoing, "absorbed": sum(line.absorbed.values()),
                "amplification": line.amplification,
                "total amplification": line.total_amplification, "not finite": line.not_finite,
            }
            for line in self.lines
        ]  # fmt: skip

    def to_csv(self) -> str:
        """The table as CSV."""
        text = io.StringIO()
        rows = self.rows()
        writer = csv.DictWriter(text, list(rows[0]) if rows else ["path"])
        writer.writeheader()
        writer.writerows(rows)
        return text.getvalue()

    def __str__(self) -> str:
        head = ("path", "operation", "rule", "calls", "in", "out", "absorbed", "amplifies")
        body = [
            (
                line.path or "(model)", line.operation, line.rule, str(line.calls),
                *(
                    (_number(line.incoming), _number(line.outgoing),
                     _number(sum(line.absorbed.values())), _number(line.amplification))
                    if line.reached
                    else ("", "", "", "")
                ),
            )
            for line in self.lines
        ]  # fmt: skip
        widths = [max(len(row[i]) for row in (head, *body)) for i in range(len(head))]
        table = [
            "  ".join(
                cell.ljust(width) if i < 3 else cell.rjust(width)
                for i, (cell, width) in enumerate(zip(row, widths, strict=True))
            ).rstrip()
            for row in (head, *body)
        ]
        shares = ", ".join(f"{name} {_number(v)}" for name, v in self.absorbed.items()) or "nothing"
        worst = self.worst
        table += [
            f"{self.composite}: evidence {_number(self.evidence)} = relevance "
            f"{_number(self.relevance)} + absorbed ({shares}); relative error "
            f"{self.conservation_error:.0e}",
            f"amplification {_number(self.amplification)} at the input"
            + (
                f", most in {worst.path or 'the model'!r} ({worst.operation}, {worst.rule}): "
                f"{_number(worst.amplification)}"
                if worst
                else ""
            )
            + f"; {self.not_finite} entries not finite",
        ]
        return "\n".join(table)

    __repr__ = __str__


def _number(value: float) -> str:
    return "" if math.isnan(value) else f"{value:.4g}"


def coverage(
    model: nn.Module,
    x: Tensor,
    target: Tensor | int | None = None,
    composite: Any = None,
    *,
    seed: Tensor | None = None,
    select: Callable[[Any], Tensor] | None = None,
    **kwargs: Any,
) -> Coverage:
    """Which rule every module and operation of a network gets, and what it does with relevance.

    Parameters
    ----------
    model
        Any network.
    x
        Input ``(n, ...)``; a few rows are enough.
    target
        Output to explain, one for all or one per row; the largest when missing.
    composite
        Composite, preset or zennit composite; chosen by family when missing.
    seed
        Relevance of the output, in its shape, in place of a target.
    select
        Picks the explained tensor where the model returns several.
    kwargs
        Further arguments of the model.

    Raises
    ------
    NoRuleError
        An operation without a rule.

    Examples
    --------
    >>> model = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
    >>> table = coverage(model, torch.ones(1, 4), composite="epsilon")
    >>> [(line.path, line.operation, line.rule) for line in table.lines]
    [('0', 'linear', 'Epsilon'), ('1', 'relu', 'Pass'), ('2', 'linear', 'Epsilon')]
    >>> table.conservation_error < 1e-5
    True
    """
    lrp = LRP(model, composite)
    trace = lrp.trace(x, recording=True, select=select, **kwargs)
    if seed is None:
        seed = output_seed(trace.output, target)
    values, shares = trace.relevance(seed)
    lines = _merged(trace.records, float(seed.double().abs().sum()))
    total = float(values.double().sum())
    magnitude = float(values.double().abs().sum())
    return Coverage(
        lines=tuple(lines),
        evidence=float(seed.double().sum()),
        relevance=total,
        absorbed={name: float(share.sum()) for name, share in shares.items()},
        amplification=magnitude / abs(total) if total else math.nan,
        composite=lrp.composite.name,
    )


def output_seed(output: Tensor, target: Tensor | int | None) -> Tensor:
    """Relevance that starts at the output: the chosen output of every row, or all of them summed.

    Raises
    ------
    InputError
        A target for an output that is not ``(n, K)``.
    """
    if output.ndim != 2:
        if target is not None:
            raise InputError(
                f"Expected outputs (n, K) to choose a target from, got {tuple(output.shape)}; give "
                "a seed, or select= to pick some."
            )
        return output
    chosen = output.argmax(1) if target is None else torch.as_tensor(target).expand(len(output))
    index = chosen.to(output.device)[:, None]
    return torch.zeros_like(output).scatter(1, index, output.gather(1, index))


def _merged(records: list[Record], seeded: float) -> list[Line]:
    groups: dict[tuple[str, str, str], list[Record]] = {}
    for record in records:
        groups.setdefault((record.path, record.operation, record.rule), []).append(record)
    return [_line(*key, group, seeded) for key, group in groups.items()]


def _line(path: str, operation: str, rule: str, calls: list[Record], seeded: float) -> Line:
    reached = [record for record in calls if record.visited]
    if not reached:
        return Line(path, operation, rule, len(calls))
    absorbed: dict[str, float] = {}
    for record in reached:
        for name, share in record.absorbed.items():
            absorbed[name] = absorbed.get(name, 0.0) + share
    above = sum(record.magnitude_in for record in reached)
    below = sum(record.magnitude_out for record in reached)
    return Line(
        path, operation, rule, len(calls), True,
        sum(record.incoming for record in reached), sum(record.outgoing for record in reached),
        absorbed, below / above if above else math.nan, below / seeded if seeded else math.nan,
        sum(record.not_finite for record in reached),
    )  # fmt: skip


def warn_if_amplified(
    lrp: LRP, x: Tensor, seed: Tensor, values: Tensor, offsets: Tensor | None = None, **kwargs: Any
) -> None:
    """Warn when relevance came out as NaN or more than :data:`LIMIT` times what went in.

    ``offsets`` ``(n,)`` counts as having gone in as well: the size of constants that the output
    adds to what is explained, and that can bring it near zero.

    The worst row is propagated once more, with an eye on every operation, to name the one to blame.
    """
    rows = values.detach().flatten(1).abs().sum(1).double()
    seeded = seed.detach().reshape(len(seed), -1).abs().sum(1).double()
    if offsets is not None:
        seeded = seeded + offsets.double()
    ratio = rows / seeded.clamp(min=torch.finfo(torch.float64).tiny)
    bad = ~rows.isfinite() | ((ratio > LIMIT) & (seeded > 0))
    if not bool(bad.any()):
        return
    worst = int(torch.where(rows.isfinite(), ratio, torch.inf).argmax())
    trace = lrp.trace(x[worst : worst + 1], recording=True, **kwargs)
    one = seed[worst : worst + 1]
    trace.relevance(one)
    lines = [
        line
        for line in _merged(trace.records, float(one.double().abs().sum()))
        if line.reached and not math.isnan(line.amplification)
    ]
    broken = [line for line in lines if line.not_finite]
    # backward runs from the last line to the first
    blame = broken[-1] if broken else max(lines, key=lambda line: line.amplification)
    what = "NaN or infinity" if broken else f"amplifies |relevance| {blame.amplification:.3g}-fold"
    warnings.warn(
        f"Relevance is {float(ratio[worst]):.3g} times what was to be explained in row {worst} "
        f"({int(bad.sum())} of {len(rows)} rows beyond {LIMIT:.0f}): too much to read. Worst is "
        f"{blame.path or 'the model'!r} ({blame.operation}, {blame.rule}): {what}. Composite "
        f"{lrp.composite.name}; try another preset, see neuralize.coverage(model, x).",
        AmplificationWarning,
        stacklevel=3,
    )
