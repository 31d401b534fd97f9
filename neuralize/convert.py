"""From fitted model to network: single dispatch on the model's type, open to third parties."""

from __future__ import annotations

import copy
import importlib
import inspect
from collections.abc import Callable
from functools import singledispatch
from typing import Any, TypeVar

import numpy as np
import torch
from scipy.sparse import issparse
from sklearn.exceptions import NotFittedError
from sklearn.utils.validation import check_is_fitted
from torch import Tensor, nn

from neuralize.errors import InputError, UnfittedModelError, UnsupportedModelError
from neuralize.network import Neuralized

Converter = TypeVar("Converter", bound=Callable[..., Neuralized])

_OPTIONAL = {
    "pyod": "neuralize.pyod_models",
    "pyod.models.auto_encoder": "neuralize.pyod_networks",
    "pyod.models.deep_svdd": "neuralize.pyod_networks",
}
"""Converters of optional libraries, imported when one of their models comes by."""


@singledispatch
def _convert(model: object) -> Neuralized:
    supported = sorted({f"{t.__name__}" for t in _convert.registry if t is not object})
    raise UnsupportedModelError(
        f"No converter for {type(model).__module__}.{type(model).__name__}. "
        f"Supported: {', '.join(supported)}. Write one and add it with "
        "neuralize.register_converter(TheType)."
    )


def register_converter(model_type: type) -> Callable[[Converter], Converter]:
    """Decorator: the function converts fitted models of ``model_type`` into a :class:`Neuralized`.

    Its keyword-only arguments become the options of :func:`neuralize` for that type.

    Examples
    --------
    >>> class Centroids:
    ...     def __init__(self, points):
    ...         self.points = points
    >>> @register_converter(Centroids)
    ... def convert_centroids(model: Centroids) -> Neuralized:
    ...     return neuralize(model.points)
    >>> neuralize(Centroids(np.eye(2))).kind
    'cluster'
    """

    def register(converter: Converter) -> Converter:
        _convert.register(model_type)(converter)
        return converter

    return register


def neuralize(
    model: Any,
    features: nn.Module | None = None,
    *,
    dtype: torch.dtype | None = None,
    device: torch.device | str | None = None,
    **options: Any,
) -> Neuralized:
    """Rewrite a fitted model as a network equal to its decision.

    Parameters
    ----------
    model
        A fitted scikit-learn or PyOD model, a pipeline, a ``(K, d)`` array of centroids, or any
        ``nn.Module``, of which an output is then explained.
    features
        An encoder below it: the model was then fitted on ``features(x)``.
    dtype, device
        Of the network's constants: float64 on the CPU when missing; deep detectors keep their own.
    options
        Options of that model's converter, e.g. ``stiffness=`` for clusterings; the docs' table of
        supported models lists them. An unknown one is an error.

    Raises
    ------
    UnfittedModelError
        The model was not fitted.
    UnsupportedModelError
        No exact network is known for the model or for one of its options.

    Examples
    --------
    >>> from sklearn.cluster import KMeans
    >>> x = np.array([[0.0, 0.0], [0.0, 1.0], [4.0, 0.0], [4.0, 1.0]])
    >>> net = neuralize(KMeans(2, n_init=1, random_state=0).fit(x))
    >>> net.relevance(torch.tensor([[1.0, 0.5]])).values.tolist()
    [[8.0, 0.0]]
    """
    if dtype not in (None, torch.float32, torch.float64):
        raise InputError(f"Expected dtype torch.float64 or torch.float32, got {dtype}.")
    if isinstance(model, Neuralized):
        if options or features is not None or dtype is not None or device is not None:
            raise UnsupportedModelError(
                f"{model.model_name} is a network already. Give options and features where it is "
                "made, and move it with .to()."
            )
        return model
    with torch.inference_mode(False):
        net = _network_of(model, options)
        if not isinstance(model, nn.Module):
            net = net.to(dtype=dtype or net.native_dtype, device=device)
        elif dtype is not None or device is not None:
            net = copy.deepcopy(net).to(dtype=dtype, device=device)  # the caller's stays as it is
    if features is not None:
        if not isinstance(features, nn.Module):
            raise InputError(f"Expected an nn.Module as features, got {type(features).__name__}.")
        net.features = features
        net.n_features = None
    return net


def _network_of(model: Any, options: dict[str, Any]) -> Neuralized:
    names = getattr(model, "feature_names_in_", None)
    if names is not None and hasattr(options.get("data"), "columns"):
        try:
            options["data"] = options["data"][list(names)]
        except KeyError as error:
            raise InputError(f"Expected data with the model's columns: {error.args[0]}.") from error
    origins = {base.__module__ for base in type(model).__mro__}
    for origin in origins | {name.partition(".")[0] for name in origins}:
        if origin in _OPTIONAL:
            importlib.import_module(_OPTIONAL[origin])
    converter = _convert.dispatch(type(model))
    _check_options(model, converter, options)
    net = converter(model, **options)
    net.feature_names = None if names is None else tuple(map(str, names))
    return net


def _check_options(model: object, converter: Callable[..., Any], options: dict[str, Any]) -> None:
    parameters = inspect.signature(converter).parameters.values()
    if any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters):
        return  # a wrapper: the options are its inner model's, which checks them
    known = [p.name for p in parameters if p.kind is inspect.Parameter.KEYWORD_ONLY]
    unknown = sorted(set(options) - set(known))
    if unknown and converter is not _convert.dispatch(object):
        raise UnsupportedModelError(
            f"{type(model).__name__} has no option {', '.join(map(repr, unknown))}; "
            f"it has {', '.join(map(repr, known)) or 'none'}."
        )
    if unknown:
        options.clear()  # an unknown model is the real news; its converter raises


def require_fitted(model: Any) -> None:
    """Raise :class:`UnfittedModelError` unless the scikit-learn style ``model`` was fitted."""
    try:
        check_is_fitted(model)
    except NotFittedError as error:
        raise UnfittedModelError(
            f"{type(model).__name__} is not fitted yet. Call .fit(data) first."
        ) from error


def as_tensor(values: Any, name: str = "values") -> Tensor:
    """A float64 tensor of a model's constants, copied, so that later refits do not reach it."""
    if issparse(values):
        raise UnsupportedModelError(
            f"The model was fitted on sparse rows and keeps its {name} sparse. Refit it on a dense "
            "array, X.toarray()."
        )
    array = np.array(values, dtype=np.float64)
    if not np.isfinite(array).all():
        raise InputError(f"Expected finite {name} in the fitted model, got NaN or infinity.")
    return torch.from_numpy(array)
