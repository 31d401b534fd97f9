"""What can go wrong, by name; every message says what was expected, what came and what to do."""

from __future__ import annotations


class XaiError(Exception):
    """Base of all errors this toolkit raises on purpose."""


class InputError(XaiError, ValueError):
    """The data do not fit: wrong width, NaN, infinity, an empty batch, a target out of range."""


class UnfittedModelError(XaiError, ValueError):
    """The model was not fitted before it was handed over."""


class UnsupportedModelError(XaiError, TypeError):
    """No exact network is known for this model, or for one of its options.

    The message names the option, the reason, and the nearest choice that is supported.
    """


class NoRuleError(XaiError, TypeError):
    """A module or operation has no relevance rule and nobody said what to do about it."""


class AmplificationWarning(UserWarning):
    """Relevance came out NaN, or far larger than what was explained: the map is noise."""


class TrainingError(XaiError, RuntimeError):
    """Training cannot begin or go on: a loss that is not finite, a checkpoint that does not fit."""


class CheckpointError(XaiError, ValueError):
    """A checkpoint that is damaged, or whose keys or shapes are not the network's."""


class UntrustedCheckpointError(CheckpointError, PermissionError):
    """Reading the file would run code it contains, and nobody said it may."""


class TrainingWarning(UserWarning):
    """Training ended early, or on doubtful data: the fitted model may be poor."""


class CollapseWarning(UserWarning):
    """The network maps everything onto nearly one point, or is built so that it can."""
