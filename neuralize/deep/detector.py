"""What deep detectors share: scikit-learn's interface, a scoring module, and a manifest.

A detector is hyper-parameters and, once fitted, one module whose ``forward`` is the decision:
preprocessed rows to scores ``(n,)``. Everything else follows from it: ``decision_function``,
``predict``, saving, and the network that :func:`neuralize.neuralize` explains.
"""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.base import BaseEstimator
from torch import Tensor, nn

from neuralize.convert import register_converter
from neuralize.deep.checkpoint import Manifest, digest, read_checkpoint
from neuralize.deep.networks import Architecture
from neuralize.deep.score_network import ScoreNetwork
from neuralize.deep.training import Training
from neuralize.encoder import evaluating
from neuralize.errors import CheckpointError, InputError, UnfittedModelError
from neuralize.inputs import as_rows
from neuralize.network import Neuralized
from neuralize.sealed import write_sealed
from neuralize.seeding import seeded

Array = NDArray[Any]

SCORED_AT_ONCE = 2**20
"""Input numbers scored together."""


class DeepDetector(BaseEstimator, ABC):
    """Base of the deep detectors. Signs are PyOD's: higher is more abnormal, outliers are 1.

    A subclass has a keyword-only ``__init__`` that stores its parameters, among them
    ``contamination``, and gives :meth:`_train` and :meth:`_build`.

    Attributes
    ----------
    module_
        The decision: rows ``(n, ...)`` to scores ``(n,)``.
    config_
        What :meth:`_build` needs to make an empty one, JSON.
    threshold_
        Outlier iff the score is larger: the ``1 - contamination`` quantile of the scores of the
        training rows that are not labelled as outliers. None where it was read from a file of
        others that holds none; :meth:`calibrate` sets it.
    decision_scores_
        Their scores ``(n,)``; not stored in checkpoints.
    input_shape_
        Of one row.
    feature_names_in_
        Columns, where it was fitted on a DataFrame.
    history_
        Mean losses per epoch, by phase.
    data_sha256_
        Digest of the training rows.
    """

    evidence_name: ClassVar[str] = "outlier score"
    contamination: float

    _registry: ClassVar[dict[str, type[DeepDetector]]] = {}

    module_: nn.Module
    config_: dict[str, Any]
    threshold_: float | None
    decision_scores_: Array
    input_shape_: tuple[int, ...]
    feature_names_in_: Array
    history_: dict[str, list[float]]
    data_sha256_: str

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        DeepDetector._registry[cls.__name__] = cls

    # -- what a subclass gives -----------------------------------------------------------------

    @abstractmethod
    def _train(self, x: Tensor, y: Tensor | None) -> tuple[nn.Module, dict[str, Any]]:
        """Fit to ``x`` ``(n, ...)``: the scoring module, and the configuration it was built by.

        May put losses into ``self.history_``. Runs with seeded random numbers.
        """

    @abstractmethod
    def _build(self, config: dict[str, Any], network: nn.Module | None) -> nn.Module:
        """An unfitted scoring module of that configuration; ``network`` where it was the user's."""

    def _labels(self, y: Any, n: int) -> Tensor | None:
        """Check and convert what ``fit`` got as ``y``; a detector without labels ignores it."""
        return None

    def _presumed_normal(self, y: Tensor | None, n: int) -> Tensor:
        """Rows that count for the threshold ``(n,)``, boolean."""
        return torch.ones(n, dtype=torch.bool)

    def _training_scores(self, x: Tensor, y: Tensor | None) -> Array:
        """Scores ``(n,)`` that the threshold is a quantile of.

        A detector that remembers its training rows scores each without itself, and leaves these
        scores as ``_left_out``.
        """
        left_out: Array | None = self.__dict__.pop("_left_out", None)
        if left_out is not None:
            return left_out
        return self._scores(x[self._presumed_normal(y, len(x))])

    def _after(self, x: Tensor, y: Tensor | None) -> None:
        """What is measured on the fitted detector (collapse)."""

    def _composite(self, module: nn.Module) -> Any:
        """Rules of the explanation; None for the preset of the network's family."""
        return None

    # -- what everyone uses --------------------------------------------------------------------

    def fit(self, X: Any, y: Any = None) -> Self:
        """Fit to rows ``X`` ``(n, d)``, or pictures ``(n, h, w)`` or ``(n, c, h, w)``.

        Raises
        ------
        InputError
            Too few rows, NaN, a shape or labels the detector does not take.
        TrainingError
            A loss that is not finite from the start.
        """
        if not 0 < self.contamination < 1:
            raise InputError(
                f"Expected contamination between 0 and 1, got {self.contamination}: it is the "
                "share of the training rows that lies above the threshold."
            )
        x = as_rows(X, np.float32)
        if len(x) < 2:
            raise InputError(f"Expected at least 2 rows to fit to, got {len(x)}.")
        labels = self._labels(y, len(x))
        names = getattr(X, "columns", None)
        if hasattr(self, "feature_names_in_"):
            del self.feature_names_in_
        if names is not None:
            self.feature_names_in_ = np.array([str(name) for name in names], dtype=object)
        self.input_shape_ = tuple(x.shape[1:])
        self.data_sha256_ = digest(x)
        self.history_ = {}
        with seeded(self._seed()):
            module, self.config_ = self._train(x, labels)
        self.module_ = module.eval()
        self.decision_scores_ = self._training_scores(x, labels).astype(np.float64)
        self.threshold_ = float(np.quantile(self.decision_scores_, 1 - self.contamination))
        self._after(x, labels)
        return self

    def decision_function(self, X: Any) -> Array:
        """Scores ``(n,)``; higher is more abnormal."""
        return self._mapped(X, lambda x: self.module_(x))

    def predict(self, X: Any) -> Array:
        """1 for outliers, 0 for others ``(n,)``, as in PyOD.

        Raises
        ------
        InputError
            A detector from a file of others that holds no threshold.
        """
        self._require_fitted()
        if self.threshold_ is None:
            raise InputError(
                f"{type(self).__name__} has no threshold, so it decides nothing: the file it was "
                "read from holds none. Call calibrate(X) on normal rows, or set threshold_."
            )
        return (self.decision_function(X) > self.threshold_).astype(np.int64)

    def calibrate(self, X: Any) -> Self:
        """Set ``threshold_`` to the ``1 - contamination`` quantile of the scores of ``X``."""
        self.threshold_ = float(np.quantile(self.decision_function(X), 1 - self.contamination))
        return self

    def neuralized(self) -> Neuralized:
        """The network equal to the decision; :func:`neuralize.neuralize` calls this."""
        self._require_fitted()
        return ScoreNetwork(
            self.module_,
            input_shape=self.input_shape_,
            evidence_name=self.evidence_name,
            threshold=self.threshold_,
            model_name=type(self).__name__,
            composite=self._composite(self.module_),
        )

    # -- files -----------------------------------------------------------------------------------

    def save(self, path: Path | str) -> Path:
        """Write weights as ``.safetensors``, and the manifest beside them as ``.json``.

        The manifest holds what a bare state dict lacks: architecture, preprocessing, input shape,
        threshold, a digest of the data, versions. Returns the path of the weights.
        """
        self._require_fitted()
        names = getattr(self, "feature_names_in_", None)
        manifest = Manifest.of(
            detector=type(self).__name__,
            parameters=_encoded(self.get_params(deep=False)),
            config=self.config_,
            input_shape=self.input_shape_,
            feature_names=None if names is None else tuple(names),
            threshold=self.threshold_,
            data_sha256=self.data_sha256_,
            history=self.history_,
        )
        return write_sealed(Path(path), self.module_.state_dict(), manifest)

    # -- inside ----------------------------------------------------------------------------------

    def _seed(self) -> int:
        training = getattr(self, "training", None)
        return training.seed if isinstance(training, Training) else getattr(self, "seed", 0)

    def _require_fitted(self) -> None:
        if not hasattr(self, "module_"):
            raise UnfittedModelError(
                f"{type(self).__name__} is not fitted yet. Call .fit(data) first."
            )

    def _known_rows(self, X: Any) -> Tensor:
        """Rows as float32, of the shape and the columns the detector was fitted on."""
        self._require_fitted()
        names, columns = getattr(self, "feature_names_in_", None), getattr(X, "columns", None)
        if names is not None and columns is not None and list(map(str, columns)) != list(names):
            raise InputError(
                f"Expected the columns {type(self).__name__} was fitted on, in their order: "
                f"{_some(list(names))}; got {_some([str(column) for column in columns])}."
            )
        x = as_rows(X, np.float32)
        self._require_shape(x)
        return x

    def _mapped(
        self, X: Any, of: Callable[[Tensor], Tensor], at_once: int = SCORED_AT_ONCE
    ) -> Array:
        """``of`` the rows, ``at_once`` input numbers together: something beside the score."""
        return self._in_parts(self._known_rows(X), of, at_once)

    def _in_parts(self, x: Tensor, of: Callable[[Tensor], Tensor], at_once: int) -> Array:
        rows = max(1, at_once // max(1, x[0].numel()))
        with torch.no_grad(), evaluating(self.module_):
            found: Array = torch.cat([of(part) for part in x.split(rows)]).numpy()
        return found

    def _require_shape(self, x: Tensor) -> None:
        if tuple(x.shape[1:]) != self.input_shape_:
            raise InputError(
                f"Expected rows of shape {self.input_shape_}, which {type(self).__name__} was "
                f"fitted on, got {tuple(x.shape[1:])}."
            )

    def _scores(self, x: Tensor) -> Array:
        self._require_shape(x)
        return self._in_parts(x, self.module_, SCORED_AT_ONCE)


def load_detector(path: Path | str, network: nn.Module | None = None) -> DeepDetector:
    """A fitted detector from its checkpoint, without running code from the file.

    Parameters
    ----------
    path
        The ``.safetensors`` or its manifest ``.json``.
    network
        The architecture, where the detector was fitted on a module of the user's own; its weights
        are overwritten.

    Raises
    ------
    CheckpointError
        A file that is missing or damaged, or whose keys or shapes are not the network's.
    """
    state, manifest = read_checkpoint(Path(path))
    cls = DeepDetector._registry.get(manifest.detector)
    if cls is None:
        known = ", ".join(sorted(DeepDetector._registry))
        raise CheckpointError(f"{path}: expected a detector of {known}, got {manifest.detector!r}.")
    try:
        detector = cls(**_decoded(manifest.parameters))
    except (TypeError, ValueError) as error:
        raise CheckpointError(f"{path}: parameters of {cls.__name__}: {error}") from error
    detector.input_shape_ = manifest.input_shape
    detector.config_ = manifest.config
    detector.threshold_ = manifest.threshold
    detector.history_ = manifest.history
    detector.data_sha256_ = manifest.data_sha256
    if manifest.feature_names is not None:
        detector.feature_names_in_ = np.array(manifest.feature_names, dtype=object)
    with seeded(0):
        module = detector._build(manifest.config, copy.deepcopy(network))
    load_strictly(module, state, path)
    detector.module_ = module.eval()
    return detector


def load_strictly(
    module: nn.Module,
    state: dict[str, Tensor],
    source: Path | str,
    names: Mapping[str, str] | None = None,
) -> None:
    """Load weights, or say which keys and shapes do not fit.

    ``names`` says what the file calls each of the module's own keys, where it differs.

    Raises
    ------
    CheckpointError
        Missing or unexpected keys, other shapes, values that are not finite.
    """
    called = {name: (names or {}).get(name, name) for name in module.state_dict()}
    own = {called[name]: tensor for name, tensor in module.state_dict().items()}
    missing, unexpected = sorted(own.keys() - state.keys()), sorted(state.keys() - own.keys())
    shapes = [
        f"{name} {tuple(state[name].shape)} instead of {tuple(own[name].shape)}"
        for name in sorted(own.keys() & state.keys())
        if own[name].shape != state[name].shape
    ]
    problems = [
        f"{len(names)} {what} ({_some(names)})"
        for what, names in (
            ("missing keys", missing), ("unexpected keys", unexpected), ("other shapes", shapes),
        )
        if names
    ]  # fmt: skip
    if problems:
        raise CheckpointError(
            f"{source} does not fit the network: {'; '.join(problems)}. Is it the checkpoint of "
            "this detector, and of this architecture?"
        )
    bad = [n for n, t in state.items() if t.is_floating_point() and not torch.isfinite(t).all()]
    if bad:
        raise CheckpointError(f"{source}: {len(bad)} weights are NaN or infinite ({_some(bad)}).")
    module.load_state_dict({name: state[called[name]] for name in called})


def _some(names: Sequence[str], limit: int = 5) -> str:
    more = len(names) - limit
    return ", ".join(names[:limit]) + (f" and {more} more" if more > 0 else "")


def _encoded(parameters: dict[str, Any]) -> dict[str, Any]:
    """Parameters as JSON: training by its fields, a user's module or function by its name."""
    found: dict[str, Any] = {}
    for name, value in parameters.items():
        if isinstance(value, Training):
            value = {field: getattr(value, field) for field in value.__dataclass_fields__}
            value.update(checkpoint=None, progress=True, device="cpu")
        elif isinstance(value, Architecture):
            value = value.model_dump(mode="json")
        elif isinstance(value, nn.Module) or callable(value):
            kind = value if hasattr(value, "__qualname__") else type(value)
            value = f"{kind.__module__}.{kind.__qualname__}"
        elif isinstance(value, DeepDetector):
            value = {"detector": type(value).__name__, **_encoded(value.get_params(deep=False))}
        found[name] = value
    return found


def _decoded(parameters: dict[str, Any]) -> dict[str, Any]:
    return {name: _restored(value) for name, value in parameters.items()}


def _restored(value: Any) -> Any:
    """What :func:`_encoded` made JSON of, by its fields."""
    if isinstance(value, list):
        return tuple(value)
    if isinstance(value, dict) and set(value) == set(Training.__dataclass_fields__):
        return Training(**{name: _restored(entry) for name, entry in value.items()})
    if isinstance(value, dict) and set(value) == set(Architecture.model_fields):
        return Architecture(**value)
    return value


@register_converter(DeepDetector)
def convert_detector(model: DeepDetector) -> Any:
    """A detector's own network."""
    return model.neuralized()
