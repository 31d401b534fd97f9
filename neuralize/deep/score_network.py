"""A detector's scoring module as a network that can be explained: what deep detectors become."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from neuralize.attribution import Attribution, through_encoder
from neuralize.chunks import join
from neuralize.encoder import evaluating
from neuralize.errors import InputError
from neuralize.inputs import require_width
from neuralize.lrp import LRP
from neuralize.network import Kind, Neuralized, Output
from neuralize.propagate import propagating
from neuralize.score_map import ScoreMap

ACTIVATION_BUDGET = 2**18
"""Input numbers processed together; activations are some tens of times as many."""


class ScoreNetwork(Neuralized):
    """A module that maps rows ``(n, ...)`` to outlier scores ``(n,)``, explained by the engine.

    Relevance starts at the score and goes operation by operation to the input, in the units the
    detector was given. Constants take their share by the name they have in the module. Below it
    may be the steps of a pipeline, and an encoder whose features the module was fitted on; rules
    that the caller names are then the encoder's.

    Parameters
    ----------
    module
        The scoring module; copied, so that later training does not reach the network.
    input_shape
        Of one row.
    composite
        Rules where the caller names none; the preset of the module's family when missing.
    rows_at_once
        Rows explained together; by the size of a row when missing.

    Attributes
    ----------
    offsets
        Names of what the score adds to what is explained (a log-determinant): amplification is
        measured with them, because a score of zero need not be little.
    """

    kind: ClassVar[Kind] = "outlier"
    homogeneous = False
    native_dtype = None  # that of the weights

    def __init__(
        self,
        module: nn.Module,
        *,
        input_shape: Sequence[int],
        evidence_name: str,
        threshold: float | None,
        model_name: str,
        score_map: ScoreMap | None = None,
        composite: Any = None,
        rows_at_once: int | None = None,
    ) -> None:
        super().__init__(
            n_features=1,
            evidence_name=evidence_name,
            score_map=score_map or ScoreMap("decision_function"),
            threshold=threshold,
            model_name=model_name,
        )
        self.n_features = None
        self.network = copy.deepcopy(module).eval().requires_grad_(False)
        self.input_shape = tuple(map(int, input_shape))
        self.composite = composite
        self.offsets: tuple[str, ...] = ()
        size = max(1, torch.Size(self.input_shape).numel())
        self.encoder_rows = rows_at_once or max(1, min(1024, ACTIVATION_BUDGET // size))

    @property
    def rows_at_once(self) -> int:
        """Rows processed together: activations are what takes memory."""
        rows = self.encoder_rows if self.features is None else min(self.encoder_rows, 16)
        return rows if self.chunk_bytes > 1 else 1

    @property
    def dtype(self) -> torch.dtype:
        """Floating type of the module's weights."""
        return next((t.dtype for t in self._tensors() if t.is_floating_point()), torch.float32)

    @property
    def device(self) -> torch.device:
        """Where the network lives."""
        return next((t.device for t in self._tensors()), torch.device("cpu"))

    def _tensors(self) -> Sequence[Tensor]:
        return [*self.network.parameters(), *self.network.buffers()]

    def forward(self, x: Tensor) -> Tensor:
        """Scores ``(n,)`` of rows ``(n, ...)``; higher is more abnormal."""
        with evaluating(self.network):
            parts = self._chunks(self._cast(x))
            return join([self.network(self._inner(part.clone())) for part in parts])

    def prepared(self, x: Tensor) -> Tensor:
        """What the module takes, of rows ``(n, ...)``: behind encoder and pipeline."""
        with torch.no_grad():
            return join([self._inner(part) for part in self._chunks(self._cast(x))])

    def _inner(self, x: Tensor) -> Tensor:
        """What the module takes."""
        return self._preprocess(x).to(self.dtype)

    def evidence(self, x: Tensor, target: Tensor | int | None = None) -> Tensor:
        """The score; outlier scores take no target."""
        self.resolve_target(x, target)
        scores: Tensor = self(x)
        return scores

    def check(self, x: Tensor) -> None:
        """Raise :class:`InputError` unless ``x`` is a finite, non-empty batch of its shape."""
        self._cast(x)
        super().check(x)

    def _relevances(
        self, x: Tensor, targets: Sequence[Tensor | None], output: Output, lrp: LRP | None
    ) -> list[Attribution]:
        assert lrp is not None
        below = None if self.features is None else lrp.trace(x)
        phi = x if below is None else self._features_of(below.output).to(self.dtype)
        part = self._below_preprocessing(phi, output, lrp)
        if below is not None:
            (part,) = through_encoder(lrp, below, x, [part])
        return [part for _ in targets]

    def _below_preprocessing(self, x: Tensor, output: Output, lrp: LRP) -> Attribution:
        """Relevance of what the first step of a pipeline takes, or the module itself."""
        if not len(self.front):
            return self._module_relevance(x, output, lrp)
        with propagating() as ledger, torch.enable_grad():
            leaf = x.detach().requires_grad_()
            z = self._front(leaf)
            part = self._module_relevance(z.detach().to(self.dtype), output, lrp)
            (values,) = torch.autograd.grad(z, leaf, part.values.to(z.dtype))
        for name, share in part.absorbed.items():
            ledger.add(name, share)
        return replace(part, values=values, absorbed=ledger.shares)

    def _module_relevance(self, x: Tensor, output: Output, lrp: LRP) -> Attribution:
        if self.features is not None:
            lrp = LRP(self.network, self.composite)  # the caller's rules are the encoder's
        trace = lrp.trace(x)
        z = trace.output
        if z.shape != (len(x),):
            raise InputError(
                f"Expected scores of shape ({len(x)},) from {self.model_name}, got "
                f"{tuple(z.shape)}."
            )
        seed, explained, constant = self._seed(z, output)
        found = Attribution(seed, explained, constant)
        (part,) = through_encoder(lrp, trace, x, [found], self.offsets)
        shares = {n.removeprefix("encoder "): share for n, share in part.absorbed.items()}
        return replace(part, absorbed=shares)

    def _encoder_rules(self, composite: Any) -> LRP | None:
        if self.features is not None:
            return LRP(self.features, composite)
        return LRP(self.network, self.composite if composite is None else composite)

    def _cast(self, x: Tensor) -> Tensor:
        if self.features is not None:
            return x.to(self.device)
        if len(self.front):
            require_width(x, self.n_features, self.model_name)
            return x.to(self.device)  # its steps are exact in float64
        if tuple(x.shape[1:]) != self.input_shape:
            raise InputError(
                f"Expected rows of shape {self.input_shape}, which {self.model_name} was fitted "
                f"on, got {tuple(x.shape[1:])}."
            )
        return x.to(device=self.device, dtype=self.dtype)
