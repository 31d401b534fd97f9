"""Placement: relevance where the data carry no evidence, at marks, edges and still features."""

from __future__ import annotations

from collections.abc import Iterator

from xai.audit.check import Check
from xai.audit.context import AuditContext
from xai.audit.edges import edges
from xai.audit.marked_rows import marked_rows
from xai.audit.outside_masks import outside_masks
from xai.audit.still_features import constant_features, nearly_constant_features
from xai.audit.telling_columns import deciding_column, given_away
from xai.report.finding import Answer


class Placement(Check):
    """Looks for relevance at places without evidence, and tests what depends on them.

    Pictures are searched for marks (:mod:`xai.audit.marks`) and compared with their own variance
    along edges and corners; tables are searched for features that are the same in nearly all rows,
    that decide alone, or that give the label away.
    Constant features, and what lies outside given masks, are looked at in both.
    """

    name = "placement"
    question = "Does the decision rest on places that carry no evidence?"

    def run(self, audit: AuditContext) -> Iterator[Answer]:
        yield from constant_features(audit)
        if audit.is_image:
            yield from marked_rows(audit)
            yield from edges(audit)
        else:
            yield from nearly_constant_features(audit)
            yield from deciding_column(audit)
            if audit.labels is not None:
                yield from given_away(audit)
        if audit.masks is not None:
            yield from outside_masks(audit)
