"""From what ``xai audit`` is given, files and options, to a network and the rows to audit it on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from neuralize import Neuralized
from xai.audit import Agreement, Audit
from xai.checkpoint import Checkpoint, read_checkpoint
from xai.command_steps import laid_out, network
from xai.data_files import Data, read_data, read_masks
from xai.encoder_heads import DEFAULT, fit_head
from xai.encoder_input import encoder_input
from xai.errors import InputError
from xai.file_formats import TABLES, read_table, require_file
from xai.mask_folders import read_mask_pictures
from xai.relevance import Array
from xai.repaired_files import original_digest
from xai.report import Report
from xai.row_columns import FOLDER
from xai.rows import match_columns


@dataclass(frozen=True)
class Wanted:
    """Options of ``xai audit`` that say what is audited, on what, and where it is computed.

    Attributes
    ----------
    arch, layer, normalize, size, trust, given
        Of the checkpoint, see :func:`xai.checkpoint.read_checkpoint`.
    head
        What an encoder decides by, see :func:`xai.encoder_heads.fit_head`.
    fit_on
        Data to fit the head on, and a repaired model; part of the audited data when missing.
    labels, groups, masks, key, drop, id_column, image
        Of the data, see :func:`xai.data_files.read_data`.
    units
        What a pixel of pictures from 0 to 1 is multiplied by: 255 for models fitted on bytes.
    rows, seed
        Audit that many rows, drawn at random.
    settings
        Of the model's network.
    device, batch_size
        Where to compute, and how many rows go through an encoder or a deep detector at a time.
    against
        A second checkpoint, read like the first, to compare with.
    repairs
        Whether the model is repaired, too, so that ``fit_on`` has a use without a head.
    """

    arch: str | None = None
    layer: str | None = None
    normalize: Any = None
    size: tuple[int, int] | None = None
    trust: bool = False
    given: Mapping[str, Any] = field(default_factory=dict)
    head: str | None = None
    fit_on: Path | None = None
    labels: str | None = None
    groups: str | None = None
    masks: Path | None = None
    key: str | None = None
    drop: Sequence[str] = ()
    id_column: str | None = None
    image: tuple[int, ...] | None = None
    units: float = 1.0
    rows: int | None = None
    seed: int = 0
    settings: Sequence[tuple[str, Any]] = ()
    device: str = "cpu"
    batch_size: int | None = None
    against: Path | None = None
    repairs: bool = False


@dataclass(frozen=True, eq=False)
class Subject:
    """What is audited, and what a report should say of how it came about.

    Attributes
    ----------
    net, x, labels, groups, masks
        The network, and the rows it is audited on.
    row_names
        Of pictures in a folder.
    facts
        For the report's provenance, by name.
    notes
        Sentences for the report's introduction.
    fit_on
        Rows to fit a repaired model on, where there are other ones.
    other, other_name
        A second model to compare with, and what the report calls it.
    """

    net: Neuralized
    x: pd.DataFrame | Array
    labels: Array | None
    groups: Array | None
    masks: Array | None
    row_names: tuple[str, ...] | None
    facts: Mapping[str, str]
    notes: Sequence[str]
    fit_on: pd.DataFrame | Array | None = None
    other: Neuralized | None = None
    other_name: str = ""

    def audit(self, facts: Mapping[str, str] | None = None, **options: Any) -> Audit:
        """The audit of it; options as of :class:`xai.Audit`, and more for the provenance."""
        audit = Audit(
            self.net,
            self.x,
            labels=self.labels,
            groups=self.groups,
            masks=self.masks,
            facts={**self.facts, **(facts or {})},
            **options,
        )
        if self.row_names is not None:
            audit.context.row_names = self.row_names
        if self.other is not None:
            rest = [check for check in audit.checks if not isinstance(check, Agreement)]
            audit.checks = (*rest, Agreement(self.other, self.other_name))
        return audit

    def introduced(self, report: Report) -> Report:
        """The report with what has to be known of model and rows under its verdict."""
        return replace(report, introduction=" ".join([report.introduction, *self.notes]))


def audit_subject(model: Path, data: Path, wanted: Wanted) -> Subject:
    """Read checkpoint and data, and fit a head where the checkpoint is an encoder.

    Raises
    ------
    XaiError
        Whatever does not fit, is damaged, or would run code; nothing was written by then.
    """
    checkpoint = _checkpoint(model, wanted)
    if not checkpoint.is_encoder:
        _require_no_head(model, wanted)
    found = _read(data, checkpoint, wanted, wanted.labels, wanted.groups, wanted.rows)
    masks = None if wanted.masks is None else _masks(wanted.masks, found)
    facts = dict(checkpoint.provenance)
    notes: list[str] = []
    if found.chosen is not None:
        text = f"{len(found.x)} of {found.total} rows, drawn at random (seed {wanted.seed})"
        facts["rows"] = text
        notes.append(f"Audited on {text}.")
    if checkpoint.is_encoder:
        net, rows, text = _headed(checkpoint, found, wanted)
        facts["head"] = text
        notes.append(f"Features: {facts['features']}. Head: {text}.")
    else:
        net, rows = network(checkpoint.model, wanted.settings, device=wanted.device), None
    if wanted.batch_size is not None:
        net.encoder_rows = wanted.batch_size
    if wanted.against is not None:
        facts["compared_with"] = wanted.against.name
        facts["compared_with_sha256"] = original_digest(wanted.against)

    def taken(values: Any) -> Any:
        return values if values is None or rows is None else values[rows]

    x = _for_model(net, checkpoint, found.x, wanted)
    other = _other(checkpoint, found, wanted)
    if other is not None:
        _require_comparable(net, other, np.asarray(x))
    names = found.names if rows is None or found.names is None else _at(found.names, rows)
    return Subject(
        net,
        x.iloc[rows] if rows is not None and isinstance(x, pd.DataFrame) else taken(x),
        taken(found.labels),
        taken(found.groups),
        taken(masks),
        names,
        facts,
        notes,
        _to_repair_on(checkpoint, net, wanted) if wanted.repairs else None,
        other,
        "" if wanted.against is None else wanted.against.name,
    )


def _checkpoint(path: Path, wanted: Wanted) -> Checkpoint:
    return read_checkpoint(
        path,
        arch=wanted.arch,
        layer=wanted.layer,
        normalize=wanted.normalize,
        size=wanted.size,
        trust=wanted.trust,
        given=wanted.given,
    )


def _other(checkpoint: Checkpoint, found: Data, wanted: Wanted) -> Neuralized | None:
    """The network of the second checkpoint; an encoder gets a head fitted on the same rows."""
    if wanted.against is None:
        return None
    other = _checkpoint(wanted.against, wanted)
    if other.is_encoder != checkpoint.is_encoder:
        raise InputError(
            f"--against: expected {wanted.against} to be "
            + ("an encoder" if checkpoint.is_encoder else "a fitted model, not an encoder")
            + ", like the model that is audited."
        )
    if other.is_encoder:
        net = _headed(other, found, wanted)[0]
    else:
        net = network(other.model, wanted.settings, device=wanted.device)
    if wanted.batch_size is not None:
        net.encoder_rows = wanted.batch_size
    return net


def _require_comparable(net: Neuralized, other: Neuralized, x: Array) -> None:
    if (net.kind == "outlier") != (other.kind == "outlier"):
        raise InputError(
            "--against: one of the two models scores abnormality, the other assigns clusters, so "
            "there is nothing to compare."
        )
    shaped = other.features is not None or other.n_features is None
    try:
        other.check(torch.as_tensor(x if shaped else x.reshape(len(x), -1)))
    except InputError as error:
        raise InputError(
            f"--against: the second model does not take these data. {error}"
        ) from error


def _to_repair_on(
    checkpoint: Checkpoint, net: Neuralized, wanted: Wanted
) -> pd.DataFrame | Array | None:
    """Rows of ``--fit-on``, as the model takes them."""
    path, labels, groups = wanted.fit_on, None, None
    if path is None:
        return None
    if path.suffix.lower() in TABLES:  # columns that are no features, where it has them
        there = set(read_table(require_file(path)).columns)
        labels, groups = (c if c in there else None for c in (wanted.labels, wanted.groups))
        wanted = replace(wanted, drop=[name for name in wanted.drop if name in there])
    found = _read(path, checkpoint, wanted, labels, groups, None)
    return _for_model(net, checkpoint, found.x, wanted)


def _read(
    path: Path,
    checkpoint: Checkpoint,
    wanted: Wanted,
    labels: str | None,
    groups: str | None,
    rows: int | None,
) -> Data:
    size, channels = wanted.size or checkpoint.size, checkpoint.channels
    if path.is_dir() and not checkpoint.is_encoder and channels is None:
        size, channels = _shallow_form(checkpoint.model, size)
    found = read_data(
        path,
        key=wanted.key,
        drop=wanted.drop,
        id_column=wanted.id_column,
        labels=labels,
        groups=groups,
        size=size,
        channels=channels,
        rows=rows,
        seed=wanted.seed,
    )
    if wanted.units != 1 and not path.is_dir():
        raise InputError("--units is for pictures in a folder; arrays are taken as they are.")
    x = match_columns(found.x, checkpoint.feature_names, path)
    if not checkpoint.is_encoder:
        return found._replace(x=x * np.float32(wanted.units) if path.is_dir() else x)
    if wanted.image is not None:
        raise InputError("--image is for fitted models; an encoder takes --size.")
    return found._replace(x=encoder_input(x, checkpoint, wanted.size))


def _shallow_form(
    model: Any, size: tuple[int, int] | None
) -> tuple[tuple[int, int] | None, int | None]:
    """Size and channels of pictures for a model that knows only how many numbers a row has."""
    width = getattr(model, "n_features_in_", None) or np.shape(model)[-1:] or None
    width = int(width[0]) if isinstance(width, tuple) else width
    if width is None or size is None:
        return size, None
    for channels in (1, 3):
        if channels * size[0] * size[1] == width:
            return size, channels
    raise InputError(
        f"Expected pictures of {width} numbers, which the model was fitted on; --size "
        f"{size[0]}x{size[1]} has {size[0] * size[1]} pixels."
    )


def _headed(
    checkpoint: Checkpoint, found: Data, wanted: Wanted
) -> tuple[Neuralized, Array | None, str]:
    """The network, which of the rows to audit it on, and what was done in words."""
    kind = wanted.head or DEFAULT
    if wanted.settings:
        raise InputError("--option is for fitted models, not for an encoder's head.")
    x: Any = found.x
    checkpoint.model.probe(x.shape[1:])
    if wanted.fit_on is not None:
        labels = wanted.labels if wanted.labels and _goes_along(wanted.labels) else None
        other = _read(wanted.fit_on, checkpoint, wanted, labels, None, None)
        fitted, of_fitted, rows = np.asarray(other.x), other.labels, None
        text = f"{kind}, fitted on {len(fitted)} rows of {wanted.fit_on.name}"
    else:
        if len(x) < 6:
            raise InputError(
                f"Expected at least 6 rows, to fit a head on a half of them, got {len(x)}; or give "
                "others with --fit-on."
            )
        order = np.random.default_rng(wanted.seed).permutation(len(x))
        half, rows = np.sort(order[: len(x) // 2]), np.sort(order[len(x) // 2 :])
        fitted, of_fitted = x[half], None if found.labels is None else found.labels[half]
        text = (
            f"{kind}, fitted on a random half of the rows ({len(half)}, seed {wanted.seed}) and "
            f"audited on the other ({len(rows)})"
        )
    if wanted.head is None:
        text += "; no --head was given, and an encoder alone decides nothing"
    given = of_fitted if kind.partition(":")[0] == "similarity" else None
    net = fit_head(
        checkpoint.model, fitted, kind, given, seed=wanted.seed, device=_device(wanted.device)
    )
    return net, rows, text


def _device(name: str) -> torch.device:
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(f"Cannot compute on device {name!r}: {reason}") from error
    return device


def _goes_along(labels: str) -> bool:
    """Whether labels are found in other data by the same name: sub-folders, a column, an array."""
    return labels == FOLDER or not (Path(labels).exists() or ":" in labels)


def _for_model(
    net: Neuralized, checkpoint: Checkpoint, x: Any, wanted: Wanted
) -> pd.DataFrame | Array:
    if checkpoint.is_encoder:
        return x  # type: ignore[no-any-return]
    if net.n_features is not None and wanted.image is None and np.ndim(x) == 4:
        x = np.moveaxis(np.asarray(x), 1, -1)  # flattened as pictures usually are, colours last
    return laid_out(net, x, wanted.image)


def _masks(path: Path, found: Data) -> Array:
    if path.is_dir():
        if found.names is None:
            raise InputError(
                f"{path} is a folder, whose masks go by the names of pictures in a folder; the "
                "data are none. Give masks as .npy or .npz."
            )
        return read_mask_pictures(path, found.names, np.shape(found.x)[-2:])
    masks = read_masks(path)
    if len(masks) != found.total:
        raise InputError(f"Expected {found.total} masks in {path}, one per row, got {len(masks)}.")
    chosen: Array = masks if found.chosen is None else masks[found.chosen]
    return chosen


def _require_no_head(model: Path, wanted: Wanted) -> None:
    fit_on = None if wanted.repairs else wanted.fit_on
    for option, value in (("--head", wanted.head), ("--fit-on", fit_on)):
        if value is not None:
            raise InputError(
                f"{option} is for encoders, which decide nothing by themselves; {model} is a "
                "fitted model" + (", and --fix was not given." if value is fit_on else ".")
            )


def _at(names: tuple[str, ...], rows: Array) -> tuple[str, ...]:
    return tuple(names[i] for i in rows)
