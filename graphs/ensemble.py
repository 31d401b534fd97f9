"""Ensembles of graph networks: the mean or the median of the members' log hazards.

The mean is linear, so its relevance is the mean of relevances. The median is, patient by patient,
the log hazard of one member (or half the sum of two), and so is its relevance.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor, nn

from graphs.batches import PatientBatches
from graphs.cell_graph import CellGraph
from graphs.inputs import GraphInput
from graphs.network import CellGraphNet, GraphConfig
from graphs.survival import Outcome
from graphs.training import GraphTraining, fit
from neuralize.errors import InputError
from neuralize.seeding import seeded

if TYPE_CHECKING:
    import pandas as pd

How = Literal["mean", "median"]


class GraphEnsemble(nn.Module):
    """Several networks on the same input.

    Parameters
    ----------
    members
        Networks with the same features and covariates.
    how
        ``"mean"`` or ``"median"``; of an even number of members, the median is the mean of the two
        in the middle.

    Raises
    ------
    InputError
        No members, members that read different inputs, another ``how``.

    Examples
    --------
    >>> nets = [CellGraphNet(in_features=2, hidden=4, blocks=1) for _ in range(3)]
    >>> GraphEnsemble(nets, "median")
    <GraphEnsemble of 3 networks, median>
    """

    def __init__(self, members: Sequence[CellGraphNet], how: How = "mean") -> None:
        super().__init__()
        if not members:
            raise InputError("Expected at least one member, got none.")
        if how not in ("mean", "median"):
            raise InputError(f"Expected an ensemble by 'mean' or 'median', got {how!r}.")
        first = members[0].config
        for k, member in enumerate(members):
            if (member.config.in_features, member.config.covariates) != (
                first.in_features,
                first.covariates,
            ):
                raise InputError(
                    f"Expected members that read {first.in_features} features and covariates "
                    f"{first.covariates}, got {member.config.in_features} and "
                    f"{member.config.covariates} in member {k}."
                )
        self.members = nn.ModuleList(members)
        self.how: How = how

    @property
    def config(self) -> GraphConfig:
        """That of the first member; all read the same features and covariates."""
        found = self.members[0].config
        assert isinstance(found, GraphConfig)
        return found

    def forward(self, data: GraphInput) -> Tensor:
        """Log hazards ``(p,)``."""
        return self.of_features(data.x, data)

    def of_features(self, x: Tensor, data: GraphInput) -> Tensor:
        """Log hazards ``(p,)`` of the graphs in ``data`` with features ``x`` ``(n, f)``."""
        hazards = torch.stack([member.of_features(x, data) for member in self._nets])
        if self.how == "mean":
            return hazards.mean(0)
        m = len(hazards)
        return hazards.sort(0).values[(m - 1) // 2 : m // 2 + 1].mean(0)

    @property
    def _nets(self) -> list[CellGraphNet]:
        return [member for member in self.members if isinstance(member, CellGraphNet)]

    def __len__(self) -> int:
        return len(self.members)

    def __repr__(self) -> str:
        return f"<GraphEnsemble of {len(self)} networks, {self.how}>"


def train_ensemble(
    config: GraphConfig,
    graph: CellGraph,
    outcome: Outcome,
    covariates: pd.DataFrame | None = None,
    training: GraphTraining | None = None,
    *,
    members: int = 5,
    how: How = "mean",
) -> GraphEnsemble:
    """Networks that differ in their seeds: ``training.seed``, and the ``members - 1`` after it.

    The seed draws the first weights, the batches and dropout. Errors and warnings are those of
    :func:`~graphs.training.train`.

    Examples
    --------
    >>> from graphs.datasets import planted_motif
    >>> cohort = planted_motif(0, patients=6, images=1, cells=(40, 60))
    >>> config = GraphConfig(in_features=6, hidden=4, blocks=1)
    >>> train_ensemble(config, cohort.graph, cohort.outcome, training=GraphTraining(epochs=1),
    ...                members=2)
    <GraphEnsemble of 2 networks, mean>
    """
    outcome = outcome.matched(graph).require_events("Training")
    data = PatientBatches(graph, covariates, config.covariates, config.conv)
    return fit_ensemble(config, data, outcome, training, members=members, how=how)


def fit_ensemble(
    config: GraphConfig,
    data: PatientBatches,
    outcome: Outcome,
    training: GraphTraining | None = None,
    *,
    members: int = 5,
    how: How = "mean",
) -> GraphEnsemble:
    """As :func:`train_ensemble`, on patients that were cut into batches already."""
    if members < 1:
        raise InputError(f"Expected at least one member, got {members}.")
    training = training or GraphTraining()
    nets = []
    for k in range(members):
        plan = replace(training, seed=training.seed + k)
        with seeded(plan.seed):
            net = CellGraphNet(config)
        fit(net, data, outcome, plan, what=f"training member {k + 1} of {members}")
        nets.append(net)
    return GraphEnsemble(nets, how).eval()
