"""The extension point: a check asks one question and yields what it found.

A new check is a subclass with a name, a question and a generator::

    class MostlyAbnormal(Check):
        name = "mostly abnormal"
        question = "Does the model call more than half of the rows abnormal?"

        def run(self, audit):
            if audit.net.kind != "outlier":
                yield NotAssessable(self.question, "The model assigns clusters.")
                return
            share = Measure("share of rows called abnormal", audit.decision.mean(), "<=", 0.5)
            yield Passed(share) if share.holds else Finding("warning", "Most rows.", share)
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, ClassVar, Generic, TypeVar

from xai.report.finding import Answer

if TYPE_CHECKING:
    from xai.audit.context import AuditContext  # noqa: F401 - named in Question["AuditContext"]

Context = TypeVar("Context", contravariant=True)


class Question(ABC, Generic[Context]):
    """What every check has, whether it looks at rows or at cell graphs; see :class:`Check`."""

    name: ClassVar[str]
    question: ClassVar[str]
    needs: ClassVar[str] = ""
    thresholds: ClassVar[Mapping[str, str]] = {}

    @abstractmethod
    def run(self, audit: Context) -> Iterator[Answer]:
        """Yield a ``Finding``, ``Passed`` or ``NotAssessable`` for every part of the question.

        Yielding nothing is an error of the check: silence must not look like a pass.
        """


class Check(Question["AuditContext"]):
    """One question an audit asks.

    Subclasses set ``name`` and ``question`` and give :meth:`run`. Thresholds are constants of the
    check, fixed before any data are seen. A suspicion is tested before it becomes a finding;
    :meth:`xai.audit.AuditContext.rescore` asks the model about altered rows.

    Attributes
    ----------
    name
        Short, for the report's columns and for ``checks=["name"]``.
    question
        What it asks, as a sentence.
    needs
        ``"groups"``, ``"labels"``, ``"masks"``, ``"pictures"`` or ``"encoder"`` where it can say
        nothing without: an audit without these asks it only by name.
    thresholds
        What is fine, by what is measured, for the appendix of the report:
        ``{"share of rows called abnormal": "at most 0.5"}``. Thresholds of measures that came up
        are listed there anyway.
    """
