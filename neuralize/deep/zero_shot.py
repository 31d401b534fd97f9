"""Zero-shot anomaly detection with two towers, as in CLIP (Liznerski et al., arXiv 2205.11474).

An image tower gives ``v``, a text tower ``t`` for every prompt, both of length one. With a prompt
for what is normal and one for anything, the score is the difference of CLIP's logits,

    ``o(x) = s <v(x), t_anomaly - t_normal>``,  ``s = 100``,

and with several normal prompts (leave-one-out) ``o(x) = min_j s <v(x), t_anomaly - t_normal_j>``,
which is counted from the nearest of them. It is zero where both are equally near. No training, and
text is embedded once. The softmax of the logits is a probability, but saturates; it is never
explained.

Relevance: ``o`` is linear in ``v``, so ``R_k = s v_k (t_anomaly - t_normal)_k`` adds up to it. The
image tower ends in ``v = u / ||u||``, of degree zero in ``u``, which a gradient times input would
explain by nothing at all; with ``||u||`` held constant it is of degree one, and ``R_k`` belongs to
``u_k``. Then down the tower, where biases, class token, position embedding and the linearised
softmax of attention absorb their share by name. What a map shows is decided by both prompts.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from neuralize.deep.checkpoint import digest
from neuralize.deep.detector import DeepDetector
from neuralize.deep.preprocessing import Standardize
from neuralize.deep.score_network import ScoreNetwork
from neuralize.errors import InputError
from neuralize.inputs import as_rows
from neuralize.score_map import ScoreMap

TextEncoder = Callable[[list[str]], Tensor]

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)


@dataclass(frozen=True)
class Probability(ScoreMap):
    """``1 / (1 + exp(-evidence))``: the softmax of two logits, from their difference.

    Examples
    --------
    >>> map = Probability("probability")
    >>> map(torch.tensor([0.0])).tolist(), map.inverse(0.5), str(map)
    ([0.5], 0.0, 'probability = 1 / (1 + exp(-evidence))')
    """

    def __call__(self, evidence: Tensor) -> Tensor:
        return torch.sigmoid(evidence)

    def inverse(self, original: float) -> float:
        if not 0 < original < 1:
            return float("inf") if original >= 1 else float("-inf")
        return float(np.log(original) - np.log1p(-original))

    def __str__(self) -> str:
        return f"{self.name} = 1 / (1 + exp(-evidence))"


class ZeroShotScore(nn.Module):
    """``min_j s <v, t_anomaly - t_normal_j>``, images ``(n, ...)`` to scores ``(n,)``.

    Attributes
    ----------
    anomaly, normal
        Text features of length one, ``(q,)`` and ``(k, q)``.
    """

    anomaly: Tensor
    normal: Tensor

    def __init__(
        self, steps: nn.Module, tower: nn.Module, anomaly: Tensor, normal: Tensor, scale: float
    ) -> None:
        super().__init__()
        self.preprocessing = steps
        self.tower = tower
        self.scale = scale
        self.register_buffer("anomaly", anomaly)
        self.register_buffer("normal", normal)

    def embed(self, x: Tensor) -> Tensor:
        """Image features of length one ``(n, q)``."""
        return F.normalize(self.tower(self.preprocessing(x)), dim=-1)

    def forward(self, x: Tensor) -> Tensor:
        """Scores of images."""
        directions = self.scale * (self.anomaly - self.normal)
        # entry by entry, so that rules for dense layers leave this one exact
        logits = (self.embed(x)[:, None] * directions).sum(-1)
        return logits[:, 0] if len(directions) == 1 else logits.amin(1)

    def logits(self, x: Tensor) -> Tensor:
        """``s <v, t>`` of every normal prompt, and of the anomaly's ``(n, k + 1)``."""
        return self.scale * self.embed(x) @ torch.cat([self.normal, self.anomaly[None]]).T


def clip_towers(
    model: Any, tokenizer: Callable[[list[str]], Tensor]
) -> tuple[nn.Module, TextEncoder]:
    """Image and text encoder of an open_clip model.

    Examples
    --------
    >>> class Tiny(nn.Module):
    ...     visual = nn.Flatten()
    ...     def encode_text(self, tokens):
    ...         return tokens.float()
    >>> def tokenizer(prompts):
    ...     return torch.tensor([[len(prompt), 1] for prompt in prompts])
    >>> image, text = clip_towers(Tiny(), tokenizer)
    >>> text(["a dog"]).tolist()
    [[5.0, 1.0]]
    """
    visual = getattr(model, "visual", None)
    if not isinstance(visual, nn.Module) or not callable(getattr(model, "encode_text", None)):
        raise InputError(
            "Expected a model with an image tower .visual and a method .encode_text, as open_clip "
            f"makes them, got {type(model).__name__}. Pass any other two encoders to ZeroShot."
        )

    def text(prompts: list[str]) -> Tensor:
        features: Tensor = model.encode_text(tokenizer(prompts))
        return features

    return visual, text


class ZeroShot(DeepDetector):
    """Detector that is told in words what is normal; it needs no training.

    Parameters
    ----------
    image_encoder
        Images ``(n, ...)`` to features ``(n, q)``; copied.
    text_encoder
        Prompts to features ``(m, q)``. For an open_clip model see :func:`clip_towers`.
    normal
        What is normal, in words; the nearest of several counts.
    anomaly
        Prompt of everything.
    template
        Makes a prompt of what is normal; ``"{}"`` takes it as it is.
    input_shape
        Of one image.
    mean, std
        Per channel, of images from 0 to 1; CLIP's own unless given, none if None.
    scale
        Of the logits; CLIP's learned one is 100.
    contamination
        Share of the rows given to ``fit`` above the threshold. When missing, the threshold is zero,
        where the prompts are equally near.

    Attributes
    ----------
    prompts_
        The normal prompts, then the anomaly's.

    Examples
    --------
    >>> words = {"a photo of a dress": [1.0, 0.0], "a photo of something": [0.6, 0.8]}
    >>> def embed(prompts):
    ...     return torch.tensor([words[prompt] for prompt in prompts])
    >>> detector = ZeroShot(
    ...     nn.Identity(), embed, normal="dress", input_shape=(2,), mean=None).fit()
    >>> detector
    ZeroShot('a photo of something' against 'a photo of a dress')
    >>> detector.predict([[2.0, 0.1], [0.1, 2.0]]).tolist()
    [0, 1]
    """

    def __init__(
        self,
        image_encoder: nn.Module,
        text_encoder: TextEncoder,
        *,
        normal: str | Sequence[str],
        anomaly: str = "a photo of something",
        template: str = "a photo of a {}",
        input_shape: Sequence[int] = (3, 224, 224),
        mean: Sequence[float] | None = CLIP_MEAN,
        std: Sequence[float] = CLIP_STD,
        scale: float = 100.0,
        contamination: float | None = None,
    ) -> None:
        self.image_encoder = image_encoder
        self.text_encoder = text_encoder
        self.normal = normal
        self.anomaly = anomaly
        self.template = template
        self.input_shape = input_shape
        self.mean = mean
        self.std = std
        self.scale = scale
        self.contamination = contamination  # type: ignore[assignment]

    @property
    def prompts_(self) -> tuple[str, ...]:
        names = (self.normal,) if isinstance(self.normal, str) else tuple(self.normal)
        return (*(self.template.format(name) for name in names), self.anomaly)

    @property
    def evidence_name(self) -> str:  # type: ignore[override]
        """The score in words, with its prompts: they decide what it means."""
        *normal, anomaly = map(repr, self.prompts_)
        against = normal[0] if len(normal) == 1 else f"the nearest of {', '.join(normal)}"
        return f"logit of {anomaly} minus that of {against}"

    def __repr__(self, N_CHAR_MAX: int = 700) -> str:
        *normal, anomaly = map(repr, self.prompts_)
        return f"{type(self).__name__}({anomaly} against {', '.join(normal)})"

    def fit(self, X: Any = None, y: Any = None) -> Self:
        """Embed the prompts; images ``X``, which need no labels, are for the threshold only.

        Raises
        ------
        InputError
            Encoders whose features do not fit, prompts that mean the same to the text encoder,
            a contamination without images.
        """
        self._check(X)
        self.input_shape_ = tuple(map(int, self.input_shape))
        self.history_ = {}
        x = None if X is None else as_rows(X, np.float32)
        self.module_, self.config_ = self._train(torch.zeros(1, *self.input_shape_), None)
        self.threshold_, self.data_sha256_ = 0.0, ""
        if x is not None:
            self.data_sha256_ = digest(x)
            self.decision_scores_ = self._scores(x).astype(np.float64)
            if self.contamination is not None:
                quantile = np.quantile(self.decision_scores_, 1 - self.contamination)
                self.threshold_ = float(quantile)
        return self

    def probability(self, X: Any) -> NDArray[Any]:
        """Softmax of the logits of all prompts, at the anomaly's ``(n,)``; it saturates."""
        found: NDArray[Any] = self._logits(X).softmax(1)[:, -1].numpy()
        return found

    def nearest_prompt(self, X: Any) -> list[str]:
        """The normal prompt that each image was held against."""
        nearest = self._logits(X)[:, :-1].argmax(1).tolist()
        return [self.prompts_[j] for j in nearest]

    def neuralized(self) -> ScoreNetwork:
        self._require_fitted()
        single = len(self.prompts_) == 2
        return ScoreNetwork(
            self.module_,
            input_shape=self.input_shape_,
            evidence_name=self.evidence_name,
            threshold=self.threshold_,
            model_name=repr(self),
            score_map=Probability("probability") if single else None,
            composite=self._composite(self.module_),
        )

    # -- inside ----------------------------------------------------------------------------------

    def _logits(self, X: Any) -> Tensor:
        self._require_fitted()
        module = self.module_
        assert isinstance(module, ZeroShotScore)
        return torch.from_numpy(self._mapped(X, module.logits))

    def _check(self, X: Any) -> None:
        if not self.prompts_[:-1] or not all(isinstance(p, str) and p for p in self.prompts_):
            raise InputError(
                f"Expected in words what is normal, and what is not, got normal={self.normal!r} "
                f"and anomaly={self.anomaly!r}."
            )
        if not 0 < self.scale < float("inf"):
            raise InputError(f"Expected a finite scale above 0, got {self.scale}.")
        if self.contamination is None:
            return
        if not 0 < self.contamination < 1:
            raise InputError(f"Expected contamination between 0 and 1, got {self.contamination}.")
        if X is None:
            raise InputError(
                "Expected images to take the threshold from, got none. Pass fit(images), or "
                "contamination=None for a threshold of zero."
            )

    def _train(self, x: Tensor, y: Tensor | None) -> tuple[nn.Module, dict[str, Any]]:
        text = self._text_features()
        module = self._module(self.image_encoder, len(text) - 1, text.shape[1])
        module.normal.copy_(text[:-1])
        module.anomaly.copy_(text[-1])
        with torch.no_grad():
            features = module.tower(module.preprocessing(x))
        if tuple(features.shape) != (1, text.shape[1]):
            raise InputError(
                f"Expected image features (1, {text.shape[1]}), as many as the text encoder has, "
                f"got {tuple(features.shape)} for one image."
            )
        return module, {"prompts": list(self.prompts_), "features": int(text.shape[1])}

    def _text_features(self) -> Tensor:
        """Of the normal prompts, then of the anomaly's, of length one ``(k + 1, q)``."""
        prompts = list(self.prompts_)
        if not callable(self.text_encoder):
            raise InputError(
                f"Expected a function from prompts to features, got {self.text_encoder!r}. A "
                "detector from a file has its prompts' features; make a new one for other prompts."
            )
        with torch.no_grad():
            found = self.text_encoder(prompts)
        if not isinstance(found, Tensor) or found.ndim != 2 or len(found) != len(prompts):
            shape = tuple(found.shape) if isinstance(found, Tensor) else type(found).__name__
            raise InputError(
                f"Expected text features ({len(prompts)}, q), one per prompt, got {shape}."
            )
        text = F.normalize(found.detach().cpu().float(), dim=1)
        if not bool(text.isfinite().all()) or not bool((text.norm(dim=1) > 0).all()):
            raise InputError("Expected finite text features that are not zero.")
        for j, prompt in enumerate(prompts[:-1]):
            if torch.allclose(text[j], text[-1], atol=1e-6):
                raise InputError(
                    f"The text encoder gives {prompt!r} and {prompts[-1]!r} the same features: "
                    "they tell nothing apart. Use other words."
                )
        return text

    def _module(self, tower: nn.Module, k: int, q: int) -> ZeroShotScore:
        steps: list[nn.Module] = []
        if self.mean is not None:
            shape = self.input_shape_
            if len(shape) != 3 or not len(self.mean) == len(self.std) == shape[0]:
                raise InputError(
                    f"Expected images (c, h, w) with a mean and std per channel, got shape {shape} "
                    f"with {len(self.mean)} and {len(self.std)}; pass mean=None to leave them out."
                )
            standard = Standardize(shape)
            standard.mean.copy_(torch.tensor(self.mean)[:, None, None])
            standard.std.copy_(torch.tensor(self.std)[:, None, None])
            steps.append(standard)
        tower = copy.deepcopy(tower).eval().requires_grad_(False)
        return ZeroShotScore(
            nn.Sequential(*steps), tower, torch.zeros(q), torch.zeros(k, q), self.scale
        )

    def _build(self, config: dict[str, Any], network: nn.Module | None) -> nn.Module:
        if network is None:
            raise InputError(
                "The detector stands on an image encoder of the user's own; pass it as network=."
            )
        return self._module(network, len(config["prompts"]) - 1, config["features"])
