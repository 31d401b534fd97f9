"""The network of an ensemble: its members' networks side by side, standardised and averaged.

``o(x) = sum_m w_m (o_m(x) - mu_m) / s_m``, ``sum_m w_m = 1``. The score is linear in the members'
evidence, so relevance is the same average: ``R_i = sum_m w_m / s_m R_i^m``. A member's absorbed
shares are scaled alike and carry its name, and ``-w_m mu_m / s_m`` is its offset.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import reduce
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from neuralize.attribution import Attribution, joined
from neuralize.deep.score_network import ScoreNetwork
from neuralize.errors import InputError, UnsupportedModelError
from neuralize.inputs import require_finite, require_rows
from neuralize.network import Kind, Neuralized, Output
from neuralize.propagate import propagating
from neuralize.score_map import ScoreMap


class EnsembleNetwork(Neuralized):
    """Weighted average of standardised outlier scores.

    Parameters
    ----------
    members
        Networks of outlier scores by name, each with its own way to take the same rows: flat, or as
        pictures.
    weights, means, scales
        ``w_m`` (which sum to one), ``mu_m`` and ``s_m``, by name.
    input_shape
        Of one row.
    threshold
        Outlier iff the score is larger.

    Raises
    ------
    UnsupportedModelError
        A member that is no outlier score.
    InputError
        A member whose rows have another number of entries.
    """

    kind: ClassVar[Kind] = "outlier"
    native_dtype = None  # that of the members
    homogeneous = False

    def __init__(
        self,
        members: Mapping[str, Neuralized],
        *,
        weights: Mapping[str, float],
        means: Mapping[str, float],
        scales: Mapping[str, float],
        input_shape: Sequence[int],
        threshold: float | None = None,
        model_name: str = "Ensemble",
    ) -> None:
        size = math.prod(input_shape)
        super().__init__(
            n_features=size,
            evidence_name="weighted mean of the members' standardised scores",
            score_map=ScoreMap("decision_function"),
            threshold=threshold,
            model_name=model_name,
        )
        self.input_shape = tuple(map(int, input_shape))
        if len(self.input_shape) != 1:
            self.n_features = None
        for name, net in members.items():
            if net.kind != "outlier":
                raise UnsupportedModelError(
                    f"Expected outlier scores as members, but {name!r} ({net.model_name}) is a "
                    f"{net.kind}: nothing says how abnormal a row is."
                )
            own = self._shape(net)
            if math.prod(own) != size:
                raise InputError(
                    f"Expected members that take rows of {size} entries {self.input_shape}, but "
                    f"{name!r} ({net.model_name}) takes {own}."
                )
        self.names = tuple(members)
        self.networks = nn.ModuleList(members.values())
        self.weights, self.means, self.scales = dict(weights), dict(means), dict(scales)
        self.row_independent = all(net.row_independent for net in members.values())
        self.differentiable = all(net.differentiable for net in members.values())
        self.method = ", ".join(dict.fromkeys(net.method for net in members.values()))

    @property
    def members(self) -> dict[str, Neuralized]:
        """The members' networks by name."""
        return dict(zip(self.names, self._nets(), strict=True))

    def _nets(self) -> list[Neuralized]:
        return [net for net in self.networks if isinstance(net, Neuralized)]

    @property
    def dtype(self) -> torch.dtype:
        """The widest of the members' floating types."""
        return reduce(torch.promote_types, (net.dtype for net in self._nets()))

    @property
    def device(self) -> torch.device:
        """Where the network lives."""
        return self._nets()[0].device

    def standardized(self, x: Tensor) -> dict[str, Tensor]:
        """Each member's ``(o_m - mu_m) / s_m`` ``(n,)``, by name, not weighted."""
        return self._standardized(self._front(self._cast(x)))

    def all_evidence(self, z: Tensor) -> Tensor:
        parts = self._standardized(z)
        return torch.stack([self.weights[name] * part for name, part in parts.items()]).sum(0)

    def evidence(self, x: Tensor, target: Tensor | int | None = None) -> Tensor:
        """The score; outlier scores take no target."""
        self.resolve_target(x, target)
        scores: Tensor = self(x)
        return scores

    def relevances(
        self,
        x: Tensor,
        targets: Sequence[Tensor | int | None],
        *,
        output: Output = "score",
        composite: Any = None,
    ) -> list[Attribution]:
        """The members' relevances, averaged; ``composite`` is for members that are networks."""
        x = self._cast(x.detach())
        require_rows(x)
        for target in targets:
            self.resolve_target(x, target)
        if composite is not None and not any(map(_takes_rules, self._nets())):
            raise InputError(
                "A composite assigns rules to a network's modules, and no member is a network or "
                "has an encoder below it; leave composite=None."
            )
        parts, start = [], 0
        for part in self._chunks(x):
            require_finite(part, start)
            parts.append(self._attribution(part, output, composite))
            start += len(part)
        values = parts[0].values if len(parts) == 1 else torch.cat([p.values for p in parts])
        found = joined(values, [replace(p, values=values[:0]) for p in parts])
        return [found for _ in targets]

    # -- inside ----------------------------------------------------------------------------------

    def _attribution(self, x: Tensor, output: Output, composite: Any) -> Attribution:
        with propagating() as ledger, torch.inference_mode(False), torch.enable_grad():
            leaf = x.clone().requires_grad_()
            z = self._front(leaf)
            inner = z.detach()
            values, evidence = torch.zeros_like(inner), torch.zeros_like(inner.flatten(1)[:, 0])
            for name, net in self.members.items():
                rules = composite if _takes_rules(net) else None
                found = net.relevance(self._rows(net, inner), composite=rules)
                factor = self.weights[name] / self.scales[name]
                values += factor * found.values.reshape(values.shape)
                evidence += factor * (found.evidence.to(evidence.dtype) - self.means[name])
                for what, share in found.absorbed.items():
                    ledger.add(f"{name}: {what}", factor * share.to(evidence.dtype))
                offset = -factor * self.means[name]
                ledger.add(f"{name}: offset", torch.full_like(evidence, offset))
            if len(self.front):
                (values,) = torch.autograd.grad(z, leaf, values)
        _, explained, constant = self._seed(evidence, output)
        for name, share in constant.items():
            ledger.add(name, share)
        return Attribution(values, explained, ledger.shares)

    def _standardized(self, z: Tensor) -> dict[str, Tensor]:
        evidence = {n: net(self._rows(net, z)).to(self.dtype) for n, net in self.members.items()}
        return {n: (e - self.means[n]) / self.scales[n] for n, e in evidence.items()}

    def _rows(self, net: Neuralized, x: Tensor) -> Tensor:
        """Rows as a member takes them."""
        x = x.reshape(len(x), *self._shape(net))
        below = net.features
        if below is None:
            return x
        weights = (p.dtype for p in below.parameters() if p.is_floating_point())
        return x.to(next(weights, x.dtype))

    def _shape(self, net: Neuralized) -> tuple[int, ...]:
        """Shape of a row as a member takes it."""
        if net.n_features is not None:
            return (net.n_features,)
        own = None if net.features is not None else getattr(net, "input_shape", None)
        return self.input_shape if own is None else tuple(own)

    def _cast(self, x: Tensor) -> Tensor:
        shape = (self.n_features,) if len(self.front) else self.input_shape
        if tuple(x.shape[1:]) != shape:
            raise InputError(
                f"Expected rows of shape {shape}, which {self.model_name} was fitted on, got "
                f"{tuple(x.shape[1:])}."
            )
        return x.to(device=self.device, dtype=self.dtype)


def _takes_rules(net: Neuralized) -> bool:
    """Whether a composite means something to a network."""
    if isinstance(net, EnsembleNetwork):
        return any(map(_takes_rules, net.members.values()))
    return net.features is not None or isinstance(net, ScoreNetwork)
