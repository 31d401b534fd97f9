"""What an audit can say about one question: a finding, a pass, or that it could not be assessed."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from xai.errors import InputError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Severity = Literal["info", "warning", "critical"]
SEVERITIES: tuple[Severity, ...] = ("critical", "warning", "info")
"""From the worst to the mildest, which is the order of a report."""

Relation = Literal["<=", "<", ">=", ">"]


def shown(value: Any) -> str:
    """A value as reports show it: numbers to four digits, everything else as text.

    Examples
    --------
    >>> shown(0.123456), shown(12), shown(float("nan")), shown("Dress")
    ('0.1235', '12', 'none', 'Dress')
    """
    if isinstance(value, bool) or not isinstance(value, int | float):
        return str(value)
    if isinstance(value, int):
        return str(value)
    return "none" if math.isnan(value) else f"{value:.4g}"


@dataclass(frozen=True)
class Measure:
    """One number and the threshold it was held against, fixed before the data were seen.

    Attributes
    ----------
    name
        What was measured, with its unit.
    value
        What came out.
    relation, threshold
        What would have been fine: ``value <relation> threshold``.

    Examples
    --------
    >>> measure = Measure("share of the largest cluster", 0.4, "<=", 0.95)
    >>> measure.holds, str(measure)
    (True, 'share of the largest cluster: 0.4 (fine if <= 0.95)')
    """

    name: str
    value: float
    relation: Relation
    threshold: float

    @property
    def holds(self) -> bool:
        """Whether the value is fine; NaN never is."""
        return {
            "<=": self.value <= self.threshold,
            "<": self.value < self.threshold,
            ">=": self.value >= self.threshold,
            ">": self.value > self.threshold,
        }[self.relation]

    def __str__(self) -> str:
        fine = f"fine if {self.relation} {shown(self.threshold)}"
        return f"{self.name}: {shown(self.value)} ({fine})"


@dataclass(frozen=True)
class Counterfactual:
    """What was changed in the data, and how far the model's answers moved.

    Attributes
    ----------
    tested
        What was changed, in which rows, and against what it was compared.
    numbers
        How far scores and decisions moved, by name.
    """

    tested: str
    numbers: Mapping[str, float]


@dataclass(frozen=True, eq=False)
class Picture:
    """A figure with the words that belong to it.

    Attributes
    ----------
    figure
        A matplotlib Figure.
    caption
        Shown below it.
    alt
        For whoever cannot see it: what it shows, in words.
    """

    figure: Figure
    caption: str
    alt: str


@dataclass(frozen=True)
class _Answer:
    """What every answer carries; the runner fills in who was asked."""

    check: str = field(default="", kw_only=True)
    subject: str = field(default="", kw_only=True)


@dataclass(frozen=True, eq=False)
class Finding(_Answer):
    """Something the reader has to know, with the number and the test behind it.

    Attributes
    ----------
    severity
        ``"info"``: worth knowing. ``"warning"``: look before relying on the model. ``"critical"``:
        decisions are wrong, or right for the wrong reason.
    title
        The finding in one sentence.
    measure
        The number and its threshold.
    explanation
        What it means, for a reader who does not know the method.
    advice
        What to do.
    counterfactual
        The test by which a suspicion became a finding; None where the measure is its own proof.
    pictures
        What can be seen of it.
    samples
        Names of the rows concerned.
    check, subject
        Which check found it, in which model; filled in by :class:`xai.Audit`.

    Raises
    ------
    InputError
        An unknown severity.

    Examples
    --------
    >>> Finding("warning", "Half the rows are tied.", Measure("tied", 0.5, "<=", 0.1)).severity
    'warning'
    """

    severity: Severity
    title: str
    measure: Measure
    explanation: str = ""
    advice: str = ""
    counterfactual: Counterfactual | None = None
    pictures: Sequence[Picture] = ()
    samples: Sequence[str] = ()

    def __post_init__(self) -> None:
        if self.severity not in SEVERITIES:
            known = ", ".join(map(repr, SEVERITIES))
            raise InputError(f"Expected a severity of {known}, got {self.severity!r}.")


@dataclass(frozen=True)
class Passed(_Answer):
    """A measure that was fine; ``note`` says what that does and does not mean."""

    measure: Measure
    note: str = ""


@dataclass(frozen=True)
class NotAssessable(_Answer):
    """A question that could not be answered, and why: silence must never look like a pass."""

    question: str
    reason: str


Answer = Finding | Passed | NotAssessable
