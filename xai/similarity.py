"""What BiLRP finds: relevance of pairs of pixels, kept as factors, with its accounts."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
import pandas as pd

from xai.errors import FileFormatError, InputError
from xai.relevance import Array

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MATRIX_BYTES = 256 * 2**20
"""A matrix of pairs beyond this size is formed only with ``force=True``."""

STRIP = 2**22
"""Entries of the matrix of pairs looked at together where it is never formed as a whole."""

FORMAT = "unsupervised-xai similarity"
VERSION = 1
INPUT = "input"

Name = Literal["a", "b"]
Region = tuple[slice, ...]


class Pair(NamedTuple):
    """A region of ``a``, a region of ``b``, and the relevance that they have together."""

    a: Region
    b: Region
    relevance: float


@dataclass(frozen=True, eq=False)
class Side:
    """One of the two inputs, explained once per direction ``m`` of the embedding.

    ``components[m] = factors[m].sum() + sum(absorbed[:, m])``, up to rounding.

    Attributes
    ----------
    factors
        ``R^(m)`` ``(K, h, w)`` for pictures, their channels summed, else ``(K, *shape)``.
    components
        Embedding along each direction ``(K,)``; divided by its norm for cosines.
    absorbed
        What constants took of each component, by name, ``(K,)`` each.
    inputs
        What was explained, ``(*shape)``.
    """

    factors: Array
    components: Array
    absorbed: Mapping[str, Array]
    inputs: Array

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the map: pixels ``(h, w)``, tokens ``(t,)``, features ``(d,)``."""
        return self.factors.shape[1:]

    @property
    def totals(self) -> Array:
        """``sum_i R_i^(m)`` ``(K,)``."""
        totals: Array = self.factors.reshape(len(self.factors), -1).sum(1, dtype=np.float64)
        return totals

    def pooled(self, size: int) -> Array:
        """Factors summed over regions of ``size`` pixels a side; those at the end may be smaller.

        Returns
        -------
        Array
            ``(K, ceil(h / size), ceil(w / size))`` in float64.
        """
        if not isinstance(size, int | np.integer) or size < 1:
            raise InputError(f"Expected a size of at least 1 pixel, got {size!r}.")
        summed: Array = self.factors.astype(np.float64)
        for axis, length in enumerate(self.shape, start=1):
            if size > 1:
                summed = np.add.reduceat(summed, np.arange(0, length, size), axis=axis)
        return summed

    def region(self, index: Sequence[Any], size: int) -> Region:
        """Where the pooled entry at ``index`` lies."""
        return tuple(
            slice(int(i) * size, min((int(i) + 1) * size, length))
            for i, length in zip(index, self.shape, strict=True)
        )

    def parts(self) -> dict[str, Array]:
        """What each component consists of: the input, and what was absorbed by name."""
        return {INPUT: self.totals, **self.absorbed}


@dataclass(frozen=True, eq=False)
class SimilarityRelevance:
    """Relevance ``R_ij`` of pixel ``i`` of one input and pixel ``j`` of the other, together.

    ``R_ij = sum_m R_i^(m)(a) R_j^(m)(b)`` is kept as its factors and formed only where asked for.
    With ``phi_m = sum_i R_i^(m) + sum_s A_s^(m)`` for either side, ``A`` the absorbed shares,

        ``similarity = sum_ij R_ij + sum(absorbed.values()) + conservation_error + (y - y_hat)``

    where ``y_hat`` is what the chosen directions keep of the similarity ``y``: all, by default.
    An absorbed term takes a share of one side with the input, or a share, of the other.

    Attributes
    ----------
    a, b
        Factors, components and absorbed shares per input.
    similarity
        ``y``: the dot product or the cosine of the two embeddings.
    kind
        ``"dot"`` or ``"cosine"``.
    directions
        Which directions of the embedding were explained, in words.
    standard_error
        Of ``approximated`` over random directions; None where none were drawn.
    model_name, composite
        The encoder, and the rules used.
    provenance
        Versions and options, for whoever wants to reproduce it.
    """

    a: Side
    b: Side
    similarity: float
    kind: str
    directions: str
    model_name: str
    composite: str
    standard_error: float | None = None
    provenance: Mapping[str, str] = field(default_factory=dict)

    # -- accounts ----------------------------------------------------------------------------

    def accounts(self) -> pd.DataFrame:
        """Parts of ``a`` (rows) times parts of ``b`` (columns), summed over the directions.

        The first entry is the sum of all relevance; the others are absorbed, but for names that
        took nothing.
        """
        rows, columns = (
            {name: v for name, v in side.parts().items() if name == INPUT or v.any()}
            for side in (self.a, self.b)
        )
        table = np.stack(list(rows.values())) @ np.stack(list(columns.values())).T
        return pd.DataFrame(table, index=list(rows), columns=list(columns))

    @property
    def total(self) -> float:
        """``sum_ij R_ij``."""
        return float(self.a.totals @ self.b.totals)

    @property
    def absorbed(self) -> dict[str, float]:
        """What did not reach both inputs, by the names of the two parts that met."""
        table = self.accounts()
        return {
            f"{row} of a, {column} of b": float(table.loc[row, column])
            for row, column in product(table.index, table.columns)
            if (row, column) != (INPUT, INPUT)
        }

    @property
    def approximated(self) -> float:
        """``y_hat``, the similarity along the explained directions."""
        return float(self.a.components @ self.b.components)

    @property
    def approximation_error(self) -> float:
        """``|y - y_hat| / |y|``; rounding where all directions are explained."""
        difference = abs(self.similarity - self.approximated)
        if not difference:
            return 0.0
        return difference / abs(self.similarity) if self.similarity else float("inf")

    @property
    def conservation_error(self) -> float:
        """``y_hat`` minus all relevance and all that was absorbed."""
        return self.approximated - float(self.accounts().to_numpy().sum())

    @property
    def relative_conservation_error(self) -> float:
        """Absolute error over the summed magnitudes of what was added up."""
        one, two = (
            sum((np.abs(part) for part in side.parts().values()), np.abs(side.components))
            for side in (self.a, self.b)
        )
        return abs(self.conservation_error) / max(float(one @ two), np.finfo(float).tiny)

    # -- views -------------------------------------------------------------------------------

    def pooled(self, size: int = 8, *, force: bool = False) -> Array:
        """Relevance of pairs of regions of ``size`` pixels a side.

        Returns
        -------
        Array
            ``(ha, wa, hb, wb)`` for pictures; its sum is :attr:`total`.

        Raises
        ------
        InputError
            A size below 1, or a matrix that is too large without ``force``.
        """
        one, two = self.a.pooled(size), self.b.pooled(size)
        pairs = one[0].size * two[0].size
        if 8 * pairs > MATRIX_BYTES and not force:
            raise InputError(
                f"Expected at most {MATRIX_BYTES // 2**20} MiB of pairs, got {one[0].size} x "
                f"{two[0].size} of them ({8 * pairs / 2**20:.0f} MiB). Take larger regions, "
                "marginals() or given(region), or pass force=True."
            )
        found: Array = np.tensordot(one, two, axes=(0, 0))
        return found

    def matrix(self, *, force: bool = False) -> Array:
        """Relevance of all pairs of pixels, ``(*shape of a, *shape of b)``.

        Raises
        ------
        InputError
            A matrix that is too large, without ``force``.
        """
        return self.pooled(1, force=force)

    def marginals(self) -> tuple[Array, Array]:
        """``sum_j R_ij`` over ``a`` and ``sum_i R_ij`` over ``b``; each sums to :attr:`total`."""
        return _weighted(self.b.totals, self.a), _weighted(self.a.totals, self.b)

    def given(self, region: Region | Array, side: Name = "a") -> Array:
        """Map over the other input of the relevance that it has together with ``region``.

        Parameters
        ----------
        region
            Slices ``(rows, columns)``, as :meth:`top_pairs` gives them, or a mask of booleans in
            the shape of the map.
        side
            Which input the region is in.

        Raises
        ------
        InputError
            A region that is empty or does not lie in the input.
        """
        if side not in ("a", "b"):
            raise InputError(f"Expected side 'a' or 'b', got {side!r}.")
        one, two = (self.a, self.b) if side == "a" else (self.b, self.a)
        mask = _mask(region, one.shape, side)
        return _weighted(one.factors[:, mask].sum(1, dtype=np.float64), two)

    def top_pairs(self, n: int = 10, size: int = 8) -> list[Pair]:
        """The ``n`` pairs of regions with the largest ``|R|``, the largest first.

        The matrix of all pairs is looked at strip by strip.
        """
        if n < 1:
            raise InputError(f"Expected at least one pair, got n={n}.")
        one, two = self.a.pooled(size), self.b.pooled(size)
        grids = one.shape[1:], two.shape[1:]
        one, two = one.reshape(len(one), -1), two.reshape(len(two), -1)
        places = np.empty(0, int)
        values = np.empty(0)
        for start, strip in _strips(one, two):
            joint = strip.ravel()
            best = np.argpartition(-np.abs(joint), min(n, len(joint)) - 1)[:n]
            places = np.concatenate([places, best + start * two.shape[1]])
            values = np.concatenate([values, joint[best]])
            kept = np.argsort(-np.abs(values), kind="stable")[:n]
            places, values = places[kept], values[kept]
        found = []
        for place, value in zip(places, values, strict=True):
            i, j = divmod(int(place), two.shape[1])
            where = np.unravel_index(i, grids[0]), np.unravel_index(j, grids[1])
            regions = self.a.region(where[0], size), self.b.region(where[1], size)
            found.append(Pair(*regions, float(value)))
        return found

    def plot(
        self,
        n: int = 40,
        size: int = 8,
        *,
        ax: Axes | None = None,
        limit: float | None = None,
        labels: tuple[Sequence[str], Sequence[str]] | None = None,
    ) -> Figure:
        """Both inputs, with lines between the regions that matter together.

        Tokens and tables are drawn as a matrix of pairs instead.

        Parameters
        ----------
        n
            Pairs of regions: those of the largest ``|R|``.
        size
            Pixels a side of a region.
        ax
            Where to draw; a new figure when missing.
        limit
            End of the symmetric colour scale; the largest ``|R|`` shown when missing.
        labels
            Names of the tokens or features of either input, for the matrix.
        """
        from xai.plot.pairs import pairs

        return pairs(self, n, size, ax=ax, limit=limit, labels=labels)

    # -- keeping -----------------------------------------------------------------------------

    def save(self, path: str | Path) -> Path:
        """Write the factors and everything else to an ``.npz``, whole or not at all.

        Raises
        ------
        FileFormatError
            Another suffix.
        FileNotFoundError
            The folder does not exist.
        """
        from xai.storage import replacing

        path = _npz(path)
        header: dict[str, Any] = {
            name: getattr(self, name) for name in (*TEXTS, "similarity", "standard_error")
        }
        header |= {"format": FORMAT, "version": VERSION, "provenance": dict(self.provenance)}
        arrays: dict[str, Any] = {}
        for name, side in (("a", self.a), ("b", self.b)):
            header[f"absorbed_{name}"] = list(side.absorbed)
            arrays |= {f"{part}_{name}": getattr(side, part) for part in PARTS}
            arrays |= {f"absorbed_{name}_{i}": v for i, v in enumerate(side.absorbed.values())}
        with replacing(path) as file:
            np.savez(file, header=np.array(json.dumps(header)), **arrays)
        return path

    @classmethod
    def load(cls, path: str | Path) -> SimilarityRelevance:
        """Read what :meth:`save` wrote.

        Raises
        ------
        FileFormatError
            Another suffix, a damaged file, or one that holds something else.
        FileNotFoundError
            No such file.
        """
        path = _npz(path)
        with path.open("rb") as file:
            try:
                with np.load(file, allow_pickle=False) as archive:
                    header = json.loads(str(archive["header"]))
                    if header["format"] != FORMAT or header["version"] != VERSION:
                        raise ValueError(f"format {header['format']!r}, {header['version']!r}")
                    one, two = (
                        Side(
                            **{part: archive[f"{part}_{name}"] for part in PARTS},
                            absorbed={
                                share: archive[f"absorbed_{name}_{i}"]
                                for i, share in enumerate(header[f"absorbed_{name}"])
                            },
                        )
                        for name in ("a", "b")
                    )
                fields = {k: header[k] for k in (*TEXTS, "similarity", "standard_error")}
                return cls(one, two, **fields, provenance=header["provenance"])
            except Exception as error:
                raise FileFormatError(
                    f"Expected the relevance of a similarity saved by this package in {str(path)!r}"
                    f", but it cannot be read as that: {error}"
                ) from error

    def _repr_html_(self) -> str:
        from xai.plot.pairs import pairs_card

        return pairs_card(self)

    def __repr__(self) -> str:
        shapes = " and ".join("x".join(map(str, side.shape)) for side in (self.a, self.b))
        return (
            f"<SimilarityRelevance of {shapes}, {self.model_name}, {self.composite}, {self.kind} "
            f"{self.similarity:.4g}, {self.directions}, relevance {self.total:.4g}, conservation "
            f"error {self.relative_conservation_error:.1e}>"
        )


TEXTS = ("kind", "directions", "model_name", "composite")
PARTS = ("factors", "components", "inputs")


def _npz(path: str | Path) -> Path:
    path = Path(path)
    if path.suffix.lower() != ".npz":
        raise FileFormatError(f"Expected a file name ending in .npz, got {path.name!r}.")
    return path


def _weighted(weights: Array, side: Side) -> Array:
    """``sum_m weights_m R^(m)``."""
    found: Array = np.tensordot(weights, side.factors.astype(np.float64, copy=False), axes=(0, 0))
    return found


def _strips(one: Array, two: Array) -> Iterator[tuple[int, Array]]:
    """The matrix ``one^T two`` in strips of rows, with the number of the first of them."""
    rows = max(1, STRIP // two.shape[1])
    for start in range(0, one.shape[1], rows):
        yield start, one[:, start : start + rows].T @ two


def _mask(region: Region | Array, shape: tuple[int, ...], side: str) -> Array:
    mask = np.zeros(shape, bool)
    if isinstance(region, np.ndarray):
        if region.shape != shape or region.dtype != bool:
            raise InputError(
                f"Expected a mask of booleans {shape} for input {side}, got {region.dtype} "
                f"{region.shape}."
            )
        mask = region
    else:
        parts = region if isinstance(region, tuple) else (region,)
        if len(parts) != len(shape) or not all(isinstance(part, slice) for part in parts):
            raise InputError(
                f"Expected {len(shape)} slices, one per dimension of input {side} {shape}, got "
                f"{region!r}."
            )
        mask[parts] = True
    if not mask.any():
        raise InputError(f"Expected a region within input {side} {shape}, got an empty one.")
    return mask
