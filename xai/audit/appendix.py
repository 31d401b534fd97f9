"""The appendix of an audit: what was held against what, and how the network was explained."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import pandas as pd
import torch
from torch import nn

from neuralize.coverage import coverage
from xai.audit.check import Question
from xai.audit.context import AuditContext
from xai.errors import XaiError
from xai.report import Answer, NotAssessable, Section, Table, shown

TRACED_ROWS = 2
"""Rows that pass the network for the table of its operations."""


def appendix(
    audit: AuditContext, checks: Sequence[Question[Any]], answers: Sequence[Answer]
) -> tuple[Section, ...]:
    """Thresholds of every check asked, and the operations of the network with their rules."""
    sections = [thresholds(checks, answers)]
    network = audit.net.features or getattr(audit.net, "network", None)
    if isinstance(network, nn.Module):
        sections.append(_operations(audit, network))
    return tuple(sections)


def thresholds(checks: Sequence[Question[Any]], answers: Sequence[Answer]) -> Section:
    """What each check asks, and what would have been fine."""
    rows = [row for check in checks for row in _lines(check, answers)]
    frame = pd.DataFrame(
        [{"measure": measure, "fine if": fine} for _, measure, fine in rows],
        index=pd.Index([name for name, _, _ in rows], name="check"),
    )
    return Section(
        "What was asked, and what would have been fine",
        "Thresholds are fixed before the data are seen. "
        + " ".join(f"{check.name}: {check.question}" for check in checks),
        tables=[Table(frame, "Thresholds of every check asked")],
    )


def _lines(check: Question[Any], answers: Sequence[Answer]) -> Iterator[tuple[str, str, str]]:
    """The thresholds a check names, then those of measures that came up, each once."""
    measured = {
        answer.measure.name: f"{answer.measure.relation} {shown(answer.measure.threshold)}"
        for answer in answers
        if not isinstance(answer, NotAssessable) and answer.check == check.name
    }
    lines = {**measured, **check.thresholds}
    for measure, fine in lines.items() or [("", "")]:
        yield check.name, measure, fine


def _operations(audit: AuditContext, network: nn.Module) -> Section:
    title = "Operations of the network and their rules"
    text = (
        "Every module and operation between the input and what the head sees, in the order they "
        "ran, and the rule by which relevance passes it; exact where values only move."
    )
    try:
        rows = torch.as_tensor(audit.data[:TRACED_ROWS])
        parameter = next(network.parameters(), None)
        if parameter is not None:
            rows = rows.to(parameter.device, parameter.dtype)
        found = coverage(network, rows, composite=audit.composite)
    except (XaiError, RuntimeError, TypeError, ValueError) as error:
        return Section(title, f"They could not be listed: {error}")
    frame = pd.DataFrame(
        [
            {"operation": line.operation, "rule": line.rule, "calls": line.calls}
            for line in found.lines
        ],
        index=pd.Index([line.path or "(model)" for line in found.lines], name="module"),
    )
    return Section(
        title, text, tables=[Table(frame, f"Coverage of the network under {found.composite}")]
    )
