"""What can be put in front of a model that a finding suspects, and how that is told to a file.

A :class:`Repair` is a module of :mod:`xai.mitigate` and where it goes: before everything, on rows
as the model gets them, or on the features of an encoder. Which repairs fit which suspect:

========= ==========================================================================
place     the pixels hold their usual content; with an encoder also: projection along
          what rows with the artefact have more
feature   the columns hold their usual content
band      a blur that leaves a twentieth of the suspected frequencies
group     projection along the differences between groups, within labels
direction projection along it
========= ==========================================================================
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from torch import Tensor, nn

from xai.errors import InputError, UnsupportedModelError
from xai.mitigate import BlurFront, Projection, Replaced, encoded, without_artefact, without_groups
from xai.relevance import Array
from xai.report.finding import Suspect

Where = Literal["rows", "features"]


@dataclass(frozen=True, eq=False)
class Repair:
    """A module in front of a model.

    Attributes
    ----------
    module
        A :class:`~xai.mitigate.Replaced`, :class:`~xai.mitigate.BlurFront` or
        :class:`~xai.mitigate.Projection`.
    where
        ``"rows"``: before everything. ``"features"``: behind the encoder.
    suspect
        What it is against, in words.
    """

    module: nn.Module
    where: Where
    suspect: str

    @property
    def name(self) -> str:
        """What it does, in words."""
        return WORDS[type(self.module)] + (" of the features" if self.where == "features" else "")


WORDS: dict[type[nn.Module], str] = {
    Replaced: "usual content in its place",
    BlurFront: "blur",
    Projection: "projection",
}


@dataclass(frozen=True, eq=False)
class Rows:
    """Rows to make repairs from.

    Attributes
    ----------
    x
        ``(n, ...)``, as the model gets them.
    at
        Which of the audited rows they are ``(n,)``.
    features
        The encoder below the model, if there is one.
    """

    x: Array
    at: Array
    features: nn.Module | None = None

    def carriers(self, suspect: Suspect) -> Array | None:
        """Which rows carry what is suspected ``(n,)``, boolean; None where nobody says."""
        found = suspect.arrays.get("rows")
        if found is None:
            return None
        carries: Array = np.isin(self.at, found)
        return carries

    def column(self, suspect: Suspect, name: str) -> Array | None:
        """An array of the suspect with one entry per audited row, for these rows."""
        column = suspect.arrays.get(name)
        taken: Array | None = None if column is None else np.asarray(column)[self.at]
        return taken

    @property
    def represented(self) -> Array:
        """What the head sees ``(n, q)``."""
        if self.features is None:
            return self.x.reshape(len(self.x), -1)
        return encoded(self.features, self.x)


def candidates(suspect: Suspect, rows: Rows) -> list[Repair]:
    """Repairs that fit a suspect, the simplest first.

    Raises
    ------
    UnsupportedModelError
        None does.

    Examples
    --------
    >>> import torch
    >>> x = np.array([[0.0, 1.0], [0.0, 2.0], [5.0, 3.0]])
    >>> suspect = Suspect("feature", "a flag", {"features": np.array([0])})
    >>> (repair,) = candidates(suspect, Rows(x, np.arange(3)))
    >>> repair.name, repair.module(torch.from_numpy(x)).tolist()
    ('usual content in its place', [[0.0, 1.0], [0.0, 2.0], [0.0, 3.0]])
    """
    return {
        "place": _place, "feature": _place, "band": _band, "group": _group,
        "direction": _direction,
    }[suspect.kind](suspect, rows)  # fmt: skip


def entries_of(suspect: Suspect, shape: tuple[int, ...]) -> Array:
    """Entries of a row that a place or columns cover, boolean, in the shape of a row.

    Raises
    ------
    UnsupportedModelError
        A place in rows that are no pictures of its size.
    """
    if suspect.kind == "feature":
        entries = np.zeros(int(np.prod(shape)), dtype=bool)
        entries[suspect["features"]] = True
        return entries.reshape(shape)
    pixels = np.asarray(suspect["pixels"], dtype=bool)
    for axes in ((..., slice(None), slice(None)), (slice(None), slice(None), None)):
        aligned = pixels if axes[0] is Ellipsis else pixels[..., None]
        beside = shape[-2:] if axes[0] is Ellipsis else shape[:2]
        if tuple(beside) == pixels.shape and len(shape) in (2, 3):
            covered: Array = np.broadcast_to(aligned, shape).copy()
            return covered
    raise UnsupportedModelError(
        f"{suspect.summary} is a place in pictures of {pixels.shape[0]} x {pixels.shape[1]} "
        f"pixels, and the model's rows have shape {shape}."
    )


def _place(suspect: Suspect, rows: Rows) -> list[Repair]:
    entries = entries_of(suspect, rows.x.shape[1:])
    carries = rows.carriers(suspect)
    bare = rows.x if carries is None or carries.all() else rows.x[~carries]
    usual = np.median(bare, axis=0)
    found = [Repair(Replaced(entries, usual), "rows", suspect.summary)]
    if rows.features is not None and carries is not None and carries.any() and not carries.all():
        projection = without_artefact(rows.represented, carries)
        found.append(Repair(projection, "features", suspect.summary))
    return found


def _band(suspect: Suspect, rows: Rows) -> list[Repair]:
    low, high = (float(edge) for edge in suspect["edges"])
    if rows.x.ndim not in (3, 4):
        raise UnsupportedModelError(f"{suspect.summary}: the model's rows are no pictures.")
    if low < 0.01:
        raise UnsupportedModelError(
            f"{suspect.summary} ({low:.3g} to {high:.3g} cycles per pixel) is what pictures look "
            "like from afar; a blur cannot take it out. Fit on pictures without it."
        )
    return [Repair(BlurFront.against(low), "rows", suspect.summary)]


def _group(suspect: Suspect, rows: Rows) -> list[Repair]:
    groups = rows.column(suspect, "groups")
    labels = rows.column(suspect, "labels")
    assert groups is not None
    return [_projected(without_groups(rows.represented, groups, labels), suspect, rows)]


def _direction(suspect: Suspect, rows: Rows) -> list[Repair]:
    h, carries = rows.represented, rows.carriers(suspect)
    bare = h if carries is None or carries.all() else h[~carries]
    vector = np.asarray(suspect["vector"], np.float64)
    return [_projected(Projection(vector[None], bare.mean(0)), suspect, rows)]


def _projected(module: Projection, suspect: Suspect, rows: Rows) -> Repair:
    if rows.features is None and rows.x.ndim != 2:
        raise UnsupportedModelError(
            f"{suspect.summary}: a projection needs rows (n, q) or an encoder, and the model takes "
            f"pictures of shape {rows.x.shape[1:]} as they are."
        )
    where: Where = "rows" if rows.features is None else "features"
    return Repair(module, where, suspect.summary)


# -- files -----------------------------------------------------------------------------------------


def described(module: nn.Module) -> tuple[str, dict[str, Any]]:
    """Kind and options that, with the module's tensors, make it again.

    Raises
    ------
    UnsupportedModelError
        A module that is none of these repairs.

    Examples
    --------
    >>> described(BlurFront(5))
    ('blur', {'kernel': 5})
    """
    if isinstance(module, BlurFront):
        return "blur", {"kernel": module.kernel}
    if isinstance(module, Replaced):
        return "replaced", {}
    if isinstance(module, Projection):
        return "projection", {}
    raise UnsupportedModelError(f"No file format for the repair {type(module).__name__}.")


def rebuilt(kind: str, options: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> nn.Module:
    """The module of :func:`described`.

    Raises
    ------
    InputError
        An unknown kind, or tensors that do not fit.
    """
    module: nn.Module
    try:
        if kind == "blur":
            module = BlurFront(**options)
        elif kind == "replaced":
            module = Replaced(tensors["entries"].numpy(), tensors["content"].numpy())
        elif kind == "projection":
            module = Projection(tensors["directions"].numpy(), tensors["clean"].numpy())
        else:
            raise InputError(f"Expected a repair 'blur', 'replaced' or 'projection', got {kind!r}.")
        module.load_state_dict(dict(tensors))
    except (KeyError, TypeError, RuntimeError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"The repair {kind!r} does not fit its tensors: {error}") from error
    return module.eval()


def moved(rows: Rows, suspect: Suspect) -> tuple[Array, Array] | None:
    """The same rows with what is suspected and without; None where that cannot be done to rows.

    A place gets the content of rows that have it, and the usual content; columns and groups as they
    are, and equal; a band as it is, and blurred.
    """
    x, carries = rows.x, rows.carriers(suspect)
    if suspect.kind in ("place", "feature"):
        entries = entries_of(suspect, x.shape[1:])
        some = carries is not None and bool(carries.any()) and not bool(carries.all())
        bare = x[~carries] if some and carries is not None else x
        without = np.where(entries, np.median(bare, axis=0), x)
        if not some or carries is None:
            return x, without
        return np.where(entries, np.median(x[carries], axis=0), x), without
    if suspect.kind == "band":
        return x, encoded(_band(suspect, rows)[0].module, x)
    if rows.features is None and x.ndim == 2:
        (repair,) = candidates(suspect, rows)
        return x, encoded(repair.module, x)
    return None
