"""Asking one check after another: what audits of rows and audits of cell graphs have in common."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from typing import Any, Generic, Protocol, TypeVar

from tqdm import tqdm

from xai.audit.check import Question
from xai.audit.saved import Said, SavedAnswers
from xai.digest import code_digest, digest
from xai.errors import FileFormatError, InputError, UnsupportedModelError
from xai.report import Answer, NotAssessable, Report, Section

DELAY = 2.0
"""Seconds before a bar shows."""


class Asked(Protocol):
    """What checks share; a dataclass, whose fields are all that answers depend on."""

    seed: int

    @property
    def relevance(self) -> Any:
        """Computed when first asked for, and kept."""


Context = TypeVar("Context", bound=Asked)


class Asking(ABC, Generic[Context]):
    """Asks checks about one context, and makes a report of their answers.

    Attributes
    ----------
    name
        What the report calls the model.
    context
        What the checks share.
    checks
        Which, in this order.
    saved
        Where answers are kept; None: nowhere.
    command
        Words of the command line that started it.
    facts
        What else belongs among the versions and digests of the report.
    progress
        Whether to show a bar on work that takes longer than two seconds.
    """

    name: str
    context: Context
    checks: tuple[Question[Context], ...]
    saved: SavedAnswers | None
    command: tuple[str, ...]
    facts: dict[str, str]
    progress: bool

    @property
    @abstractmethod
    def model(self) -> Any:
        """The network, whose digest goes into the report."""

    @abstractmethod
    def introduction(self) -> str:
        """A few sentences for the report: what is audited."""

    @abstractmethod
    def appendix(self, answers: Sequence[Answer]) -> tuple[Section, ...]:
        """What stands at the end of the report."""

    @abstractmethod
    def again(self, check: Question[Context]) -> str:
        """What to type to ask one check again."""

    @abstractmethod
    def versions(self) -> Mapping[str, str]:
        """Versions, and digests of what is audited."""

    def run(self) -> Report:
        """Ask every check; one that this model does not support is reported, not left out."""
        answers: list[Answer] = []
        seconds: dict[str, float] = {}
        network = digest(self.model)  # before checks make it keep anything
        shared = "" if self.saved is None else self._digest()
        explained, start = False, time.perf_counter()
        bar = tqdm(self.checks, delay=DELAY, desc="auditing", disable=not self.progress)
        for position, check in enumerate(bar):
            late = time.perf_counter() - start > DELAY
            bar.set_postfix_str(check.name, refresh=late)
            said = self._said(check, position, shared, explained)
            explained = said.explained
            answers.extend(self._signed(check, said.answers))
            seconds[check.name] = seconds.get(check.name, 0.0) + said.seconds
        return Report(
            f"Audit of {self.name}",
            tuple(answers),
            provenance=self._provenance(network),
            introduction=self.introduction(),
            appendix=self.appendix(answers),
            seconds=seconds,
        )

    def _said(self, check: Question[Context], position: int, shared: str, explained: bool) -> Said:
        """What the check says, or said when it was saved; the same in the end."""
        if self.saved is None:
            return self._timed(check)
        key = digest(shared, check)
        said = self.saved.load(check, position, key)
        if said is not None:
            return said
        if explained:
            _ = self.context.relevance  # as it was when the audit came here the first time
        self.saved.save(check, position, key, self._timed(check))
        kept = self.saved.load(check, position, key)
        if kept is None:
            raise FileFormatError(
                f"The answers of {check.name!r} could not be read back from {self.saved.folder}."
            )
        return kept

    def _timed(self, check: Question[Context]) -> Said:
        start = time.perf_counter()
        answers = self._ask(check)
        seconds = time.perf_counter() - start
        return Said(answers, seconds, "relevance" in vars(self.context))

    def _ask(self, check: Question[Context]) -> list[Answer]:
        try:
            answers = list(check.run(self.context))
        except UnsupportedModelError as error:
            answers = [NotAssessable(check.question, str(error))]
        if not answers:
            raise InputError(
                f"The check {check.name!r} said nothing. Yield a Finding, Passed or NotAssessable "
                "for every question, so that silence is never taken for a pass."
            )
        return answers

    def _signed(self, check: Question[Context], answers: Sequence[Answer]) -> list[Answer]:
        """The answers with who was asked, and how to ask again."""
        again = self.again(check)
        return [
            replace(answer, check=check.name, subject=self.name, command=again)
            for answer in answers
        ]

    def _digest(self) -> str:
        """Of everything that the answers depend on, besides the check."""
        context: Any = self.context
        found = {f.name: getattr(context, f.name) for f in fields(context)}
        found.pop("progress", None)
        return digest(code_digest(), self.versions(), found)

    def _provenance(self, network: str) -> dict[str, str]:
        return {
            **self.versions(),
            **self.facts,
            "network_sha256": network,
            "checks": ", ".join(check.name for check in self.checks),
            "seed": str(self.context.seed),
        }
