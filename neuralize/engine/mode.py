"""The mode that meets every operation inside a model's own forward and gives it its rule.

Residual additions, functional activations, modules used twice, parametrized weights: all are
operations on tensors, so all are met here, without canonizers and without touching the model.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch._C import _functorch
from torch.nn.modules import module as nn_module
from torch.overrides import TorchFunctionMode

from neuralize.engine.registry import OPERATIONS, Call, handler_for, operation_name
from neuralize.engine.run import Run, replace_tensors, tensors_in
from neuralize.errors import NoRuleError

_active = threading.local()


class Mode(TorchFunctionMode):
    """Swaps each operation on tensors that carry relevance for one that carries its rule."""

    def __init__(self, run: Run) -> None:
        super().__init__()
        self.run = run
        self._refused: NoRuleError | None = None

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        super().__exit__(kind, error, trace)  # type: ignore[no-untyped-call]
        # torch's operators turn every TypeError, and so a refusal, into "unsupported operand"
        if self._refused is not None and isinstance(error, TypeError):
            raise self._refused from None

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        try:
            return self._meet(func, args, kwargs or {})
        except NoRuleError as error:
            self._refused = error
            raise

    def _meet(self, func: Any, args: Any, kwargs: Any) -> Any:
        run = self.run
        if run.foreign or _running() is not run:
            return func(*args, **kwargs)
        target = args[0] if args else kwargs.get("input")
        if run.alias:
            args = replace_tensors(args, run.resolve)
            kwargs = replace_tensors(kwargs, run.resolve)
        operation = operation_name(func)
        if operation.startswith("attribute ") and operation not in OPERATIONS:
            return func(*args, **kwargs)
        tracked = []
        for t in (*tensors_in(args), *tensors_in(kwargs)):
            tag = run.tag(t)
            if tag is None:
                if t.requires_grad and t.grad_fn is not None and not torch.is_inference(t):
                    raise escaped(run, operation)
                continue
            if tag.node is not t.grad_fn:
                raise escaped(run, operation)
            tracked.append((t, tag))
        if not tracked:
            return self._constant(func, args, kwargs)
        with torch.enable_grad(), _full_precision(tracked[0][0].device.type):
            out = kwargs.get("out") if operation != "setitem" else None
            kwargs = {name: value for name, value in kwargs.items() if name != "out"}
            call = Call(run, self, func, operation, args, kwargs, tracked, target, out)
            handler = handler_for(func, operation)
            if handler is not None:
                return call.finish(handler(call))
            result = func(*args, **kwargs)
            if not any(t.requires_grad for t in tensors_in(result)):
                return result  # shapes, comparisons, indices
            return call.finish(call.unknown(result))

    def _constant(self, func: Any, args: Any, kwargs: Any) -> Any:
        for t in (*tensors_in(args), *tensors_in(kwargs)):
            # inside vmap or jvp signals have no tags, and would pass for constants
            if _functorch.is_functorch_wrapped_tensor(t) and t.is_floating_point():
                raise escaped(self.run, f"{operation_name(func)} under torch.func")
        with torch.no_grad():
            result = func(*args, **kwargs)
        named = {
            name for t in tensors_in(args) if (name := self.run.constant_name(t)) != "constants"
        }
        if len(named) == 1 and isinstance(result, Tensor) and id(result) not in self.run.names:
            self.run.constants[result] = next(iter(named))
        return result


def escaped(run: Run, operation: str) -> NoRuleError:
    """The error for a tensor whose history the engine has not seen."""
    return NoRuleError(
        f"{operation} in {run.place} got a tensor from an operation that the engine cannot see: "
        "TorchScript, torch.func, a custom autograd.Function or an extension. Rewrite that "
        "operation with torch functions, or give its module a rule of its own, e.g. "
        'composite.with_rules(name_map=[(["path.of.the.module"], Pass())]) for one that works '
        "element by element."
    )


def _full_precision(device: str) -> Any:
    """Outside autocast: relevance divides by small numbers, so it is computed in float32."""
    return (
        torch.autocast(device, enabled=False)
        if torch.is_autocast_enabled(device)
        else nullcontext()
    )


# -- which module is running -------------------------------------------------------------------


def _running() -> Run | None:
    """The innermost run of this thread: a forward may explain another network on its way."""
    runs: list[Run | None] = getattr(_active, "runs", [])
    return runs[-1] if runs else None


@contextmanager
def aside(run: Run | None = None) -> Iterator[None]:
    """While inside, operations are met by ``run``, or by no run at all."""
    if not hasattr(_active, "runs"):
        _active.runs = []
    _active.runs.append(run)
    try:
        yield
    finally:
        _active.runs.pop()


_hooks_lock = threading.Lock()
_hook_users = 0
_handles: list[Any] = []


def _enter_module(module: nn.Module, args: Any) -> None:
    run = _running()
    if run is not None:
        run.stack.append(module)


def _leave_module(module: nn.Module, args: Any, output: Any) -> None:
    run = _running()
    # always_call hooks also run after an error, in which stack entries may be missing
    if run is not None and run.stack and run.stack[-1] is module:
        run.stack.pop()


@contextmanager
def watching(run: Run) -> Iterator[None]:
    """While inside, ``run`` knows which module is running in this thread.

    The hooks are torch's global ones, so that the model's own stay as they are.
    """
    global _hook_users
    with _hooks_lock:
        _hook_users += 1
        if _hook_users == 1:
            _handles[:] = [
                nn_module.register_module_forward_pre_hook(_enter_module),
                nn_module.register_module_forward_hook(_leave_module, always_call=True),
            ]
    try:
        with aside(run):
            yield
    finally:
        with _hooks_lock:
            _hook_users -= 1
            if _hook_users == 0:
                for handle in _handles:
                    handle.remove()
                _handles.clear()
