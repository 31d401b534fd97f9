"""Any network as it is: its outputs are the evidence, one of them is explained."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from neuralize.attribution import Attribution, through_encoder
from neuralize.convert import register_converter
from neuralize.encoder import evaluating
from neuralize.errors import InputError
from neuralize.inputs import cluster_targets
from neuralize.lrp import LRP, select_output, unwrapped
from neuralize.network import Neuralized, Output
from neuralize.score_map import ScoreMap


class NeuralizedModule(Neuralized):
    """A network whose outputs ``(n, K)`` are explained one at a time; the largest by default.

    Attributes
    ----------
    network
        The network itself.
    select
        Picks the explained tensor where the network returns several.
    """

    kind = "output"

    def __init__(self, network: nn.Module, select: Callable[[Any], Tensor] | None = None) -> None:
        name = type(network).__name__
        super().__init__(
            n_features=1,
            evidence_name=f"output of {name}",
            score_map=ScoreMap("output"),
            model_name=name,
        )
        self.n_features = None
        self.network = network
        self.select = select
        self._outputs: int | None = None

    @property
    def rows_at_once(self) -> int:
        """Rows processed together: activations are what takes memory."""
        return self.encoder_rows

    @property
    def dtype(self) -> torch.dtype:
        """Floating type of the network's weights."""
        parameters = (p.dtype for p in self.network.parameters() if p.is_floating_point())
        return next(parameters, torch.get_default_dtype())

    @property
    def device(self) -> torch.device:
        """Where the network lives."""
        return next((p.device for p in self.network.parameters()), torch.device("cpu"))

    @property
    def n_clusters(self) -> int:
        """Number of outputs; known after the first call."""
        if self._outputs is None:
            raise InputError(f"Call {self.model_name} once before asking how many outputs it has.")
        return self._outputs

    def forward(self, x: Tensor) -> Tensor:
        """Outputs of every row ``(n, K)``."""
        with evaluating(self.network):
            parts = [self._answer(part) for part in self._chunks(self._cast(x))]
        return torch.cat([self._two_dimensional(part) for part in parts])

    def evidence(self, x: Tensor, target: Tensor | int | None = None) -> Tensor:
        """The output of each row's target ``(n,)``."""
        outputs = self(x)
        explained: Tensor = outputs.gather(1, self._chosen(outputs, target)[:, None])[:, 0]
        return explained

    def resolve_target(self, x: Tensor, target: Tensor | int | None) -> Tensor | None:
        """Output per row; the largest is found out where it is explained."""
        if target is None:
            return None
        if self._outputs is None:
            with torch.no_grad():
                self(x[:1])
        return cluster_targets(target, len(x), self.n_clusters).to(x.device)

    def _relevances(
        self, x: Tensor, targets: Sequence[Tensor | None], output: Output, lrp: LRP | None
    ) -> list[Attribution]:
        assert lrp is not None
        self.margin_threshold(output)
        trace = lrp.trace(x, keep=len(targets) > 1, select=self.select)
        shape, outputs = trace.output.shape, self._two_dimensional(trace.output)
        found = []
        for target in targets:
            chosen = self._chosen(outputs, target)[:, None]
            evidence = outputs.gather(1, chosen)
            seed = torch.zeros_like(outputs).scatter(1, chosen, evidence).reshape(shape)
            found.append(Attribution(seed, evidence[:, 0], {}, chosen[:, 0]))
        parts = through_encoder(lrp, trace, x, found, select=self.select)
        for part in parts:
            for name in [name for name in part.absorbed if name.startswith("encoder ")]:
                part.absorbed[name.removeprefix("encoder ")] = part.absorbed.pop(name)
        return parts

    def _encoder_rules(self, composite: Any) -> LRP | None:
        return LRP(self.network, composite)

    def _answer(self, x: Tensor) -> Tensor:
        # a copy: some networks write into their input
        answer: Tensor = select_output(self.network(x.clone()), self.select)
        return answer

    def _two_dimensional(self, outputs: Tensor) -> Tensor:
        if outputs.ndim == 1:
            outputs = outputs[:, None]
        if outputs.ndim != 2:
            raise InputError(
                f"Expected outputs of shape (n, K), got {tuple(outputs.shape)} from "
                f"{self.model_name}; choose some, e.g. neuralize(model, select=lambda y: y[:, 0])."
            )
        self._outputs = outputs.shape[1]
        return outputs

    @staticmethod
    def _chosen(outputs: Tensor, target: Tensor | int | None) -> Tensor:
        if target is None:
            largest: Tensor = outputs.argmax(1)
            return largest
        return cluster_targets(target, len(outputs), outputs.shape[1]).to(outputs.device)

    def _cast(self, x: Tensor) -> Tensor:
        x = x.to(self.device)
        return x.to(self.dtype) if x.is_floating_point() else x


@register_converter(nn.Module)
def convert_module(
    model: nn.Module, *, select: Callable[[Any], Tensor] | None = None
) -> NeuralizedModule:
    """Take a network as it is."""
    return NeuralizedModule(unwrapped(model), select)
