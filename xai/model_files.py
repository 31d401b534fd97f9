"""Models from files, without running code that a file contains."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from neuralize.harmless_types import HARMLESS
from xai.errors import FileFormatError, InputError, UntrustedFileError
from xai.file_formats import (
    ARRAYS,
    is_pickle,
    is_torch_file,
    listed,
    read_array,
    read_table,
    require_file,
    require_numbers,
    require_sound_archive,
)
from xai.tree_checks import check_trees

PICKLES = (".joblib", ".pickle", ".pkl")
CENTROIDS = (*ARRAYS, ".csv")
DETECTORS = (".safetensors", ".json")
FOREIGN = (".ckpt", ".pt", ".pth", ".tar")
ENSEMBLE = "ensemble.json"

# Beside what is harmless by itself: clusterings, and trees, which are checked after loading.
_SAFE = HARMLESS | {
    "neuralize.kernel_kmeans.KernelKMeans",
    "pyod.models.cblof.CBLOF",
    "pyod.models.iforest.IForest",
    "sklearn.cluster._bisect_k_means._BisectingTree",
    "sklearn.cluster._kmeans._kmeans_single_elkan",
    "sklearn.cluster._kmeans._kmeans_single_lloyd",
    "sklearn.tree._tree.Tree",
}


class ModelFile(NamedTuple):
    """A fitted model, and the names of the columns it was fitted on, where it knows them."""

    model: Any
    feature_names: tuple[str, ...] | None = None


def read_model(
    path: Path | str, *, trust: bool = False, given: Mapping[str, Any] | None = None
) -> ModelFile:
    """Read a fitted model.

    Parameters
    ----------
    path
        ``.skops``; ``.npy``, ``.npz`` or ``.csv`` with centroids ``(K, d)`` (in an archive: the
        array ``centroids`` or the only one); ``.safetensors`` or its manifest ``.json``, as
        ``save`` of a deep detector writes them, or the folder of an ensemble; ``.pt``, ``.pth``,
        ``.tar`` or ``.ckpt`` as other projects do; with ``trust`` also ``.joblib``, ``.pkl``,
        ``.pickle``
    trust
        Let the file run code: pickles, and types in ``.skops`` files that are not known to be safe.
        Only for files whose origin you trust.
    given
        What a file of another project does not say; options of
        :func:`neuralize.deep.import_detector`.

    Raises
    ------
    UntrustedFileError
        Reading the file could run code in it; pickles are recognised by their content.
    FileFormatError
        A file that is missing, empty, damaged or of unknown type.
    CheckpointError
        A detector's file that is damaged or does not fit its network.
    InputError
        Something is given that has no use with this file.

    Examples
    --------
    >>> import skops.io
    >>> from tempfile import TemporaryDirectory
    >>> from sklearn.cluster import KMeans
    >>> fitted = KMeans(2, n_init=1).fit([[0.0], [1.0], [5.0]])
    >>> with TemporaryDirectory() as folder:
    ...     path = Path(folder, "model.skops")
    ...     skops.io.dump(fitted, path)
    ...     read_model(path).model
    KMeans(n_clusters=2, n_init=1)
    """
    if Path(path, ENSEMBLE).is_file():
        return _read_detector(Path(path), trust, given or {})
    path = require_file(path)
    suffix = path.suffix.lower()
    if suffix in DETECTORS + FOREIGN and (is_torch_file(path) or not is_pickle(path)):
        return _read_detector(path, trust, given or {})
    _require_nothing_given(path, given or {})
    if suffix in PICKLES or is_pickle(path):
        model = _read_pickle(path, trust)
    elif suffix == ".skops":
        model = _read_skops(path, trust)
    elif suffix in CENTROIDS:
        return _read_centroids(path)
    else:
        raise FileFormatError(
            f"Expected a model as .skops, centroids as {', '.join(CENTROIDS)}, a detector as "
            f"{', '.join(DETECTORS)} or of another project ({', '.join(FOREIGN)}), or with --trust "
            f"a pickle ({', '.join(PICKLES)}), got {path} ({suffix or 'no suffix'}). Save "
            "scikit-learn and PyOD models with skops.io.dump(model, 'model.skops')."
        )
    return _named(model)


def _named(model: Any) -> ModelFile:
    names = getattr(model, "feature_names_in_", None)
    return ModelFile(model, None if names is None else tuple(map(str, names)))


def _read_detector(path: Path, trust: bool, given: Mapping[str, Any]) -> ModelFile:
    from neuralize.deep import import_detector, load_detector

    if path.suffix.lower() in FOREIGN and path.is_file():
        return _named(import_detector(path, trust=trust, **given))
    _require_nothing_given(path, given)
    if path.is_file():
        from xai.repaired_files import is_repaired, load_repaired

        if is_repaired(path):
            return _named(load_repaired(path, trust=trust))
    if path.is_dir():
        from neuralize.deep.ensemble import Ensemble

        return _named(Ensemble.load(path))
    return _named(load_detector(path))


def _require_nothing_given(path: Path, given: Mapping[str, Any]) -> None:
    if given:
        raise InputError(
            f"--given {listed(list(given))}: what is given is for checkpoints of other projects "
            f"({', '.join(FOREIGN)}), and {path} says it all."
        )


def _read_pickle(path: Path, trust: bool) -> Any:
    if not trust:
        raise UntrustedFileError(
            f"{path} is a pickle, and reading a pickle runs whatever code it contains. Save the "
            "model with skops.io.dump(model, 'model.skops'), or pass --trust if you know where the "
            "file comes from."
        )
    import joblib

    try:
        return joblib.load(path)
    except Exception as error:  # unpickling runs foreign code, which may raise anything
        raise FileFormatError(
            f"Cannot unpickle {path}: {type(error).__name__}: {error}. It needs the libraries, in "
            "about the versions, that the model was saved with."
        ) from error


def _read_skops(path: Path, trust: bool) -> Any:
    import skops.io

    require_sound_archive(path)
    try:
        types = skops.io.get_untrusted_types(file=path)
    except Exception as error:  # a crafted or damaged archive can trip skops in many ways
        raise FileFormatError(
            f"Cannot read {path} as .skops: {type(error).__name__}: {error}"
        ) from error
    unknown = [name for name in types if name not in _SAFE]
    if unknown and not trust:
        raise UntrustedFileError(
            f"{path} contains {listed(unknown)}, which are not known to be safe to load. Pass "
            "--trust if you know where the file comes from."
        )
    try:
        model = skops.io.load(path, trusted=types)
    except Exception as error:
        raise FileFormatError(
            f"Cannot read {path} as .skops: {type(error).__name__}: {error}. It needs the "
            "libraries, in about the versions, that the model was saved with."
        ) from error
    if not trust:
        check_trees(model)
    return model


def _read_centroids(path: Path) -> ModelFile:
    if path.suffix.lower() in ARRAYS:
        array = require_numbers(read_array(path, names=("centroids",)), path)
        return ModelFile(array)
    table = read_table(path)
    array = require_numbers(table.to_numpy(), path)
    named = [column for i, column in enumerate(table.columns) if column != f"feature {i}"]
    return ModelFile(array, tuple(table.columns) if named else None)
