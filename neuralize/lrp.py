"""Relevance through any network: one forward pass under rules, then as many targets as wanted."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

import neuralize.engine.operations as _operations
from neuralize.composites import Composite, default_composite, preset
from neuralize.encoder import evaluating
from neuralize.engine.affine import WeightCache
from neuralize.engine.mode import Mode, aside, escaped, watching
from neuralize.engine.rows import Rows
from neuralize.engine.run import Run, Tag, tensors_in
from neuralize.engine.steps import Record
from neuralize.errors import InputError, NoRuleError, UnsupportedModelError

assert _operations  # filled the table

Select = Callable[[Any], Tensor]


class LRP:
    """A network under a composite: traces forward passes and propagates relevance back.

    The network is not touched: no hooks of its own, no canonizers, no changed weights. Modified
    weights are made once and kept as long as this object.

    Parameters
    ----------
    model
        Any network; one compiled by ``torch.compile`` runs as the module it was made of.
    composite
        A :class:`~neuralize.composites.Composite`, the name of a preset, or a zennit composite.

    Raises
    ------
    UnsupportedModelError
        TorchScript, which runs where rules cannot be met; half-precision weights.

    Examples
    --------
    >>> model = nn.Sequential(nn.Linear(2, 2, bias=False), nn.ReLU(), nn.Linear(2, 1, bias=False))
    >>> x = torch.tensor([[1.0, 2.0]])
    >>> trace = LRP(model, "epsilon").trace(x)
    >>> relevance, absorbed = trace.relevance(trace.output)
    >>> bool(torch.isclose(relevance.sum() + sum(absorbed.values()), trace.output.sum()))
    True
    """

    def __init__(self, model: nn.Module, composite: Composite | str | Any) -> None:
        self.model = unwrapped(model)
        self.composite = as_composite(composite, self.model)
        self.cache = WeightCache()

    def trace(
        self,
        x: Tensor,
        *args: Any,
        keep: bool = False,
        recording: bool = False,
        select: Select | None = None,
        **kwargs: Any,
    ) -> Trace:
        """One forward pass of ``x`` ``(n, ...)``, with rules.

        Parameters
        ----------
        x
            Input, or token numbers (relevance is then one number per token).
        args, kwargs
            Further arguments of the model, held constant (masks, token types).
        keep
            Whether relevance will be propagated more than once.
        recording
            Whether to note relevance in and out of every operation, for coverage.
        select
            Picks the explained tensor from what the model returns, where it returns several.

        Raises
        ------
        NoRuleError
            An operation without a rule, by module path.
        """
        return Trace(self, x, args, kwargs, keep, recording, select)


class Trace:
    """One forward pass that relevance can be sent back through.

    Attributes
    ----------
    output
        What the model returned for ``x``, detached.
    """

    def __init__(
        self, lrp: LRP, x: Tensor, args: Sequence[Any], kwargs: dict[str, Any], keep: bool,
        recording: bool, select: Select | None,
    ) -> None:  # fmt: skip
        if not isinstance(x, Tensor) or x.ndim == 0 or len(x) == 0:
            raise InputError(
                "Expected a batch (n, ...) as a tensor, got "
                + (f"shape {tuple(x.shape)}." if isinstance(x, Tensor) else f"{type(x).__name__}.")
            )
        if x.is_complex() or x.dtype in (torch.bool, torch.float16, torch.bfloat16):
            raise InputError(
                f"Expected input in float32 or float64, or token numbers, got {x.dtype}."
            )
        rows = Rows(len(x))
        self.run = Run(lrp.model, lrp.composite, rows, lrp.cache, recording, keep, device=x.device)
        with aside():
            self._forward(lrp, x, rows, args, kwargs, select)
            self.output = self.result.detach()
        self._spent = False

    def _forward(
        self, lrp: LRP, x: Tensor, rows: Rows, args: Sequence[Any], kwargs: dict[str, Any],
        select: Select | None,
    ) -> None:  # fmt: skip
        with ExitStack() as stack:
            stack.enter_context(torch.inference_mode(False))
            stack.enter_context(torch.enable_grad())
            stack.enter_context(evaluating(lrp.model))
            stack.enter_context(_eager())
            stack.enter_context(self.run.foreign_hooks())
            fresh = x.clone() if x.is_inference() else x.detach()
            if fresh.is_floating_point():
                self.leaf = fresh.requires_grad_()
                self.run.mark(self.leaf, Tag(self.run, rows, raw=True))
                given = self.leaf
            else:
                given = fresh.clone()
                self.leaf = torch.ones(
                    given.shape, dtype=_float_type(lrp.model), device=x.device, requires_grad=True
                )
                self.run.mark(self.leaf, Tag(self.run, rows, raw=True))
                self.run.tokens[given] = self.leaf
                given._lrp = Tag(self.run, rows, raw=True)  # type: ignore[attr-defined]
            stack.enter_context(watching(self.run))
            with Mode(self.run):
                # inside, so that what is selected may also be computed: a token, a mean over tokens
                chosen = select_output(lrp.model(given, *args, **kwargs), select)
            self.result = self.run.resolve(chosen)
        tag = self.run.tag(self.result)
        if tag is None or tag.node is not self.result.grad_fn:
            if self.result.requires_grad:
                raise escaped(self.run, "the output")
            raise NoRuleError(
                "The output carries no relevance of the input: the model detached it (numpy, "
                ".item()), or does not use its input."
            )
        self.rows = tag.rows

    @property
    def largest_bytes(self) -> int:
        """Size of the largest activation: what one more target costs is a few of them."""
        return self.run.largest_bytes

    @property
    def records(self) -> list[Record]:
        """What was noted per operation, in the order of the forward pass."""
        return self.run.records

    def relevance(self, seed: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Send ``seed``, relevance of the output, back to the input.

        Returns
        -------
        tuple
            Relevance in the shape of the input, and the absorbed shares ``(n,)`` by name.

        Raises
        ------
        InputError
            A seed of another shape, or a second call without ``keep=True``.
        """
        self._begin(seed.shape)
        names = list(self.run.sinks)
        sinks = [self.run.sinks[name] for name in names]
        with aside():
            found = torch.autograd.grad(
                self.result, [self.leaf, *sinks], seed.to(self.result.dtype), allow_unused=True,
                retain_graph=self.run.keep,
            )  # fmt: skip
        return self._named(found, names, ())

    def batched(self, seeds: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Send ``K`` seeds ``(K, *output.shape)`` back at once, sharing all denominators.

        Returns
        -------
        tuple
            Relevance ``(K, *x.shape)`` and absorbed shares ``(K, n)`` by name.

        Raises
        ------
        InputError
            Seeds of another shape, or a second call without ``keep=True``.
        """
        self._begin(seeds.shape[1:])
        if not len(seeds):
            raise InputError("Expected at least one seed, got none.")
        names = list(self.run.sinks)
        sinks = [self.run.sinks[name] for name in names]
        inputs = [self.leaf, *sinks]

        def propagate(seed: Tensor) -> tuple[Tensor, ...]:
            found = torch.autograd.grad(
                self.result, inputs, seed, allow_unused=True, retain_graph=self.run.keep
            )
            return tuple(
                torch.zeros_like(t) if r is None else r for t, r in zip(inputs, found, strict=True)
            )

        with aside():
            found = torch.func.vmap(propagate)(seeds.to(self.result.dtype))
        return self._named(found, names, (len(seeds),))

    def _begin(self, shape: torch.Size) -> None:
        if shape != self.output.shape:
            raise InputError(
                f"Expected relevance in the shape of the output, {tuple(self.output.shape)}, got "
                f"{tuple(shape)}."
            )
        if self._spent:
            raise InputError(
                "The activations of this trace were freed by its first backward pass. Use "
                "trace(x, keep=True) for several, or batched() for many at once."
            )
        self._spent = not self.run.keep

    def _named(
        self, found: Sequence[Tensor | None], names: list[str], lead: tuple[int, ...]
    ) -> tuple[Tensor, dict[str, Tensor]]:
        values = found[0]
        if values is None:
            values = self.leaf.new_zeros((*lead, *self.leaf.shape))
        shares = {
            name: share.to(values.dtype)
            for name, share in zip(names, found[1:], strict=True)
            if share is not None
        }
        return values, shares


def unwrapped(model: nn.Module) -> nn.Module:
    """The module that can be explained, or why it cannot."""
    if not isinstance(model, nn.Module):
        raise InputError(f"Expected an nn.Module, got {type(model).__name__}.")
    while hasattr(model, "_orig_mod"):
        model = model._orig_mod  # type: ignore[assignment]
    for name, module in model.named_modules():
        if isinstance(module, torch.jit.ScriptModule | torch.jit.ScriptFunction):
            raise UnsupportedModelError(
                f"{name or 'The model'!r} is TorchScript, which runs where no rule can be met. "
                "Explain the nn.Module it was scripted from."
            )
    half = [
        name for name, p in model.named_parameters() if p.dtype in (torch.float16, torch.bfloat16)
    ]
    if half:
        raise UnsupportedModelError(
            f"Weights in half precision ({half[0]} and {len(half) - 1} more): relevance divides by "
            "small numbers and needs float32. Use a copy, copy.deepcopy(model).float()."
        )
    return model


def as_composite(composite: Any, model: nn.Module) -> Composite:
    """A composite of ours from a name or from zennit's."""
    if isinstance(composite, Composite):
        return composite
    if composite is None:
        return default_composite(model)
    if isinstance(composite, str):
        return preset(composite)
    if hasattr(composite, "module_map"):
        from neuralize.zennit_composites import translated

        return translated(composite, model)
    raise InputError(
        "Expected a composite, the name of a preset or a zennit composite, got "
        f"{type(composite).__name__}."
    )


def select_output(result: Any, select: Select | None) -> Tensor:
    """The tensor that is explained."""
    if select is not None:
        result = select(result)
    if isinstance(result, Tensor):
        return result
    if hasattr(result, "logits") and isinstance(result.logits, Tensor):
        return result.logits
    found = list(tensors_in(result if not hasattr(result, "to_tuple") else result.to_tuple()))
    if len(found) == 1:
        return found[0]
    fields = list(result) if hasattr(result, "keys") else [f"[{i}]" for i in range(len(found))]
    raise InputError(
        f"The model returns several tensors ({', '.join(map(str, fields))}). Say which to explain, "
        "e.g. select=lambda out: out[0]."
    )


def _float_type(model: nn.Module) -> torch.dtype:
    return next((p.dtype for p in model.parameters() if p.is_floating_point()), torch.float32)


@contextmanager
def _eager() -> Iterator[None]:
    """Compiled parts run as they were written: rules cannot be met in compiled code."""
    compiler = getattr(torch.compiler, "set_stance", None)
    if compiler is None or "torch._dynamo" not in __import__("sys").modules:
        yield
        return
    with compiler("force_eager"):
        yield
