"""``Audit``: ask every check about one fitted model and one set of data."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import nn
from tqdm import tqdm

from neuralize import Neuralized, neuralize
from xai.audit.check import Check
from xai.audit.collapse import Collapse
from xai.audit.conservation import Conservation
from xai.audit.context import AuditContext
from xai.audit.groups import Groups
from xai.audit.inputs import column_of, masks_of, rows_of
from xai.audit.placement import Placement
from xai.errors import InputError, UnsupportedModelError
from xai.report import Answer, NotAssessable, Report

CHECKS: tuple[type[Check], ...] = (Conservation, Collapse, Placement, Groups)
"""What an audit asks unless told otherwise, in this order; what needs groups, where they are."""


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
        concerns; no check needs them.
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
    >>> report.verdict, report.exit_code
    ('No objection. 8 measures passed.', 0)
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

    def run(self) -> Report:
        """Ask every check; one that this model does not support is reported, not left out."""
        answers: list[Answer] = []
        for check in tqdm(self.checks, delay=2, desc="auditing", disable=not self.progress):
            answers.extend(self._ask(check))
        context = self.context
        shape = " x ".join(map(str, context.data.shape[1:]))
        return Report(
            f"Audit of {self.name}",
            tuple(answers),
            provenance=self._provenance(),
            introduction=(
                f"{self.name} on {len(context)} rows of shape {shape}. Evidence: "
                f"{context.net.evidence_name}."
            ),
        )

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
        return [replace(answer, check=check.name, subject=self.name) for answer in answers]

    def _provenance(self) -> dict[str, str]:
        context = self.context
        kept = {} if "relevance" not in vars(context) else dict(context.relevance.provenance)
        digest = hashlib.sha256(np.ascontiguousarray(context.data).tobytes()).hexdigest()
        return {
            **kept,
            "input_sha256": digest,
            "checks": ", ".join(check.name for check in self.checks),
            "seed": str(context.seed),
        }


def _has(audit: AuditContext, name: str) -> bool:
    return getattr(audit, name) is not None


def _resolve(checks: Sequence[Check | str] | None, audit: AuditContext) -> Iterable[Check]:
    known = {check.name: check for check in CHECKS}
    if checks is None:
        given = {""} | {name for name in ("labels", "groups", "masks") if _has(audit, name)}
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
