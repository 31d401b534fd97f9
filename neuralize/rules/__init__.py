"""The relevance rules, which read like their formulas.

Lower case: pure functions, for the layers of neuralized heads. Capitals: rules by zennit's names,
for :mod:`neuralize.composites`.

Conventions: ``x`` is ``(n, d)``; support points ``u`` are ``(m, d)``; a distance or pairwise logit
``h`` is ``(n, m)``; relevance coming in has the shape of the operation's output, relevance going
out the shape of its input.
"""

from neuralize.rules.base import ratio, stabilize
from neuralize.rules.distance import (
    l1_distance,
    l2_distance,
    lp_distance,
    mahalanobis_distance,
    metric_distance,
)
from neuralize.rules.linear import epsilon, midpoint, wsquare
from neuralize.rules.named import (
    CPLRP,
    AlphaBeta,
    AttnLRP,
    Epsilon,
    Flat,
    Gamma,
    Gradient,
    Ignore,
    Norm,
    Pass,
    Rule,
    TakeMost,
    WinnerTakeAll,
    WSquare,
    ZBox,
    ZPlus,
)
from neuralize.rules.pooling import (
    harmonic_pooling,
    paper_stiffness,
    soft_max_weights,
    soft_min_weights,
    take_most,
    winner_take_all,
)

__all__ = [
    "CPLRP",
    "AlphaBeta",
    "AttnLRP",
    "Epsilon",
    "Flat",
    "Gamma",
    "Gradient",
    "Ignore",
    "Norm",
    "Pass",
    "Rule",
    "TakeMost",
    "WSquare",
    "WinnerTakeAll",
    "ZBox",
    "ZPlus",
    "epsilon",
    "harmonic_pooling",
    "l1_distance",
    "l2_distance",
    "lp_distance",
    "mahalanobis_distance",
    "metric_distance",
    "midpoint",
    "paper_stiffness",
    "ratio",
    "soft_max_weights",
    "soft_min_weights",
    "stabilize",
    "take_most",
    "winner_take_all",
    "wsquare",
]
