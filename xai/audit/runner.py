"""``Audit``: ask every check about one fitted model and one set of data."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from numpy.typing import ArrayLike
from torch import nn
from tqdm import tqdm

from neuralize import Neuralized, neuralize
from xai.audit.acquisition import Acquisition
from xai.audit.appendix import appendix
from xai.audit.check import Check
from xai.audit.collapse import Collapse
from xai.audit.conservation import Conservation
from xai.audit.context import AuditContext
from xai.audit.groups import Groups
from xai.audit.inputs import column_of, masks_of, rows_of
from xai.audit.placement import Placement
from xai.audit.reproduce import command_line, python_line
from xai.audit.saved import Said, SavedAnswers
from xai.audit.spectrum import Spectrum
from xai.digest import code_digest, digest
from xai.errors import FileFormatError, InputError, UnsupportedModelError
from xai.explainer import provenance_of
from xai.report import Answer, NotAssessable, Report

CHECKS: tuple[type[Check], ...] = (
    Conservation,
    Collapse,
    Placement,
    Acquisition,
    Spectrum,
    Groups,
)
"""What an audit asks unless told otherwise, in this order; what needs groups, where they are."""

NEEDS = ("labels", "groups", "masks", "pictures", "encoder")
"""What a check may need."""

DELAY = 2.0
"""Seconds before a bar shows."""


class Audit:
    """Ask whether a fitted model is right for the right reasons.

    Parameters
    ----------
    model
        Anything :func:`neuralize.neuralize` takes, or its result.
    data
        What to audit it on: rows ``(n, d)`` or pictures ``(n, h, w)``, ``(n, h, w, c)``,
        ``(n, c, h, w)``; an array, a tensor, a DataFrame, or a loader of batches (kept in memory).
        Rows the model was *not* fitted on say more: a density model knows its own rows by heart.
    labels, groups
        Class of every row, and where it comes from ``(n,)``. They help to say which rows a finding
        concerns; a check that needs groups is asked where there are some.
    masks
        Where in each picture evidence may lie ``(n, h, w)``.
    checks
        Checks to ask, as objects or by name; all of :data:`CHECKS` when missing.
    features, composite
        Encoder below the model and the rules for it, as in :func:`xai.explain`.
    name
        What the report calls the model; its class name when missing.
    seed
        Of the random rows and places the tests compare with.
    progress
        Whether to show a bar on work that takes longer than two seconds.
    save_to
        Folder that gets the answers of every check as soon as it is done. An audit of the same
        model, data and settings with the same folder goes on where this one ended, and comes to
        the same report.
    command
        Words of the command line that started this audit, for the report's "ask this again".
    facts
        What else belongs among the versions and digests of the report, by name.

    Raises
    ------
    InputError
        Data, labels, groups or masks that do not fit; an unknown check.
    UnsupportedModelError, UnfittedModelError
        From :func:`neuralize.neuralize`.

    Examples
    --------
    >>> from sklearn.cluster import KMeans
    >>> from sklearn.datasets import load_wine
    >>> x = load_wine().data
    >>> report = Audit(KMeans(3, n_init=1, random_state=0).fit(x), x).run()
    >>> report.exit_code, report.reasons[0][:50]
    (1, 'KMeans: One of 13 columns, feature 12, takes 100% ')
    >>> x = (x - x.mean(0)) / x.std(0)
    >>> Audit(KMeans(3, n_init=1, random_state=0).fit(x), x).run().verdict
    'No objection. 9 measures passed.'
    """

    def __init__(
        self,
        model: Any,
        data: Any,
        labels: ArrayLike | None = None,
        groups: ArrayLike | None = None,
        masks: ArrayLike | None = None,
        checks: Sequence[Check | str] | None = None,
        *,
        features: nn.Module | None = None,
        composite: Any = None,
        name: str | None = None,
        seed: int = 0,
        progress: bool = True,
        save_to: str | Path | None = None,
        command: Sequence[str] = (),
        facts: Mapping[str, str] | None = None,
    ) -> None:
        net = model if isinstance(model, Neuralized) else neuralize(model, features)
        rows, feature_names, row_names = rows_of(data)
        shaped = net.features is not None or net.n_features is None
        flat = rows if shaped else rows.reshape(len(rows), -1)
        net.check(torch.as_tensor(flat))
        self.name = name or net.model_name or type(model).__name__
        self.progress = progress
        self.context = AuditContext(
            net,
            rows,
            column_of(labels, len(rows), "labels"),
            column_of(groups, len(rows), "groups"),
            masks_of(masks, rows.shape),
            feature_names,
            row_names,
            composite,
            seed,
            progress,
        )
        self.checks = tuple(_resolve(checks, self.context))
        self.saved = None if save_to is None else SavedAnswers(save_to)
        self.command = tuple(command)
        self.facts = dict(facts or {})
        optional = {
            "labels": labels, "groups": groups, "masks": masks, "features": features,
            "composite": composite,
        }  # fmt: skip
        self._given = [option for option, value in optional.items() if value is not None]

    def run(self) -> Report:
        """Ask every check; one that this model does not support is reported, not left out."""
        answers: list[Answer] = []
        seconds: dict[str, float] = {}
        network = digest(self.context.net)  # before checks make it keep anything
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
        context = self.context
        shape = " x ".join(map(str, context.data.shape[1:]))
        return Report(
            f"Audit of {self.name}",
            tuple(answers),
            provenance=self._provenance(network),
            introduction=(
                f"{self.name} on {len(context)} rows of shape {shape}. Evidence: "
                f"{context.net.evidence_name}."
            ),
            appendix=appendix(context, self.checks, answers),
            seconds=seconds,
        )

    def _said(self, check: Check, position: int, shared: str, explained: bool) -> Said:
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

    def _timed(self, check: Check) -> Said:
        start = time.perf_counter()
        answers = self._ask(check)
        seconds = time.perf_counter() - start
        return Said(answers, seconds, "relevance" in vars(self.context))

    def _ask(self, check: Check) -> list[Answer]:
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

    def _signed(self, check: Check, answers: Sequence[Answer]) -> list[Answer]:
        """The answers with who was asked, and how to ask again."""
        seed = self.context.seed
        if self.command:
            again = command_line(self.command, check.name, seed)
        else:
            known = any(type(check) is one for one in CHECKS)
            again = python_line(self._given, check, known, seed)
        return [
            replace(answer, check=check.name, subject=self.name, command=again)
            for answer in answers
        ]

    def _digest(self) -> str:
        """Of everything that the answers depend on, besides the check."""
        context = {f.name: getattr(self.context, f.name) for f in fields(self.context)}
        del context["progress"]
        return digest(code_digest(), self._versions, context)

    @cached_property
    def _versions(self) -> dict[str, str]:
        net, data = self.context.net, self.context.data
        return provenance_of(net, data, net.method)

    def _provenance(self, network: str) -> dict[str, str]:
        return {
            **self._versions,
            **self.facts,
            "network_sha256": network,
            "checks": ", ".join(check.name for check in self.checks),
            "seed": str(self.context.seed),
        }


def _has(audit: AuditContext, name: str) -> bool:
    if name == "pictures":
        return audit.is_image
    if name == "encoder":
        return audit.net.features is not None
    return getattr(audit, name) is not None


def _resolve(checks: Sequence[Check | str] | None, audit: AuditContext) -> Iterable[Check]:
    known = {check.name: check for check in CHECKS}
    if checks is None:
        given = {""} | {name for name in NEEDS if _has(audit, name)}
        checks = [name for name, check in known.items() if check.needs in given]
    if isinstance(checks, str | Check) or not checks:
        raise InputError(
            f"Expected a list of checks, or names of {', '.join(known)}, got {checks!r}."
        )
    for check in checks:
        if isinstance(check, str) and check in known:
            yield known[check]()
        elif isinstance(check, Check):
            yield check
        else:
            raise InputError(
                f"Expected checks as objects, or names of {', '.join(known)}, got {check!r}."
            )
