"""The network equal to a fitted model: what every converter returns."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from neuralize.attribution import Attribution, joined, through_encoder
from neuralize.chunks import CHUNK_BYTES, join, room_for, rows_per_chunk
from neuralize.encoder import evaluating
from neuralize.errors import InputError, UnsupportedModelError
from neuralize.inputs import (
    cluster_targets,
    require_finite,
    require_finite_answer,
    require_rows,
    require_width,
)
from neuralize.layers.distances import MinkowskiDistances, SquaredDistances
from neuralize.layers.fronts import Projection, Step
from neuralize.lrp import LRP
from neuralize.propagate import propagating
from neuralize.score_map import ScoreMap

Kind = Literal["cluster", "outlier", "output"]
Output = Literal["score", "margin"]


class Neuralized(nn.Module):
    """A fitted model rewritten as a network whose decision, the *evidence*, can be explained.

    ``forward`` gives the evidence: ``(n, K)`` per cluster (assigned iff positive), or ``(n,)`` for
    an outlier score (higher = more abnormal, whatever sign the original uses). ``relevance``
    decomposes it over the input. A subclass gives :meth:`chain`, the layers from input to evidence.

    Attributes
    ----------
    kind
        ``"cluster"`` or ``"outlier"``.
    evidence_name
        What the evidence is, in words, with its unit where it has one.
    n_features
        Width of the input, or None below an encoder.
    threshold
        Outlier iff ``evidence > threshold``; None where the model has none; 0 for clusters.
    score_map
        From evidence to the model's own number and sign.
    method
        How relevance is obtained: ``"LRP"``, or what else it is.
    homogeneous
        Whether the margin ``evidence - threshold`` spreads in the same proportions as the evidence.
        Otherwise the threshold is reported as absorbed.
    row_independent
        False where the model scores a row against the other rows of its batch.
    differentiable
        False for step functions, which have no useful gradient.
    native_dtype
        Floating type of a network made without ``dtype=``; None leaves it as the model has it.
    feature_names
        Columns the model was fitted on, where it knows their names.
    """

    kind: ClassVar[Kind]
    method: str = "LRP"
    homogeneous: bool = True
    row_independent: bool = True
    differentiable: bool = True
    native_dtype: ClassVar[torch.dtype | None] = torch.float64

    def __init__(
        self,
        *,
        n_features: int,
        evidence_name: str,
        score_map: ScoreMap,
        threshold: float | None = None,
        width: int = 1,
        model_name: str = "",
    ) -> None:
        super().__init__()
        self.n_features: int | None = n_features
        self.evidence_name = evidence_name
        self.score_map = score_map
        self.threshold = threshold
        self.model_name = model_name
        self.width = max(width, n_features)
        self.chunk_bytes = CHUNK_BYTES
        self.encoder_rows = 16
        self.front = nn.ModuleList()
        self.features: nn.Module | None = None
        self.feature_names: tuple[str, ...] | None = None

    # -- what a subclass gives ---------------------------------------------------------------

    def chain(self, target: Tensor | None) -> Sequence[nn.Module]:
        """The layers from (preprocessed) input to the evidence ``(n,)`` of ``target``.

        Without a target, a clustering's last layer takes each row's own cluster and keeps it.
        """
        raise NotImplementedError

    def all_evidence(self, z: Tensor) -> Tensor:
        """Evidence of preprocessed input ``z``: ``(n, K)`` for clusters, ``(n,)`` for outliers."""
        return nn.Sequential(*self.chain(None))(z)  # type: ignore[no-any-return]

    @property
    def n_clusters(self) -> int:
        """Number of clusters; an outlier score has none and raises."""
        raise UnsupportedModelError(f"{self.model_name} is an outlier score and has no clusters.")

    def fold_projection(self, matrix: Tensor, offset: Tensor) -> bool:
        """Absorb ``z = B x + b`` into the first layer if its rule can; say whether it did."""
        return False

    # -- what everyone uses ------------------------------------------------------------------

    def _apply(self, fn: Any, recurse: bool = True) -> Neuralized:
        # A step function stays in float64: rounding could move a point across a step.
        exact = {} if self.differentiable else self._constants()
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        for (module, name), constant in exact.items():
            module._buffers[name] = constant.to(module._buffers[name].device)  # type: ignore[union-attr]
        return self

    def _constants(self) -> dict[tuple[nn.Module, str], Tensor]:
        """Floating-point constants of everything but the encoder."""
        own = [child for name, child in self.named_children() if name != "features"]
        modules = [self, *(module for child in own for module in child.modules())]
        return {
            (module, name): buffer
            for module in modules
            for name, buffer in module._buffers.items()
            if buffer is not None and buffer.is_floating_point()
        }

    @property
    def dtype(self) -> torch.dtype:
        """Floating type of the network's constants (float64 unless converted)."""
        return next((b.dtype for b in self._constants().values()), torch.float64)

    @property
    def device(self) -> torch.device:
        """Where the network lives."""
        return next((b.device for b in self.buffers()), torch.device("cpu"))

    @property
    def rows_at_once(self) -> int:
        """Rows processed together so that temporaries stay within ``chunk_bytes``.

        Below an encoder at most ``encoder_rows``, since its activations are what takes memory.
        """
        rows = rows_per_chunk(self.width * self.dtype.itemsize, self.chunk_bytes)
        return rows if self.features is None else min(rows, self.encoder_rows)

    def forward(self, x: Tensor) -> Tensor:
        """Evidence of ``x`` ``(n, ...)``: ``(n, K)`` for clusters, ``(n,)`` for outlier scores."""
        x = self._cast(x)
        parts = [self.all_evidence(self._preprocess(part)) for part in self._chunks(x)]
        return join(parts)

    def evidence(self, x: Tensor, target: Tensor | int | None = None) -> Tensor:
        """Evidence of each row for its target ``(n,)``: what :meth:`relevance` decomposes."""
        x = self._cast(x)
        parts = zip(self._chunks(x), self._target_chunks(x, target), strict=True)
        return join([self._run(self._preprocess(part), t)[0] for part, t in parts])

    def predict(self, x: Tensor) -> Tensor:
        """Cluster of each row, or whether it is an outlier ``(n,)``.

        Raises
        ------
        UnsupportedModelError
            For an outlier score without a threshold.
        """
        with torch.no_grad():
            evidence = self(x)
        if self.kind != "outlier":
            nearest: Tensor = evidence.argmax(1)
            return nearest
        if self.threshold is None:
            raise UnsupportedModelError(
                f"{self.model_name} has no threshold, so it decides nothing; "
                "set `.threshold`, e.g. to a quantile of its evidence."
            )
        outlier: Tensor = evidence > self.threshold
        return outlier

    def relevance(
        self,
        x: Tensor,
        target: Tensor | int | None = None,
        *,
        output: Output = "score",
        composite: Any = None,
    ) -> Attribution:
        """Decompose the evidence over the input.

        Parameters
        ----------
        x
            Input ``(n, ...)``.
        target
            Cluster to explain, one for all or one per row; the assigned one when missing.
        output
            ``"score"``: the evidence. ``"margin"``: evidence minus threshold, so that zero is the
            decision boundary (Kauffmann, Mueller, Montavon, arXiv 1805.06230).
        composite
            Rules for the encoder below the model (``features``): a composite, the name of a preset
            or a zennit composite; chosen by the encoder's family when missing.

        Raises
        ------
        InputError
            NaN, infinity, wrong width, an empty batch, or a target out of range.
        NoRuleError
            An operation of the encoder without a rule.
        """
        return self.relevances(x, [target], output=output, composite=composite)[0]

    def relevances(
        self,
        x: Tensor,
        targets: Sequence[Tensor | int | None],
        *,
        output: Output = "score",
        composite: Any = None,
    ) -> list[Attribution]:
        """Decompose the evidence for several targets, which share one pass through the encoder.

        Parameters and errors are those of :meth:`relevance`; one attribution per target.
        """
        x = self._cast(x.detach())
        require_rows(x)
        lrp = self._encoder_rules(composite)
        rooms = [room_for(x) for _ in targets]
        done: list[list[Attribution]] = [[] for _ in targets]
        start = 0
        chunked = [self._target_chunks(x, target) for target in targets]
        for part, *goals in zip(self._chunks(x), *chunked, strict=True):
            require_finite(part, start)
            for room, parts, found in zip(
                rooms, done, self._relevances(part, goals, output, lrp), strict=True
            ):
                # a composite that made NaN of a finite answer has warned, by the layer's path
                values = found.values if lrp is None else found.evidence[:, None]
                require_finite_answer(found.evidence, values, start, self.model_name)
                room[start : start + len(part)] = found.values
                parts.append(replace(found, values=room[:0]))
            start += len(part)
        return [joined(room, parts) for room, parts in zip(rooms, done, strict=True)]

    def check(self, x: Tensor) -> None:
        """Raise :class:`InputError` unless ``x`` is a finite, non-empty batch of its width."""
        if self.n_features is not None and self.features is None:
            require_width(x, self.n_features, self.model_name)
        require_rows(x)
        require_finite(x)

    def resolve_target(self, x: Tensor, target: Tensor | int | None) -> Tensor | None:
        """Cluster per row ``(n,)`` as long tensor; None for outlier scores."""
        if self.kind == "outlier":
            if target is not None:
                raise InputError(
                    f"{self.model_name} has one outlier score and takes no target, got {target!r}."
                )
            return None
        if target is None:
            return self.predict(x.detach())
        return cluster_targets(target, len(x), self.n_clusters).to(x.device)

    def margin_threshold(self, output: Output) -> float:
        """What a margin leaves out of the evidence: the threshold, or 0 for the score itself.

        Raises
        ------
        InputError
            A margin without a finite threshold, or another output.
        """
        if output == "score":
            return 0.0
        if output != "margin":
            raise InputError(f"Expected output 'score' or 'margin', got {output!r}.")
        if self.threshold is None:
            raise InputError(
                f"{self.model_name} has no threshold, so there is no margin to explain. Use "
                "output='score', or set `.threshold` on the network."
            )
        if math.isinf(self.threshold):
            raise InputError(
                f"{self.model_name} calls {'nothing' if self.threshold > 0 else 'everything'} an "
                "outlier (its threshold is infinite), so there is no margin to explain. Use "
                "output='score'."
            )
        return self.threshold

    def add_front(self, steps: Sequence[Step]) -> None:
        """Put preprocessing before the network; the input is then what the first step takes."""
        # Rounding of the steps, in units of the machine's: what a difference cannot be told from.
        magnitude = 0.0
        for step in steps:
            magnitude = step.magnitude(magnitude)
        for module in self.modules():
            if isinstance(module, SquaredDistances | MinkowskiDistances):
                module.magnitude = magnitude
        for step in reversed(steps):
            first = len(self.front) == 0
            if (
                first
                and isinstance(step, Projection)
                and self.fold_projection(step.matrix, step.offset)
            ):
                continue
            self.front.insert(0, step)

    # -- inside ------------------------------------------------------------------------------

    def _relevances(
        self, x: Tensor, targets: Sequence[Tensor | None], output: Output, lrp: LRP | None
    ) -> list[Attribution]:
        with torch.inference_mode(False), torch.enable_grad():
            x = x.clone() if x.is_inference() else x.detach()
            trace = None if lrp is None else lrp.trace(x, keep=len(targets) > 1)
            phi = x if trace is None else self._features_of(trace.output)
            found = [self._head_relevance(phi, target, output) for target in targets]
            if lrp is None or trace is None:
                return found
            return through_encoder(lrp, trace, x, found)

    def _head_relevance(self, phi: Tensor, target: Tensor | None, output: Output) -> Attribution:
        with propagating() as ledger:
            head_input = phi.detach().to(self.dtype).requires_grad_()
            z, target = self._run(self._front(head_input), target)
            seed, explained, constant = self._seed(z.detach(), output)
            (values,) = torch.autograd.grad(z, head_input, seed)
        for name, share in constant.items():
            ledger.add(name, share)
        return Attribution(values, explained, ledger.shares, target)

    def _seed(self, z: Tensor, output: Output) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        """Relevance that starts at the output, what it explains, and what is absorbed at once."""
        if output == "score":
            return z, z, {}
        threshold = self.margin_threshold(output)
        margin = z - threshold
        if self.homogeneous:
            # Where nothing is to be spread, there are no proportions to spread the margin in.
            zero = z == 0
            if not bool(zero.any()):
                return margin, margin, {}
            seed = torch.where(zero, z, margin)
            return seed, margin, {"threshold": margin - seed}
        return z, margin, {"threshold": torch.full_like(z, -threshold)}

    def _run(self, z: Tensor, target: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Evidence and the target it is for."""
        layers = self.chain(target)
        for layer in layers:
            z = layer(z)
        chosen = layers[-1].target
        return z, chosen if isinstance(chosen, Tensor) else None

    def _front(self, x: Tensor) -> Tensor:
        for step in self.front:
            x = step(x)
        return x

    def _preprocess(self, x: Tensor) -> Tensor:
        if self.features is not None:
            x = self._encode(x).to(self.dtype)
        return self._front(x)

    def _encode(self, x: Tensor) -> Tensor:
        assert self.features is not None
        with evaluating(self.features):
            return self._features_of(self.features(x.clone()))  # some write into their input

    @staticmethod
    def _features_of(phi: Tensor) -> Tensor:
        if phi.ndim != 2:
            raise InputError(
                f"Expected features of shape (n, d) from the encoder, got {tuple(phi.shape)}; "
                "end it with pooling or nn.Flatten()."
            )
        return phi

    def _encoder_rules(self, composite: Any) -> LRP | None:
        if self.features is not None:
            return LRP(self.features, composite)
        if composite is not None:
            raise InputError(
                "A composite assigns rules to an encoder's modules, and this network has no "
                "encoder below it; leave composite=None."
            )
        return None

    def _cast(self, x: Tensor) -> Tensor:
        if self.features is not None:
            return x.to(self.device)
        require_width(x, self.n_features, self.model_name)
        return x.to(device=self.device, dtype=self.dtype)

    def _chunks(self, x: Tensor, along: Tensor | None = None) -> Sequence[Tensor]:
        """``x``, or what goes ``along`` with its rows, cut into chunks of rows."""
        rows = self.rows_at_once if self.row_independent else max(1, len(x))
        chunks: Sequence[Tensor] = (x if along is None else along).split(rows)
        return chunks

    def _target_chunks(self, x: Tensor, target: Tensor | int | None) -> Sequence[Tensor | None]:
        rows = None if target is None else self.resolve_target(x, target)
        if rows is None:
            return [None] * len(self._chunks(x))
        return self._chunks(x, rows)

    def extra_repr(self) -> str:
        """One line: what it is and how it maps back."""
        threshold = "none" if self.threshold is None else f"{self.threshold:.6g}"
        return (
            f"{self.model_name}: {self.kind}, {self.evidence_name}; threshold {threshold}; "
            f"{self.score_map}"
        )
