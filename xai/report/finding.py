"""What an audit can say about one question: a finding, a pass, or that it could not be assessed."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from xai.errors import InputError
from xai.report.picture import Picture as Picture  # part of this module's names

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

    def __post_init__(self) -> None:
        for name in ("value", "threshold"):
            object.__setattr__(self, name, _plain(getattr(self, name)))

    @property
    def holds(self) -> bool:
        """Whether the value is fine; NaN never is."""
        return {
            "<=": self.value <= self.threshold,
            "<": self.value < self.threshold,
            ">=": self.value >= self.threshold,
            ">": self.value > self.threshold,
        }[self.relation]

    @property
    def fine(self) -> str:
        """What would have been fine, in words."""
        return f"fine if {self.relation} {shown(self.threshold)}"

    def __str__(self) -> str:
        return f"{self.name}: {shown(self.value)} ({self.fine})"


@dataclass(frozen=True)
class BeforeAfter:
    """One quantity before and after the data were changed, and after the same at random.

    Attributes
    ----------
    name
        What it is, with its unit: ``"share of rows called abnormal"``.
    before, after
        Its value as things are, and without (or with) what was suspected.
    random
        Its value after a change of the same size at random; None where there is none.

    Examples
    --------
    >>> BeforeAfter("share of rows called abnormal", 0.3, 0.05, 0.29).largest
    0.3
    """

    name: str
    before: float
    after: float
    random: float | None = None

    def __post_init__(self) -> None:
        for name in ("before", "after", "random"):
            object.__setattr__(self, name, _plain(getattr(self, name)))

    @property
    def values(self) -> Mapping[str, float]:
        """The two or three values by what they are."""
        named = {
            "before": self.before,
            "after": self.after,
            "at random": self.random,
        }
        return {name: value for name, value in named.items() if value is not None}

    @property
    def largest(self) -> float:
        """Largest finite magnitude among them, which is as long as a bar gets; 0 without any."""
        finite = [abs(value) for value in self.values.values() if math.isfinite(value)]
        return max(finite, default=0.0)


@dataclass(frozen=True)
class Counterfactual:
    """What was changed in the data, and how far the model's answers moved.

    Attributes
    ----------
    tested
        What was changed, in which rows, and against what it was compared.
    numbers
        How far scores and decisions moved, by name.
    before_after
        The few quantities a reader should see side by side.
    """

    tested: str
    numbers: Mapping[str, float]
    before_after: Sequence[BeforeAfter] = ()

    def __post_init__(self) -> None:
        plain = {name: _plain(value) for name, value in self.numbers.items()}
        object.__setattr__(self, "numbers", plain)


def _plain(value: Any) -> Any:
    """A NumPy number as Python's, which is shown and saved like any other."""
    return value.item() if isinstance(value, np.generic) else value


SuspectKind = Literal["place", "band", "direction", "group", "feature"]

SUSPECT_ARRAYS: Mapping[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "place": (("pixels",), ("rows",)),
    "band": (("edges",), ("rows",)),
    "direction": (("vector",), ("rows",)),
    "group": (("groups",), ("labels", "rows")),
    "feature": (("features",), ("rows",)),
}
"""Arrays a suspect must and may hold, by kind."""


@dataclass(frozen=True, eq=False)
class Suspect:
    """What a finding suspects, for a program that repairs it (:mod:`xai.fix`).

    Attributes
    ----------
    kind
        ``"place"``: pixels of a picture. ``"band"``: spatial frequencies. ``"direction"``: of what
        the head sees. ``"group"``: where rows come from. ``"feature"``: columns of a table.
    summary
        The same in a few words; with the kind, all of it that reports keep.
    arrays
        By name. place: ``pixels`` ``(h, w)``, boolean. band: ``edges`` ``(2,)``, lowest and highest
        radial frequency in cycles per pixel, where 0.5 is the finest along an axis. direction:
        ``vector`` ``(q,)``. group: ``groups`` ``(n,)``, a name per audited row, and ``labels``
        ``(n,)`` if the suspicion is about groups within them. feature: ``features`` ``(k,)``,
        positions. Each may have ``rows`` ``(k,)``: positions of the audited rows that carry it.

    Raises
    ------
    InputError
        An unknown kind, arrays that are missing or that the kind does not have.

    Examples
    --------
    >>> import numpy as np
    >>> suspect = Suspect("feature", "column 3", {"features": np.array([3])})
    >>> suspect["features"].tolist(), "rows" in suspect.arrays
    ([3], False)
    """

    kind: SuspectKind
    summary: str
    arrays: Mapping[str, NDArray[Any]]

    def __post_init__(self) -> None:
        if self.kind not in SUSPECT_ARRAYS:
            known = ", ".join(map(repr, SUSPECT_ARRAYS))
            raise InputError(f"Expected a suspect of kind {known}, got {self.kind!r}.")
        needed, optional = SUSPECT_ARRAYS[self.kind]
        missing = [name for name in needed if name not in self.arrays]
        unknown = [name for name in self.arrays if name not in needed + optional]
        if missing or unknown:
            raise InputError(
                f"Expected arrays {', '.join(needed)} (and perhaps {', '.join(optional)}) for a "
                f"suspect of kind {self.kind!r}, got {', '.join(self.arrays) or 'none'}."
            )

    def __getitem__(self, name: str) -> NDArray[Any]:
        return self.arrays[name]


@dataclass(frozen=True)
class _Answer:
    """What every answer carries; the runner fills in who was asked, and how to ask again."""

    check: str = field(default="", kw_only=True)
    subject: str = field(default="", kw_only=True)
    command: str = field(default="", kw_only=True)


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
    suspect
        What is suspected, for a program that repairs it; pages do not show it.
    check, subject, command
        Which check found it, in which model, and the command or the lines of Python that ask it
        again; filled in by :class:`xai.Audit`.

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
    suspect: Suspect | None = None

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
