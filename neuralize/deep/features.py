"""Encoders below a detector: a user's network as it is, or the codes of an autoencoder."""

from __future__ import annotations

from typing import Any

from sklearn.base import clone
from torch import Tensor, nn

from neuralize.deep.autoencoder import (
    RULES,
    Autoencoder,
    AutoencoderScore,
    VariationalScore,
)
from neuralize.deep.detector import DeepDetector
from neuralize.deep.embedding import frozen
from neuralize.errors import InputError

Features = nn.Module | Autoencoder
"""What features are made by."""


class Codes(nn.Module):
    """An autoencoder without its decoder: rows to codes ``(n, q)``, the mean ones of a VAE."""

    def __init__(self, score: AutoencoderScore) -> None:
        super().__init__()
        self.preprocessing, self.encoder = score.preprocessing, score.encoder
        self.variational = isinstance(score, VariationalScore)

    def forward(self, x: Tensor) -> Tensor:
        """Codes of rows."""
        z: Tensor = self.encoder(self.preprocessing(x))
        return z.chunk(2, 1)[0] if self.variational else z


def fit_features(
    features: Features, x: Tensor, history: dict[str, list[float]]
) -> tuple[nn.Module, dict[str, Any]]:
    """A frozen encoder of rows ``(n, ...)``, and what :func:`build_features` makes it from.

    An autoencoder that is not fitted yet is cloned and fitted to ``x``; its losses go into
    ``history``.

    Raises
    ------
    InputError
        Neither a network nor an autoencoder.
    """
    if isinstance(features, Autoencoder):
        below: Autoencoder = features
        if not hasattr(below, "module_"):
            below = clone(below).fit(x)
            history |= below.history_
        score = below.module_
        assert isinstance(score, AutoencoderScore)
        encoder: nn.Module = Codes(score)
        config = {"autoencoder": type(below).__name__, **below.config_}
    elif isinstance(features, nn.Module):
        encoder, config = features, {"autoencoder": None}
    else:
        raise InputError(
            "Expected features: an nn.Module from rows to (n, q), or an Autoencoder, got "
            f"{type(features).__name__}."
        )
    return frozen(encoder), config


def build_features(
    config: dict[str, Any], input_shape: tuple[int, ...], network: nn.Module | None
) -> nn.Module:
    """The encoder of that configuration, with fresh weights; ``network`` is the user's own."""
    config = dict(config)
    name = config.pop("autoencoder")
    if name is None:
        if network is None:
            raise InputError(
                "The detector was fitted on features of a network of the user's own; pass it as "
                "network=."
            )
        return network
    detector = DeepDetector._registry[name]()
    detector.input_shape_ = input_shape
    score = detector._build(config, network)
    assert isinstance(score, AutoencoderScore)
    return Codes(score)


def encoder_rules(features: nn.Module) -> Any:
    """Rules for the encoder where the caller names none: an autoencoder's own, or None."""
    return RULES if isinstance(features, Codes) else None
