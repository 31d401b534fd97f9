"""ONNX files as torch modules, by onnx2torch, from files that nobody vouches for.

Two things are done before conversion. Weights outside the file are read only from its own folder.
And every node gets a plain name: torch writes the names into Python code that it then runs, so
that a crafted name would be a program.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from torch import nn

from neuralize.torchvision_guard import ensure_importable_torchvision
from xai.architectures import Built
from xai.errors import FileFormatError, InputError, UnsupportedModelError
from xai.file_formats import listed, require_file

SUFFIX = ".onnx"
DOMAINS = ("", "ai.onnx")


def read_onnx(path: Path) -> Built:
    """The network in an ONNX file, with its weights.

    Raises
    ------
    InputError
        onnx2torch is not installed.
    FileFormatError
        A damaged file, or one whose weights lie outside of its folder.
    UnsupportedModelError
        Operators that are not ONNX's own or that have no counterpart, by name; several inputs.
    """
    path = require_file(path)
    ensure_importable_torchvision()
    try:
        import onnx
        from google.protobuf.message import DecodeError
        from onnx2torch import convert
    except ModuleNotFoundError as error:
        raise InputError(
            f"{path} is an ONNX file, and reading one needs pip install 'unsupervised-xai[onnx]'."
        ) from error
    try:
        model = onnx.load(str(path), format="protobuf", load_external_data=False)
        _require_own_folder(model, path)
        onnx.load_external_data_for_model(model, str(path.parent))
        onnx.checker.check_model(model)
    except (DecodeError, onnx.checker.ValidationError, OSError, ValueError, TypeError) as error:
        if isinstance(error, FileFormatError):
            raise
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise FileFormatError(f"Cannot read {path} as ONNX: {reason}") from error
    foreign = {
        f"{node.domain}.{node.op_type}" for node in _nodes(model) if node.domain not in DOMAINS
    }
    if foreign or model.functions:
        names = sorted(foreign | {f"function {f.name}" for f in model.functions})
        raise UnsupportedModelError(
            f"{path} uses {listed(names)}, which are no operators of ONNX itself. Export the model "
            "without custom operators."
        )
    inputs = _inputs(model)
    if len(inputs) != 1 or len(model.graph.output) != 1:
        raise UnsupportedModelError(
            f"Expected one input and one output in {path}, got {len(inputs)} and "
            f"{len(model.graph.output)}."
        )
    _rename(model.graph)
    try:
        network: nn.Module = convert(model)
    except NotImplementedError as error:
        raise UnsupportedModelError(f"{path} cannot be converted to torch: {error}") from error
    except MemoryError:
        raise
    except Exception as error:  # a crafted model can trip a converter in many ways
        raise FileFormatError(
            f"Cannot convert {path} to torch: {type(error).__name__}: {error}"
        ) from error
    channels, size = _pictures(inputs[0])
    return Built(network, None, channels, size, "converted by onnx2torch")


def _require_own_folder(model: Any, path: Path) -> None:
    """Refuse weights that are to be read from outside the model's folder."""
    folder = path.parent.resolve()
    for tensor in _tensors(model):
        for entry in tensor.external_data:
            if entry.key != "location":
                continue
            if not (folder / entry.value).resolve().is_relative_to(folder):
                raise FileFormatError(
                    f"{path} wants weights from {entry.value!r}, outside of its folder; that is "
                    "never read."
                )


def _graphs(model: Any) -> Iterator[Any]:
    """The graph, and those that lie inside nodes and functions."""
    waiting = [model.graph]
    nodes = [node for function in model.functions for node in function.node]
    while waiting or nodes:
        if not nodes:
            graph = waiting.pop()
            yield graph
            nodes = list(graph.node)
            continue
        for attribute in nodes.pop().attribute:
            waiting += [attribute.g] if attribute.HasField("g") else []
            waiting += attribute.graphs


def _nodes(model: Any) -> Iterator[Any]:
    for function in model.functions:
        yield from function.node
    for graph in _graphs(model):
        yield from graph.node


def _tensors(model: Any) -> Iterator[Any]:
    for graph in _graphs(model):
        yield from graph.initializer
        for sparse in graph.sparse_initializer:
            yield sparse.values
            yield sparse.indices
    for node in _nodes(model):
        for attribute in node.attribute:
            if attribute.HasField("t"):
                yield attribute.t
            yield from attribute.tensors


def _inputs(model: Any) -> list[Any]:
    constants = {tensor.name for tensor in model.graph.initializer}
    return [value for value in model.graph.input if value.name not in constants]


def _rename(graph: Any) -> None:
    """Give every node of the graph a name that is a plain word, and each its own."""
    seen: set[str] = set()
    for node in graph.node:
        plain = re.sub(r"[^A-Za-z0-9_]+", "_", node.name).strip("_")[:100] or node.op_type
        plain = re.sub(r"[^A-Za-z0-9_]+", "_", plain)
        name, count = f"n_{plain}" if not plain[:1].isalpha() else plain, 1
        unique = name
        while unique in seen:
            count += 1
            unique = f"{name}_{count}"
        seen.add(unique)
        node.name = unique
        node.domain = ""


def _pictures(value: Any) -> tuple[int | None, tuple[int, int] | None]:
    """Channels and size of the input, where the file says them."""
    sizes = [
        d.dim_value if d.HasField("dim_value") else 0 for d in value.type.tensor_type.shape.dim
    ]
    if len(sizes) != 4:
        return None, None
    return sizes[1] or None, (sizes[2], sizes[3]) if sizes[2] and sizes[3] else None
