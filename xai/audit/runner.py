"""``Audit``: ask every check about one fitted model and one set of data."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from numpy.typing import ArrayLike
from torch import nn

from neuralize import Neuralized, neuralize
from xai.audit.acquisition import Acquisition
from xai.audit.agreement import Agreement
from xai.audit.appendix import appendix
from xai.audit.asking import Asking
from xai.audit.check import Check, Question
from xai.audit.collapse import Collapse
from xai.audit.conservation import Conservation
from xai.audit.context import AuditContext
from xai.audit.coverage import Coverage
from xai.audit.groups import Groups
from xai.audit.inputs import column_of, masks_of, rows_of
from xai.audit.placement import Placement
from xai.audit.reproduce import command_line, python_line
from xai.audit.saved import SavedAnswers
from xai.audit.similarity import Similarity
from xai.audit.spectrum import Spectrum
from xai.audit.stability import Stability
from xai.audit.strategies import Strategies
from xai.audit.subspaces import Subspaces
from xai.errors import InputError
from xai.explainer import provenance_of
from xai.report import Answer, Section

CHECKS: tuple[type[Check], ...] = (
    Conservation,
    Coverage,
    Collapse,
    Placement,
    Acquisition,
    Spectrum,
    Stability,
    Similarity,
    Strategies,
    Groups,
    Subspaces,
    Agreement,
)
"""What an audit asks unless told otherwise, in this order; what needs groups, where they are."""

NEEDS = ("labels", "groups", "masks", "pictures", "encoder")
"""What a check may need."""


class Audit(Asking[AuditContext]):
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
    'No objection. 13 measures passed.'
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

    @property
    def model(self) -> Neuralized:
        """The audited model as a network."""
        return self.context.net

    def introduction(self) -> str:
        """Which model, on how many rows, and what its evidence is."""
        context = self.context
        shape = " x ".join(map(str, context.data.shape[1:]))
        return (
            f"{self.name} on {len(context)} rows of shape {shape}. Evidence: "
            f"{context.net.evidence_name}."
        )

    def appendix(self, answers: Sequence[Answer]) -> tuple[Section, ...]:
        """Thresholds, and the operations of the network with their rules."""
        return appendix(self.context, self.checks, answers)

    def again(self, check: Question[AuditContext]) -> str:
        """The command line, or the lines of Python, that ask this check again."""
        seed = self.context.seed
        if self.command:
            return command_line(self.command, check.name, seed)
        known = any(type(check) is one for one in CHECKS)
        return python_line(self._given, check, known, seed)

    def versions(self) -> dict[str, str]:
        """Versions, network, and digest of the data."""
        return self._versions

    @cached_property
    def _versions(self) -> dict[str, str]:
        net, data = self.context.net, self.context.data
        return provenance_of(net, data, net.method)


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
