"""``import_detector``: a fitted detector from a checkpoint of another project."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor, nn

from neuralize.deep.detector import DeepDetector
from neuralize.deep.readers import anomalib, eoe, fcdd, ruff
from neuralize.deep.readers.assemble import Source
from neuralize.deep.readers.content import read_content
from neuralize.deep.readers.given import Activation, Exposure, Given, Numbers
from neuralize.errors import CheckpointError, InputError


class Reader(NamedTuple):
    """How one format is recognised and read, and what the caller may have to add."""

    recognises: Callable[[Any], bool]
    read: Callable[[Any, Given, Source], DeepDetector]
    uses: Sequence[str]


READERS = {
    "anomalib-patchcore": Reader(
        anomalib.is_patchcore, anomalib.read_patchcore, anomalib.PATCHCORE_USES
    ),
    "anomalib-padim": Reader(anomalib.is_padim, anomalib.read_padim, anomalib.USES),
    "deep-svdd": Reader(ruff.is_deep_svdd, ruff.read_deep_svdd, ruff.USES),
    "deep-sad": Reader(ruff.is_deep_sad, ruff.read_deep_sad, ruff.USES),
    "eoe": Reader(eoe.is_eoe, eoe.read_eoe, eoe.USES),
    "fcdd": Reader(fcdd.is_fcdd, fcdd.read_fcdd, fcdd.USES),
}
"""Formats by name, the more particular ones first."""


def import_detector(
    path: Path | str,
    *,
    format: str = "auto",
    network: nn.Module | None = None,
    input_shape: Sequence[int] | None = None,
    normalize: str | tuple[Numbers, Numbers] | None = None,
    contrast: str | tuple[float, float] | None = None,
    units: float | None = None,
    activation: Activation | None = None,
    objective: Exposure | None = None,
    center: Numbers | Tensor | None = None,
    layers: Sequence[str] | None = None,
    neighbors: int | None = None,
    threshold: float | None = None,
    trust: bool = False,
) -> DeepDetector:
    """Read a detector that another project trained, by the names in its file.

    Nothing of that project is imported, and no code in the file is run. Whatever the file does not
    say has to be given; ``save`` then writes a checkpoint that is complete.

    Parameters
    ----------
    path
        ``model.tar`` of Deep-SVDD-PyTorch or Deep-SAD-PyTorch, ``snapshot.pt`` of fcdd or eoe,
        ``.ckpt`` of anomalib's PatchCore or PaDiM.
    format
        ``"deep-svdd"``, ``"deep-sad"``, ``"fcdd"``, ``"eoe"``, ``"anomalib-patchcore"``,
        ``"anomalib-padim"``; ``"auto"`` tells by the content.
    network
        The module whose weights the file holds (of anomalib: the backbone), where it is none of the
        project's own and no ResNet; its weights are replaced in a copy.
    input_shape
        Of one row, ``(h, w)``, ``(c, h, w)`` or ``(d,)``; by the network when missing.
    normalize
        ``(mean, std)`` by channel or column, of the data the network was trained on, in units of 1,
        or ``"imagenet"``. eoe's file says it; anomalib's default is assumed.
    contrast
        Contrast normalisation instead: ``(low, high)``, or the authors' own for a normal class,
        ``"mnist:3"``, ``"fmnist:3"``, ``"cifar10:3"``.
    units
        Largest value of a pixel in your data, 1 or 255; 1 when missing.
    activation
        ``"elu"`` for ``cifar10_LeNet_ELU``, whose keys are those of ``cifar10_LeNet``.
    objective, center
        Of eoe: ``"hsc"``, ``"bce"``, ``"focal"``, ``"dsad"``, ``"dsvdd"``, which needs a centre.
    layers, neighbors
        Of anomalib, where its file has no hyper-parameters: the layers that features come from, and
        ``num_neighbors`` of PatchCore.
    threshold
        Outlier iff the score is larger. Without one the detector scores and explains; see
        :meth:`DeepDetector.calibrate`.
    trust
        Let the file run code. Only for files whose origin you trust.

    Raises
    ------
    CheckpointError
        A file that is missing, damaged, of no known format, or whose keys or shapes are not the
        network's.
    UntrustedCheckpointError
        Reading it could run code, and ``trust`` is not set.
    InputError
        Something is given that does not fit, or something needed is missing.

    Examples
    --------
    >>> import torch
    >>> from tempfile import TemporaryDirectory
    >>> net = {"hidden.0.linear.weight": torch.ones(3, 2), "code.weight": torch.ones(1, 3),
    ...        "hidden.0.bn.running_mean": torch.zeros(3), "hidden.0.bn.running_var": torch.ones(3)}
    >>> with TemporaryDirectory() as folder:
    ...     path = Path(folder, "model.tar")
    ...     torch.save({"R": 2.0, "c": [1.0], "net_dict": net, "ae_net_dict": None}, path)
    ...     detector = import_detector(path)
    >>> type(detector).__name__, detector.input_shape_, detector.threshold_
    ('DeepSVDD', (2,), 0.0)
    >>> [round(score, 2) for score in detector.decision_function([[0.0, 0.0], [1.0, 1.0]]).tolist()]
    [-3.0, 21.0]
    """
    given = Given(
        network=network,
        input_shape=None if input_shape is None else tuple(input_shape),
        normalize=normalize,
        contrast=contrast,
        units=units,
        activation=activation,
        objective=objective,
        center=center,
        layers=None if layers is None else tuple(layers),
        neighbors=neighbors,
        threshold=threshold,
    )
    if format != "auto" and format not in READERS:
        raise InputError(
            f"Expected format 'auto', {', '.join(map(repr, READERS))}, got {format!r}."
        )
    path = Path(path)
    content = read_content(path, trust=trust)
    name = _recognised(content, path) if format == "auto" else format
    reader = READERS[name]
    if not reader.recognises(content):
        raise CheckpointError(f"{path} is no checkpoint of {name}: it holds {_described(content)}.")
    given.require_only(reader.uses, name)
    return reader.read(content, given, Source(path, name))


def _recognised(content: Any, path: Path) -> str:
    for name, reader in READERS.items():
        if reader.recognises(content):
            return name
    if isinstance(content, Mapping) and content and all(
        isinstance(value, Tensor) for value in content.values()
    ):  # fmt: skip
        raise CheckpointError(
            f"{path} is a bare state dict, {_described(content)}: it says neither which detector "
            "and network they are of, nor what was done to the input, nor a centre or threshold. "
            "Name the architecture (arch=, --arch on the command line of xai audit), load the "
            "weights into the network and pass that to a detector (network=), or explain the "
            "network itself with xai.explain."
        )
    raise CheckpointError(
        f"{path} is no checkpoint of {', '.join(READERS)}: it holds {_described(content)}."
    )


def _described(content: Any) -> str:
    if not isinstance(content, Mapping):
        return f"an object of type {type(content).__name__}"
    names = [str(name) for name in content]
    more = f" and {len(names) - 5} more" if len(names) > 5 else ""
    return f"{len(names)} entries ({', '.join(names[:5])}{more})"
