"""A PyG model as the engine runs it: a batch of one graph, with hooks on only while it runs."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from graphs.pyg.layers import Layers
from graphs.pyg.messages import Messages
from neuralize.errors import InputError

CallModel = Callable[[nn.Module, Tensor, Any], Any]
"""How a model is called: ``(model, x, data) -> output``."""


class Called(nn.Module):
    """A model as a batch of one row, ``(1, n, f) -> output``, under its modules' own names."""

    def __init__(self, model: nn.Module, call: CallModel, data: Any, layers: Layers) -> None:
        super().__init__()
        # not as a submodule: paths in errors, rules and shares are those of the model itself
        self.__dict__.update(model=model, call=call, data=data, layers=layers)

    def forward(self, x: Tensor) -> Any:
        """What the model returns for features ``x`` ``(1, n, f)``."""
        given = self.__dict__
        given["layers"].begin(x._lrp.run, given["data"])  # type: ignore[attr-defined]
        return given["call"](given["model"], x[0], given["data"])

    def named_modules(self, *args: Any, **kwargs: Any) -> Iterator[tuple[str, nn.Module]]:
        """Those of the model."""
        return self.__dict__["model"].named_modules(*args, **kwargs)  # type: ignore[no-any-return]

    def named_parameters(self, *args: Any, **kwargs: Any) -> Iterator[tuple[str, nn.Parameter]]:
        """Those of the model."""
        found: Iterator[tuple[str, nn.Parameter]]
        found = self.__dict__["model"].named_parameters(*args, **kwargs)
        return found

    def named_buffers(self, *args: Any, **kwargs: Any) -> Iterator[tuple[str, Tensor]]:
        """Those of the model."""
        return self.__dict__["model"].named_buffers(*args, **kwargs)  # type: ignore[no-any-return]

    def train(self, mode: bool = True) -> Called:
        """The model's mode."""
        self.__dict__["model"].train(mode)
        return self


def called_by_name(model: nn.Module, x: Tensor, data: Any) -> Any:
    """``model(x, edge_index, ...)`` with what of ``data`` its forward names, or ``model(data)``.

    Raises
    ------
    InputError
        A forward that takes neither.
    """
    parameters = inspect.signature(model.forward).parameters
    names = list(parameters)
    if "x" in names and "edge_index" in names:
        given = {k: data[k] for k in names if k in data and k not in ("x", "edge_index")}
        return model(x=x, edge_index=data.edge_index, **given)
    required = [n for n, p in parameters.items() if p.default is inspect.Parameter.empty]
    if len(required) == 1 and required[0] not in ("x", "args", "kwargs"):
        data = copy.copy(data)
        data.x = x
        return model(data)
    raise InputError(
        "Expected a model called as model(x, edge_index, ...) or model(data), got "
        f"{type(model).__name__}({', '.join(names)}). Say how: "
        "call=lambda model, x, data: model(x, data.edge_index)."
    )


@contextmanager
def met(model: nn.Module, layers: Layers, messages: Messages) -> Iterator[None]:
    """While inside, layers run in the order that rules want, and messages are met."""
    handles: list[Any] = []
    try:
        # layers first: some send once more after they ran
        handles += layers.attach(model)
        handles += messages.attach(model)
        yield
    finally:
        for handle in handles:
            handle.remove()
        layers.done()
        messages.done()


_CACHES = ("_cached_edge_index", "_cached_adj_t", "_cached_x", "_cached_h")


@contextmanager
def caches_kept(model: nn.Module) -> Iterator[None]:
    """What convolutions remember of the first graph they see is afterwards as it was."""
    before = [
        (module, name, module.__dict__[name])
        for module in model.modules()
        for name in _CACHES
        if name in module.__dict__
    ]
    try:
        yield
    finally:
        for module, name, value in before:
            setattr(module, name, value)
