"""Coverage: whether the explanation can be trusted, by its rules and by a test of its maps."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from neuralize import Neuralized
from neuralize.coverage import LIMIT, Line, coverage
from neuralize.coverage import Coverage as Table
from neuralize.deep.score_network import ScoreNetwork
from neuralize.encoder import evaluating
from neuralize.module import NeuralizedModule
from neuralize.rules.named import Gradient
from xai.audit.check import Check
from xai.audit.context import AuditContext
from xai.audit.pointing import pointing
from xai.report.finding import Answer, Finding, Measure, NotAssessable, Passed

ROWS = 8
"""Rows that are sent through the network to see what every operation does."""

THROUGH = 0.01
"""An operation that hands on less than this share of what reaches it is a dead end."""


class Coverage(Check):
    """Asks which rule every operation got, what relevance it lost there, and what maps point at."""

    name = "coverage"
    question = "Can the explanation be trusted here?"

    def run(self, audit: AuditContext) -> Iterator[Answer]:
        rows = np.sort(audit.rng.choice(len(audit), min(ROWS, len(audit)), replace=False))
        tables = _tables(audit.net, torch.as_tensor(audit.data[rows]), audit.composite)
        for table in tables:
            yield from _rules(table)
        if not tables:
            yield _exact(audit.net)
        yield from pointing(audit)


def _exact(net: Neuralized) -> Answer:
    if isinstance(getattr(net, "network", None), nn.Module):
        return NotAssessable(
            "Which rule did every operation get?",
            f"{net.model_name} propagates relevance in a way of its own, which has no table.",
        )
    return Passed(
        Measure("operations without a rule of their own", 0, "<=", 0),
        "No network below the model: its own layers are rewritten one by one, each with its rule.",
    )


def _tables(net: Neuralized, x: Tensor, composite: Any) -> list[Table]:
    """What every operation does to relevance: of the encoder, and of a deep detector's module."""
    if isinstance(net, NeuralizedModule):
        return [coverage(net.network, net._cast(x), composite=composite, select=net.select)]
    found = []
    if net.features is not None:
        with torch.no_grad(), evaluating(net.features):
            phi = net.features(x.to(net.device))
        seed = phi if isinstance(net, ScoreNetwork) else _arriving(net, phi)
        found.append(coverage(net.features, x.to(net.device), composite=composite, seed=seed))
    if isinstance(net, ScoreNetwork):
        rules = net.composite if net.features is not None or composite is None else composite
        found.append(coverage(net.network, net.prepared(x), composite=rules))
    return found


def _arriving(net: Neuralized, phi: Tensor) -> Tensor:
    """Relevance of the encoder's output, where it starts in the encoder."""
    with torch.enable_grad():
        return net._head_relevance(phi, None, "score").values.to(phi.dtype)


def _rules(table: Table) -> Iterator[Answer]:
    reached = [line for line in table.lines if line.reached]
    # autograd runs these itself, so that nothing is noted of what reaches them
    gradient = [line for line in table.lines if line.rule == str(Gradient())]
    said = _by_rule(table)
    measure = Measure("operations that let the plain gradient through", len(gradient), "<=", 0)
    if measure.holds:
        yield Passed(measure, f"{table.composite}: {said}.")
    else:
        where = ", ".join(_place(line) for line in gradient[:5])
        yield Finding(
            "warning",
            "Some operations have no rule: the plain gradient goes through.",
            measure,
            f"These are {where}. Behind them, relevance no longer adds up to the decision. {said}.",
            "Give them a rule, with composite.with_rules(...) or neuralize.register_operation.",
        )
    yield _amplified(table)
    yield _ends(reached)


def _amplified(table: Table) -> Answer:
    """How much absolute relevance has grown by the input, and where most."""
    built = [line for line in table.lines if line.reached]
    most = max((line.total_amplification for line in built), default=1.0)
    measure = Measure(
        "absolute relevance in the network, over that which started", most, "<=", LIMIT
    )
    worst = table.worst
    blame = "" if worst is None else f"Most is added in {_place(worst)} under {worst.rule}."
    if measure.holds and not table.not_finite:
        return Passed(measure, blame)
    return Finding(
        "warning",
        "Relevance grows on its way through the network: the maps are noise.",
        measure,
        f"Large positive and negative parts cancel, and what is left cannot be read. {blame} "
        f"{table.not_finite} entries are not finite.",
        "Try another preset (composite=), see neuralize.coverage(model, x).",
    )


def _ends(reached: list[Line]) -> Answer:
    """Operations at which relevance ends: kept by a constant, or handed on to nothing."""
    # the amplification is NaN where nothing arrived, and exact operations only move values
    ends = [line for line in reached if line.amplification < THROUGH and line.rule != "exact"]
    measure = Measure(
        f"operations that hand on less than {THROUGH:.0%} of the relevance they get",
        len(ends),
        "<=",
        0,
    )
    if measure.holds:
        return Passed(measure, f"Of {len(reached)} operations that relevance reaches.")
    where = ", ".join(_place(line) for line in ends[:5])
    return Finding(
        "info",
        "Relevance ends inside the network.",
        measure,
        f"At {where}, what arrives goes to constants or to inputs that are zero, not to the "
        "picture.",
        "Read maps as the part of the decision that reached the input; 'absorbed' has the rest.",
    )


def _place(line: Line) -> str:
    return f"{line.path or 'the model'} ({line.operation})"


def _by_rule(table: Table) -> str:
    """How many operations have which rule, and what those keep of the relevance they get."""
    counts: dict[str, int] = {}
    kept: dict[str, float] = {}
    for line in table.lines:
        if line.reached and line.rule != "exact":
            counts[line.rule] = counts.get(line.rule, 0) + line.calls
            absorbed = sum(abs(share) for share in line.absorbed.values())
            kept[line.rule] = kept.get(line.rule, 0.0) + absorbed
    whole = sum(kept.values()) + abs(table.relevance)
    return ", ".join(
        f"{rule} in {n} operations ({kept[rule] / whole:.0%} of the account stays there)"
        for rule, n in counts.items()
    )
