"""What the commands of ``xai`` do between reading their options and printing a result."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from html import escape
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch

from neuralize import Neuralized, neuralize
from xai.cli_options import DEFAULT_FORMATS, FORMATS, REPORT_DEFAULT_FORMATS, REPORT_FORMATS
from xai.errors import InputError
from xai.explainer import explain
from xai.new_files import new_files
from xai.relevance import Array, Relevance
from xai.report import Comparison, Report

PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8"><title>{title}</title>
<style>body {{ font-family: system-ui, sans-serif; margin: 2em }}</style>
</head>
<body>
{card}
</body>
</html>
"""


class Destination(NamedTuple):
    """A folder and the files in it that a command writes."""

    folder: Path
    names: tuple[str, ...]

    @property
    def paths(self) -> list[Path]:
        """Where the files will be."""
        return [self.folder / name for name in self.names]


def destination(out: Path | None, formats: Sequence[str] | None) -> Destination | None:
    """Where an explanation goes: a file whose suffix is a format, or files in a folder.

    Raises
    ------
    InputError
        ``--format`` beside a file, or without ``--out``.

    Examples
    --------
    >>> destination(Path("wine.npz"), None).names
    ('wine.npz',)
    >>> destination(Path("wine"), ["csv", "png"]).names
    ('relevance.csv', 'relevance.png')
    """
    if out is None:
        if formats:
            raise InputError("--format says what to write; say where with --out.")
        return None
    if _names_file(out, FORMATS):
        if formats:
            raise InputError(f"--format is for folders; the suffix of {out} already names one.")
        return Destination(out.parent, (out.name,))
    return Destination(out, tuple(f"relevance.{name}" for name in formats or DEFAULT_FORMATS))


def report_destination(out: Path | None) -> Destination | None:
    """Where a report goes: an ``.html``, ``.json`` or ``.xml`` file, or the first two in a folder.

    Examples
    --------
    >>> report_destination(Path("audit")).names
    ('report.html', 'report.json')
    """
    if out is None:
        return None
    if _names_file(out, REPORT_FORMATS):
        return Destination(out.parent, (out.name,))
    return Destination(out, tuple(f"report.{name}" for name in REPORT_DEFAULT_FORMATS))


def _names_file(out: Path, formats: Sequence[str]) -> bool:
    return out.suffix.lower().removeprefix(".") in formats and not out.is_dir()


@contextmanager
def results(
    where: Destination | None, *, overwrite: bool, inputs: Sequence[Path]
) -> Iterator[Path | None]:
    """A scratch folder for the files of ``where``, see :func:`xai.new_files.new_files`."""
    if where is None:
        yield None
        return
    with new_files(where.folder, where.names, overwrite=overwrite, inputs=inputs) as scratch:
        yield scratch


def network(
    model: Any,
    settings: Sequence[tuple[str, Any]],
    dtype: str = "float64",
    device: str = "cpu",
) -> Neuralized:
    """The network of a model, where and in which precision it was asked for.

    Raises
    ------
    InputError
        A device that is not there.
    """
    net = neuralize(model, dtype=getattr(torch, dtype), **dict(settings))
    try:
        return net.to(torch.device(device))
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(f"Cannot compute on device {device!r}: {reason}") from error


def explain_rows(
    net: Neuralized,
    x: pd.DataFrame | Array,
    rows: slice | None,
    image: tuple[int, ...] | None,
    **options: Any,
) -> Relevance:
    """Explain some rows, named by their place in the file unless the file names them.

    Raises
    ------
    InputError
        No such rows, or rows that are no pictures of the shape ``image``.
    """
    names = tuple(map(str, x.index if isinstance(x, pd.DataFrame) else range(len(x))))
    chosen = slice(None) if rows is None else rows
    if not names[chosen]:
        raise InputError(f"There are {len(x)} rows, numbered from 0, and none in --rows.")
    x = laid_out(net, x, image)
    background = options.get("background")
    if background is not None and getattr(net, "input_shape", None) is not None:
        options["background"] = laid_out(net, background, image)
    if net.row_independent:
        relevance: Relevance = explain(net, x[chosen], **options)
    else:
        # The model scores a row against the others, so all of them must be there.
        relevance = explain(net, x, **options)[chosen]
    return replace(relevance, row_names=names[chosen])


def laid_out(
    net: Neuralized, x: pd.DataFrame | Array, image: tuple[int, ...] | None
) -> pd.DataFrame | Array:
    """Rows as pictures ``image`` where that is given, with channels where the network has them.

    Raises
    ------
    InputError
        Rows of another size than ``image``.
    """
    if image is not None:
        x = as_pictures(x, image)
    wanted, given = getattr(net, "input_shape", None), np.shape(x)[1:]
    if wanted is None or len(wanted) == 1 or tuple(given) == tuple(wanted):
        return x
    pictures = np.asarray(x)
    if len(wanted) == 3 and tuple(given) == (*wanted[1:], wanted[0]):
        return np.moveaxis(pictures, -1, 1)
    if np.prod(wanted) == np.prod(given) and 1 in (len(given), wanted[0], given[0]):
        return pictures.reshape(len(pictures), *wanted)  # one channel more or less, or flattened
    return x


def as_pictures(x: pd.DataFrame | Array, shape: tuple[int, ...]) -> Array:
    """Rows as pictures ``(n, *shape)``.

    Raises
    ------
    InputError
        Rows of another size.
    """
    flat = np.asarray(x).reshape(len(x), -1)
    if flat.shape[1] != np.prod(shape):
        raise InputError(
            f"Expected {'x'.join(map(str, shape))} = {np.prod(shape)} numbers per row for --image, "
            f"got {flat.shape[1]}."
        )
    return flat.reshape(len(x), *shape)


def write(relevance: Relevance, path: Path) -> None:
    """Write an explanation in the format that the suffix names."""
    if path.suffix.lower() == ".html":
        title = escape(f"Relevance: {relevance.model_name}")
        path.write_text(PAGE.format(title=title, card=relevance._repr_html_()), encoding="utf-8")
    else:
        relevance.save(path)


@contextmanager
def report_files(
    out: Path | None, junit: Path | None, *, overwrite: bool, inputs: Sequence[Path]
) -> Iterator[Callable[[Report], list[Path]]]:
    """A function that writes a report to ``out`` and ``junit`` and says where its files will be.

    They appear when the block ends well.
    """
    where = report_destination(out)
    xml = None if junit is None else Destination(junit.parent, (junit.name,))
    with (
        results(where, overwrite=overwrite, inputs=inputs) as scratch,
        results(xml, overwrite=overwrite, inputs=inputs) as xml_scratch,
    ):

        def write(report: Report) -> list[Path]:
            files: list[Path] = []
            if where is not None and scratch is not None:
                for name in where.names:
                    write_report(report, scratch / name)
                files += where.paths
            if xml is not None and xml_scratch is not None:
                report.to_junit(xml_scratch / xml.names[0])
                files += xml.paths
            return files

        yield write


def write_report(report: Report | Comparison, path: Path) -> None:
    """Write a report, or a comparison of two, in the format that the suffix names."""
    suffix = path.suffix.lower()
    if suffix == ".html":
        report.to_html(path)
    elif suffix == ".xml" and isinstance(report, Report):
        report.to_junit(path)
    else:
        report.to_json(path)
