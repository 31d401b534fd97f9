"""What one traced forward pass knows: paths, rules, rows, sinks and what tensors stand for."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.utils.weak import WeakIdKeyDictionary

from neuralize.engine.affine import WeightCache
from neuralize.engine.rows import Rows
from neuralize.engine.steps import Absorb, Carry, Meter, MeterAbove, MeterBelow, Record, Step
from neuralize.errors import NoRuleError
from neuralize.rules.named import Rule

if TYPE_CHECKING:
    from neuralize.composites import Composite


@dataclass
class Origin:
    """The affine map a tensor came out of, so that a BatchNorm after it can be merged."""

    x: Tensor
    map: Any
    weight: Tensor
    bias: Tensor | None
    path: str
    rule: Rule
    first: bool
    record: Record | None = None


@dataclass
class Tag:
    """What a tensor that carries relevance is known to be.

    Attributes
    ----------
    rows
        Which row of the batch each entry belongs to.
    node
        Its node in autograd's graph; another one means that an operation escaped the engine.
    raw
        Whether it is still the input, up to views and element-wise scaling.
    nonnegative
        Known from where it came from (a ReLU).
    gate
        ``"gate"`` or ``"softmax"`` for what should be held constant when it multiplies a signal.
    step
        The step that made it.
    origin
        The affine map that made it, for BatchNorm.
    """

    run: Run
    rows: Rows
    node: Any = None
    raw: bool = False
    nonnegative: bool = False
    gate: str = ""
    step: Step | None = None
    origin: Origin | None = None


@dataclass
class Run:
    """One forward pass under rules."""

    model: nn.Module
    composite: Composite
    rows: Rows
    cache: WeightCache
    recording: bool = False
    keep: bool = False
    stack: list[nn.Module] = field(default_factory=list)
    sinks: dict[str, Tensor] = field(default_factory=dict)
    records: list[Record] = field(default_factory=list)
    steps: list[Step] = field(default_factory=list)
    largest_bytes: int = 0
    foreign: list[Meter | None] = field(default_factory=list)
    _foreign: dict[int, str] = field(default_factory=dict)
    _hooks: list[Any] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.paths: dict[int, str] = {id(m): name for name, m in self.model.named_modules()}
        self.names: dict[int, str] = {
            id(p): name for name, p in (*self.model.named_parameters(), *self.model.named_buffers())
        }
        self.alias: Any = WeakIdKeyDictionary()
        self.versions: Any = WeakIdKeyDictionary()
        self.originals: Any = WeakIdKeyDictionary()
        self.tokens: Any = WeakIdKeyDictionary()
        self.transposes: Any = WeakIdKeyDictionary()
        self.constants: Any = WeakIdKeyDictionary()
        self._rules: dict[tuple[str, type, bool], Rule | None] = {}

    # -- where we are ------------------------------------------------------------------------

    @property
    def module(self) -> nn.Module:
        return self.stack[-1] if self.stack else self.model

    @property
    def path(self) -> str:
        known = (self.paths.get(id(module)) for module in reversed(self.stack))
        return next((path for path in known if path is not None), "")

    @property
    def place(self) -> str:
        """The current module, as errors name it."""
        return f"{self.path or 'the model itself'!r} ({type(self.module).__name__})"

    # -- rules -------------------------------------------------------------------------------

    def is_explained(self, tag: Tag) -> bool:
        """Whether it is the input whose entries are explained, up to views and scaling.

        Not below a virtual layer: there the input is one layer up from what is explained, and
        relevance goes on in proportion to it.
        """
        return tag.raw and not self.composite.hides_input

    def rule(self, kind: type[nn.Module], operation: str, first: bool = False) -> Rule:
        """The rule for an operation of ``kind`` in the current module.

        Raises
        ------
        NoRuleError
            The composite has none.
        """
        key = (self.path, kind, first)
        if key not in self._rules:
            self._rules[key] = self.composite.rule(self.path, self.module, kind, first)
        rule = self._rules[key]
        if rule is None:
            raise NoRuleError(
                f"No LRP rule for {operation} ({kind.__name__}) in {self.place}: composite "
                f"{self.composite.name} does not map it. Add one, e.g. "
                f"composite.with_rules(layer_map=[(nn.{kind.__name__}, Epsilon())]), or pass "
                'unmapped="gradient" to let the plain gradient through, which does not conserve.'
            )
        return rule

    # -- tensors -----------------------------------------------------------------------------

    def sink(self, name: str) -> Tensor:
        """The leaf whose gradient is what ``name`` absorbs, per row ``(n,)``."""
        if name not in self.sinks:
            device = self.device
            dtype = torch.float32 if device.type == "mps" else torch.float64
            self.sinks[name] = torch.zeros(
                self.rows.n, dtype=dtype, device=device, requires_grad=True
            )
        return self.sinks[name]

    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    def tag(self, t: Tensor) -> Tag | None:
        """What is known of ``t``, if it carries relevance of this run."""
        found: Tag | None = getattr(t, "_lrp", None)
        return found if found is not None and found.run is self else None

    def mark(self, t: Tensor, tag: Tag) -> Tensor:
        tag.node = t.grad_fn
        t._lrp = tag  # type: ignore[attr-defined]
        return t

    def apply(
        self, step: Step, inputs: Sequence[Tensor], operation: str, rule: str, **known: Any
    ) -> Tensor:
        """Run a step: its output, marked with what is known of it."""
        step.keep = self.keep
        step.record = self._record(operation, rule)
        sinks = [self.sink(name) for name in step.sinks]
        z: Tensor = Carry.apply(step, len(inputs), *inputs, *sinks)  # type: ignore[no-untyped-call]
        self.largest_bytes = max(self.largest_bytes, z.numel() * z.element_size())
        rows = known.pop("rows")
        return self.mark(z, Tag(self, rows, step=step, **known))

    def note(self, operation: str, rule: str = "exact") -> None:
        """An operation that needs no rule: a line in the coverage."""
        self._record(operation, rule)

    def _record(self, operation: str, rule: str) -> Record | None:
        if not self.recording:
            return None
        record = Record(self.path, operation, rule)
        self.records.append(record)
        return record

    def constant_name(self, value: Any) -> str:
        """What a constant is called in the accounts: its parameter's path, or ``constants``."""
        if isinstance(value, Tensor):
            return str(self.names.get(id(value)) or self.constants.get(value, "constants"))
        return "constants"

    def absorbing(self, constant: Tensor, rows: Rows) -> Tensor:
        """The constant as a tensor whose share of relevance stays here, by its name."""
        name = self.constant_name(constant)
        return self.apply(
            Absorb(constant.detach(), rows, name), [], "constant", "absorbs", rows=rows
        )

    def overwrite(self, target: Tensor, value: Tensor) -> Tensor:
        """``target`` was changed in place: from now on it stands for ``value``, which is returned.

        Nothing is written into memory that a rule may have kept; a view's base gets a copy, and the
        value is then a view of that.
        """
        target = self._original(target)
        base = target._base
        if base is not None and base.is_floating_point() and not self._is_all_of(target, base):
            value = self._written(base, target, value)
            self.alias[target] = value
        else:
            self.alias[self._latest(target)] = value
        if value is not target:
            self.originals[value] = weakref.ref(target)
        return value

    def _is_all_of(self, view: Tensor, base: Tensor) -> bool:
        """Whether a view is the whole of a base that only torch itself holds (InstanceNorm)."""
        inside = self.tag(base) is None and self.tag(view) is not None
        return inside and view.numel() == base.numel() and base not in self.alias

    def _written(self, base: Tensor, target: Tensor, value: Tensor) -> Tensor:
        """Write ``value`` into a copy of ``base``; returns what ``target`` is of that copy."""
        whole = self.resolve(base)
        tag = self.tag(whole)
        known = self.tag(value)
        if tag is None:
            if known is None:
                raise NoRuleError(f"An operation in place in {self.place} writes no signal.")
            # a constant into which signals are written: what it keeps of its own is absorbed
            rows = self.rows_around(
                base, lambda t: _view_of(t.contiguous(), base, target), known.rows, value
            )
            tag = Tag(self, rows)
            whole = self.absorbing(base, rows)
        fresh = _laid_out(whole, base)
        _view_of(fresh, base, target).copy_(value)
        self.alias[self._latest(base)] = self.mark(fresh, Tag(self, tag.rows))
        self.versions[target] = fresh
        with torch.enable_grad():
            written = _view_of(fresh, base, target)
        if known is None:
            rows = tag.rows.follow(
                lambda t: _view_of(t.contiguous(), base, target), base.shape, base.device
            )
            return self.mark(written, Tag(self, rows))
        kept = Tag(self, known.rows, nonnegative=known.nonnegative, gate=known.gate)
        return self.mark(written, kept)

    def rows_around(
        self, constant: Tensor, part: Callable[[Tensor], Tensor], rows: Rows, value: Tensor
    ) -> Rows:
        """Rows of a constant, of which a part was written over with a signal that has ``rows``.

        Raises
        ------
        NoRuleError
            No dimension of the constant counts the rows as the signal does.
        """
        n = self.rows.n
        if n == 1:
            return rows
        for dim, size in enumerate(constant.shape):
            groups = size // n if dim == 0 and size % n == 0 else 1
            if size != n * groups:
                continue
            found = Rows(n, dim, groups)
            there = found.follow(part, constant.shape, constant.device)
            shape = part(found.shadow(constant.shape, constant.device)).shape
            if there.agree(rows.broadcast(value.shape, shape), shape):
                return found
        raise NoRuleError(
            f"An operation in place in {self.place} writes signals into constants of shape "
            f"{tuple(constant.shape)}, whose rows cannot be told. Explain one row at a time "
            "(batch_size=1)."
        )

    @contextmanager
    def foreign_hooks(self) -> Iterator[None]:
        """Put zennit's own hooks around the modules whose rules only zennit knows.

        They leave the modules with the forward pass; the hooks themselves live on for the backward.
        """
        handles: list[Any] = []
        try:
            for name, template in self.composite.foreign.items():
                module, hook = self.model.get_submodule(name), template.copy()
                self._foreign[id(module)] = f"zennit {type(hook).__name__}"
                self._hooks.append(hook)
                handles += [
                    module.register_forward_pre_hook(self._enter_foreign),
                    *list(hook.register(module))[1:],
                    module.register_forward_hook(self._leave_foreign),
                ]
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _enter_foreign(self, module: nn.Module, args: Any) -> Any:
        signals = [t for t in tensors_in(args) if self.tag(t) is not None]
        if self.foreign or not signals:
            self.foreign.append(None)
            return None
        if len(signals) > 1:
            raise NoRuleError(
                f"The zennit hook on {self.place} sees the first of {len(signals)} inputs only. "
                "Give the module a rule of neuralize.rules, or split it."
            )
        (x,) = signals
        tag = self.tag(x)
        assert tag is not None
        meter = Meter(tag.rows, self._foreign[id(module)])
        with torch._C.DisableTorchFunction():
            marked = self.apply(MeterBelow(meter), [x], "module", meter.name, rows=tag.rows)
        self.foreign.append(meter)
        return replace_tensors(tuple(args), lambda t: marked if t is x else t)

    def _leave_foreign(self, module: nn.Module, args: Any, output: Any) -> Any:
        meter = self.foreign.pop()
        if meter is None or not isinstance(output, Tensor):
            return None
        rows = self.rows
        if not rows.fits(output.shape) and len(output.shape) and output.shape[0] % rows.n == 0:
            rows = Rows(rows.n, 0, output.shape[0] // rows.n)
        meter.rows_above = rows
        with torch._C.DisableTorchFunction():
            return self.apply(MeterAbove(meter), [output], "module", meter.name, rows=rows)

    def _original(self, t: Tensor) -> Tensor:
        """The tensor whose value ``t`` is the latest of: both names stand for the same memory."""
        found = self.originals.get(t)
        return t if found is None or found() is None else found()

    def _latest(self, t: Tensor) -> Tensor:
        while t in self.alias:
            t = self.alias[t]
        return t

    def resolve(self, t: Tensor) -> Tensor:
        """What a tensor became by operations in place, on it or on the tensor it is a view of."""
        t = self._original(t)
        base = t._base
        if base is not None and base in self.alias:
            whole = self.resolve(base)
            if self.versions.get(t) is not whole:
                self.alias[t] = self._renewed(t, base)
                self.versions[t] = whole
        return self._latest(t)

    def _renewed(self, view: Tensor, base: Tensor) -> Tensor:
        """A view that was taken before its base was overwritten, as it reads now."""
        whole = self.resolve(base)
        tag = self.tag(whole)
        if tag is None:
            return _view_of(whole, base, view)
        with torch.enable_grad():
            fresh = _view_of(whole, base, view)
        rows = tag.rows.follow(lambda t: _view_of(t, base, view), whole.shape, whole.device)
        return self.mark(fresh, Tag(self, rows))


def _laid_out(t: Tensor, like: Tensor) -> Tensor:
    """A copy of ``t`` in memory as ``like`` is, so that views of the one are views of the other."""
    if t.shape != like.shape:
        raise NoRuleError(
            f"An operation in place turned shape {tuple(like.shape)} into {tuple(t.shape)} below "
            "its views. Write it out of place."
        )
    return torch.empty_strided(like.shape, like.stride(), dtype=t.dtype, device=t.device).copy_(t)


def _view_of(whole: Tensor, base: Tensor, view: Tensor) -> Tensor:
    """What ``view`` is of ``base``, taken of ``whole``."""
    if whole.stride() != base.stride() or whole.shape != base.shape:
        whole = _laid_out(whole, base)
    offset = whole.storage_offset() + view.storage_offset() - base.storage_offset()
    return whole.as_strided(view.size(), view.stride(), offset)


def tensors_in(values: Any) -> Iterator[Tensor]:
    """All tensors in nested arguments or results."""
    if isinstance(values, Tensor):
        yield values
    elif isinstance(values, list | tuple):
        for value in values:
            yield from tensors_in(value)
    elif isinstance(values, dict):
        for value in values.values():
            yield from tensors_in(value)


def replace_tensors(values: Any, f: Callable[[Tensor], Any]) -> Any:
    """Nested arguments with every tensor replaced by ``f`` of it."""
    if isinstance(values, Tensor):
        return f(values)
    if isinstance(values, list):
        return [replace_tensors(v, f) for v in values]
    if isinstance(values, tuple):
        parts = [replace_tensors(v, f) for v in values]
        return type(values)(*parts) if hasattr(values, "_fields") else tuple(parts)
    if isinstance(values, dict) and type(values) is dict:
        return {k: replace_tensors(v, f) for k, v in values.items()}
    return values
