r"""Right for the right reasons: how well detectors detect, and whether for what is wrong.

A detector that ranks anomalies well while its relevance lies elsewhere is a Clever Hans (Kauffmann,
Ruff, Montavon, Mueller. The Clever Hans effect in anomaly detection, arXiv 2006.10609; Lapuschkin
et al., Nature Communications 10, 2019): it will fail where its cue is missing. Per detector, with
truth :math:`t_n \ge 0` of every anomaly ``n`` and its relevance :math:`R_n`,

.. math::
    \text{gap} = \text{AUROC} - \operatorname{mean}_n \cos(R_n, t_n),

and two detectors follow the same strategy as far as :math:`\cos(R_n, R'_n)` is near 1.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import ArrayLike

from neuralize import Neuralized, neuralize
from xai.baselines import BASELINES
from xai.errors import InputError
from xai.evaluate.agreement import (
    GIVEN,
    agreement_with_truth,
    centred_ranks,
    detector_table,
    flat,
    method_table,
    pairwise_cosines,
)
from xai.evaluate.auroc import auroc, binary
from xai.evaluate.strategy_table import Strategies
from xai.explainer import explain
from xai.relevance import Array, Relevance
from xai.rows import match_columns, to_rows


def strategies(
    detectors: Mapping[str, Any],
    data: Any,
    masks: ArrayLike,
    labels: ArrayLike | None = None,
    *,
    methods: Sequence[str] | Mapping[str, Sequence[str]] = (),
    maps: Mapping[str, ArrayLike] | None = None,
    composite: Any = None,
    background: Any = None,
    inside: float = 0.1,
    level: float = 0.95,
    max_rows: int | None = None,
    seed: int = 0,
    progress: bool = True,
) -> Strategies:
    """Compare detectors by what they find and by why they find it.

    Parameters
    ----------
    detectors
        Fitted detectors by name: anything :func:`neuralize.neuralize` takes or returns, or
        ``(model, features)`` with the encoder it was fitted on. A bag is one more of them.
    data
        Normal and anomalous rows ``(n, d)``, or pictures ``(n, ...)``, none used for fitting.
    masks
        Where each anomaly is: as ``data``, or ``(n, h, w)`` for pictures with channels, whose
        relevance is then added up over them. Boolean, or real and not negative (the squared
        difference to the clean picture). Masks of normal rows are not looked at.
    labels
        ``(n,)``, 1 for anomalies; when missing, rows whose mask has something in it.
    methods
        Baselines beside the relevance of every detector, named as in :func:`xai.explain`; a dict
        has those of a detector by its name.
    maps
        Maps made elsewhere, in the shape of ``data`` or ``masks``: a reconstruction's residual, a
        detector's native map.
    composite
        Rules for networks, as in :func:`xai.explain`; a dict has those of a detector by its name.
    background
        Reference rows for the methods that need some.
    inside
        Real-valued truth counts as inside, for average precision and mass, above this share of the
        row's largest.
    level
        Of the confidence intervals of the AUROC.
    max_rows
        Explain at most so many anomalies, drawn at random; the AUROC takes all.
    seed
        Of that draw and of the baseline ``"random"``.
    progress
        Whether to show a bar on work that takes longer than two seconds.

    Returns
    -------
    Strategies
        ``table``, ``agreement``, ``baselines``, ``cases``, ``plot()``.

    Raises
    ------
    InputError
        No detectors, one that scores no outliers, masks that are empty or do not fit, rows of one
        kind only, unknown methods.

    Examples
    --------
    >>> from sklearn.neighbors import KernelDensity
    >>> from sklearn.decomposition import PCA
    >>> rng = np.random.default_rng(0)
    >>> normal, x = rng.normal(size=(200, 4)), rng.normal(size=(60, 4))
    >>> masks = np.zeros((60, 4), bool)
    >>> masks[:30, 0] = True
    >>> x[:30, 0] += 4
    >>> detectors = {"KDE": KernelDensity().fit(normal), "PCA": PCA(2).fit(normal)}
    >>> found = strategies(detectors, x, masks)
    >>> found.table.loc["KDE", ["auroc", "cosine"]].round(1).tolist()
    [1.0, 1.0]
    >>> found.agreement.shape, found.cases
    ((2, 2), [])
    """
    if not isinstance(detectors, Mapping) or not detectors:
        raise InputError("Expected a dict of fitted detectors by name, got none.")
    by_name = _methods(methods, detectors)
    if GIVEN in detectors:
        raise InputError(f"{GIVEN!r} is what maps= goes by; name the detector otherwise.")
    shape = tuple(to_rows(data)[0].shape)
    truth = _truth(masks, shape)
    anomalous = binary((flat(truth) > 0).any(1) if labels is None else labels)
    if len(anomalous) != shape[0]:
        raise InputError(f"Expected {shape[0]} labels, one per row, got {len(anomalous)}.")
    rows = _chosen(anomalous, truth, max_rows, seed)
    nets = {name: _network(model, name) for name, model in detectors.items()}
    areas = auroc(anomalous, np.stack([_scores(net, data, name) for name, net in nets.items()]))
    relevances: dict[str, Relevance] = {}
    parts: list[pd.DataFrame] = []
    for name, net in nets.items():
        rules = composite.get(name) if isinstance(composite, Mapping) else composite
        for method in ("lrp", *by_name[name]):
            if method not in ("lrp", "random") and not _has_gradient(net, method):
                continue
            found = _explained(net, data, rows, rules, method, background, seed, progress)
            if method == "lrp":
                relevances[name] = found
            label = found.method if method == "lrp" else method
            parts.append(agreement_with_truth(found.values, truth[rows], inside, rows, name, label))
    for method, values in (maps or {}).items():
        given = _map(values, shape, truth.shape, method)[rows]
        parts.append(agreement_with_truth(given, truth[rows], inside, rows, GIVEN, method))
    per_row = pd.concat(parts, ignore_index=True)
    vectors = {name: flat(relevance.values) for name, relevance in relevances.items()}
    return Strategies(
        table=detector_table(per_row, relevances, areas, level),
        agreement=pairwise_cosines(vectors),
        rank_agreement=pairwise_cosines({name: centred_ranks(v) for name, v in vectors.items()}),
        baselines=method_table(per_row, relevances),
        per_row=per_row,
        auroc=areas,
        relevances=relevances,
        truth=truth[rows],
        rows=rows,
        level=level,
    )


def _methods(
    methods: Sequence[str] | Mapping[str, Sequence[str]], detectors: Mapping[str, Any]
) -> dict[str, Sequence[str]]:
    if isinstance(methods, str):
        raise InputError(f"Expected a list of methods, got the text {methods!r}.")
    if isinstance(methods, Mapping):
        found = {name: methods.get(name, ()) for name in detectors}
        strangers = sorted(set(methods) - set(detectors))
        if strangers:
            raise InputError(f"methods= has {strangers[0]!r}, which is none of the detectors.")
    else:
        found = dict.fromkeys(detectors, methods)
    unknown = [method for chosen in found.values() for method in chosen if method not in BASELINES]
    if unknown:
        raise InputError(f"Expected methods of {', '.join(BASELINES)}, got {unknown[0]!r}.")
    return found


def _truth(masks: ArrayLike, shape: tuple[int, ...]) -> Array:
    truth = np.asarray(masks)
    if truth.dtype != bool:
        truth = truth.astype(np.float64)
        if not np.isfinite(truth).all() or (truth < 0).any():
            raise InputError("Expected masks that are finite and not negative, got others.")
    pictures = len(shape) == 4 and truth.shape in (
        (shape[0], *shape[1:3]), (shape[0], *shape[2:]),
    )  # fmt: skip
    if truth.shape != shape and not pictures:
        raise InputError(
            f"Expected one mask per row in the shape of the data {shape}, or (n, h, w) for "
            f"pictures with channels, got {truth.shape}."
        )
    return truth


def _chosen(anomalous: Array, truth: Array, max_rows: int | None, seed: int) -> Array:
    """Numbers of the anomalies that are explained."""
    rows = np.flatnonzero(anomalous)
    empty = rows[~flat(truth)[rows].any(1)]
    if len(empty):
        raise InputError(
            f"Expected a mask with something inside for every anomaly, got {len(empty)} empty ones "
            f"(first: row {empty[0]}). Leave such rows out: where nothing is wrong, there is "
            "nothing to find."
        )
    if max_rows is None:
        return rows
    if max_rows < 2:
        raise InputError(f"Expected max_rows of at least 2, got {max_rows}.")
    drawn = np.random.default_rng(seed).permutation(rows)[:max_rows]
    return np.sort(drawn)


def _network(model: Any, name: str) -> Neuralized:
    if isinstance(model, tuple):
        if len(model) != 2:
            raise InputError(f"{name}: expected (model, features), got {len(model)} entries.")
        return neuralize(model[0], model[1])
    net = model if isinstance(model, Neuralized) else neuralize(model)
    if net.kind == "cluster":
        raise InputError(
            f"{name}: expected an outlier detector, got the clustering {net.model_name}, which "
            "scores no outliers."
        )
    return net


def _scores(net: Neuralized, data: Any, name: str) -> Array:
    """Evidence of every row ``(n,)``: higher is more abnormal, whatever the model's own sign."""
    x = to_rows(match_columns(data, net.feature_names))[0]
    if net.n_features is not None:
        x = x.reshape(len(x), -1)
    net.check(x)
    with torch.no_grad():
        evidence = net(x)
    if evidence.ndim == 2 and evidence.shape[1] == 1:
        evidence = evidence[:, 0]
    if evidence.ndim != 1:
        raise InputError(
            f"{name}: expected one outlier score per row, got outputs of shape "
            f"{tuple(evidence.shape)}."
        )
    scores: Array = evidence.cpu().numpy().astype(np.float64)
    return scores


def _has_gradient(net: Neuralized, method: str) -> bool:
    return method == "nearest_neighbor_difference" or (net.differentiable and net.row_independent)


def _explained(
    net: Neuralized,
    data: Any,
    rows: Array,
    composite: Any,
    method: str,
    background: Any,
    seed: int,
    progress: bool,
) -> Relevance:
    """Relevance of the chosen rows."""
    chosen = data.iloc[rows] if isinstance(data, pd.DataFrame) else to_rows(data)[0][rows]
    if not net.row_independent:
        chosen = data  # rows are scored against each other
    found: Relevance = explain(
        net, chosen, composite=composite, method=method, background=background, seed=seed,
        progress=progress,
    )  # fmt: skip
    return found if net.row_independent else found[rows]


def _map(values: ArrayLike, shape: tuple[int, ...], masks: tuple[int, ...], name: str) -> Array:
    given = np.asarray(values, dtype=np.float64)
    if given.shape not in (shape, masks):
        raise InputError(
            f"maps[{name!r}]: expected the shape of the data {shape}, got {given.shape}."
        )
    return given
