"""Figures that show themselves in Jupyter without pyplot."""

from __future__ import annotations

from io import BytesIO

from matplotlib.axes import Axes
from matplotlib.figure import Figure


class NotebookFigure(Figure):
    """A matplotlib Figure that a notebook draws when it is the last value of a cell.

    Jupyter learns to draw Figures only once pyplot is imported; this class does not need it, keeps
    no global state and is never shown by itself.

    Examples
    --------
    >>> NotebookFigure()._repr_png_()[1:4]
    b'PNG'
    """

    def _repr_png_(self) -> bytes:
        return png(self)


def png(figure: Figure, *, dpi: float = 100) -> bytes:
    """The figure as PNG, at ``dpi`` dots per inch."""
    buffer = BytesIO()
    figure.savefig(buffer, format="png", dpi=dpi)
    return buffer.getvalue()


def figure_and_axes(ax: Axes | None, width: float, height: float) -> tuple[Figure, Axes]:
    """The figure of ``ax``, or a new one of that size (inches) with one pair of axes."""
    if ax is None:
        figure = NotebookFigure(figsize=(width, height), layout="constrained")
        return figure, figure.subplots()
    owner = ax.figure
    return owner if isinstance(owner, Figure) else owner.figure, ax
