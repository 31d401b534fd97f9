"""Collapse of a deep detector's representation: its scores may still rank rows."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch

from neuralize.deep.collapse import CONTRAST, SHARE, response, trivial_solutions
from neuralize.deep.score_network import ScoreNetwork
from xai.audit.context import AuditContext
from xai.report.finding import Answer, Finding, Measure, NotAssessable, Passed


def represented(audit: AuditContext) -> Iterator[Answer]:
    """Whether the network answers rows with scrambled entries as it does the data.

    Says nothing of models without a trained representation.
    """
    net = audit.net
    if not isinstance(net, ScoreNetwork) or not hasattr(net.network, "represent"):
        return
    if next(net.network.parameters(), None) is None:
        return
    found = response(net.network, net.prepared(torch.as_tensor(audit.data)), seed=audit.seed)
    if math.isnan(found.share):
        yield NotAssessable(
            "Does the representation tell different rows apart?",
            "The network has layers that cannot be given fresh weights (no reset_parameters), so "
            "there is nothing to compare its response with.",
        )
        return
    share = Measure(
        "response to scrambled rows over that of fresh weights", found.share, ">=", SHARE
    )
    contrast = Measure(
        "distance of scrambled rows to the centre over that of the data",
        found.contrast,
        ">=",
        CONTRAST,
    )
    if not found.collapsed:
        yield Passed(share if share.holds else contrast)
        return
    causes = trivial_solutions(net.network, getattr(net.network, "center", None))
    yield Finding(
        "critical",
        "The representation has collapsed: the network answers everything alike.",
        share,
        f"Rows whose entries are scrambled are {found.contrast:.3g} times as far from the centre "
        f"as the data themselves (fine if >= {CONTRAST:g}). Scores differ by what is left of a "
        "constant map; they may rank rows as fresh weights do, and AUROC look fine. "
        + (f"What allows a constant map: {'; '.join(causes)}." if causes else ""),
        "Fit again without what allows a constant map, with less weight decay or for fewer epochs.",
    )
