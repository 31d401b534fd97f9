"""Checkpoints of every kind: fitted models that decide, and encoders that give features."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from neuralize.errors import CheckpointError
from neuralize.sealed import MANIFEST
from neuralize.sealed import WEIGHTS as SEALED
from xai.architectures import FORMS, IMAGENET, OWN, Built, build
from xai.encoder import Encoder, Normalize
from xai.errors import InputError, UnsupportedModelError
from xai.model_files import read_model
from xai.onnx_files import SUFFIX as ONNX
from xai.onnx_files import read_onnx
from xai.weight_files import SAFETENSORS, read_weights

LARGEST_MANIFEST = 2**26
"""Bytes of a manifest that is looked into."""


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """What was in a file.

    Attributes
    ----------
    model
        A fitted model that decides, or an :class:`~xai.encoder.Encoder`, which needs a head; see
        :func:`xai.encoder_heads.fit_head`.
    feature_names
        Columns it was fitted on, where it knows them.
    channels, size
        Of the pictures it takes; None where it does not say, or takes rows.
    in_units
        Whether pictures have to be numbers from 0 to 1.
    provenance
        What was read and how, by name.
    """

    model: Any
    feature_names: tuple[str, ...] | None = None
    channels: int | None = None
    size: tuple[int, int] | None = None
    in_units: bool = False
    provenance: Mapping[str, str] = field(default_factory=dict)

    @property
    def is_encoder(self) -> bool:
        """Whether it gives features and decides nothing."""
        return isinstance(self.model, Encoder)


def read_checkpoint(
    path: Path | str,
    *,
    arch: str | None = None,
    layer: str | None = None,
    normalize: Normalize | Literal["imagenet", "none"] | None = None,
    size: tuple[int, int] | None = None,
    trust: bool = False,
    given: Mapping[str, Any] | None = None,
) -> Checkpoint:
    """Read a model or an encoder, without running code in the file.

    Parameters
    ----------
    path
        All that :func:`xai.model_files.read_model` takes; with ``arch`` weights as
        ``.safetensors``, ``.pt``, ``.pth``, ``.bin``, ``.ckpt`` or ``.tar``; ``.onnx``.
    arch
        Network of the weights: ``timm:NAME``, ``torchvision:NAME``, ``cifar_resnet20``, or
        ``package.module:function`` with ``trust``.
    layer
        Module of an encoder whose output is taken; when missing, the pooled features before the
        classifier, or whatever a function's or ONNX file's network returns.
    normalize
        What is subtracted from, and divides, the channels of pictures from 0 to 1: ``"imagenet"``,
        ``(mean, std)``, or ``"none"``; what timm and torchvision say when missing.
    size
        Height and width of the pictures; what the architecture says when missing.
    trust
        Let the file, or the function of ``arch``, run code. Only for what you trust.
    given
        What a file of another project does not say, see :func:`neuralize.deep.import_detector`.

    Raises
    ------
    UntrustedFileError, UntrustedCheckpointError
        Reading would run code.
    FileFormatError, CheckpointError
        A file that is damaged, of unknown type, or whose weights are not those of ``arch``.
    InputError
        Weights without an architecture, options that have no use here.
    UnsupportedModelError
        A graph network, which takes cells and no rows; ONNX operators without a counterpart.

    Examples
    --------
    >>> import torch
    >>> from tempfile import TemporaryDirectory
    >>> from xai.pretrained import cifar_resnet20
    >>> with TemporaryDirectory() as folder:
    ...     torch.save(cifar_resnet20().state_dict(), Path(folder, "net.pt"))
    ...     read = read_checkpoint(Path(folder, "net.pt"), arch="cifar_resnet20")
    >>> read.is_encoder, read.size, read.model(torch.zeros(1, 3, 32, 32)).shape
    (True, (32, 32), torch.Size([1, 64]))
    """
    path = Path(path)
    require_array_model(path)
    onnx = path.suffix.lower() == ONNX and path.is_file()
    if arch is not None and onnx:
        raise InputError(f"--arch {arch}: {path} holds its own network.")
    if arch is not None or onnx:
        if given:
            raise InputError("--given is for detectors of other projects, not for an encoder.")
        return _encoder(path, arch, layer, normalize, size, trust)
    _require_decided(path, layer, normalize)
    model, names = read_model(path, trust=trust, given=given)
    shape = tuple(getattr(model, "input_shape_", ()))
    channels = {2: 1, 3: shape[0] if len(shape) == 3 else None}.get(len(shape))
    own = (int(shape[-2]), int(shape[-1])) if len(shape) in (2, 3) else None
    return Checkpoint(model, names, channels, size or own, provenance={"checkpoint": _shown(path)})


def require_array_model(path: Path) -> None:
    """Refuse a graph network: it takes cells, and audits take rows or pictures.

    Raises
    ------
    UnsupportedModelError
        The file, or the manifest beside it, is one of a cell graph network.
    """
    beside = path.with_suffix(MANIFEST)
    if path.suffix.lower() not in (SEALED, MANIFEST) or not beside.is_file():
        return
    if beside.stat().st_size > LARGEST_MANIFEST:
        raise CheckpointError(f"{beside} is no manifest: it has {beside.stat().st_size} bytes.")
    try:
        manifest = json.loads(beside.read_bytes())
    except (ValueError, RecursionError):
        return  # whoever reads it will say what is wrong
    if isinstance(manifest, dict) and manifest.get("kind") == "cell graph network":
        raise UnsupportedModelError(
            f"{path} is a network over cell graphs, which takes a table of cells and no rows or "
            "pictures. Explain it with: xai explain-graph; audit it with: xai audit-graph."
        )


def _require_decided(path: Path, layer: str | None, normalize: object) -> None:
    """Refuse what only an encoder can use, and weights that nobody can use."""
    bare = path.suffix.lower() in SAFETENSORS and not path.with_suffix(MANIFEST).is_file()
    if bare and path.is_file():
        raise InputError(
            f"{path} holds weights, and no manifest beside it says of which network; it is not "
            f"guessed from their names. Pass --arch: {FORMS}."
        )
    for name, value in (("--layer", layer), ("--normalize", normalize)):
        if value is not None:
            raise InputError(
                f"{name} is for encoders, and {path} is read as a fitted model. Encoders are "
                "ONNX files, and weights with --arch."
            )


def _encoder(
    path: Path,
    arch: str | None,
    layer: str | None,
    normalize: Normalize | Literal["imagenet", "none"] | None,
    size: tuple[int, int] | None,
    trust: bool,
) -> Checkpoint:
    if arch is None:
        built, name = read_onnx(path), path.stem
    else:
        if path.suffix.lower() in SAFETENSORS and path.with_suffix(MANIFEST).is_file():
            raise InputError(
                f"--arch {arch}: {path} has a manifest, {path.with_suffix(MANIFEST).name}, that "
                "says what it is."
            )
        if arch in OWN and normalize not in (None, "none"):
            raise InputError(f"{arch} normalises its pictures itself; leave --normalize out.")
        state = read_weights(path, trust=trust)
        built = build(arch, state, path, whole=layer is not None, size=size, trust=trust)
        name = arch.rpartition(":")[2]
    scaling = _scaling(normalize, built)
    size = size or built.size
    encoder = Encoder(
        built.network,
        name,
        layer=layer,
        normalize=scaling,
        channels=built.channels,
        size=size,
        described=built.described,
    )
    if built.channels is not None and size is not None:
        encoder.probe((built.channels, *size))
    told = {
        "checkpoint": _shown(path),
        "architecture": arch or "of the ONNX file",
        "features": encoder.place + (f" ({built.described})" if built.described else ""),
        "normalisation": "none" if scaling is None else f"mean {scaling[0]}, std {scaling[1]}",
    }
    in_units = normalize != "none" and arch is not None
    return Checkpoint(encoder, None, built.channels, size, in_units, told)


def _scaling(
    normalize: Normalize | Literal["imagenet", "none"] | None, built: Built
) -> Normalize | None:
    if normalize is None:
        return built.normalize
    if isinstance(normalize, str):
        if normalize not in ("imagenet", "none"):
            raise InputError(f"Expected --normalize imagenet, none or MEAN:STD, got {normalize!r}.")
        return IMAGENET if normalize == "imagenet" else None
    return normalize


def _shown(path: Path) -> str:
    return path.name
