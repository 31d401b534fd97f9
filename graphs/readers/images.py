"""Which image a cell is in, and whose image it is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from graphs.cell_graph import Array
from graphs.readers.contents import Table
from graphs.readers.names import categorical, joined, natural, union
from neuralize.errors import InputError


def images_of(tables: Sequence[Table]) -> pd.Categorical:
    """The image of every row.

    Raises
    ------
    InputError
        Two files of one name, where each is the image of that name.
    """
    _different_images(tables)
    return union([_images(table) for table in tables])


def _images(table: Table) -> pd.Categorical:
    if table.columns.image is not None:
        return joined(table.frame, table.columns.image)
    codes = np.zeros(len(table.frame), np.int64)
    return categorical(codes, [table.image])


def _different_images(tables: Sequence[Table]) -> None:
    named: dict[str, str] = {}
    for table in tables:
        if table.columns.image is None:
            if table.image in named:
                raise InputError(
                    f"Expected files of different names, for each is the image of that name, got "
                    f"{named[table.image]} and {table.source}. Rename one, or name the images in a "
                    "column."
                )
            named[table.image] = table.source


def patients_of(
    tables: Sequence[Table], images: pd.Categorical, patients: Mapping[str, str] | None
) -> pd.Categorical:
    """The patient of every row; where nothing says it, its image.

    Raises
    ------
    InputError
        Patients told twice, or not of every image.
    """
    if patients is not None:
        if any(t.columns.patient is not None for t in tables):
            raise InputError("Expected patients= or a column of patients, got both.")
        known = {str(image): str(patient) for image, patient in patients.items()}
        lacking = [image for image in images.categories if image not in known]
        if lacking:
            raise InputError(
                f"Expected a patient for every image in patients=, got none for {lacking[0]!r} "
                f"({len(lacking)} images)."
            )
        unique = {name: k for k, name in enumerate(dict.fromkeys(known.values()))}
        codes = np.array([*(unique[known[i]] for i in images.categories), -1])[images.codes]
        return categorical(codes, list(unique))
    parts, start = [], 0
    for table in tables:
        own = images[start : start + len(table.frame)]
        column = table.columns.patient
        parts.append(own if column is None else joined(table.frame, column))
        start += len(table.frame)
    return union(parts)


def one_patient_each(
    images: pd.Categorical, patients: pd.Categorical, keep: Array
) -> dict[int, str]:
    """The patient of every image, by the image's code.

    Raises
    ------
    InputError
        An image of two patients.
    """
    pairs = np.unique(images.codes[keep].astype(np.int64) * len(patients.categories)
                      + patients.codes[keep])  # fmt: skip
    image, patient = np.divmod(pairs, max(1, len(patients.categories)))
    twice = np.flatnonzero(np.diff(image) == 0)
    if len(twice):
        a, b = (patients.categories[patient[twice[0] + k]] for k in (0, 1))
        raise InputError(
            f"Expected images of one patient each, got {images.categories[image[twice[0]]]!r} of "
            f"{a!r} and of {b!r} ({len(twice)} such). If images are numbered within a patient, "
            "name both columns: Columns(image=(<patient>, <image>), ...)."
        )
    return {int(i): patients.categories[p] for i, p in zip(image, patient, strict=True)}


def sorted_images(
    images: pd.Categorical, keep: Array, of_image: Mapping[int, str]
) -> tuple[Array, tuple[str, ...], tuple[str, ...]]:
    """Codes ``(n,)`` of the images in the order of patients and names, their names and patients."""
    used = np.unique(images.codes[keep])

    def place(image: int) -> tuple[object, ...]:
        patient, name = of_image[image], images.categories[image]
        return natural(patient), patient, natural(name), name

    known = sorted(used, key=place)
    number = np.full(len(images.categories) + 1, -1)
    number[known] = np.arange(len(known))
    names = tuple(images.categories[i] for i in known)
    return number[images.codes], names, tuple(of_image[i] for i in known)
