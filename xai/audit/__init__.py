"""Audits: checks that look for what is wrong with a fitted model, each finding tested."""

from xai.audit.check import Check
from xai.audit.collapse import Collapse
from xai.audit.conservation import Conservation
from xai.audit.context import AuditContext, Rescored
from xai.audit.groups import Groups
from xai.audit.placement import Placement
from xai.audit.runner import CHECKS, Audit

__all__ = [
    "CHECKS",
    "Audit",
    "AuditContext",
    "Check",
    "Collapse",
    "Conservation",
    "Groups",
    "Placement",
    "Rescored",
]
