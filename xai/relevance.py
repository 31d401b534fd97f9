"""What an explanation is: relevance that adds up to the model's own decision, with its accounts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from xai.plot import Kind, Rows

Array = NDArray[Any]


@dataclass(frozen=True, eq=False)
class Relevance:
    """Relevance of every feature of every row, and where the rest of the evidence went.

    ``evidence = values.sum(over features) + sum(absorbed.values()) + conservation_error``.

    Attributes
    ----------
    values
        Relevance ``(n, *shape)``, in the shape of the input's rows; in the evidence's unit.
    evidence
        What was decomposed ``(n,)``: the evidence, or evidence minus threshold for a margin.
    absorbed
        What constants took, by name, ``(n,)`` each.
    target
        Explained cluster per row ``(n,)``; None for outlier scores.
    inputs
        What was explained ``(n, *shape)``.
    feature_names, row_names
        Names of columns and rows, where the data had some.
    kind
        ``"cluster"`` or ``"outlier"``.
    evidence_name, model_name
        What the evidence is, and of which model.
    method
        ``"LRP"``, another exact decomposition, or the name of a baseline.
    output
        ``"score"`` or ``"margin"``.
    threshold
        Decision boundary in the unit of ``evidence``; 0 for margins and clusters; None without one.
    original
        The model's own number for each row ``(n,)``, where it has one (outlier scores).
    score_map
        How evidence maps onto the model's own number, as a formula.
    composite
        Rules used below the model, if there is an encoder.
    provenance
        Versions, options and the digest of the input, for whoever wants to reproduce it.
    """

    values: Array
    evidence: Array
    absorbed: Mapping[str, Array]
    target: Array | None
    inputs: Array
    kind: str
    evidence_name: str
    model_name: str
    method: str
    output: str = "score"
    feature_names: tuple[str, ...] | None = None
    row_names: tuple[str, ...] | None = None
    threshold: float | None = None
    original: Array | None = None
    score_map: str = ""
    composite: str | None = None
    provenance: Mapping[str, str] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.values)

    def __getitem__(self, rows: int | slice | Sequence[int] | Array) -> Relevance:
        """The same explanation for some rows; an integer gives one row, still as a batch."""
        index = np.arange(len(self))[rows].reshape(-1)
        names = self.row_names
        return replace(
            self,
            values=self.values[index],
            evidence=self.evidence[index],
            absorbed={name: share[index] for name, share in self.absorbed.items()},
            target=None if self.target is None else self.target[index],
            inputs=self.inputs[index],
            row_names=None if names is None else tuple(names[i] for i in index),
            original=None if self.original is None else self.original[index],
        )

    @property
    def is_image(self) -> bool:
        """Whether rows are pictures ``(h, w)``, ``(h, w, 3)`` or ``(c, h, w)``, not tables."""
        return self.values.ndim > 2

    @property
    def absorbed_total(self) -> Array:
        """Sum of all absorbed shares ``(n,)``."""
        total = np.zeros_like(self.evidence)
        for share in self.absorbed.values():
            total = total + share
        return total

    @property
    def conservation_error(self) -> Array:
        """``evidence - values.sum() - absorbed.sum()`` ``(n,)``; only rounding for exact rules."""
        total: Array = self.values.reshape(len(self), -1).sum(1)
        error: Array = self.evidence - total - self.absorbed_total
        return error

    @property
    def relative_conservation_error(self) -> Array:
        """Absolute error over the larger of ``|evidence|`` and summed absolute shares ``(n,)``."""
        mass = np.abs(self.values.reshape(len(self), -1)).sum(1)
        for share in self.absorbed.values():
            mass = mass + np.abs(share)
        scale = np.maximum(np.maximum(np.abs(self.evidence), mass), np.finfo(float).tiny)
        error: Array = np.abs(self.conservation_error) / scale
        return error

    def to_frame(self) -> pd.DataFrame:
        """One row per sample: features, then evidence, target, absorbed shares and error."""
        flat = self.values.reshape(len(self), -1)
        frame = pd.DataFrame(flat, columns=list(self.flat_names), index=self.row_names)
        extra: dict[str, Array] = {"evidence": self.evidence}
        if self.target is not None:
            extra["target"] = self.target
        if self.original is not None:
            extra["original"] = self.original
        extra |= {f"absorbed: {name}": share for name, share in self.absorbed.items()}
        extra["conservation error"] = self.conservation_error
        return pd.concat([frame, pd.DataFrame(extra, index=frame.index)], axis=1)

    @property
    def flat_names(self) -> tuple[str, ...]:
        """A name for every flattened feature, positions where the data had no names."""
        if self.feature_names is not None:
            return self.feature_names
        if self.values.ndim == 2:
            return tuple(f"feature {i}" for i in range(self.values.shape[1]))
        return tuple(",".join(map(str, i)) for i in np.ndindex(*self.values.shape[1:]))

    def plot(
        self,
        kind: Kind | None = None,
        *,
        rows: Rows | None = None,
        ax: Axes | None = None,
        max_features: int = 15,
        limit: float | None = None,
        quantile: float | None = None,
    ) -> Figure:
        """A figure of the relevance and of everything else that adds up to the evidence.

        Parameters
        ----------
        kind
            Tables: ``"waterfall"`` (one row), ``"beeswarm"`` (a dot per row and feature) or
            ``"bar"`` (one row, or the mean of several). Pictures: ``"heatmap"`` or ``"overlay"``
            (above the grey input). When missing: heat map for pictures, waterfall for one row,
            beeswarm for several.
        rows
            Which rows; all when missing, but of pictures the first 16.
        ax
            Where to draw (one picture at most); a new figure when missing.
        max_features
            Features shown by name; the others are added up. Tables only.
        limit
            End of the symmetric scale, in the unit of the evidence, for figures that are to be
            compared: of the colours of pictures, of the axis of tables. When missing, the largest
            ``|R|`` of the figure.
        quantile
            Quantile of ``|R|`` at which the colours of pictures end instead.

        Returns
        -------
        Figure
            To save or to change; a notebook draws it as the last value of a cell.

        Raises
        ------
        InputError
            A kind that does not fit the data, rows that do not exist, or an impossible scale.

        Examples
        --------
        >>> import numpy as np, xai
        >>> centroids = np.array([[0.0, 0.0], [2.0, 1.0]])
        >>> figure = xai.explain(centroids, np.array([[0.5, 0.0]])).plot()
        >>> [float(bar.get_width()) for bar in figure.axes[0].patches]
        [2.0, 1.0, 3.0]
        """
        from xai.plot import plot

        return plot(
            self,
            kind,
            rows=rows,
            ax=ax,
            max_features=max_features,
            limit=limit,
            quantile=quantile,
        )

    def save(self, path: str | Path) -> Path:
        """Write to ``path`` in the format its suffix names: whole or not at all.

        ``.npz`` and ``.json`` keep everything and :meth:`load` reads them back equal (NPZ loads
        without pickle). ``.csv`` and ``.parquet`` hold :meth:`to_frame`; ``.png`` and ``.svg`` the
        default :meth:`plot`.

        Returns
        -------
        Path
            Where it was written.

        Raises
        ------
        FileFormatError
            Another suffix.
        InputError
            A table with two columns of the same name, or numbers of more than 64 bits.
        FileNotFoundError
            The folder does not exist.
        """
        from xai.storage import save

        return save(self, path)

    @classmethod
    def load(cls, path: str | Path) -> Relevance:
        """Read what :meth:`save` wrote as ``.npz`` or ``.json``.

        Raises
        ------
        FileFormatError
            Another suffix, a damaged file, or one that holds something else.
        FileNotFoundError
            No such file.

        Examples
        --------
        >>> import numpy as np, tempfile, xai
        >>> relevance = xai.explain(np.array([[0.0, 0.0], [2.0, 1.0]]), np.array([[0.5, 0.0]]))
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     back = Relevance.load(relevance.save(Path(folder) / "relevance.npz"))
        >>> back.values.tolist()
        [[2.0, 1.0]]
        """
        from xai.storage import load

        return load(path)

    def _repr_html_(self) -> str:
        from xai.plot import card

        return card(self)

    def __repr__(self) -> str:
        # Plain arithmetic only: a repr is called in debuggers and must not draw or import.
        shape = "x".join(map(str, self.values.shape[1:]))
        absorbed = ", ".join(map(repr, self.absorbed)) or "nothing"
        error = float(self.relative_conservation_error.max(initial=0.0))
        low, high = (float(f(self.evidence)) if len(self) else 0.0 for f in (np.min, np.max))
        return (
            f"<Relevance {len(self)} x {shape}, {self.model_name}, {self.method}, {self.kind} "
            f"{self.output} ({self.evidence_name}) {low:.4g} to {high:.4g}, absorbed {absorbed}, "
            f"conservation error <= {error:.1e}>"
        )
