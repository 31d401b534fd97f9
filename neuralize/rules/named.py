"""The rules of the literature, by zennit's names: what ``z`` is made of when relevance is split.

Euler's theorem is the one principle. A homogeneous operation of degree ``k`` has
``k z = sum_i x_i dz/dx_i``, so ``R_i = (1/k) x_i dz/dx_i R / stab(z)`` hands on all of ``R``. A
rule replaces ``z`` by a modified sum ``d`` (other weights, a reference point) and splits that:

    ``R_i = x_i sum_j w'_ij s_j,   s_j = R_j / stab(d_j),   d = sum_i x_i w'_ij + b'_j``.

What a bias ``b'`` and the stabilizer take is noted by name. Throughout, ``x+ = max(x, 0)`` and
``x- = min(x, 0)``, likewise for weights ``w`` and biases ``b``, and ``stab(z) = z + eps sign(z)``
with ``sign(0) = +1``.

References
----------
Bach et al. On pixel-wise explanations ... by layer-wise relevance propagation. PLOS ONE 10, 2015.
Montavon et al. Explaining nonlinear classification decisions with deep Taylor decomposition.
Pattern Recognition 65, 2017. Montavon et al. Layer-wise relevance propagation: an overview. 2019.
Andeol et al. Learning domain invariant representations by joint Wasserstein distance minimization
(generalised gamma), 2021. Anders et al. zennit, arXiv 2106.13200 (names and conventions).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from neuralize.engine.affine import AffineCall

Bound = float | tuple[float, ...] | Tensor


@dataclass(frozen=True)
class Rule:
    """How the relevance of an operation's output is split over its input.

    A rule for affine maps gives :meth:`split`. ``zero_params=("bias",)`` leaves biases out of the
    denominators, so that they absorb nothing.
    """

    def split(self, call: AffineCall, relevance: Tensor) -> Tensor:
        """Relevance of the input ``call.x`` of one affine map ``z = W x + b``."""
        raise NotImplementedError

    def __str__(self) -> str:
        return type(self).__name__


def positive(x: Tensor) -> Tensor:
    """``x+ = max(x, 0)``."""
    return x.clamp(min=0)


def negative(x: Tensor) -> Tensor:
    """``x- = min(x, 0)``."""
    return x.clamp(max=0)


@dataclass(frozen=True)
class Epsilon(Rule):
    """LRP-epsilon, ``R_i = x_i sum_j w_ij R_j / stab(z_j)``; ``epsilon=0`` is LRP-0.

    Needs no forward pass: ``z`` is the output.

    Examples
    --------
    >>> Epsilon(1e-3)
    Epsilon(epsilon=0.001, zero_params=())
    """

    epsilon: float = 1e-6
    zero_params: tuple[str, ...] = ()

    def split(self, call: AffineCall, relevance: Tensor) -> Tensor:
        b = call.bias(self.zero_params)
        z = call.z_for(relevance) if b is call.weights.bias else call.linear()
        s = call.share(relevance, z, b, self.epsilon)
        return call.times_x(call.linear_transposed(s))


@dataclass(frozen=True)
class Norm(Epsilon):
    """Epsilon for parameter-free operations: sums, average pools, normalisations."""


@dataclass(frozen=True)
class ZPlus(Rule):
    """LRP-z+, ``R_i = (x_i+ w_ij+ + x_i- w_ij-) s_j`` with ``d = W+ x+ + W- x- + b+``.

    Inputs known to be non-negative need one branch.
    """

    epsilon: float = 1e-6
    zero_params: tuple[str, ...] = ()

    def split(self, call: AffineCall, relevance: Tensor) -> Tensor:
        b = call.bias(self.zero_params, "+")
        if call.nonnegative:
            d = call.forward(call.x, call.w_plus, b)
            s = call.share(relevance, d, b, self.epsilon, fresh=True, sign=1)
            return call.times_x(call.transposed(s, call.w_plus))
        up, down = positive(call.x), negative(call.x)
        d = call.forward(up, call.w_plus, b).add_(call.forward(down, call.w_minus))
        s = call.share(relevance, d, b, self.epsilon, fresh=True, sign=1)
        r = call.transposed(s, call.w_plus) * up
        return r + call.transposed(s, call.w_minus) * down


@dataclass(frozen=True)
class AlphaBeta(Rule):
    """LRP-alpha-beta, ``alpha`` times the z+ part minus ``beta`` times its negative counterpart.

    The negative part has ``n = W- x+ + W+ x- + b-``; conservation needs ``alpha - beta = 1``.
    """

    alpha: float = 2.0
    beta: float = 1.0
    epsilon: float = 1e-6
    zero_params: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.alpha < 0 or self.beta < 0 or abs(self.alpha - self.beta - 1) > 1e-12:
            raise ValueError(
                f"Expected alpha, beta >= 0 with alpha - beta = 1, got {self.alpha}, {self.beta}."
            )

    def split(self, call: AffineCall, relevance: Tensor) -> Tensor:
        b_plus = call.bias(self.zero_params, "+")
        b_minus = call.bias(self.zero_params, "-")
        up = call.x if call.nonnegative else positive(call.x)
        down = None if call.nonnegative else negative(call.x)
        p = call.forward(up, call.w_plus, b_plus)
        if down is not None:
            p += call.forward(down, call.w_minus)
        s = call.share(relevance, p, b_plus, self.epsilon, self.alpha)
        if not self.beta:
            r = call.transposed(s, call.w_plus) * up
            return r if down is None else r + call.transposed(s, call.w_minus) * down
        n = call.forward(up, call.w_minus, b_minus)
        if down is not None:
            n += call.forward(down, call.w_plus)
        t = call.share(relevance, n, b_minus, self.epsilon, -self.beta)
        r = (call.transposed(s, call.w_plus) + call.transposed(t, call.w_minus)) * up
        if down is None:
            return r
        return r + (call.transposed(s, call.w_minus) + call.transposed(t, call.w_plus)) * down


@dataclass(frozen=True)
class Gamma(Rule):
    """Generalised LRP-gamma, with ``P(w) = w + gamma w+`` and ``N(w) = w + gamma w-``.

    Where ``z > 0``: ``d = P(W) x+ + N(W) x- + P(b)``, split accordingly. Where ``z < 0``:
    ``d = N(W) x+ + P(W) x- + N(b)``. Where ``z = 0`` nothing is handed on.
    """

    gamma: float = 0.25
    epsilon: float = 1e-6
    zero_params: tuple[str, ...] = ()

    def split(self, call: AffineCall, relevance: Tensor) -> Tensor:
        b_plus = call.bias(self.zero_params, f"+{self.gamma}")
        b_minus = call.bias(self.zero_params, f"-{self.gamma}")
        above, below = call.by_sign(relevance)
        up = call.x if call.nonnegative else positive(call.x)
        down = None if call.nonnegative else negative(call.x)
        w_plus = call.gamma_plus(self.gamma)
        w_minus = w_plus if down is None and below is None else call.gamma_minus(self.gamma)

        def denominator(w: Tensor, w_down: Tensor, b: Tensor | None) -> Tensor:
            d = call.forward(up, w, b)
            return d if down is None else d.add_(call.forward(down, w_down))

        def split(
            r: Tensor, d: Tensor, w: Tensor, w_down: Tensor, b: Tensor | None, sign: int
        ) -> Tensor:
            s = call.share(r, d, b, self.epsilon, fresh=True, sign=sign)
            if down is None:
                return call.times_x(call.transposed(s, w))
            return call.transposed(s, w) * up + call.transposed(s, w_down) * down

        # d has the sign of z, unless its bias was left out
        sign = 0 if self.zero_params else 1
        d = denominator(w_plus, w_minus, b_plus)
        if below is None:
            return split(above, d, w_plus, w_minus, b_plus, sign)
        if down is None and not self.zero_params:
            n = (call.z * (2 + self.gamma)).sub_(d)  # since P(w) + N(w) = (2 + gamma) w
        else:
            n = denominator(w_minus, w_plus, b_minus)
        r = split(above, d, w_plus, w_minus, b_plus, sign)
        return r + split(below, n, w_minus, w_plus, b_minus, -sign)


@dataclass(frozen=True)
class ZBox(Rule):
    """LRP-zB for inputs in a box, ``R_i = (x_i w_ij - l_i w_ij+ - h_i w_ij-) s_j``.

    ``d = W x - W+ l - W- h``; the bias cancels. ``low`` and ``high`` are numbers, one number per
    channel, or tensors that broadcast against one input.
    """

    low: Bound = 0.0
    high: Bound = 1.0
    epsilon: float = 1e-6
    zero_params: tuple[str, ...] = ()

    def split(self, call: AffineCall, relevance: Tensor) -> Tensor:
        low, high = call.bound(self.low), call.bound(self.high)
        d = call.linear()
        d = d.sub_(call.forward(low, call.w_plus)).sub_(call.forward(high, call.w_minus))
        s = call.share(relevance, d, None, self.epsilon, fresh=True)
        # W = W+ + W-: two backward passes instead of three
        r = call.transposed(s, call.w_plus) * (call.x - low)
        return r + call.transposed(s, call.w_minus) * (call.x - high)


@dataclass(frozen=True)
class WSquare(Rule):
    """LRP-w2, ``R_i = w_ij^2 s_j`` with ``d = W^2 1 + b^2``: whatever the input is."""

    epsilon: float = 1e-6
    zero_params: tuple[str, ...] = ()

    def split(self, call: AffineCall, relevance: Tensor) -> Tensor:
        b = call.bias(self.zero_params, "2")
        d = call.forward(call.one_row_of_ones(), call.w_squared, b)
        return call.transposed(call.share(relevance, d, b, self.epsilon), call.w_squared)


@dataclass(frozen=True)
class Flat(Rule):
    """LRP-flat: all inputs of a neuron share equally, ``R_i = s_j`` with ``d = J 1``, all ones."""

    epsilon: float = 1e-6
    zero_params: tuple[str, ...] = ()

    def split(self, call: AffineCall, relevance: Tensor) -> Tensor:
        d = call.forward(call.one_row_of_ones(), call.w_ones)
        return call.transposed(call.share(relevance, d, None, self.epsilon), call.w_ones)


@dataclass(frozen=True)
class Pass(Rule):
    """``R_in = R_out``: element-wise operations, where input and output correspond."""

    def split(self, call: AffineCall, relevance: Tensor) -> Tensor:
        if call.x.shape != relevance.shape:
            raise ValueError(
                f"Pass needs input and output of one shape, got {tuple(call.x.shape)} and "
                f"{tuple(relevance.shape)}; use Epsilon or another rule that splits."
            )
        return relevance


@dataclass(frozen=True)
class Ignore(Rule):
    """Nothing is handed on; all of it is absorbed, by the name ``ignored``."""

    def split(self, call: AffineCall, relevance: Tensor) -> Tensor:
        call.ignore(relevance)
        return torch.zeros_like(call.x)


@dataclass(frozen=True)
class Gradient(Rule):
    """The plain gradient in place of a rule, ``R_in = W^T R_out``: zennit's silent default.

    Does not conserve relevance; chosen only by name or by ``unmapped="gradient"``.
    """

    def split(self, call: AffineCall, relevance: Tensor) -> Tensor:
        return call.linear_transposed(relevance)


@dataclass(frozen=True)
class WinnerTakeAll(Rule):
    """Maximum pools: all relevance to the largest input, as the plain gradient has it."""


@dataclass(frozen=True)
class TakeMost(Rule):
    """Maximum pools: relevance in proportion ``exp(t x_i)`` within a window, ``t`` the stiffness.

    Kauffmann et al., arXiv 1906.07633: the soft counterpart of winner-take-all.
    """

    stiffness: float = 1.0


@dataclass(frozen=True)
class AttnLRP(Rule):
    """Attention by Achtibat et al., AttnLRP, arXiv 2402.05602.

    ``O = A V`` is of degree two in ``A`` and ``V``: each gets half. The softmax ``A`` is
    linearised, ``R_i = x_i (R_i - A_i sum_j R_j)``; the scores ``q . k`` share half and half.
    """


@dataclass(frozen=True)
class CPLRP(Rule):
    """Attention weights held constant: all relevance flows through the values.

    Ali et al., XAI for Transformers: Better Explanations through Conservative Propagation, 2022
    (the AH rule): ``R_i = sum_j x_i A_ji s_j`` with ``s = R / (A x)``.
    """
