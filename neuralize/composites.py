"""Which rule goes where: composites by zennit's names, for modules and functional operations alike.

A functional operation is looked up by the module class it stands for: ``F.conv2d`` by
``nn.Conv2d``, an addition by :class:`SumKind`, a softmax times values by :class:`Attention`.
"""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Literal

from torch import nn

from neuralize.engine.operations.attention import Attention
from neuralize.engine.operations.elementwise import Activation, SumKind
from neuralize.errors import InputError
from neuralize.rules.named import (
    CPLRP,
    AlphaBeta,
    AttnLRP,
    Bound,
    Epsilon,
    Flat,
    Gamma,
    Norm,
    Pass,
    Rule,
    WinnerTakeAll,
    ZBox,
    ZPlus,
)

Types = type[nn.Module] | tuple[type[nn.Module], ...]

CONVOLUTIONS: tuple[type[nn.Module], ...] = (
    nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d,
)  # fmt: skip
LINEAR: tuple[type[nn.Module], ...] = (*CONVOLUTIONS, nn.Linear)
AVERAGES: tuple[type[nn.Module], ...] = (
    nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d, nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d,
    nn.AdaptiveAvgPool3d, nn.Upsample,
)  # fmt: skip
NORMALIZATIONS: tuple[type[nn.Module], ...] = (nn.LayerNorm, nn.GroupNorm, nn.InstanceNorm2d)

# zennit's layer_map_base, and what it lacks: rules for what has no parameters
BASE: tuple[tuple[Types, Rule], ...] = (
    (Activation, Pass()),
    (SumKind, Norm()),
    (AVERAGES, Norm()),
    (nn.MaxPool2d, WinnerTakeAll()),
    # where it cannot be merged; zennit passes here, and relevance explodes behind it (DenseNet)
    (nn.BatchNorm2d, Norm()),
    (NORMALIZATIONS, Norm()),
    (Attention, AttnLRP()),
)


@dataclass(frozen=True)
class Composite:
    """Rules by name of the module, for the first layer, and by type, in this order.

    Parameters
    ----------
    name
        What reports call it.
    layer_map
        ``(type or types, rule)``; the first that fits counts, before :data:`BASE`.
    first_map
        The same, for the affine layers that see the input itself.
    name_map
        ``(names, rule)`` by module path; ``*`` and ``?`` match as in file names.
    unmapped
        ``"error"``, or ``"gradient"``: let the plain gradient through where no rule is known.

    Examples
    --------
    >>> composite = epsilon_plus_flat()
    >>> composite.rule("features.0", nn.Conv2d(3, 8, 3), nn.Conv2d, first=True)
    Flat(epsilon=1e-06, zero_params=())
    >>> composite.with_rules(layer_map=[(nn.Conv2d, Epsilon(0.1))]).rule(
    ...     "features.2", nn.Conv2d(8, 8, 3), nn.Conv2d, first=False)
    Epsilon(epsilon=0.1, zero_params=())
    """

    name: str
    layer_map: tuple[tuple[Types, Rule], ...] = ()
    first_map: tuple[tuple[Types, Rule], ...] = ()
    name_map: tuple[tuple[Sequence[str], Rule], ...] = ()
    unmapped: Literal["error", "gradient"] = "error"
    foreign: dict[str, Any] = field(default_factory=dict)
    """zennit hooks that have no counterpart here, by module path: zennit runs them itself."""
    hides_input: ClassVar[bool] = False
    """Whether an inverse transform lies below the network, as a layer of its own."""

    def rule(self, path: str, module: nn.Module, kind: type[nn.Module], first: bool) -> Rule | None:
        """The rule for an operation that stands for ``kind``, in the module at ``path``."""
        for names, rule in self.name_map:
            if any(path == name or fnmatch.fnmatchcase(path, name) for name in names):
                return rule
        maps = [*(self.first_map if first else ()), *self.layer_map, *BASE]
        for types, rule in maps:
            if issubclass(kind, types) or (isinstance(module, types) and isinstance(module, kind)):
                return rule
        return None

    def with_rules(
        self,
        *,
        layer_map: Sequence[tuple[Types, Rule]] = (),
        first_map: Sequence[tuple[Types, Rule]] = (),
        name_map: Sequence[tuple[Sequence[str], Rule]] = (),
        unmapped: Literal["error", "gradient"] | None = None,
    ) -> Composite:
        """The same composite, with other rules before its own."""
        return replace(
            self,
            layer_map=(*layer_map, *self.layer_map),
            first_map=(*first_map, *self.first_map),
            name_map=(*name_map, *self.name_map),
            unmapped=self.unmapped if unmapped is None else unmapped,
        )


def _zero(zero_bias: bool) -> tuple[str, ...]:
    return ("bias",) if zero_bias else ()


def epsilon(epsilon: float = 1e-6, attention: Rule | None = None) -> Composite:
    """Epsilon everywhere: exact, and as noisy as gradient times input."""
    return Composite("Epsilon", ((LINEAR, Epsilon(epsilon)), (Attention, attention or AttnLRP())))


def epsilon_plus(epsilon: float = 1e-6, zero_bias: bool = False) -> Composite:
    """z+ in convolutions, Epsilon in dense layers."""
    zero = _zero(zero_bias)
    return Composite(
        "EpsilonPlus",
        ((CONVOLUTIONS, ZPlus(zero_params=zero)), (nn.Linear, Epsilon(epsilon, zero))),
    )


def epsilon_plus_flat(epsilon: float = 1e-6, zero_bias: bool = False) -> Composite:
    """z+ in convolutions, Flat in the first layer, Epsilon in dense layers."""
    return replace(
        epsilon_plus(epsilon, zero_bias), name="EpsilonPlusFlat", first_map=((LINEAR, Flat()),)
    )


def epsilon_alpha2_beta1(epsilon: float = 1e-6, zero_bias: bool = False) -> Composite:
    """alpha-beta with 2 and 1 in convolutions, Epsilon in dense layers."""
    zero = _zero(zero_bias)
    return Composite(
        "EpsilonAlpha2Beta1",
        ((CONVOLUTIONS, AlphaBeta(2, 1, zero_params=zero)), (nn.Linear, Epsilon(epsilon, zero))),
    )


def epsilon_alpha2_beta1_flat(epsilon: float = 1e-6, zero_bias: bool = False) -> Composite:
    """alpha-beta with 2 and 1 in convolutions, Flat in the first layer, Epsilon in dense ones."""
    return replace(
        epsilon_alpha2_beta1(epsilon, zero_bias),
        name="EpsilonAlpha2Beta1Flat",
        first_map=((LINEAR, Flat()),),
    )


def epsilon_gamma_box(
    low: Bound, high: Bound, epsilon: float = 1e-6, gamma: float = 0.25, zero_bias: bool = False
) -> Composite:
    """Gamma in convolutions, ZBox in the first layer, Epsilon in dense layers.

    ``low`` and ``high`` bound the input, after preprocessing.
    """
    zero = _zero(zero_bias)
    return Composite(
        "EpsilonGammaBox",
        ((CONVOLUTIONS, Gamma(gamma, zero_params=zero)), (nn.Linear, Epsilon(epsilon, zero))),
        first_map=((CONVOLUTIONS, ZBox(low, high)),),
    )


def epsilon_gamma(epsilon: float = 1e-6, gamma: float = 0.25) -> Composite:
    """Gamma in convolutions, Epsilon in dense layers; needs no bounds of the input."""
    return Composite("EpsilonGamma", ((CONVOLUTIONS, Gamma(gamma)), (nn.Linear, Epsilon(epsilon))))


def gamma(gamma: float = 0.05) -> Composite:
    """A little gamma in all layers: for activations that are negative, too (GELU, SiLU)."""
    return Composite("Gamma", ((LINEAR, Gamma(gamma)), (Attention, AttnLRP())))


def attn_lrp(gamma_conv: float = 0.25, gamma_linear: float = 0.05) -> Composite:
    """Transformers by AttnLRP, with gamma in patch embedding and dense layers."""
    return Composite(
        "AttnLRP",
        ((CONVOLUTIONS, Gamma(gamma_conv)), (nn.Linear, Gamma(gamma_linear)),
         (Attention, AttnLRP())),
    )  # fmt: skip


def cp_lrp(gamma_conv: float = 0.25, gamma_linear: float = 0.05) -> Composite:
    """Transformers with attention weights held constant, gamma in embedding and dense layers."""
    return replace(
        attn_lrp(gamma_conv, gamma_linear),
        name="CPLRP",
        layer_map=((CONVOLUTIONS, Gamma(gamma_conv)), (nn.Linear, Gamma(gamma_linear)),
                   (Attention, CPLRP())),
    )  # fmt: skip


PRESETS: dict[str, Callable[..., Composite]] = {
    "epsilon": epsilon,
    "epsilon_plus": epsilon_plus,
    "epsilon_plus_flat": epsilon_plus_flat,
    "epsilon_alpha2_beta1": epsilon_alpha2_beta1,
    "epsilon_alpha2_beta1_flat": epsilon_alpha2_beta1_flat,
    "epsilon_gamma": epsilon_gamma,
    "epsilon_gamma_box": epsilon_gamma_box,
    "gamma": gamma,
    "attn_lrp": attn_lrp,
    "cp_lrp": cp_lrp,
}
"""Presets by name, as ``composite="epsilon_plus_flat"`` takes them."""


def preset(name: str, **options: Any) -> Composite:
    """A preset by its name.

    Raises
    ------
    InputError
        No preset of that name, or one that needs options.

    Examples
    --------
    >>> preset("epsilon_plus").name
    'EpsilonPlus'
    """
    if name not in PRESETS:
        raise InputError(f"Expected one of {', '.join(map(repr, PRESETS))}, got {name!r}.")
    try:
        return PRESETS[name](**options)
    except TypeError as error:
        raise InputError(
            f"Preset {name!r}: {error}. Call neuralize.composites.{name}()."
        ) from error


SIGNED = re.compile(r"gelu|silu|swish|mish|selu|celu|(?<!r)elu$", re.IGNORECASE)
"""Names of activations that hand on negative values: what stands behind them cancels."""


def default_composite(model: nn.Module) -> Composite:
    """The preset for a network's family, as pixel-flipping and amplification chose it.

    Attention: :func:`attn_lrp`. Else activations that are negative, too (ConvNeXt, EfficientNet,
    MLP-Mixer): :func:`gamma`. Else (ReLU): :func:`epsilon_gamma`.

    Examples
    --------
    >>> default_composite(nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU())).name
    'EpsilonGamma'
    >>> default_composite(nn.Sequential(nn.Conv2d(3, 8, 3), nn.GELU())).name
    'Gamma'
    """
    names = [type(module).__name__ for module in model.modules()]
    if any("attention" in name.lower() for name in names):
        return attn_lrp()
    return gamma() if any(SIGNED.search(name) for name in names) else epsilon_gamma()
