"""Training loops of the detectors, on skorch: batches, learning rate, progress, resuming.

One loop serves every detector: an objective (a criterion of what the network returns and of the
labels), a dataset that hands out whole batches, and callbacks.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset
from tqdm import tqdm

from neuralize.deep.lean_skorch import Callback, Checkpoint, EarlyStopping, NeuralNet
from neuralize.errors import InputError, TrainingError, TrainingWarning
from neuralize.seeding import seeded

Augment = Callable[[Tensor, Tensor, torch.Generator], tuple[Tensor, Tensor]]

OPTIMIZERS: dict[str, type[torch.optim.Optimizer]] = {
    "adam": torch.optim.Adam,
    "sgd": torch.optim.SGD,
}


@dataclass(frozen=True)
class Training:
    """How a network is trained; one object for all detectors, stored in the manifest.

    Parameters
    ----------
    epochs, batch_size
        Passes over the data, and rows per step. With labelled outliers half of a batch is theirs.
    lr, milestones, decay
        Learning rate, the epochs after which it falls to a tenth, and a factor per epoch.
    optimizer, momentum, weight_decay
        ``"adam"``, or ``"sgd"`` with Nesterov momentum.
    patience
        Stop after so many epochs in which the loss did not fall; never when missing.
    seed
        Of weights, order and augmentation. The caller's random state is left alone.
    device
        Where to train.
    checkpoint
        Folder that keeps the state of every epoch; a training that finds one there goes on with it.
    progress
        Whether to show a bar when it takes longer than two seconds.

    Examples
    --------
    >>> Training(epochs=3, lr=1e-2).epochs
    3
    """

    epochs: int = 50
    batch_size: int = 128
    lr: float = 1e-3
    milestones: tuple[int, ...] = ()
    decay: float = 1.0
    optimizer: Literal["adam", "sgd"] = "adam"
    momentum: float = 0.9
    weight_decay: float = 5e-7
    patience: int | None = None
    seed: int = 0
    device: str = "cpu"
    checkpoint: str | None = None
    progress: bool = True

    def __post_init__(self) -> None:
        if self.epochs < 1 or self.batch_size < 2:
            raise InputError(
                f"Expected at least 1 epoch and 2 rows per batch, got epochs={self.epochs}, "
                f"batch_size={self.batch_size}."
            )
        if not self.lr > 0 or not 0 < self.decay <= 1 or self.weight_decay < 0:
            raise InputError(
                "Expected lr > 0, 0 < decay <= 1 and weight_decay >= 0, got "
                f"lr={self.lr}, decay={self.decay}, weight_decay={self.weight_decay}."
            )
        if self.optimizer not in OPTIMIZERS:
            raise InputError(f"Expected optimizer 'adam' or 'sgd', got {self.optimizer!r}.")

    def rate(self, epoch: int) -> float:
        """Learning rate of an epoch, counted from 0."""
        passed = sum(epoch >= milestone for milestone in self.milestones)
        return self.lr * 0.1**passed * self.decay**epoch


@dataclass
class Batches(TorchDataset[Any]):
    """Rows with what the objective needs to know of each, handed out in whole batches.

    Parameters
    ----------
    x, y
        ``(n, ...)`` each.
    outliers
        Which rows are labelled outliers ``(n,)``: then every batch holds as many of them, drawn
        with replacement where there are few, as other rows, all of which come once an epoch.
    augment
        Changes a batch, ``(x, y, generator) -> (x, y)``.
    """

    x: Tensor
    y: Tensor
    outliers: Tensor | None = None
    augment: Augment | None = None
    generator: torch.Generator = field(default_factory=torch.Generator)

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, row: int) -> tuple[Tensor, Tensor]:
        x, y = self.__getitems__([row])
        return x[0], y[0]

    def __getitems__(self, rows: Sequence[int]) -> tuple[Tensor, Tensor]:
        index = torch.as_tensor(rows)
        x, y = self.x[index], self.y[index]
        return (x, y) if self.augment is None else self.augment(x, y, self.generator)

    def orders(self, batch_size: int) -> list[Tensor]:
        """Row numbers of every batch of one epoch; a last batch of one row joins the one before."""
        g = self.generator
        if self.outliers is None:
            return _cut(torch.randperm(len(self.x), generator=g), batch_size)
        ours, theirs = (~self.outliers).nonzero()[:, 0], self.outliers.nonzero()[:, 0]
        half = max(1, batch_size // 2)
        found = []
        for part in _cut(ours[torch.randperm(len(ours), generator=g)], half):
            if len(theirs) >= len(part):
                drawn = torch.randperm(len(theirs), generator=g)[: len(part)]
            else:
                drawn = torch.randint(len(theirs), (len(part),), generator=g)
            found.append(torch.cat([part, theirs[drawn]]))
        return found


def _cut(order: Tensor, size: int) -> list[Tensor]:
    parts = list(order.split(size))
    if len(parts) > 1 and len(parts[-1]) == 1:
        parts[-2:] = [torch.cat(parts[-2:])]
    return parts


class _Order:
    """Batch sampler that asks the dataset anew every epoch."""

    def __init__(self, data: Batches, batch_size: int) -> None:
        self.data, self.batch_size = data, batch_size

    def __iter__(self) -> Iterator[list[int]]:
        for rows in self.data.orders(self.batch_size):
            yield rows.tolist()


def _loader(data: Batches, batch_size: int, **_: Any) -> DataLoader[Any]:
    return DataLoader(data, batch_sampler=_Order(data, batch_size), collate_fn=lambda batch: batch)


class Objective(nn.Module):
    """What training minimises: ``forward(outputs, y)`` is the loss of a batch."""

    def end_of_epoch(self, epoch: int) -> None:
        """Update what is not learned by gradients (a radius, a weight)."""


class _NotFinite(Exception):
    pass


class _Net(NeuralNet):
    """Stops at a loss that is not finite, before it reaches the weights."""

    def get_loss(self, y_pred: Any, y_true: Any, X: Any = None, training: bool = False) -> Tensor:
        loss: Tensor = self.criterion_(y_pred, y_true)
        if not bool(torch.isfinite(loss)):
            raise _NotFinite
        return loss


class _Schedule(Callback):
    """Seeds and learning rate by the number of the epoch, so that resuming changes nothing."""

    def __init__(self, training: Training, data: Batches, objective: Objective) -> None:
        self.training, self.data, self.objective = training, data, objective

    def on_epoch_begin(self, net: Any, **_: Any) -> None:
        epoch = len(net.history) - 1
        torch.manual_seed(self.training.seed + 1000 * (epoch + 1))
        self.data.generator.manual_seed(self.training.seed + 1000 * (epoch + 1) + 1)
        for group in net.optimizer_.param_groups:
            group["lr"] = self.training.rate(epoch)

    def on_epoch_end(self, net: Any, **_: Any) -> None:
        self.objective.end_of_epoch(len(net.history) - 1)


class _LastGood(Callback):
    """The weights after the last epoch whose losses were all finite."""

    def __init__(self) -> None:
        self.state: dict[str, Tensor] | None = None

    def on_epoch_end(self, net: Any, **_: Any) -> None:
        state = net.module_.state_dict()
        if all(bool(torch.isfinite(t).all()) for t in state.values() if t.is_floating_point()):
            self.state = {name: tensor.clone() for name, tensor in state.items()}


class _Bar(Callback):
    def __init__(self, what: str, epochs: int, show: bool) -> None:
        self.bar = tqdm(total=epochs, delay=2, disable=not show, desc=what)

    def on_epoch_end(self, net: Any, **_: Any) -> None:
        self.bar.set_postfix(loss=f"{net.history[-1, 'train_loss']:.4g}", refresh=False)
        self.bar.update()

    def on_train_end(self, net: Any, **_: Any) -> None:
        self.bar.close()


def train(
    module: nn.Module,
    objective: Objective,
    data: Batches,
    training: Training,
    *,
    what: str = "training",
) -> list[float]:
    """Train ``module`` in place; the mean loss of every epoch.

    Raises
    ------
    TrainingError
        The loss was not finite in the first epoch, or the checkpoint does not fit.

    Warns
    -----
    TrainingWarning
        The loss became NaN or infinite later: training stops with the last good weights.
    """
    good, bar = _LastGood(), _Bar(what, training.epochs, training.progress)
    callbacks: list[Any] = [_Schedule(training, data, objective), good, bar]
    saved = None
    if training.checkpoint is not None:
        saved = Checkpoint(
            dirname=str(Path(training.checkpoint) / what.replace(" ", "_")), monitor=None,
            f_criterion="criterion.pt", f_pickle=None, sink=lambda *_: None,
        )  # fmt: skip
        callbacks.append(saved)
    if training.patience is not None:
        stop = EarlyStopping("train_loss", patience=training.patience, sink=lambda *_: None)
        callbacks.append(stop)
    sgd = training.optimizer == "sgd"
    options = {"optimizer__momentum": training.momentum, "optimizer__nesterov": True} if sgd else {}
    net = _Net(
        module, objective, optimizer=OPTIMIZERS[training.optimizer], lr=training.lr,
        optimizer__weight_decay=training.weight_decay, max_epochs=training.epochs,
        batch_size=training.batch_size, iterator_train=_loader, train_split=None,
        callbacks=callbacks, callbacks__print_log=None, verbose=0,
        device=training.device, **options,
    )  # fmt: skip
    with seeded(training.seed):
        net.initialize()
        done = 0 if saved is None else _resumed(net, saved)
        try:
            net.partial_fit(data, epochs=max(0, training.epochs - done))
        except _NotFinite:
            _restore(net, good, what, len(net.history))
        finally:
            bar.bar.close()
    module.to("cpu").eval()
    losses = [entry.get("train_loss", math.nan) for entry in net.history]
    return [float(loss) for loss in losses if math.isfinite(loss)]


def _resumed(net: Any, saved: Checkpoint) -> int:
    """Go on from the state of the last epoch; how many there were."""
    if not Path(saved.dirname, "history.json").exists():
        return 0
    try:
        net.load_params(checkpoint=saved)
    except Exception as error:  # what torch raises for foreign or damaged files is open-ended
        raise TrainingError(
            f"Cannot go on from the checkpoint in {saved.dirname}: {type(error).__name__}: {error} "
            "Use another folder, or delete it to train from the start."
        ) from error
    return len(net.history)


def _restore(net: Any, good: _LastGood, what: str, epoch: int) -> None:
    advice = "Lower the learning rate, and look for extreme values in the data."
    if good.state is None:
        raise TrainingError(
            f"{what.capitalize()}: the loss is not finite in the first epoch. {advice}"
        )
    net.module_.load_state_dict(good.state)
    warnings.warn(
        f"{what.capitalize()}: the loss became NaN or infinite in epoch {epoch}; training stopped "
        f"with the weights of the epoch before. {advice}",
        TrainingWarning,
        stacklevel=4,
    )
