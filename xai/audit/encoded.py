"""The two halves of a model on top of an encoder: what the head sees, and what it answers."""

from __future__ import annotations

import numpy as np
import torch

from neuralize.deep.score_network import ScoreNetwork
from neuralize.module import NeuralizedModule
from xai.audit.context import AuditContext
from xai.relevance import Array

AT_ONCE = 64
"""Rows encoded at a time, or fewer, where the encoder's activations are large."""


def has_head(audit: AuditContext) -> bool:
    """Whether relevance of what the head sees is known: not for networks explained as a whole."""
    net = audit.net
    return net.row_independent and not isinstance(net, ScoreNetwork | NeuralizedModule)


def encoded(audit: AuditContext, rows: Array) -> Array:
    """What the head sees of rows ``(k, ...)``: the encoder's output ``(k, q)``, or the row."""
    net = audit.net
    shaped = rows.astype(audit.data.dtype, copy=False).reshape(-1, *audit.data.shape[1:])
    if net.features is None:
        return shaped.reshape(len(shaped), -1).astype(np.float64)
    x = torch.as_tensor(np.ascontiguousarray(shaped))
    with torch.no_grad():
        parts = [net._encode(part) for part in x.split(min(AT_ONCE, net.rows_at_once))]
    found: Array = torch.cat([p.flatten(1) for p in parts]).cpu().numpy().astype(np.float64)
    return found


def answered(audit: AuditContext, phi: Array) -> Array:
    """The head's answers to what it sees ``(k, q)``: ``(k, K)`` or ``(k,)``, in float64."""
    net = audit.net
    x = torch.as_tensor(phi).to(device=net.device, dtype=net.dtype)
    with torch.no_grad():
        parts = [net.all_evidence(net._front(part)) for part in x.split(256)]
    found: Array = torch.cat(parts).cpu().numpy().astype(np.float64)
    return found


def head_relevance(audit: AuditContext, phi: Array, decision: Array) -> Array:
    """Relevance of what the head sees ``(k, q)``, for these decisions."""
    net = audit.net
    x = torch.as_tensor(phi).to(net.device)
    target = None if net.kind == "outlier" else torch.as_tensor(decision).to(net.device)
    found = []
    with torch.enable_grad():
        for i in range(0, len(x), 256):
            goal = None if target is None else target[i : i + 256]
            found.append(net._head_relevance(x[i : i + 256], goal, "score").values)
    values: Array = torch.cat(found).cpu().numpy().astype(np.float64)
    return values


def moves(audit: AuditContext, rows: Array, phi: Array) -> tuple[Array, Array]:
    """Shift of the evidence of ``rows`` in standard deviations, and whether decisions change.

    ``phi`` ``(k, q)`` is what the head sees of them now.
    """
    answers = answered(audit, phi)
    if audit.net.kind == "outlier":
        evidence, decision = answers, answers > audit.threshold
    else:
        evidence = answers[np.arange(len(rows)), audit.decision[rows]]
        decision = answers.argmax(1)
    shift = (evidence - audit.evidence[rows]) / (audit.spread or 1.0)
    return shift, decision != audit.decision[rows]
