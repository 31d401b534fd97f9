"""Rules for PyG models: gamma inside convolutions, wherever their linear maps lie."""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import nn

from graphs.pyg.inputs import required_pyg
from neuralize.composites import Composite
from neuralize.rules.named import Epsilon, Gamma, Rule


@dataclass(frozen=True)
class ConvComposite(Composite):
    """A composite with a rule of its own for the linear maps inside convolutions.

    Attributes
    ----------
    convolutions
        Paths of the convolutions.
    in_convolutions
        Their rule.
    """

    convolutions: tuple[str, ...] = ()
    in_convolutions: Rule = field(default_factory=Gamma)

    def rule(self, path: str, module: nn.Module, kind: type[nn.Module], first: bool) -> Rule | None:
        """As for any composite, but inside convolutions."""
        if issubclass(kind, nn.Linear) and any(
            path == conv or path.startswith(f"{conv}.") for conv in self.convolutions
        ):
            return self.in_convolutions
        return super().rule(path, module, kind, first)


def pyg_composite(model: nn.Module, gamma: float = 0.25, epsilon: float = 1e-6) -> Composite:
    """Gamma in the convolutions' linear maps, Epsilon in all others, as for cell graphs.

    Examples
    --------
    >>> conv = required_pyg().nn.GCNConv(2, 2)
    >>> pyg_composite(nn.ModuleList([conv, nn.Linear(2, 1)])).convolutions
    ('0',)
    """
    MessagePassing = required_pyg().nn.MessagePassing
    paths = tuple(n for n, m in model.named_modules() if isinstance(m, MessagePassing))
    return ConvComposite(
        f"GraphGamma({gamma:g})",
        ((nn.Linear, Epsilon(epsilon)),),
        convolutions=paths,
        in_convolutions=Gamma(gamma, epsilon),
    )
