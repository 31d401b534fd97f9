"""What moves values without changing them: autograd's own gradient carries relevance exactly."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from neuralize.engine.affine import plain
from neuralize.engine.registry import Call, operation, out_of_place, register_operation
from neuralize.engine.rows import Rows, rows_of
from neuralize.engine.run import Tag, replace_tensors, tensors_in
from neuralize.engine.steps import Shares, Step, transpose_of
from neuralize.errors import NoRuleError

KEEPS_ORDER = ("reshape", "view", "flatten", "unflatten", "contiguous", "clone", "view_as",
               "reshape_as", "ravel", "identity", "type_as", "to", "float", "double", "type",
               "requires_grad_", "dropout", "dropout1d", "dropout2d", "dropout3d", "alpha_dropout",
               "feature_dropout", "feature_alpha_dropout", "native_dropout", "squeeze",
               "unsqueeze", "cpu", "cuda", "alias", "view_as_real", "lift_fresh", "detach",
               "bfloat16", "half", "data")  # fmt: skip

MOVES = ("permute", "transpose", "movedim", "moveaxis", "chunk", "split", "tensor_split", "unbind",
         "split_with_sizes", "expand", "expand_as", "broadcast_to", "narrow", "select", "getitem",
         "index_select", "gather", "take_along_dim", "flip", "fliplr", "flipud", "roll", "rot90",
         "repeat", "tile", "repeat_interleave", "pixel_shuffle", "pixel_unshuffle",
         "channel_shuffle", "native_channel_shuffle", "t", "adjoint", "diagonal", "unfold", "take",
         "masked_select", "unsafe_chunk", "unsafe_split", "slice", "as_strided",
         "hsplit", "vsplit", "dsplit", "atleast_1d", "atleast_2d", "atleast_3d", "squeeze_",
         "attribute T", "attribute mT", "attribute H", "attribute mH",
         "swapaxes")  # fmt: skip


@operation(*KEEPS_ORDER, *MOVES, "attribute data")
def view(call: Call) -> Any:
    """Views, copies, selections, casts: the gradient is the rule."""
    x, tag = call.tracked[0]
    if not x.is_floating_point():
        return _tokens(call)
    if call.name in ("detach", "attribute data"):
        # a stop of gradients is about training; the value still comes from the input
        result: Any = x.view_as(x)
    elif call.name in ("half", "bfloat16"):
        result = x.view_as(x)
    elif call.name in ("to", "type", "type_as"):
        result = call.func(*call.args, **call.kwargs)
        if not isinstance(result, Tensor):
            return result  # the name of the type
        if result.dtype in (torch.float16, torch.bfloat16):
            result = x.view_as(x)
    elif call.in_place:
        result = call.of(x)(x).clone()  # a view of what it replaces would stand for itself
    else:
        result = call.func(*call.args, **call.kwargs)
    if "dropout" in call.name and _at_random(call):
        raise NoRuleError(
            f"{call.name} in {call.run.place} drops values at random although the network is in "
            "evaluation mode. Pass training=self.training there."
        )
    call.run.note(call.operation)
    known: dict[str, Any] = {"raw": tag.raw, "nonnegative": tag.nonnegative, "gate": tag.gate}
    outputs = [t for t in tensors_in(result) if t.requires_grad]
    if len(call.tracked) > 1 or call.run.rows.n == 1:
        for t in outputs:
            call.mark_like(t, **known)
        return result
    if call.name in KEEPS_ORDER and tag.rows.dim == 0:
        n = tag.rows.n
        if all(t.ndim and t.shape[0] % n == 0 for t in outputs):
            for t in outputs:
                call.run.mark(t, Tag(call.run, Rows(n, 0, t.shape[0] // n), **known))
            return result
    shadows = list(tensors_in(_on_shadow(call, x, tag)))
    kept = [t for t in tensors_in(result) if isinstance(t, Tensor)]
    for t, shadow in zip(kept, shadows, strict=False):
        if t.requires_grad:
            rows = rows_of(shadow, tag.rows.n) if shadow.shape == t.shape else call.rows_like(t)
            call.run.mark(t, Tag(call.run, rows, **known))
    return result


def _at_random(call: Call) -> bool:
    second = "train" if call.func in (torch.dropout, torch.native_dropout) else "training"
    _, p, training = call.arguments("input", "p", second, p=0.5, training=True)
    return bool(p) and bool(training)


def _on_shadow(call: Call, x: Tensor, tag: Tag) -> Any:
    shadow = tag.rows.shadow(x.shape, x.device)
    if call.name == "as_strided":  # reads memory, so the shadow has to lie as the operand does
        lies_as = torch.empty_strided(x.shape, x.stride(), dtype=shadow.dtype, device=x.device)
        shadow = lies_as.copy_(shadow)
    swap = lambda t: shadow if t is x else t  # noqa: E731
    args, kwargs = replace_tensors(call.args, swap), replace_tensors(call.kwargs, swap)
    if call.name in ("view", "view_as"):
        return shadow.reshape(*(args[1:] if call.name == "view" else args[1].shape), **kwargs)
    return call.func(*args, **kwargs)


def _tokens(call: Call) -> Any:
    """Views of token numbers: the leaf that stands for them moves along."""
    run = call.run
    ids = call.x
    leaf, tag = run.tokens.get(ids), call.tag
    result = call.func(*call.args, **call.kwargs)
    found = [t for t in tensors_in(result) if not t.is_floating_point()]
    if leaf is None or not found:
        return result
    if call.name in ("to", "type", "clone", "contiguous", "detach"):
        moved, shadows = [leaf], [tag.rows.shadow(ids.shape, ids.device)]
    else:

        def on(stand_in: Tensor) -> list[Tensor]:
            swap = lambda t: stand_in if t is ids else t  # noqa: E731
            args, kwargs = replace_tensors(call.args, swap), replace_tensors(call.kwargs, swap)
            return list(tensors_in(call.func(*args, **kwargs)))

        moved, shadows = on(leaf), on(tag.rows.shadow(ids.shape, ids.device).contiguous())
    for t, stands, shadow in zip(found, moved, shadows, strict=True):
        run.tokens[t] = stands
        known = Tag(run, rows_of(shadow, run.rows.n) if run.rows.n > 1 else run.rows)
        if stands is not leaf:
            run.mark(stands, Tag(run, known.rows))
        t._lrp = known  # type: ignore[attr-defined]
    return result


class Surrounded(Step):
    """Values moved among zeros that were not there: what relevance these receive stays here.

    Rules that split by more than ``x_i w_ij`` (Flat, w-square, z-box, take-most) give them some.
    """

    sinks = ("padding",)

    def __init__(self, f: Callable[[Tensor], Tensor], rows: Rows) -> None:
        self.f, self.rows = f, rows

    def compute(self, *inputs: Tensor) -> Tensor:
        (x,) = inputs
        self.like = x.new_empty(1).expand(x.shape)
        return self.f(x)

    def split(self, relevance: Tensor) -> tuple[Sequence[Tensor | None], Shares]:
        (r,) = transpose_of(self.f, self.like)(relevance)
        outside = self.f(torch.ones_like(self.like)) != 1
        lost = self.rows.sum(relevance.where(outside, relevance.new_zeros(())))
        return [r], {"padding": lost} if bool(plain(lost).any()) else {}


def unfold(call: Call) -> Any:
    """``F.unfold``: windows of an image, one column each."""
    rows = call.tag.rows
    if rows.n > 1 and (rows.dim != 0 or rows.groups != 1 or call.x.ndim != 4):
        raise NoRuleError(
            f"unfold in {call.run.place} got images whose rows lie in another dimension than the "
            "first. Explain one row at a time (batch_size=1)."
        )
    tag = call.tag
    step = Surrounded(call.of(call.x), rows)
    return call.apply(step, rule="exact", nonnegative=tag.nonnegative, gate=tag.gate)


register_operation(F.unfold, unfold)


@operation("pad", "reflection_pad", "constant_pad_nd", "replication_pad", "circular_pad",
           "masked_fill", "zero_pad", "tril", "triu", "max_unpool1d", "max_unpool2d",
           "max_unpool3d")  # fmt: skip
def padded(call: Call) -> Any:
    """Padding and masking: moved values keep their relevance, zeros absorb what they receive."""
    if call.name in _FILLS:
        given = call.arguments("input", *_FILLS[call.name])
        at, fill = given[1], given[-1]
        if isinstance(fill, Tensor) or (fill and math.isfinite(fill)):
            return _filled(call, at, fill)
    if call.name.startswith("max_unpool"):
        places = call.arguments("input", "indices")[1].flatten(-int(call.name[-2])).sort(-1).values
        if bool((places[..., 1:] == places[..., :-1]).any()):
            raise NoRuleError(
                f"{call.operation} in {call.run.place} writes twice to one place: the windows of "
                "its pool overlap."
            )
    tag = call.tag
    step = Surrounded(call.of(call.x), tag.rows)
    known: dict[str, Any] = {
        "raw": tag.raw, "nonnegative": tag.nonnegative, "gate": tag.gate
    }  # fmt: skip
    z = call.apply(step, rule="exact", **known)
    if tag.rows.n > 1 and tag.rows.dim != 0:
        step.rows = call.rows_like(z)
        call.mark_like(z, **known)
    return z


_FILLS = {
    "masked_fill": ("mask", "value"),
    "pad": ("pad", "mode", "value"),
    "constant_pad_nd": ("pad", "value"),
}


def _filled(call: Call, at: Any, fill: Any) -> Any:
    """A constant other than zero where nothing was, or over what was: it absorbs its share."""
    x = call.x
    with call.mode:
        if call.name == "masked_fill":
            return torch.where(at, fill, x)
        outside = F.pad(torch.zeros_like(x, dtype=torch.bool), at, value=True)
        return torch.where(outside, fill, F.pad(x, at))


@operation("cat", "stack", "hstack", "vstack", "dstack", "column_stack", "where", "index_put",
           "index_copy", "scatter", "select_scatter", "slice_scatter", "masked_scatter",
           "meshgrid", "broadcast_tensors", "index_fill")  # fmt: skip
def absorbing_constants(call: Call) -> Any:
    """Signals beside constants (a class token): the constants' share stays with them, by name."""
    run = call.run
    shape_rows = _joined_rows(call)
    _require_single_places(call)
    if call.name == "index_fill" or (
        call.name == "scatter"
        and not isinstance(call.arguments("input", "dim", "index", "src")[3], Tensor)
    ):
        return _number_written(call)
    constants = 0

    def absorb(t: Tensor) -> Tensor:
        nonlocal constants
        if run.tag(t) is not None or not t.is_floating_point():
            return t
        constants += 1
        if whole is not None and t.shape != whole:
            t = _expanded(call, t, whole, None if t.ndim else call.x.dtype)  # as torch promotes
        rows = _constant_rows(call, t) if shape_rows is None or whole is None else shape_rows
        if rows is None:
            raise NoRuleError(
                f"{call.operation} in {run.place} puts a constant of shape {tuple(t.shape)} beside "
                "signals, and its rows cannot be told. Explain one row at a time (batch_size=1)."
            )
        return run.absorbing(t, rows)

    given, named = call.args, call.kwargs
    whole: torch.Size | None = None
    if call.name in _BROADCAST:
        if call.name == "where":  # numbers are constants as well
            given = (*given[:1], *(_tensor_like(call.x, v) for v in given[1:]))
            named = {k: _tensor_like(call.x, v) for k, v in named.items()}
        whole = torch.broadcast_shapes(*(t.shape for t in tensors_in((given, named))))
        shape_rows = call.broadcast_rows(whole)
    args, kwargs = replace_tensors(given, absorb), replace_tensors(named, absorb)
    func = _out_of_place(call)
    result = func(*args, **kwargs)
    run.note(call.operation)
    tags = [tag for _, tag in call.tracked]
    known: dict[str, Any] = {
        "raw": all(tag.raw for tag in tags),
        "nonnegative": all(tag.nonnegative for tag in tags) and not constants,
        "gate": tags[0].gate if all(tag.gate for tag in tags) else "",
    }
    for t in tensors_in(result):
        if t.requires_grad:
            rows = shape_rows if shape_rows is not None and shape_rows.fits(t.shape) else None
            run.mark(t, Tag(run, rows or call.rows_like(t), **known))
    return result


_BROADCAST = ("where", "maximum", "minimum", "fmax", "fmin", "max", "min", "broadcast_tensors")


def _number_written(call: Call) -> Any:
    """``index_fill``, and ``scatter`` of a number: the same as a number where a mask says."""
    x, dim, index, number = call.arguments("input", "dim", "index", "value")
    mask = torch.zeros_like(x, dtype=torch.bool)
    write = torch.Tensor.scatter if call.name == "scatter" else torch.Tensor.index_fill
    mask = write(mask, int(dim), index, True)
    with call.mode:
        return torch.where(mask, number, x)


def _require_single_places(call: Call) -> None:
    """Refuse indexed writes that name a place twice, or that add up."""
    if call.name not in ("scatter", "index_copy", "index_put"):
        return
    if call.kwargs.get("reduce") or call.kwargs.get("accumulate") or (
        call.name == "index_put" and len(call.args) > 3 and call.args[3]
    ):  # fmt: skip
        raise NoRuleError(
            f"{call.operation} in {call.run.place} adds to or multiplies what is there already: no "
            "rule. Write it as a sum or a product."
        )
    if call.name == "index_put":
        x, indices = call.arguments("input", "indices")
        _require_once(call, x, lambda t: t[tuple(indices)])
        return
    x, dim, index = call.arguments("input", "dim", "index")
    counts = index if call.name == "scatter" else index.reshape(-1)
    lines = counts.movedim(int(dim), 0) if counts.ndim > 1 else counts
    ordered = lines.sort(0).values
    if len(ordered) > 1 and bool((ordered[1:] == ordered[:-1]).any()):
        raise NoRuleError(
            f"{call.operation} in {call.run.place} writes twice to one place. Write each once."
        )


def _tensor_like(x: Tensor, value: Any) -> Tensor:
    if isinstance(value, Tensor):
        return value
    return torch.as_tensor(value, dtype=x.dtype, device=x.device)


def _expanded(call: Call, t: Tensor, shape: torch.Size, dtype: torch.dtype | None = None) -> Tensor:
    """A constant in the shape of the signals beside it, under its own name."""
    wide = t.detach().to(dtype or t.dtype).expand(shape)
    call.run.constants[wide] = call.run.constant_name(t)
    return wide


def _out_of_place(call: Call) -> Any:
    in_place = call.operation.endswith("_")
    return out_of_place(call.func, call.name) if in_place else call.func


def _joined_rows(call: Call) -> Rows | None:
    """Rows of a join of signals, followed on their shadows."""
    run = call.run
    if run.rows.n == 1:
        return run.rows
    if call.name not in ("cat", "stack", "hstack", "vstack", "dstack"):
        return None

    def shadow(t: Tensor) -> Tensor:
        tag = run.tag(t)
        if tag is not None:
            return tag.rows.shadow(t.shape, t.device)
        rows = _constant_rows(call, t)
        if rows is None:
            raise NoRuleError(
                f"{call.operation} in {run.place} joins a constant of shape {tuple(t.shape)} whose "
                "rows cannot be told. Explain one row at a time (batch_size=1)."
            )
        return rows.shadow(t.shape, t.device)

    args, kwargs = replace_tensors(call.args, shadow), replace_tensors(call.kwargs, shadow)
    return rows_of(call.func(*args, **kwargs), run.rows.n)


def _constant_rows(call: Call, t: Tensor) -> Rows | None:
    """Rows of a constant beside signals: it lies as they do."""
    rows = call.tag.rows
    if rows.fits(t.shape):
        return rows
    if rows.dim is not None and t.ndim > rows.dim:
        groups = t.shape[rows.dim] // rows.n
        if rows.dim == 0 and groups * rows.n == t.shape[0] and groups:
            return Rows(rows.n, 0, groups)
    return None


@operation("setitem")
def setitem(call: Call) -> Any:
    """``x[index] = value``: ``x`` becomes a copy in which it was written."""
    target, index, value = call.args
    run = call.run
    tag, known = run.tag(target), run.tag(value) if isinstance(value, Tensor) else None

    def part(t: Tensor) -> Tensor:
        return t[index]

    shape = part(target.detach()).shape
    if tag is None:
        # a constant that begins to carry relevance: what it keeps of its own is absorbed
        if known is None:
            raise NoRuleError(f"setitem in {run.place} has a signal for an index: no rule.")
        rows = run.rows_around(target, part, known.rows, value)
        base = run.absorbing(target, rows).clone()
    else:
        rows, base = tag.rows, target.clone()
    there = rows.follow(part, target.shape, target.device)
    if known is None:
        # a constant written over signals absorbs its share
        constant = _expanded(call, _tensor_like(target, value), shape, target.dtype)
        value = run.absorbing(constant, there)
    elif not there.agree(known.rows.broadcast(value.shape, shape), shape):
        raise call.mixing()
    _require_once(call, target, part)
    base[index] = value
    run.note("setitem")
    run.mark(base, Tag(run, rows))
    run.overwrite(call.target, base)
    return None


def _require_once(call: Call, target: Tensor, part: Callable[[Tensor], Tensor]) -> None:
    """Refuse an index that names a place twice: the gradient then counts its relevance twice."""
    places = part(torch.arange(target.numel(), device=target.device).reshape(target.shape))
    if int(places.unique().numel()) < places.numel():
        raise NoRuleError(
            f"{call.operation} in {call.run.place} writes twice to one place. Write each once."
        )


@operation("numpy", "__array__", "tensor", "new_tensor")
def leaves_torch(call: Call) -> Any:
    """Numpy computes where no rule can be met; a new tensor knows nothing of the old one."""
    raise NoRuleError(
        f"{call.run.place} hands a signal to {call.name.strip('_')}, where relevance cannot follow "
        "it. Rewrite that part with torch functions; clone() copies."
    )


@operation("copy")
def copy(call: Call) -> Any:
    """``x.copy_(source)``: ``x`` becomes the source."""
    target, source = call.args[:2]
    if call.run.tag(source) is None:
        constant = _expanded(call, source, target.shape, target.dtype)
        return call.run.absorbing(constant, call.tag.rows)
    with call.mode:
        return source.to(target.dtype).expand(target.shape).clone()
