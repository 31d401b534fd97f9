"""What :func:`xai.evaluate.strategies` found: tables, Clever Hans cases, pictures, files."""

from __future__ import annotations

import json
import math
from base64 import b64encode
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import pandas as pd

from xai.errors import InputError
from xai.evaluate.auroc import Auroc
from xai.relevance import Array, Relevance
from xai.storage import replacing

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MEASURES = ("cosine", "average_precision", "mass_inside")
"""Agreement of relevance with truth."""

DETECTS, ELSEWHERE = 0.9, 0.3
"""A Clever Hans detects with an AUROC above the first and a cosine below the second."""

Kind = Literal["gap", "agreement", "maps"]


@dataclass(frozen=True, eq=False)
class Strategies:
    """Detectors compared by what they find and by why.

    Attributes
    ----------
    table
        One line per detector: ``auroc`` with its interval ``auroc_low`` to ``auroc_high`` (DeLong);
        ``cosine`` of relevance and truth, ``average_precision`` and ``mass_inside`` (as in
        :func:`xai.evaluate.localisation`), each mean over anomalies with its standard ``_error``;
        ``rows`` explained, and ``rows_partial`` of them whose mask leaves something outside, over
        which the last two are averaged; ``gap``, AUROC minus cosine.
    agreement, rank_agreement
        Of every two detectors' relevance over the anomalies: mean cosine, mean Spearman
        correlation.
    baselines
        One line per detector and other explanation: the same measures, and by a paired t-test over
        rows whether the detector's relevance agrees better with the truth (``cosine_verdict``,
        ``average_precision_verdict``). Maps that were given stand beside every detector.
    per_row
        The measures of every detector, method and anomaly.
    auroc
        Areas with their covariance, in the order of ``table``.
    relevances
        Of the explained anomalies, by detector.
    truth, rows
        Their masks, and their numbers in the data.
    level
        Of the confidence intervals.
    """

    table: pd.DataFrame
    agreement: pd.DataFrame
    rank_agreement: pd.DataFrame
    baselines: pd.DataFrame
    per_row: pd.DataFrame
    auroc: Auroc
    relevances: Mapping[str, Relevance]
    truth: Array
    rows: Array
    level: float

    @property
    def cases(self) -> list[str]:
        """Detectors with an AUROC above 0.9 and a cosine below 0.3."""
        hans = (self.table["auroc"] > DETECTS) & (self.table["cosine"] < ELSEWHERE)
        return [str(name) for name in self.table.index[hans]]

    def plot(self, kind: Kind | None = None, *, rows: Sequence[int] | None = None) -> Figure:
        """A figure of the comparison.

        Parameters
        ----------
        kind
            ``"gap"``: AUROC against cosine with the corner of the Clever Hans; ``"agreement"``:
            the matrix; ``"maps"``: some anomalies with their truth and every detector's relevance.
            When missing, the first, and beside it the maps (of pictures) or the matrix.
        rows
            Anomalies on the maps, numbered as in the data; four spread over them when missing.

        Raises
        ------
        InputError
            An unknown kind, maps of tables, or a row that was not explained.
        """
        from xai.plot.strategies import draw

        return draw(self, kind, rows)

    def to_csv(self, path: str | Path) -> Path:
        """Write the table, a column ``clever_hans`` added; the path."""
        path = Path(path)
        frame = self.table.assign(clever_hans=[name in self.cases for name in self.table.index])
        with replacing(path) as file:
            file.write(frame.to_csv().encode())
        return path

    def to_json(self, path: str | Path) -> Path:
        """Write all tables but the rows' own; the path. What is unknown is ``null``."""
        path = Path(path)
        content = {
            "level": self.level,
            "table": _records(self.table),
            "cases": self.cases,
            "agreement": self.agreement.to_dict(),
            "rank_agreement": self.rank_agreement.to_dict(),
            "baselines": _records(self.baselines) if len(self.baselines) else [],
        }
        with replacing(path) as file:
            file.write(json.dumps(content, indent=1, allow_nan=False).encode())
        return path

    def relevance(self, name: str) -> Relevance:
        """The explanation of one detector.

        Raises
        ------
        InputError
            No detector of that name.
        """
        if name not in self.relevances:
            raise InputError(f"Expected one of {', '.join(self.relevances)}, got {name!r}.")
        return self.relevances[name]

    def _repr_html_(self) -> str:
        from xai.plot.figure import png

        columns = ["auroc", "auroc_low", "auroc_high", *MEASURES, "gap"]
        table = self.table[columns].to_html(float_format="{:.3f}".format, border=0)
        picture = b64encode(png(self.plot(), dpi=72)).decode()
        return (
            f"<div>{table}<p>{_sentence(self.cases)}</p>"
            f'<img alt="AUROC against cosine" src="data:image/png;base64,{picture}" '
            'style="max-width: 100%"></div>'
        )

    def __repr__(self) -> str:
        return (
            f"<Strategies of {len(self.table)} detectors on {len(self.rows)} anomalies, "
            f"Clever Hans: {', '.join(self.cases) or 'none'}>"
        )


def _sentence(cases: Sequence[str]) -> str:
    limits = f"AUROC above {DETECTS:g}, cosine below {ELSEWHERE:g}"
    return f"Clever Hans ({limits}): {escape(', '.join(cases)) or 'none'}."


def _records(frame: pd.DataFrame) -> list[dict[str, Any]]:
    lines = frame.reset_index().to_dict("records")
    return [
        {str(k): None if isinstance(v, float) and math.isnan(v) else v for k, v in line.items()}
        for line in lines
    ]
