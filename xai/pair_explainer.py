"""``bilrp``: why two inputs are similar to an encoder, in pairs of pixels.

Eberle, Buettner, Kraeutli, Mueller, Valleriani, Montavon. Building and interpreting deep similarity
models. IEEE TPAMI 44(3), 2022. arXiv 2003.05431. The similarity ``y = sum_m phi_m(a) phi_m(b)`` is
bilinear in the embedding, so

    ``R_ij = sum_m LRP_i(phi_m, a) LRP_j(phi_m, b)``

explains it to second order with passes of first order, one per component ``m`` and input. All
passes of an input share one forward pass and the denominators of its rules.
"""

from __future__ import annotations

import copy
import math
import platform
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from neuralize.coverage import warn_if_amplified
from neuralize.inputs import require_finite
from neuralize.lrp import LRP, Trace, unwrapped
from neuralize.peak import PeakMemory
from xai.directions import Choice, Directions, Kind, Reduce
from xai.errors import InputError
from xai.relevance import Array
from xai.similarity import Side, SimilarityRelevance

MEMORY = 512 * 2**20
"""Bytes that directions sent back together may take, unless told otherwise."""

FACTOR_BYTES = 8 * 2**30
"""Factors of a batch beyond this size are refused: too many directions of too large an input."""

FIRST = 4
"""Directions sent back together before it is known what one of them takes."""


def bilrp(
    encoder: nn.Module | tuple[nn.Module, nn.Module],
    a: Any,
    b: Any,
    composite: Any = None,
    *,
    similarity: Kind = "dot",
    reduce: Reduce | None = None,
    n_directions: int | None = None,
    reference: Any = None,
    seed: int = 0,
    select: Callable[[Any], Tensor] | None = None,
    memory: int = MEMORY,
    batch_size: int = 1,
    device: torch.device | str | None = None,
    progress: bool = True,
) -> Any:
    """Explain the similarity of ``a`` and ``b`` to an encoder by pairs of their pixels.

    Parameters
    ----------
    encoder
        Any network; what it gives for a row is the embedding, flattened. Two networks ``(for a,
        for b)`` where each input has its own, as the towers of CLIP.
    a, b
        Inputs ``(n, ...)``: row ``i`` of the one is compared with row ``i`` of the other. Pictures
        ``(n, c, h, w)`` of any size the encoder takes, token numbers ``(n, t)``, tables. Or a
        mapping, as tokenizers give them: the first entry is explained, the others are held
        constant.
    composite
        Rules: a composite, the name of a preset or a zennit composite; chosen by family when
        missing.
    similarity
        ``"dot"``: ``<phi(a), phi(b)>``. ``"cosine"``: the same, divided by the norms of both
        embeddings, which are held constant.
    reduce
        None: every component of the embedding that is not zero for either input. ``"random"``:
        random orthonormal directions, scaled so that all relevance is right in expectation.
        ``"leading"``: the leading singular directions of ``reference``, or without one the
        components that contribute most to this similarity, ``|phi_m(a) phi_m(b)|``. The error this
        makes is ``approximation_error``, and ``standard_error`` for random directions.
    n_directions
        How many directions; with ``reduce`` only.
    reference
        Embeddings ``(r, d)`` of typical inputs, for ``reduce="leading"``.
    seed
        Of the random directions.
    select
        Picks the embedding from what the network returns, or makes it, e.g.
        ``lambda out: out.last_hidden_state.mean(1)``.
    memory
        Bytes that one backward pass may take; as many directions share it as fit. Measured as it
        goes, on any device. Comes on top of one forward pass and the factors.
    batch_size
        Pairs that share a forward pass. More pays only for few directions of small inputs.
    device
        Where to compute; the encoder's own when missing.
    progress
        Whether to show a bar on work that takes longer than two seconds.

    Returns
    -------
    SimilarityRelevance or list
        One explanation for one pair, a list of them for several.

    Raises
    ------
    InputError
        Inputs, embeddings or options that do not fit together.
    NoRuleError
        An operation of the encoder without a rule.

    Examples
    --------
    >>> encoder = nn.Sequential(nn.Linear(3, 2, bias=False), nn.ReLU())
    >>> _ = nn.init.constant_(encoder[0].weight, 1.0)
    >>> sim = bilrp(encoder, torch.tensor([[1.0, 2, 0]]), torch.tensor([[0.0, 1, 1]]), "epsilon")
    >>> round(sim.similarity, 3), round(sim.total, 3)
    (12.0, 12.0)
    >>> sim.matrix().round(3).tolist()
    [[0.0, 2.0, 2.0], [0.0, 4.0, 4.0], [0.0, 0.0, 0.0]]
    """
    _check_options(similarity, reduce, n_directions, reference, seed, memory, batch_size)
    networks, rules = _networks(encoder, composite, device)
    given = [_inputs(x, lrp, name) for x, lrp, name in zip((a, b), rules, "ab", strict=True)]
    n = len(given[0].x)
    if len(given[1].x) != n:
        raise InputError(
            f"Expected as many rows in a as in b, got {n} and {len(given[1].x)}: row i of the one "
            "is compared with row i of the other."
        )
    choice = Choice(similarity, reduce, n_directions, reference, seed)
    found: list[SimilarityRelevance] = []
    for start in range(0, n, batch_size):
        now = [one.rows(start, start + batch_size) for one in given]
        found += _pairs(networks, rules, now, choice, select, memory, progress)
    return found[0] if n == 1 else found


def _pairs(
    networks: tuple[nn.Module, nn.Module],
    rules: tuple[LRP, LRP],
    given: list[_Inputs],
    choice: Choice,
    select: Callable[[Any], Tensor] | None,
    memory: int,
    progress: bool,
) -> list[SimilarityRelevance]:
    """Explain the pairs of one batch; an input's forward pass is freed once it is explained."""
    traces = [
        lrp.trace(one.x, keep=True, select=select, **one.constants)
        for lrp, one in zip(rules, given, strict=True)
    ]
    embeddings = _embeddings(traces, len(given[0].x), choice.kind)
    directions = choice.directions(*embeddings)
    _check_size(directions.count, given)
    sides: list[list[Side]] = []
    total = 2 * directions.count
    with tqdm(total=total, delay=2, disable=not progress, desc="directions", unit="") as bar:
        for lrp, one, phi in zip(rules, given, embeddings, strict=True):
            found = _propagated(traces.pop(0), directions, phi, memory, bar)
            sides.append(found.sides(one.x))
            warn_if_amplified(lrp, one.x, *found.scales, select=select, **one.constants)
    answers = []
    for i, (phi_a, phi_b) in enumerate(zip(*embeddings, strict=True)):
        answers.append(
            SimilarityRelevance(
                a=sides[0][i],
                b=sides[1][i],
                similarity=float(phi_a @ phi_b),
                kind=choice.kind,
                directions=directions.name,
                model_name=" and ".join(dict.fromkeys(type(net).__name__ for net in networks)),
                composite=" and ".join(dict.fromkeys(lrp.composite.name for lrp in rules)),
                standard_error=directions.standard_error(phi_a, phi_b),
                provenance=_provenance(given[0].x, choice),
            )
        )
    return answers


# -- one side --------------------------------------------------------------------------------------


@dataclass
class _Inputs:
    """One input of every pair: what is explained, and what is held constant."""

    x: Tensor
    constants: dict[str, Any]

    def rows(self, start: int, stop: int) -> _Inputs:
        n = len(self.x)
        cut = {
            name: v[start:stop] if isinstance(v, Tensor) and v.ndim and len(v) == n else v
            for name, v in self.constants.items()
        }
        return _Inputs(self.x[start:stop], cut)


@dataclass
class _Found:
    """What was propagated for one input of ``n`` pairs."""

    factors: Array  # (K, n, ...)
    components: Array  # (K, n)
    absorbed: dict[str, Array]  # (K, n)
    scales: tuple[Tensor, Tensor]

    def sides(self, x: Tensor) -> list[Side]:
        inputs = x.detach().cpu().numpy()
        return [
            Side(
                np.ascontiguousarray(self.factors[:, i]),
                self.components[:, i],
                {name: share[:, i] for name, share in self.absorbed.items()},
                inputs[i],
            )
            for i in range(len(x))
        ]


def _propagated(
    trace: Trace, directions: Directions, phi: Tensor, memory: int, bar: tqdm[Any]
) -> _Found:
    """All directions of ``phi`` ``(n, d)`` back to the input, as many at once as memory holds."""
    k, n = directions.count, len(phi)
    leaf = trace.leaf
    shape = _map_shape(leaf)
    dtype = np.float64 if leaf.dtype == torch.float64 else np.float32
    factors = np.empty((k, n, *shape), dtype)
    components = np.empty((k, n))
    absorbed: dict[str, Array] = {}
    magnitude = torch.zeros(n, dtype=torch.float64, device=leaf.device)  # of the relevance found
    seeded = torch.zeros_like(magnitude)
    start, size = 0, FIRST
    while start < k:
        stop = min(k, start + size)
        with PeakMemory() as used:
            seeds = directions.seeds(phi, start, stop)
            values, shares = trace.batched(seeds.reshape(stop - start, *trace.output.shape))
        components[start:stop] = seeds.sum(2).cpu().numpy()
        seeded += seeds.abs().sum((0, 2))
        if leaf.ndim >= 4:
            values = values.sum(2)
        magnitude += values.flatten(2).abs().sum((0, 2), dtype=magnitude.dtype)
        factors[start:stop] = values.cpu().numpy()
        for name, share in shares.items():
            absorbed.setdefault(name, np.zeros((k, n)))[start:stop] = share.cpu().numpy()
        bar.update(stop - start)
        size = max(1, memory // max(1, used.peak // (stop - start)))
        start = stop
        del seeds, values, shares
    # in proportion to the seeds, as numbers that can be compared with those of one pass
    norm = phi.abs().sum(1)
    ratio = torch.where(seeded > 0, magnitude / seeded, torch.zeros_like(seeded))
    scales = phi.reshape(trace.output.shape).to(trace.output), (norm * ratio)[:, None]
    return _Found(factors, components, absorbed, scales)


def _map_shape(leaf: Tensor) -> tuple[int, ...]:
    """Shape of one row's map: pictures ``(c, h, w)`` and volumes lose their channels."""
    return tuple(leaf.shape[2:] if leaf.ndim >= 4 else leaf.shape[1:])


def _embeddings(traces: list[Trace], n: int, kind: Kind) -> tuple[Tensor, Tensor]:
    """Both embeddings ``(n, d)`` in float64; of length one for cosines."""
    found = []
    for trace, name in zip(traces, "ab", strict=True):
        output = trace.output
        if output.ndim == 0 or output.shape[0] != n:
            raise InputError(
                f"Expected an embedding per row of {name}, ({n}, ...), got shape "
                f"{tuple(output.shape)} from the encoder; select= picks or makes one."
            )
        wide = torch.float32 if output.device.type == "mps" else torch.float64
        phi = output.reshape(n, -1).to(wide)
        require_finite(phi)
        if kind == "cosine":
            norm = phi.norm(dim=1, keepdim=True)
            if bool((norm == 0).any()):
                raise InputError(
                    f"The embedding of row {int((norm[:, 0] == 0).nonzero()[0, 0])} of {name} is "
                    'zero, which has no cosine; use similarity="dot".'
                )
            phi = phi / norm
        found.append(phi)
    if found[0].shape[1] != found[1].shape[1]:
        raise InputError(
            f"Expected embeddings of one length, got {tuple(traces[0].output.shape[1:])} for a and "
            f"{tuple(traces[1].output.shape[1:])} for b. Pool them, e.g. with "
            "select=lambda y: y.mean((2, 3))."
        )
    return found[0], found[1]


# -- what came in ----------------------------------------------------------------------------------


def _check_options(
    similarity: str, reduce: str | None, n_directions: Any, reference: Any, seed: Any, memory: Any,
    batch_size: Any,
) -> None:  # fmt: skip
    if similarity not in ("dot", "cosine"):
        raise InputError(f"Expected similarity 'dot' or 'cosine', got {similarity!r}.")
    if reduce not in (None, "random", "leading"):
        raise InputError(f"Expected reduce 'random', 'leading' or None, got {reduce!r}.")
    if (n_directions is None) != (reduce is None):
        raise InputError(
            "Expected n_directions together with reduce= ('random' or 'leading'), got "
            f"n_directions={n_directions!r} and reduce={reduce!r}."
        )
    if reference is not None and reduce != "leading":
        raise InputError(f"reference= is for reduce='leading', got reduce={reduce!r}.")
    whole = {"n_directions": n_directions or 1, "memory": memory, "batch_size": batch_size}
    if n_directions is not None:
        whole["n_directions"] = n_directions
    for name, value in whole.items():
        if not isinstance(value, int | np.integer) or isinstance(value, bool) or value < 1:
            raise InputError(f"Expected a whole {name} >= 1, got {value!r}.")
    if not isinstance(seed, int | np.integer) or seed < 0:
        raise InputError(f"Expected a seed >= 0, got {seed!r}.")


def _networks(
    encoder: Any, composite: Any, device: torch.device | str | None
) -> tuple[tuple[nn.Module, nn.Module], tuple[LRP, LRP]]:
    """Both networks under their rules; one object where they are one."""
    pair = encoder if isinstance(encoder, tuple) else (encoder,)
    if len(pair) not in (1, 2):
        raise InputError(f"Expected one encoder or two, got {len(pair)}.")
    if device is not None:
        try:
            torch.empty(0, device=device)
        except (RuntimeError, AssertionError) as error:
            raise InputError(f"Cannot compute on device {device!r}: {error}") from error
        # the caller's networks stay where they are
        pair = tuple(
            net if _home(net)[0] == torch.device(device) else copy.deepcopy(net).to(device)
            for net in map(unwrapped, pair)
        )
    rules = [LRP(net, composite) for net in pair]
    return (pair[0], pair[-1]), (rules[0], rules[-1])


def _home(model: nn.Module) -> tuple[torch.device, torch.dtype]:
    """Device and floating type of the weights."""
    weights = [p for p in model.parameters() if p.is_floating_point()]
    if not weights:
        return torch.device("cpu"), torch.get_default_dtype()
    return weights[0].device, weights[0].dtype


def _inputs(x: Any, lrp: LRP, name: str) -> _Inputs:
    """What is explained on the encoder's device and in its type, and what is held constant."""
    device, dtype = _home(lrp.model)
    constants: dict[str, Any] = {}
    if isinstance(x, Mapping):
        if not x:
            raise InputError(f"Expected what the encoder takes in {name}, got an empty mapping.")
        names = list(x)
        constants = {k: x[k].to(device) if isinstance(x[k], Tensor) else x[k] for k in names[1:]}
        x = x[names[0]]
    try:
        x = torch.as_tensor(x)
    except (TypeError, ValueError, RuntimeError) as error:
        raise InputError(f"Expected an array or tensor (n, ...) as {name}, got {error}.") from error
    if x.ndim < 2 or 0 in x.shape or x.is_complex():
        raise InputError(
            f"Expected rows (n, ...) of real numbers as {name}, got {x.dtype} of shape "
            f"{tuple(x.shape)}; one picture is {name}[None]."
        )
    x = x.detach().to(device)
    if x.is_floating_point():
        require_finite(x)
        return _Inputs(x.to(dtype), constants)
    if x.ndim > 2:
        raise InputError(
            f"Expected pictures as floating numbers in {name}, preprocessed as the encoder wants "
            f"them, got {x.dtype} of shape {tuple(x.shape)}."
        )
    return _Inputs(x, constants)


def _check_size(k: int, given: list[_Inputs]) -> None:
    size = sum(k * len(one.x) * math.prod(_map_shape(one.x)) * 4 for one in given)
    if size > FACTOR_BYTES:
        raise InputError(
            f"{k} directions of inputs of these sizes are {size / 2**30:.0f} GiB of relevance, "
            f"more than {FACTOR_BYTES / 2**30:.0f}. Use reduce='random' with n_directions=, a "
            "smaller batch_size, or pool the embedding."
        )


def _provenance(x: Tensor, choice: Choice) -> dict[str, str]:
    return {
        "unsupervised-xai": version("unsupervised-xai"),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "device": str(x.device),
        "dtype": str(x.dtype).removeprefix("torch."),
        "seed": str(choice.seed) if choice.reduce == "random" else "none",
    }
