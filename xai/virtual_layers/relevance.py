"""Relevance in another basis, with its accounts, and back in pixels band by band."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from xai.errors import InputError
from xai.relevance import Array
from xai.virtual_layers.bases import Basis, Frequencies, LinearBasis

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Band = str | tuple[float, float] | Array


@dataclass(frozen=True, eq=False)
class BasisRelevance:
    """Relevance of every coefficient ``h_k`` of every row, ``x = S h``.

    ``evidence = values.sum() + sum(absorbed.values()) + conservation_error``.

    Attributes
    ----------
    values
        ``(n, *coefficients)``: pictures keep their channels; a DFT has half the width.
    evidence, absorbed, target
        As in :class:`~xai.Relevance`. Absorbed are also, by name, the parts of the input that an
        incomplete basis does not reach, and relevance that goes past the layer.
    inputs, whole
        The rows, and the pixel map that all coefficients and :attr:`remainders` add up to.
    remainders
        Pixel maps of the parts of the input without a coefficient, by name.
    basis
        What the coefficients are of.
    evidence_name, model_name
        What was explained, and of which model.
    composite
        Rules of the network, if there is one.
    """

    values: Array
    evidence: Array
    absorbed: Mapping[str, Array]
    target: Array | None
    inputs: Array
    whole: Array
    basis: Basis
    evidence_name: str
    model_name: str
    composite: str | None = None
    remainders: Mapping[str, Array] = field(default_factory=dict)
    messages: Callable[[list[Array]], list[Array]] = field(default=lambda masks: [], repr=False)
    """Pixel maps of masks over the coefficients."""

    def __len__(self) -> int:
        return len(self.values)

    @property
    def conservation_error(self) -> Array:
        """``evidence - values.sum() - absorbed.sum()`` ``(n,)``; only rounding for exact rules."""
        error: Array = self.evidence - self.values.reshape(len(self), -1).sum(1)
        for share in self.absorbed.values():
            error = error - share
        return error

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one row's coefficients."""
        return self.values.shape[1:]

    # -- bands -------------------------------------------------------------------------------

    def masks(self, n: int | None = None) -> list[tuple[str, Array]]:
        """``n`` named masks ``shape`` that cover every coefficient once.

        Frequencies are cut into rings of equal width; components of a basis into consecutive runs,
        or into its subspaces.
        """
        groups = self.basis.groups if isinstance(self.basis, LinearBasis) else None
        if groups is not None:
            n = max(groups) + 1 if n is None else n
            if n != max(groups) + 1:
                raise InputError(f"Expected n = {max(groups) + 1}, the subspaces, got {n}.")
        if n is None:
            n = 8
        if n < 1:
            raise InputError(f"Expected at least one band, got {n}.")
        return self.basis.partition(self.shape, n)

    def bands(self, n: int | None = None) -> Array:
        """Relevance of ``n`` bands ``(rows, n)``; they add up to ``values.sum()``."""
        return np.stack([self.values[:, mask].sum(1) for _, mask in self.masks(n)], 1)

    def radial(self, n: int | None = None) -> tuple[Array, Array]:
        """Radial spectrum: frequencies ``(n,)`` in cycles per pixel, and relevance ``(rows, n)``.

        Rings are one coefficient wide when ``n`` is missing; each is named by its middle, and sums
        (it is not divided by the number of its coefficients), so the spectrum adds up.
        """
        radius = self._frequencies().frequency(self.shape)
        if n is None:
            n = max(self.inputs.shape[dim] for dim in self._frequencies().dims) // 2
        edges = np.linspace(0, radius.max(), n + 1)
        return (edges[1:] + edges[:-1]) / 2, self.bands(n)

    def pixels(self, band: Band) -> Array:
        """The part of the pixel map that flows through a band ``(rows, *shape)``.

        ``R_ik = S_ik h_k c_i`` is what pixel ``i`` and coefficient ``k`` have in common; over all
        pixels it adds up to the band's relevance, over all bands and :attr:`remainders` to
        :attr:`whole`.

        Parameters
        ----------
        band
            ``(low, high)`` in cycles per pixel, both ends included; a mask over the coefficients;
            or the name of one of :attr:`remainders`.
        """
        if isinstance(band, str):
            if band not in self.remainders:
                raise InputError(f"Expected one of {list(self.remainders)}, got {band!r}.")
            return self.remainders[band]
        if isinstance(band, tuple):
            radius = self._frequencies().frequency(self.shape)
            mask: Array = (radius >= band[0]) & (radius <= band[1])
        else:
            mask = np.asarray(band)
            if mask.dtype != bool or mask.shape != self.shape:
                raise InputError(
                    f"Expected a mask of True and False of shape {self.shape}, got {mask.dtype} of "
                    f"shape {mask.shape}."
                )
        return self.messages([mask])[0]

    def maps(self, n: int | None = None) -> Array:
        """Pixel maps of all :meth:`bands` ``(n, rows, *shape)``."""
        return np.stack(self.messages([mask for _, mask in self.masks(n)]))

    def _frequencies(self) -> Frequencies:
        if not isinstance(self.basis, Frequencies):
            raise InputError(f"A {self.basis.name} has components, not frequencies; use a mask.")
        return self.basis

    # -- looking -----------------------------------------------------------------------------

    def plot(self, n: int = 4, *, row: int = 0) -> Figure:
        """Spectrum and pixel maps of ``n`` bands of one row, on one colour scale."""
        from xai.plot.spectrum import spectrum

        return spectrum(self, n, row=row)

    def __repr__(self) -> str:
        shape = "x".join(map(str, self.shape))
        error = float(np.abs(self.conservation_error).max(initial=0.0))
        return (
            f"<BasisRelevance {len(self)} x {shape} ({self.basis.name}), {self.model_name}, "
            f"absorbed {', '.join(map(repr, self.absorbed)) or 'nothing'}, "
            f"conservation error <= {error:.1e}>"
        )
