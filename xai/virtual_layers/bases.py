"""Bases that relevance can be written in: frequencies, and linear maps given by a matrix."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from xai.errors import InputError
from xai.relevance import Array

OUTSIDE = "outside the basis"
"""Name of what an incomplete basis leaves over."""

MEAN = "mean of the basis"
"""Name of what the point that coefficients are counted from takes."""

LARGEST_DENSE = 4096
"""Width up to which a transform is written as a matrix."""


class Basis:
    """A linear change of coordinates ``h = T x``, ``x = S h``, with ``S T = 1``.

    A subclass gives :meth:`forward`, :meth:`inverse` and :meth:`adjoint`; rows ``(n, ...)`` all
    through.

    Attributes
    ----------
    name
        What figures call it.
    """

    name: str = "basis"

    def forward(self, x: Tensor) -> Tensor:
        """Coefficients ``h = T x`` of rows ``x``."""
        raise NotImplementedError

    def inverse(self, h: Tensor, like: Tensor) -> Tensor:
        """Rows ``S h`` in the shape of ``like``."""
        raise NotImplementedError

    def adjoint(self, context: Tensor) -> Tensor:
        """``S^T c``: relevance per unit of every coefficient, from that per unit of ``x``."""
        raise NotImplementedError

    def contributions(self, h: Tensor, context: Tensor) -> Tensor:
        """``R_k = h_k (S^T c)_k`` of coefficients ``h``."""
        return h * self.adjoint(context)

    def remainders(self, x: Tensor) -> dict[str, Tensor]:
        """Parts of ``x`` that no coefficient stands for, by name; they and ``S T x`` make ``x``."""
        return {}

    def partition(self, shape: tuple[int, ...], n: int) -> list[tuple[str, Array]]:
        """``n`` named masks over coefficients of ``shape`` that cover each of them once."""
        raise NotImplementedError

    def component(self, x: Tensor, mask: Tensor) -> Tensor:
        """The part ``S (mask * T x)`` of every row, in its shape."""
        return self.inverse(self.forward(x) * mask, x)

    def dense(self, shape: tuple[int, ...], like: Tensor) -> tuple[Tensor, Tensor]:
        """``S`` ``(d, q)`` and ``T`` ``(q, d)`` over real coefficients of rows of ``shape``."""
        d = int(np.prod(shape))
        if d > LARGEST_DENSE:
            raise InputError(
                f"Expected rows of at most {LARGEST_DENSE} numbers for a model without an encoder, "
                f"got {d}; make the pictures smaller."
            )
        units = torch.eye(d, dtype=like.dtype, device=like.device).reshape(d, *shape)
        return self._dense(units, d)

    def _dense(self, units: Tensor, d: int) -> tuple[Tensor, Tensor]:
        return self.adjoint(units).reshape(d, -1), self.forward(units).reshape(d, -1).T

    def collected(self, values: Tensor, shape: tuple[int, ...]) -> Tensor:
        """Relevance ``(n, q)`` of the coefficients of :meth:`dense`, laid out as coefficients."""
        return values.reshape(len(values), *shape)


class Frequencies(Basis):
    """A two-dimensional frequency transform of pictures, channel by channel.

    Parameters
    ----------
    dims
        The two dimensions of a row batch that are height and width.
    """

    def __init__(self, dims: tuple[int, int] = (-2, -1)) -> None:
        self.dims = dims

    def frequency(self, shape: tuple[int, ...]) -> Array:
        """Radial frequency, in cycles per pixel, of coefficients of ``shape`` (without rows)."""
        vertical, horizontal = self._axes(shape)
        grids: list[Any] = []
        for values, dim in zip((vertical, horizontal), self.dims, strict=True):
            sizes = [1] * len(shape)
            sizes[dim] = -1
            grids.append(values.reshape(sizes))
        radius: Array = np.broadcast_to(np.sqrt(grids[0] ** 2 + grids[1] ** 2), shape)
        return radius

    def _axes(self, shape: tuple[int, ...]) -> tuple[Array, Array]:
        raise NotImplementedError

    def partition(self, shape: tuple[int, ...], n: int) -> list[tuple[str, Array]]:
        radius = self.frequency(shape)
        edges = np.linspace(0, radius.max(), n + 1)
        place = np.clip(np.searchsorted(edges, radius, side="right") - 1, 0, n - 1)
        return [(f"{edges[b]:.3g} to {edges[b + 1]:.3g}", place == b) for b in range(n)]


class DCT(Frequencies):
    """The orthonormal two-dimensional DCT-II, ``h = C_h x C_w^T`` (real coefficients).

    ``C_kn = sqrt((2 - [k = 0]) / N) cos(pi (n + 1/2) k / N)``; ``k`` counts half cycles, so it is
    ``k / 2N`` cycles per pixel.

    Examples
    --------
    >>> x = torch.ones(1, 4, 4)
    >>> DCT().forward(x).round(decimals=5)[0, 0].tolist()
    [4.0, 0.0, 0.0, 0.0]
    """

    name = "DCT"

    def forward(self, x: Tensor) -> Tensor:
        return self._apply(x, False)

    def inverse(self, h: Tensor, like: Tensor) -> Tensor:
        return self._apply(h, True)

    def adjoint(self, context: Tensor) -> Tensor:
        return self._apply(context, False)

    def _apply(self, x: Tensor, transposed: bool) -> Tensor:
        for dim in self.dims:
            c = _cosines(x.shape[dim], x)
            x = (x.movedim(dim, -1) @ (c if transposed else c.T)).movedim(-1, dim)
        return x

    def _axes(self, shape: tuple[int, ...]) -> tuple[Array, Array]:
        h, w = (shape[dim] for dim in self.dims)
        return np.arange(h) / (2 * h), np.arange(w) / (2 * w)


def _cosines(n: int, like: Tensor) -> Tensor:
    k = torch.arange(n, dtype=torch.float64)[:, None]
    c = torch.cos(torch.pi * (torch.arange(n, dtype=torch.float64) + 0.5) * k / n) * (2 / n) ** 0.5
    c[0] /= 2**0.5
    cosines: Tensor = c.to(like)
    return cosines


class DFT(Frequencies):
    """The unitary two-dimensional Fourier transform of real pictures, half spectrum.

    ``R_k = Re(conj(y_k) (F c)_k)``: real and imaginary parts each get what they contribute, and the
    two are added. A coefficient left out by symmetry is the conjugate of one that is kept and
    contributes the same, so all but the first column (and the last, for an even width) count twice
    (Vielhaben et al., arXiv 2303.06365).

    Parameters
    ----------
    dims
        The two dimensions of a row batch that are height and width.
    width
        Of the pictures; even when missing. The half spectrum does not show it.

    Examples
    --------
    >>> x = torch.tensor([[[1.0, -1.0], [1.0, -1.0]]])
    >>> DFT().contributions(DFT().forward(x), x)[0].tolist()
    [[0.0, 4.0], [0.0, 0.0]]
    """

    name = "DFT"

    def __init__(self, dims: tuple[int, int] = (-2, -1), width: int | None = None) -> None:
        super().__init__(dims)
        self.width = width

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = torch.fft.rfft2(x, dim=self.dims, norm="ortho")
        return y

    def inverse(self, h: Tensor, like: Tensor) -> Tensor:
        size = [like.shape[dim] for dim in self.dims]
        x: Tensor = torch.fft.irfft2(h, s=size, dim=self.dims, norm="ortho")
        return x

    def contributions(self, h: Tensor, context: Tensor) -> Tensor:
        d = self.forward(context)
        return (h.real * d.real + h.imag * d.imag) * self._multiplicity(context)

    def _multiplicity(self, like: Tensor) -> Tensor:
        width = like.shape[self.dims[1]]
        counts = torch.full((width // 2 + 1,), 2.0, dtype=like.dtype, device=like.device)
        counts[0] = 1
        if width % 2 == 0:
            counts[-1] = 1
        return counts if self.dims[1] == -1 else counts[:, None]

    def _dense(self, units: Tensor, d: int) -> tuple[Tensor, Tensor]:
        y = self.forward(units)
        twice = y * self._multiplicity(units)
        synthesis = torch.cat([part.reshape(d, -1) for part in (twice.real, twice.imag)], 1)
        return synthesis, torch.cat([part.reshape(d, -1) for part in (y.real, y.imag)], 1).T

    def collected(self, values: Tensor, shape: tuple[int, ...]) -> Tensor:
        return values.reshape(len(values), 2, *shape).sum(1)

    def _axes(self, shape: tuple[int, ...]) -> tuple[Array, Array]:
        h, half = (shape[dim] for dim in self.dims)
        width = self.width or 2 * (half - 1) or 1
        return np.fft.fftfreq(h), np.arange(half) / width


@dataclass(frozen=True)
class LinearBasis(Basis):
    """Coefficients ``h = T (x - mean)`` by a matrix of full row rank: PCA, whitening, subspaces.

    ``x = S h + mean + rest`` with ``S`` the pseudo-inverse of ``T``. An incomplete basis
    (``q < d``) leaves a rest, the part of ``x`` that ``T`` does not see; what it and the mean
    contribute is reported by name.

    Parameters
    ----------
    matrix
        ``T`` ``(q, d)``.
    mean
        ``(d,)``; zero when missing.
    dim
        Dimension of a batch that the matrix acts on: 1 for channels, -1 for the features of
        tokens. When missing, on whole rows.
    groups
        One number per coefficient: which subspace it belongs to.
    name
        What figures call it.

    Raises
    ------
    InputError
        A matrix that is no matrix, or rows that depend on one another.

    Examples
    --------
    >>> basis = LinearBasis(torch.tensor([[1.0, 1.0], [0.0, 2.0]]))
    >>> basis.forward(torch.tensor([[3.0, 4.0]])).tolist()
    [[7.0, 8.0]]
    """

    matrix: Tensor
    mean: Tensor | None = None
    dim: int | None = None
    groups: tuple[int, ...] | None = None
    name: str = "basis"

    def __post_init__(self) -> None:
        if self.matrix.ndim != 2 or len(self.matrix) > self.matrix.shape[1]:
            raise InputError(
                f"Expected a matrix (q, d) with q <= d, got shape {tuple(self.matrix.shape)}."
            )
        rank = int(torch.linalg.matrix_rank(self.matrix))
        if rank < len(self.matrix):
            raise InputError(
                f"Expected {len(self.matrix)} directions that are independent, got rank {rank}. "
                "Leave out those that the others make up (components without variance)."
            )
        object.__setattr__(self, "synthesis", torch.linalg.pinv(self.matrix))

    synthesis = None
    """``S`` ``(d, q)``."""

    def forward(self, x: Tensor) -> Tensor:
        rows = self._columns(x)
        if self.mean is not None:
            rows = rows - self.mean.to(x)
        return self._laid_out(rows @ self.matrix.to(x).T)

    def inverse(self, h: Tensor, like: Tensor) -> Tensor:
        rows = (h if self.dim is None else h.movedim(self.dim, -1)) @ self._synthesis(h).T
        return rows.reshape(like.shape) if self.dim is None else rows.movedim(-1, self.dim)

    def adjoint(self, context: Tensor) -> Tensor:
        return self._laid_out(self._columns(context) @ self._synthesis(context))

    def remainders(self, x: Tensor) -> dict[str, Tensor]:
        parts = {}
        known = self.inverse(self.forward(x), x)
        if self.mean is not None:
            mean = self.mean.to(x)
            if self.dim is None:
                parts[MEAN] = mean.reshape(x.shape[1:]).expand(x.shape)
            else:
                parts[MEAN] = mean.expand(x.movedim(self.dim, -1).shape).movedim(-1, self.dim)
            known = known + parts[MEAN]
        if len(self.matrix) < self.matrix.shape[1]:
            parts[OUTSIDE] = x - known
        return parts

    def partition(self, shape: tuple[int, ...], n: int) -> list[tuple[str, Array]]:
        q = len(self.matrix)
        if self.groups is not None:
            place, names = np.array(self.groups), [f"subspace {g + 1}" for g in range(n)]
        else:
            n = min(n, q)
            place = np.arange(q) * n // q
            names = [_span(np.flatnonzero(place == b)) for b in range(n)]
        sizes = [1] * len(shape)
        sizes[0 if self.dim is None else self.dim if self.dim < 0 else self.dim - 1] = q
        return [
            (name, np.broadcast_to((place == b).reshape(sizes), shape))
            for b, name in enumerate(names)
        ]

    def _dense(self, units: Tensor, d: int) -> tuple[Tensor, Tensor]:
        # completed, so that what the basis leaves over has coefficients too
        t = self.matrix.to(units)
        if self.dim is not None:
            raise InputError("A basis of channels is for the layers of a network, not for rows.")
        rest = torch.linalg.svd(t, full_matrices=True)[2][len(t) :]
        return torch.cat([self._synthesis(units), rest.T], 1), torch.cat([t, rest])

    def _synthesis(self, like: Tensor) -> Tensor:
        assert isinstance(self.synthesis, Tensor)
        return self.synthesis.to(like)

    def _columns(self, x: Tensor) -> Tensor:
        rows = x.reshape(len(x), -1) if self.dim is None else x.movedim(self.dim, -1)
        if rows.shape[-1] != self.matrix.shape[1]:
            raise InputError(
                f"Expected {self.matrix.shape[1]} numbers, the width of the basis, got shape "
                f"{tuple(x.shape)} (dim={self.dim})."
            )
        return rows

    def _laid_out(self, h: Tensor) -> Tensor:
        return h if self.dim is None else h.movedim(-1, self.dim)


def _span(index: Array) -> str:
    return f"component {index[0]}" if len(index) == 1 else f"components {index[0]} to {index[-1]}"


def pca_basis(data: Any, n_components: int | None = None, *, whiten: bool = False) -> LinearBasis:
    """The principal components of data, or of a fitted scikit-learn ``PCA``.

    Parameters
    ----------
    data
        Rows ``(n, ...)``, or a fitted ``PCA``.
    n_components
        How many; all with variance when missing.
    whiten
        Coefficients in units of their standard deviation. Relevance does not change by that:
        ``h_k`` shrinks as ``(S^T c)_k`` grows.

    Examples
    --------
    >>> basis = pca_basis(np.random.default_rng(0).normal(size=(50, 4)), 2)
    >>> tuple(basis.matrix.shape)
    (2, 4)
    """
    if hasattr(data, "components_"):
        components = torch.as_tensor(np.array(data.components_))
        spread = torch.as_tensor(np.array(data.explained_variance_)).sqrt()
        mean = torch.as_tensor(np.array(data.mean_))
    else:
        rows = torch.as_tensor(np.array(data)).double().flatten(1)
        mean = rows.mean(0)
        _, singular, components = torch.linalg.svd(rows - mean, full_matrices=False)
        kept = singular > singular.max() * max(rows.shape) * torch.finfo(torch.float64).eps
        components, spread = components[kept], singular[kept] / max(len(rows) - 1, 1) ** 0.5
    components, spread = components[:n_components], spread[:n_components]
    matrix = components / spread[:, None] if whiten else components
    return LinearBasis(matrix, mean, name="whitened PCA" if whiten else "PCA")
