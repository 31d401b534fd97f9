"""The table of operations: by name, what carries relevance through each of them."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from neuralize.engine.rows import Rows
from neuralize.engine.run import Run, Tag, replace_tensors, tensors_in
from neuralize.engine.steps import Step
from neuralize.errors import NoRuleError
from neuralize.rules.named import Gradient, Rule

if TYPE_CHECKING:
    from neuralize.engine.mode import Mode

Handler = Callable[["Call"], Any]

OPERATIONS: dict[str, Handler] = {}
"""Handlers by operation name, without the underscores of variants in place."""

_BY_FUNCTION: dict[Any, Handler] = {}

_DUNDER = {
    "__add__": "add", "__radd__": "add", "__iadd__": "add_", "__sub__": "sub", "__isub__": "sub_",
    "__rsub__": "rsub", "__mul__": "mul", "__rmul__": "mul", "__imul__": "mul_",
    "__truediv__": "div", "__itruediv__": "div_", "__idiv__": "div_", "__div__": "div",
    "__rtruediv__": "rdiv", "__rdiv__": "rdiv", "__neg__": "neg", "__matmul__": "matmul",
    "__rmatmul__": "rmatmul", "__pow__": "pow", "__ipow__": "pow_", "__rpow__": "rpow",
    "__abs__": "abs", "__getitem__": "getitem", "__setitem__": "setitem_", "iadd": "add_",
    "imul": "mul_", "isub": "sub_", "true_divide": "div", "divide": "div", "multiply": "mul",
    "subtract": "sub", "negative": "neg", "absolute": "abs", "concat": "cat",
    "concatenate": "cat", "swapaxes": "transpose", "swapdims": "transpose", "__deepcopy__": "clone",
}  # fmt: skip


def operation_name(func: Any) -> str:
    """The name by which the table knows a function; attributes are known by their own."""
    name = getattr(func, "__name__", None) or str(func)
    if name in ("__get__", "__set__"):
        attribute = getattr(getattr(func, "__self__", None), "__name__", "?")
        return f"attribute {attribute}" if name == "__get__" else f"set attribute {attribute}"
    name = name.partition(".")[0]
    return _DUNDER.get(name, name)


def handler_for(func: Any, operation: str) -> Handler | None:
    """The handler of an operation, or None."""
    own = _BY_FUNCTION.get(func) if _BY_FUNCTION else None
    return own or OPERATIONS.get(operation) or OPERATIONS.get(operation.rstrip("_"))


def operation(*names: str) -> Callable[[Handler], Handler]:
    """Decorator: the function handles operations of these names."""

    def register(handler: Handler) -> Handler:
        for name in names:
            OPERATIONS[name] = handler
        return handler

    return register


def register_operation(function: Any, handler: Handler | str) -> None:
    """Give an operation that the table does not know a way to carry relevance.

    Parameters
    ----------
    function
        What the model calls: a torch function, or a function that goes through
        ``torch.overrides.handle_torch_function``.
    handler
        The name of a known operation that it behaves like (``"relu"`` for any element-wise
        activation, ``"reshape"`` for anything whose plain gradient is right, ``"linear"`` ...), or
        a function of one :class:`Call`.

    Examples
    --------
    >>> import torch
    >>> register_operation(torch.special.erfcx, "gelu")
    """
    if isinstance(handler, str):
        found = OPERATIONS.get(handler)
        if found is None:
            raise NoRuleError(f"Expected the name of a known operation, got {handler!r}.")
        handler = found
    _BY_FUNCTION[function] = handler


@dataclass
class Call:
    """One operation that was met, with everything a handler needs.

    Attributes
    ----------
    tracked
        The operands that carry relevance, with what is known of them.
    """

    run: Run
    mode: Mode
    func: Any
    operation: str
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    tracked: list[tuple[Tensor, Tag]]
    target: Any = None
    """The first operand as the model holds it, for operations in place."""
    out: Any = None
    """The tensor that the result is written into."""

    @property
    def x(self) -> Tensor:
        return self.tracked[0][0]

    @property
    def tag(self) -> Tag:
        return self.tracked[0][1]

    @property
    def name(self) -> str:
        """The operation without the underscore of a variant in place."""
        return self.operation.rstrip("_")

    @property
    def in_place(self) -> bool:
        if self.operation.endswith("_"):
            return True
        if "inplace" in self.kwargs:
            return bool(self.kwargs["inplace"])
        names = _parameters(self.func)
        if "inplace" in names and names.index("inplace") < len(self.args):
            return bool(self.args[names.index("inplace")])
        return False

    def arguments(self, *names: str, **defaults: Any) -> list[Any]:
        """Values of the parameters ``names``, in order, whether given by position or name."""
        found = dict(zip(names, self.args, strict=False)) | self.kwargs
        return [found.get(name, defaults.get(name)) for name in names]

    def rule(self, kind: type[nn.Module], first: bool = False) -> Rule:
        return self.run.rule(kind, self.name, first)

    def of(self, *inputs: Tensor) -> Callable[..., Tensor]:
        """The operation as a function of some of its operands, the others as they are."""
        func = self.func
        if self.operation.endswith("_"):
            func = out_of_place(func, self.name)
        args, kwargs = self.args, dict(self.kwargs)
        names = _parameters(self.func)
        if "inplace" in names and names.index("inplace") < len(args):
            at = names.index("inplace")
            args = (*args[:at], False, *args[at + 1 :])
        if "inplace" in kwargs:
            kwargs["inplace"] = False
        positions = {id(t): i for i, t in enumerate(inputs)}
        constants: dict[int, Tensor] = {}

        def slot(t: Tensor) -> Any:
            if id(t) in positions:
                return _Slot(positions[id(t)])
            constants[id(t)] = t.detach()
            return constants[id(t)]

        slotted, slotted_kw = replace_tensors(args, slot), replace_tensors(kwargs, slot)

        def f(*xs: Tensor) -> Tensor:
            result: Tensor = func(*_fill(slotted, xs), **_fill(slotted_kw, xs))
            return result

        return f

    def apply(
        self,
        step: Step,
        inputs: Sequence[Tensor] | None = None,
        rule: Rule | str = "Pass",
        rows: Rows | None = None,
        **known: Any,
    ) -> Tensor:
        """Run a step on the operands that carry relevance, or on ``inputs``."""
        inputs = [self.x] if inputs is None else inputs
        return self.run.apply(
            step, inputs, self.name, str(rule), rows=rows or self.tag.rows, **known
        )

    def unknown(self, result: Any) -> Any:
        """An operation without a handler: an error, or the plain gradient if so chosen."""
        if self.run.composite.unmapped != "gradient":
            raise NoRuleError(
                f"No LRP rule for the operation {self.operation!r} in {self.run.place}. Register "
                f"one with neuralize.register_operation(<the function>, 'relu') if it works "
                "element by element ('reshape' if it only moves values), or pass "
                'unmapped="gradient" to let the plain gradient through, which does not conserve.'
            )
        self.run.note(self.operation, str(Gradient()))
        for t in tensors_in(result):
            if t.requires_grad:
                self.mark_like(t)
        return result

    def mark_like(self, t: Tensor, **known: Any) -> Tensor:
        """Mark a result whose rows lie as in the operand."""
        return self.run.mark(t, Tag(self.run, self.rows_like(t), **known))

    def require_apart(self, dims: Iterable[int], x: Tensor | None = None) -> None:
        """Refuse an operation along ``dims`` that would mix the rows of the batch.

        Raises
        ------
        NoRuleError
            The rows lie along one of ``dims``.
        """
        x = self.x if x is None else x
        tag = self.run.tag(x)
        if tag is not None and tag.rows.varies(dims, x.shape):
            raise self.mixing()

    def mixing(self) -> NoRuleError:
        """The error for an operation in which rows of the batch meet."""
        return NoRuleError(
            f"{self.name} in {self.run.place} mixes the rows of the batch, so relevance cannot be "
            "told apart by row. Explain one row at a time (batch_size=1)."
        )

    def broadcast_rows(self, shape: torch.Size) -> Rows:
        """Rows of a result of ``shape``, in which entries of the operands meet one to one.

        Raises
        ------
        NoRuleError
            Entries of different rows meet.
        """
        found: Rows | None = None
        for t, tag in self.tracked:
            rows = tag.rows.broadcast(t.shape, shape, t.device)
            if found is not None and not found.agree(rows, shape):
                raise self.mixing()
            found = found or rows
        assert found is not None, "no operand carries relevance"
        return found

    def rows_like(self, t: Tensor) -> Rows:
        """Rows of a result, from those of the operands."""
        for _, tag in self.tracked:
            if tag.rows.fits(t.shape):
                return tag.rows
        n = self.run.rows.n
        if t.ndim and t.shape[0] % n == 0:
            return Rows(n, 0, t.shape[0] // n)
        raise NoRuleError(
            f"{self.operation} in {self.run.place} mixes the rows of the batch (result "
            f"{tuple(t.shape)}, {n} rows), so relevance cannot be told apart by row. Explain one "
            "row at a time (batch_size=1)."
        )

    def finish(self, result: Any) -> Any:
        """Let an operation in place replace its operand; one with ``out=``, that tensor."""
        target = self.target if self.in_place else self.out
        if isinstance(result, Tensor) and isinstance(target, Tensor) and target is not result:
            return self.run.overwrite(target, result)
        return result


class _Slot:
    def __init__(self, position: int) -> None:
        self.position = position


def _fill(values: Any, xs: tuple[Tensor, ...]) -> Any:
    if isinstance(values, _Slot):
        return xs[values.position]
    if isinstance(values, list):
        return [_fill(v, xs) for v in values]
    if isinstance(values, tuple):
        return tuple(_fill(v, xs) for v in values)
    if isinstance(values, dict):
        return {k: _fill(v, xs) for k, v in values.items()}
    return values


@lru_cache(maxsize=512)
def _parameters(func: Any) -> tuple[str, ...]:
    """Names of a Python function's parameters; none for builtins."""
    try:
        return tuple(inspect.signature(func).parameters)
    except (ValueError, TypeError):
        return ()


def out_of_place(func: Any, name: str) -> Any:
    """The variant of an in-place function that leaves its operand alone."""
    for home in (torch, torch.Tensor, F, torch.special):
        found = getattr(home, name, None)
        if found is not None:
            return found
    raise NoRuleError(f"No variant of {func} out of place is known.")
