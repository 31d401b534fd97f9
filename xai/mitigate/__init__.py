"""Repairs: what a finding names, taken out before the model or between an encoder and its head.

Each is a module that goes in front of what it repairs, ``features=nn.Sequential(encoder, repair)``,
and leaves both as they were; the head is then fitted again on what is left. The engine explains
what comes out as it explained what went in.
"""

from xai.mitigate.bands import BlurFront, LowPass
from xai.mitigate.combat import ComBat, GroupAdjustment
from xai.mitigate.exposure import Pruning, egem
from xai.mitigate.filters import PrunedFilters, RankedFilters, rank_filters
from xai.mitigate.projection import (
    Projection,
    artefact_direction,
    without_artefact,
    without_groups,
)
from xai.mitigate.randomising import encoded, randomise_artefact, refit
from xai.mitigate.reactive import ReactiveProjection, where_artefact
from xai.mitigate.replacing import Replaced

__all__ = [
    "BlurFront",
    "ComBat",
    "GroupAdjustment",
    "LowPass",
    "Projection",
    "PrunedFilters",
    "Pruning",
    "RankedFilters",
    "ReactiveProjection",
    "Replaced",
    "artefact_direction",
    "egem",
    "encoded",
    "randomise_artefact",
    "rank_filters",
    "refit",
    "where_artefact",
    "without_artefact",
    "without_groups",
]
