"""``explain``: one call from fitted model and data to relevance."""

from __future__ import annotations

import copy
import hashlib
import platform
from collections.abc import Iterable, Sequence, Sized
from importlib.metadata import version
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from neuralize import Attribution, InputError, Neuralized, neuralize
from neuralize.inputs import require_finite
from neuralize.lrp import as_composite, unwrapped
from neuralize.network import Output
from xai.baselines import BASELINES, baseline
from xai.relevance import Array, Relevance
from xai.rows import match_columns
from xai.rows import to_rows as to_rows


def explain(
    model: Any,
    x: Any,
    target: Any = None,
    composite: Any = None,
    batch_size: int | None = None,
    device: torch.device | str | None = None,
    *,
    method: str = "lrp",
    output: Output = "score",
    background: Any = None,
    features: nn.Module | None = None,
    seed: int = 0,
    progress: bool = True,
) -> Any:
    """Explain the decision of a fitted clustering, a detector or a network for every row of ``x``.

    Parameters
    ----------
    model
        Anything :func:`neuralize.neuralize` takes, or its result.
    x
        Rows ``(n, d)`` or pictures ``(n, ...)`` that flatten to the model's width: an array,
        tensor, DataFrame (names are kept), or a loader yielding batches (of a tuple, the first
        entry counts).
    target
        Cluster, or output of a network, to explain: one for all or one per row; the assigned
        (largest) one when missing. ``K`` targets for every row, an array ``(K, 1)`` or ``(K, n)``,
        share one pass through the network and give a list of ``K`` explanations.
    composite
        Rules for a network, or for an encoder below the model: a composite, the name of a preset
        (``"epsilon_plus_flat"``) or a zennit composite; chosen by family when missing.
    batch_size
        Rows at a time; chosen by memory when missing.
    device
        Where to compute; the network's own when missing.
    method
        ``"lrp"``, or a baseline: ``"gradient"``, ``"gradient_x_input"``,
        ``"integrated_gradients"``, ``"nearest_neighbor_difference"``, ``"random"``.
    output
        ``"score"`` or ``"margin"`` (evidence minus threshold).
    background
        Reference rows for the baselines that need some: integrated gradients starts at their mean.
    features
        Encoder the model was fitted on, as in :func:`neuralize.neuralize`.
    seed
        Of the random baseline.
    progress
        Whether to show a bar on work that takes longer than two seconds.

    Raises
    ------
    InputError
        Data that do not fit the model.
    UnsupportedModelError, UnfittedModelError
        From :func:`neuralize.neuralize`.

    Examples
    --------
    >>> from sklearn.cluster import KMeans
    >>> from sklearn.datasets import load_wine
    >>> wine = load_wine(as_frame=True).data
    >>> relevance = explain(KMeans(3, n_init=1, random_state=0).fit(wine.to_numpy()), wine)
    >>> relevance.values.shape, relevance.feature_names[0]
    ((178, 13), 'alcohol')
    >>> bool((relevance.relative_conservation_error < 1e-12).all())
    True
    """
    net = _network(model, features, device)
    if method != "lrp" and method not in BASELINES:
        raise InputError(
            f"Expected method 'lrp' or one of {', '.join(map(repr, BASELINES))}, got {method!r}."
        )
    if seed < 0:
        raise InputError(f"Expected a seed >= 0, got {seed}.")
    background = match_columns(background, net.feature_names, "the background")
    batches, names, row_names, total = _batches(net, x, batch_size)
    goals, several = _targets(target)
    inputs: list[Array] = []
    found: list[list[Attribution]] = [[] for _ in goals]
    start = 0
    for batch in tqdm(batches, total=total, delay=2, disable=not progress, desc="explaining"):
        flat = _flatten(net, batch)
        now = [g[start : start + len(flat)] if isinstance(g, Tensor) else g for g in goals]
        if method == "lrp":
            answers = net.relevances(flat, now, output=output, composite=composite)
        else:
            answers = [
                baseline(net, flat, goal, method, output, background, seed + start) for goal in now
            ]
        inputs.append(np.asarray(batch.detach().cpu()))
        for parts, answer in zip(found, answers, strict=True):
            parts.append(answer)
        start += len(flat)
    if not inputs:
        raise InputError("Expected at least one batch, got an empty loader.")
    for goal in goals:
        if isinstance(goal, Tensor) and len(goal) != start:
            raise InputError(f"Expected {start} targets, one per row, got {len(goal)}.")
    given = np.concatenate(inputs)
    rules = _rules(net, composite) if method == "lrp" else None
    explained = [
        _relevance(net, parts, given, names, row_names, method, output, rules) for parts in found
    ]
    return explained if several else explained[0]


def _relevance(
    net: Neuralized,
    parts: Sequence[Attribution],
    given: Array,
    names: tuple[str, ...] | None,
    row_names: tuple[str, ...] | None,
    method: str,
    output: Output,
    rules: str | None,
) -> Relevance:
    """The batches' attributions as one explanation."""
    evidence = np.concatenate([part.evidence.cpu().numpy() for part in parts])
    return Relevance(
        values=np.concatenate([p.values.cpu().numpy() for p in parts]).reshape(given.shape),
        evidence=evidence,
        absorbed=_absorbed(parts),
        target=_joined([part.target for part in parts]),
        inputs=given,
        kind=net.kind,
        evidence_name=net.evidence_name + (" minus threshold" if output == "margin" else ""),
        model_name=net.model_name,
        method=net.method if method == "lrp" else method,
        output=output,
        feature_names=names,
        row_names=row_names,
        threshold=0.0 if output == "margin" else net.threshold,
        original=_original(net, evidence, output),
        score_map=str(net.score_map),
        composite=rules,
        provenance=provenance_of(net, given, method, output),
    )


def _network(
    model: Any, features: nn.Module | None, device: torch.device | str | None
) -> Neuralized:
    if device is not None:
        try:
            torch.empty(0, device=device)
        except (RuntimeError, AssertionError) as error:
            raise InputError(f"Cannot compute on device {device!r}: {error}") from error
    if not isinstance(model, Neuralized):
        return neuralize(model, features, device=device)
    if features is not None:
        raise InputError(
            "Expected a fitted model beside features=, got a network. Make the network with "
            "neuralize(model, features)."
        )
    if device is None or torch.device(device) == model.device:
        return model
    return copy.deepcopy(model).to(device)  # the caller's network stays where it is


def _rules(net: Neuralized, composite: Any) -> str | None:
    """Name of the rules below the model, where there are some."""
    network = net.features
    if network is None:  # a network as it is, or a deep detector, which may have rules of its own
        network = getattr(net, "network", None)
        composite = getattr(net, "composite", None) if composite is None else composite
    if not isinstance(network, nn.Module):
        return None
    return as_composite(composite, unwrapped(network)).name


def _targets(target: Any) -> tuple[list[Tensor | int | None], bool]:
    """One target per row, one for all, or none; and whether there are several for every row."""
    if target is None or isinstance(target, int):
        return [target], False
    goals = np.array(target)
    if not np.issubdtype(goals.dtype, np.integer) or goals.ndim > 2 or goals.size == 0:
        raise InputError(
            "Expected one cluster or output number for all rows, one per row, or an array (K, 1) "
            f"or (K, n) of K for every row, got {goals.dtype} of shape {goals.shape}."
        )
    if goals.ndim == 2:
        return [int(row[0]) if len(row) == 1 else torch.from_numpy(row) for row in goals], True
    return [torch.from_numpy(goals) if goals.ndim else int(goals)], False


def _joined(parts: Sequence[Tensor | None]) -> Array | None:
    arrays = [part.cpu().numpy() for part in parts if part is not None]
    return np.concatenate(arrays) if arrays else None


def _absorbed(parts: Sequence[Attribution]) -> dict[str, Array]:
    """Absorbed shares of all batches; one that a batch does not have is zero there."""
    names = sorted({name for part in parts for name in part.absorbed})
    return {
        name: np.concatenate(
            [part.absorbed.get(name, 0 * part.evidence).cpu().numpy() for part in parts]
        )
        for name in names
    }


def _original(net: Neuralized, evidence: Array, output: str) -> Array | None:
    """The model's own number, from the evidence (or from its margin)."""
    if net.kind != "outlier":
        return None
    offset = net.threshold if output == "margin" and net.threshold is not None else 0.0
    numbers: Array = net.score_map(torch.from_numpy(evidence) + offset).numpy()
    return numbers


def _batches(
    net: Neuralized, x: Any, batch_size: int | None
) -> tuple[Iterable[Tensor], tuple[str, ...] | None, tuple[str, ...] | None, int | None]:
    if batch_size is not None and (not isinstance(batch_size, int) or batch_size < 1):
        raise InputError(f"Expected a whole batch_size >= 1, got {batch_size!r}.")
    if isinstance(x, Iterable) and not hasattr(x, "shape") and not isinstance(x, list | tuple):
        if not net.row_independent:
            raise InputError(
                f"{net.model_name} scores every row against the other rows of its call, so batches "
                "would change the scores. Give all rows at once, as an array."
            )
        entries = (b[0] if isinstance(b, list | tuple) else b for b in x)
        batches = (to_rows(match_columns(entry, net.feature_names))[0] for entry in entries)
        return batches, None, None, len(x) if isinstance(x, Sized) else None
    rows, names, row_names = to_rows(match_columns(x, net.feature_names))
    if len(rows) == 0:
        raise InputError(f"Expected at least one row, got shape {tuple(rows.shape)}.")
    require_finite(rows)  # before the first batch, and counting rows in all of them
    if not net.row_independent:
        # The model scores rows against their batch, so all of them are one batch.
        return [rows], names, row_names, 1
    size = batch_size or max(net.rows_at_once, 256)
    parts = rows.split(size)
    return parts, names, row_names, len(parts)


def _flatten(net: Neuralized, batch: Tensor) -> Tensor:
    """Pictures to rows where the model was fitted on flattened ones."""
    if net.n_features is None or batch.ndim == 2:
        return batch
    flat = batch.reshape(len(batch), -1)
    if flat.shape[1] != net.n_features:
        raise InputError(
            f"Expected rows that flatten to {net.n_features} features, got shape "
            f"{tuple(batch.shape)} ({flat.shape[1]} features)."
        )
    return flat


def provenance_of(
    net: Neuralized, inputs: Array, method: str, output: str = "score"
) -> dict[str, str]:
    """Versions, network, method and digest of the inputs: what it takes to repeat this."""
    return {
        "unsupervised-xai": version("unsupervised-xai"),
        "torch": torch.__version__,
        "numpy": np.__version__,
        "scikit-learn": version("scikit-learn"),
        "python": platform.python_version(),
        "network": " ".join(net.extra_repr().split()),
        "method": method,
        "output": output,
        "dtype": str(net.dtype).removeprefix("torch."),
        "device": str(net.device),
        "input_shape": "x".join(map(str, inputs.shape)),
        "input_sha256": hashlib.sha256(np.ascontiguousarray(inputs).data).hexdigest(),
    }
