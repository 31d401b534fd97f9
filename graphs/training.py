"""Training of graph networks on survival: Cox's partial likelihood over batches of patients.

A risk set within a batch is a sample of the whole one; small batches make it a poor one, so batches
are large (or all patients at once), and events are dealt out evenly among them.
"""

from __future__ import annotations

import copy
import math
import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from tqdm import tqdm

from graphs.batches import PatientBatches, batches_with_events
from graphs.cell_graph import CellGraph, each_patient
from graphs.inputs import graph_input
from graphs.network import CellGraphNet
from graphs.survival import Outcome, cox_loss
from neuralize.errors import InputError, TrainingError, TrainingWarning
from neuralize.seeding import seeded

if TYPE_CHECKING:
    import pandas as pd
    from torch import nn

Array = np.ndarray


@dataclass(frozen=True)
class GraphTraining:
    """How a graph network is trained; stored beside its weights.

    Attributes
    ----------
    epochs
        Passes over the patients.
    batch_size
        Patients per step; None: all of them. Every batch holds events, so there may be fewer,
        larger batches than asked for.
    images_per_step
        Take so many images of a patient at most, drawn anew in each step; None: all. Log hazards
        of patients are those of all images.
    lr, weight_decay
        Of AdamW. The rate falls from ``lr`` to 0 along half a cosine.
    seed
        Of batches and dropout. The caller's random state is left alone.
    progress
        Whether to show a bar when it takes longer than two seconds.

    Examples
    --------
    >>> GraphTraining(epochs=3).batch_size
    32
    """

    epochs: int = 30
    batch_size: int | None = 32
    images_per_step: int | None = None
    lr: float = 3e-3
    weight_decay: float = 1e-2
    seed: int = 0
    progress: bool = True

    def __post_init__(self) -> None:
        if self.epochs < 1 or (self.batch_size is not None and self.batch_size < 2):
            raise InputError(
                "Expected at least 1 epoch and 2 patients per batch, got "
                f"epochs={self.epochs}, batch_size={self.batch_size}."
            )
        if self.images_per_step is not None and self.images_per_step < 1:
            raise InputError(
                f"Expected at least 1 image per step, got images_per_step={self.images_per_step}."
            )
        if not (0 < self.lr < math.inf) or not (0 <= self.weight_decay < math.inf):
            raise InputError(
                f"Expected lr > 0 and weight_decay >= 0, got lr={self.lr}, "
                f"weight_decay={self.weight_decay}."
            )

    def rate(self, done: float) -> float:
        """Learning rate after a share ``done`` of all steps.

        Examples
        --------
        >>> [round(GraphTraining(lr=1.0).rate(done), 2) for done in (0, 0.5, 1)]
        [1.0, 0.5, 0.0]
        """
        return self.lr * 0.5 * (1 + math.cos(math.pi * done))


def train(
    net: CellGraphNet,
    graph: CellGraph,
    outcome: Outcome,
    covariates: pd.DataFrame | None = None,
    training: GraphTraining | None = None,
    *,
    what: str = "training",
) -> list[float]:
    """Train ``net`` in place on the patients of ``graph``; the mean loss of every epoch.

    Covariates are centred and scaled by what these patients have.

    Parameters
    ----------
    graph
        With edges; all its patients are trained on.
    outcome
        Of the same patients.
    covariates
        A table with patients as index, if the network uses any.
    what
        Name of the progress bar.

    Raises
    ------
    InputError
        Patients without images or without outcome, no events, covariates that do not fit.
    TrainingError
        The loss was not finite in the first epoch.

    Warns
    -----
    TrainingWarning
        The loss became NaN or infinite later: training stops with the weights of the last epoch in
        which it was not.

    Examples
    --------
    >>> from graphs.datasets import planted_motif
    >>> cohort = planted_motif(0, patients=8, images=1, cells=(60, 80))
    >>> _ = torch.manual_seed(0)
    >>> net = CellGraphNet(in_features=6, hidden=8, blocks=1)
    >>> losses = train(net, cohort.graph, cohort.outcome, training=GraphTraining(epochs=2))
    >>> len(losses), net.training
    (2, False)
    """
    outcome = outcome.matched(graph).require_events("Training")
    data = PatientBatches(graph, covariates, net.config.covariates, net.config.conv)
    return fit(net, data, outcome, training, what=what)


def fit(
    net: CellGraphNet,
    data: PatientBatches,
    outcome: Outcome,
    training: GraphTraining | None = None,
    *,
    what: str = "training",
) -> list[float]:
    """As :func:`train`, on patients that were cut into batches already.

    Parameters
    ----------
    outcome
        Of these patients, in their order.

    Raises
    ------
    InputError
        Another number of patients, fewer than two, no events.
    """
    training = training or GraphTraining()
    outcome.require_events("Training")
    if len(outcome) < 2 or len(outcome) != len(data):
        raise InputError(
            f"Expected at least two patients and an outcome of each, got {len(data)} patients and "
            f"{len(outcome)} outcomes."
        )
    set_covariate_scale(net, data.covariates)
    own = next(net.parameters())
    time = torch.from_numpy(outcome.time).to(own.device)
    event = torch.from_numpy(outcome.event).to(own.device)
    optimizer = torch.optim.AdamW(
        net.parameters(), lr=training.lr, weight_decay=training.weight_decay
    )
    generator = torch.Generator().manual_seed(training.seed)
    size = training.batch_size or len(outcome)
    whole = None
    if size >= len(outcome) and training.images_per_step is None:
        whole = data.batch(range(len(outcome))).to(own.device, own.dtype)
    losses: list[float] = []
    good: dict[str, Any] | None = None
    net.train()
    try:
        with (
            seeded(training.seed),
            tqdm(total=training.epochs, desc=what, delay=2, disable=not training.progress) as bar,
        ):
            for epoch in range(training.epochs):
                batches = batches_with_events(event.cpu(), size, generator)
                found = []
                for step, rows in enumerate(batches):
                    for group in optimizer.param_groups:
                        group["lr"] = training.rate((epoch + step / len(batches)) / training.epochs)
                    if whole is not None:
                        rows, batch = list(range(len(outcome))), whole
                    else:
                        batch = data.batch(rows, training.images_per_step, generator)
                        batch = batch.to(own.device, own.dtype)
                    loss = cox_loss(net(batch), time[rows], event[rows])
                    found.append(float(loss.detach()))
                    if not math.isfinite(found[-1]):
                        break
                    optimizer.zero_grad()
                    loss.backward()
                    optimizer.step()
                if not all(map(math.isfinite, found)) or not _finite(net):
                    _restore(net, good, what, epoch)
                    break
                losses.append(float(np.mean(found)))
                good = copy.deepcopy(net.state_dict())
                bar.set_postfix(loss=f"{losses[-1]:.4g}", refresh=False)
                bar.update()
    finally:
        net.eval()
    return losses


def set_covariate_scale(net: CellGraphNet, values: Any) -> None:
    """Centre and scale of the covariates ``(p, c)`` in the network's buffers.

    A covariate that is the same in all patients keeps scale 1, and is zero once centred.

    Examples
    --------
    >>> net = CellGraphNet(in_features=1, hidden=2, covariates=("age",))
    >>> set_covariate_scale(net, torch.tensor([[50.0], [70.0]]))
    >>> net.covariate_center.tolist(), net.covariate_scale.tolist()
    ([60.0], [10.0])
    """
    if not values.numel():
        return
    scale = values.std(0, correction=0)
    net.covariate_center.copy_(values.mean(0))
    net.covariate_scale.copy_(torch.where(scale > 0, scale, torch.ones_like(scale)))


def predict(
    model: nn.Module,
    graph: CellGraph,
    covariates: pd.DataFrame | None = None,
    *,
    progress: bool = True,
) -> pd.Series:
    """Log hazards of the graph's patients, by name; patient by patient, in bounded memory.

    Parameters
    ----------
    model
        A :class:`~graphs.network.CellGraphNet` or a :class:`~graphs.ensemble.GraphEnsemble`. It is
        used in eval mode and left as it was.

    Raises
    ------
    InputError
        A graph or covariates that do not fit.
    """
    import pandas as pd

    names = getattr(getattr(model, "config", None), "covariates", ())
    own = next(model.parameters())
    values = []
    training = model.training
    model.eval()
    try:
        with torch.inference_mode():
            parts = each_patient(graph)
            total = len(graph.patient_names)
            for _, part in tqdm(parts, "predicting", total, delay=2, disable=not progress):
                data = graph_input(part, covariates, names).to(own.device, own.dtype)
                values.append(float(model(data)))
    finally:
        model.train(training)
    index = pd.Index(graph.patient_names, name="patient")
    return pd.Series(np.array(values), index=index, name="log_hazard")


def predict_batches(model: nn.Module, data: PatientBatches, size: int = 8) -> Array:
    """Log hazards ``(p,)`` of patients that were cut into batches, ``size`` at a time."""
    own = next(model.parameters())
    training = model.training
    model.eval()
    try:
        with torch.inference_mode():
            found = [
                model(data.batch(range(k, min(k + size, len(data)))).to(own.device, own.dtype))
                for k in range(0, len(data), size)
            ]
    finally:
        model.train(training)
    values: Array = torch.cat(found).double().cpu().numpy()
    return values


def _finite(net: nn.Module) -> bool:
    return all(
        bool(torch.isfinite(t).all()) for t in net.state_dict().values() if t.is_floating_point()
    )


def _restore(net: nn.Module, good: dict[str, Any] | None, what: str, epoch: int) -> None:
    advice = "Lower the learning rate, and look for extreme values in the features."
    if good is None:
        raise TrainingError(
            f"{what.capitalize()}: the loss is not finite in the first epoch. {advice}"
        )
    net.load_state_dict(good)
    warnings.warn(
        f"{what.capitalize()}: the loss became NaN or infinite in epoch {epoch + 1}; training "
        f"stopped with the weights of the epoch before. {advice}",
        TrainingWarning,
        stacklevel=3,
    )
