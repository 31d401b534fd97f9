"""zennit's composites, read as ours: the same rules by the same names, run by this engine.

A hook whose rule is one of zennit's own is replaced by the rule of that name with the same
parameters. Any other hook (a subclass, a stabilizer that is a function) is *foreign*: zennit runs
it itself, around its module, and what it keeps of the relevance is reported under its name.
Canonizers are not needed: BatchNorm is merged and sums are met where they happen.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from neuralize.composites import Composite
from neuralize.engine.operations.elementwise import Activation, SumKind
from neuralize.rules.named import (
    AlphaBeta,
    Epsilon,
    Flat,
    Gamma,
    Norm,
    Pass,
    Rule,
    WSquare,
    ZBox,
    ZPlus,
)
from neuralize.torchvision_guard import import_zennit


@dataclass(frozen=True)
class ZennitComposite(Composite):
    """A zennit composite for one model: its rules by module path.

    Attributes
    ----------
    rules
        What its map gives each module, translated.
    foreign
        zennit hooks without a counterpart, by module path.
    ask
        The composite's own answer for an operation outside a module of its type.
    """

    rules: dict[str, Rule] = field(default_factory=dict)
    ask: Callable[[str, type[nn.Module]], Rule | None] = lambda path, kind: None

    def rule(self, path: str, module: nn.Module, kind: type[nn.Module], first: bool) -> Rule | None:
        """The rule of the module itself, where the operation is its own; else by its type."""
        if isinstance(module, kind) and path in self.rules:
            return self.rules[path]
        return self.ask(path, kind) or super().rule(path, module, kind, first)


def translated(composite: Any, model: nn.Module) -> ZennitComposite:
    """A zennit composite as one of ours, for one model.

    Examples
    --------
    >>> zennit = import_zennit()
    >>> model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(16, 2))
    >>> ours = translated(zennit.composites.EpsilonPlusFlat(), model)
    >>> ours.rules["0"], ours.rules["3"]
    (Flat(epsilon=1e-06, zero_params=('bias',)), Epsilon(epsilon=1e-06, zero_params=()))
    """
    context: dict[str, Any] = {}
    rules: dict[str, Rule] = {}
    foreign: dict[str, Any] = {}
    for name, module in model.named_modules():
        hook = composite.module_map(context, name, module)
        # zennit 0.5.1 counts MultiheadAttention among the activations
        if hook is None or isinstance(module, nn.MultiheadAttention):
            continue
        rule = as_rule(hook)
        if rule is None:
            foreign[name] = hook
        else:
            rules[name] = rule

    zennit = import_zennit()
    stand_ins: dict[type[nn.Module], type[nn.Module]] = {
        Activation: nn.ReLU,
        SumKind: zennit.layer.Sum,
    }

    def ask(path: str, kind: type[nn.Module]) -> Rule | None:
        known = stand_ins.get(kind, kind)
        module = known.__new__(known)
        nn.Module.__init__(module)
        hook = composite.module_map(context, path, module)
        return None if hook is None else as_rule(hook)

    return ZennitComposite(type(composite).__name__, foreign=foreign, rules=rules, ask=ask)


def as_rule(hook: Any) -> Rule | None:
    """The rule with a zennit hook's name and parameters; None if it is not one of zennit's own.

    Examples
    --------
    >>> zennit = import_zennit()
    >>> as_rule(zennit.rules.Gamma(gamma=0.1))
    Gamma(gamma=0.1, epsilon=1e-06, zero_params=())
    """
    if type(hook).__module__ != "zennit.rules":
        return None
    name = type(hook).__name__
    if name == "Pass":
        return Pass()
    if not hasattr(hook, "gradient_mapper"):
        return None
    values = _values(hook)
    epsilon = _epsilon(values.get("stabilizer_fn"))
    zero = _zero_params(hook)
    if epsilon is None or zero is None:
        return None
    common: dict[str, Any] = {"epsilon": epsilon, "zero_params": zero}
    makers: dict[str, Callable[[], Rule]] = {
        "Epsilon": lambda: Epsilon(**common),
        "Norm": lambda: Norm(epsilon),
        "ZPlus": lambda: ZPlus(**common),
        "Gamma": lambda: Gamma(values["gamma"], **common),
        "AlphaBeta": lambda: AlphaBeta(values["alpha"], values["beta"], **common),
        "ZBox": lambda: ZBox(_bound(values["low"]), _bound(values["high"]), **common),
        "WSquare": lambda: WSquare(**common),
        "Flat": lambda: Flat(**common),
    }
    try:
        return makers[name]() if name in makers else None
    except KeyError:
        return None


def _values(hook: Any) -> dict[str, Any]:
    """What the functions of a rule were made with."""
    functions = [
        hook.gradient_mapper,
        hook.reducer,
        *hook.input_modifiers,
        *(getattr(m, "modifier", m) for m in hook.param_modifiers),
    ]
    found: dict[str, Any] = {}
    for function in functions:
        if inspect.isfunction(function):
            found |= dict(inspect.getclosurevars(function).nonlocals)
    return found


def _epsilon(stabilizer: Any) -> float | None:
    """The number a plain stabilizer adds; None for one that does something else."""
    if type(stabilizer).__name__ != "Stabilizer" or stabilizer.clip or stabilizer.norm_scale:
        return None
    return float(stabilizer.epsilon)


def _zero_params(hook: Any) -> tuple[str, ...] | None:
    """``("bias",)`` where biases are left out, and None for parameters of other names."""
    given = getattr(hook.param_modifiers[0], "zero_params", None)
    names = () if given is None else (given,) if isinstance(given, str) else tuple(given)
    return names if set(names) <= {"bias"} else None


def _bound(value: Any) -> Any:
    """A bound of the input box without zennit's leading dimension of one."""
    if isinstance(value, torch.Tensor) and value.ndim > 1 and len(value) == 1:
        return value[0]
    return value
