"""Packages that only parts of this one need: imported when they are used, or named when missing."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

INSTALL = 'pip install "unsupervised-xai[survival]"'


def lifelines() -> Any:
    """The package lifelines.

    Raises
    ------
    ModuleNotFoundError
        It is not installed; the message says how to.
    """
    try:
        with quiet():
            import lifelines as package
            import lifelines.statistics
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"Cox models, Kaplan-Meier and the log-rank test need lifelines: {INSTALL}.",
            name=error.name,
        ) from error
    return package


def torchsurv_likelihood() -> Callable[..., Any]:
    """The function ``neg_partial_log_likelihood`` of torchsurv.

    Raises
    ------
    ModuleNotFoundError
        It is not installed; the message says how to.
    """
    from neuralize.torchvision_guard import ensure_importable_torchvision

    ensure_importable_torchvision()  # torchsurv imports torchmetrics, and that torchvision
    try:
        with quiet():
            from torchsurv.loss.cox import neg_partial_log_likelihood
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"Training on survival needs torchsurv: {INSTALL}.", name=error.name
        ) from error
    found: Callable[..., Any] = neg_partial_log_likelihood
    return found


@contextmanager
def quiet() -> Iterator[None]:
    """Without what these packages are warned of: what pandas and torch will drop some day."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        yield
