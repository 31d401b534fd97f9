"""Audits: checks that look for what is wrong with a fitted model, each finding tested."""

from xai.audit.agreement import Agreement
from xai.audit.check import Check
from xai.audit.collapse import Collapse
from xai.audit.conservation import Conservation
from xai.audit.context import AuditContext, Rescored
from xai.audit.coverage import Coverage
from xai.audit.graph_audit import GRAPH_CHECKS, GraphAudit
from xai.audit.graph_context import GraphCheck, GraphContext
from xai.audit.groups import Groups
from xai.audit.placement import Placement
from xai.audit.runner import CHECKS, Audit
from xai.audit.similarity import Similarity
from xai.audit.stability import Stability
from xai.audit.strategies import Strategies
from xai.audit.subspaces import Subspaces

__all__ = [
    "CHECKS",
    "GRAPH_CHECKS",
    "Agreement",
    "Audit",
    "AuditContext",
    "Check",
    "Collapse",
    "Conservation",
    "Coverage",
    "GraphAudit",
    "GraphCheck",
    "GraphContext",
    "Groups",
    "Placement",
    "Rescored",
    "Similarity",
    "Stability",
    "Strategies",
    "Subspaces",
]
