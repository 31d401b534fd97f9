"""Guards for the encoder below a neuralized model, whose relevance a zennit composite carries."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn

from neuralize.errors import NoRuleError

# Through these the plain gradient, which zennit passes where it has no rule, is the right one.
_GRADIENT_IS_RIGHT = (
    nn.Identity,
    nn.Flatten,
    nn.Unflatten,
    nn.modules.dropout._DropoutNd,
    nn.modules.pooling._MaxPoolNd,
    nn.modules.pooling._AdaptiveMaxPoolNd,
)


@contextmanager
def evaluating(encoder: nn.Module | None) -> Iterator[None]:
    """The encoder in evaluation mode, and afterwards every module as it was.

    In training mode an explanation would move BatchNorm's running statistics.
    """
    modules = [] if encoder is None else list(encoder.modules())
    flags = [module.training for module in modules]
    if encoder is not None:
        encoder.eval()
    try:
        yield
    finally:
        for module, flag in zip(modules, flags, strict=True):
            module.training = flag


def require_rules(composite: Any, encoder: nn.Module) -> None:
    """Refuse a composite that leaves a module of the encoder without a rule.

    zennit passes the plain gradient through such a module without a word, and the relevance that
    comes out below it no longer adds up.

    Raises
    ------
    NoRuleError
        Naming the modules by their paths.
    """
    context: dict[str, Any] = {}
    unmapped = [
        f"{name or 'encoder'} ({type(module).__name__})"
        for name, module in encoder.named_modules()
        if composite.module_map(context, name, module) is None
        and not list(module.children())
        and not isinstance(module, _GRADIENT_IS_RIGHT)
    ]
    if unmapped:
        raise NoRuleError(
            f"No LRP rule in {type(composite).__name__} for {', '.join(unmapped)}. Map them, e.g. "
            "with the composite's layer_map=[(TheType, zennit.rules.Pass())] for an activation."
        )
