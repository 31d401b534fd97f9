r"""anomalib's PatchCore and PaDiM (Akcay et al., ICIP 2022): Lightning checkpoints ``.ckpt``.

``{"state_dict", "hyper_parameters", ...}``, with the keys

- ``model.feature_extractor.feature_extractor.*``: the backbone, a network of timm;
- PatchCore: ``model.memory_bank`` ``(m, D)``; ``num_neighbors`` of the hyper-parameters re-weights
  the winner. Score: as in :mod:`neuralize.deep.patchcore`;
- PaDiM: ``model.idx`` (the dimensions), ``model.gaussian.mean`` ``(d, P)`` and
  ``model.gaussian.inv_covariance`` ``(P, d, d)``. Score: the largest value of the *smoothed* map of
  distances, resized to the picture,

  ``o(x) = max_p sum_q G_{p-q} up(s)_q``, ``G`` = ``model.anomaly_map_generator.blur.kernel``;
- ``post_processor.image_min``, ``image_max``, ``_image_threshold`` (NaN where never set): anomalib
  prints ``clip((o - threshold) / (max - min) + 1/2, 0, 1)``, which saturates. Read and explained is
  ``o`` itself, with the threshold in its units.

Pictures are expected as anomalib's backbone gets them, resized and cropped, but not normalised. A
file holds the layers and the backbone's weights, not its strides: ResNets are known by their keys,
any other backbone has to be given.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from neuralize.deep.detector import load_strictly
from neuralize.deep.patch_detector import PatchDetector
from neuralize.deep.readers.anomalib_detectors import SIGMA, AnomalibPaDiM, AnomalibPatchCore
from neuralize.deep.readers.assemble import Source, assemble
from neuralize.deep.readers.content import State, below, sizes, state_of
from neuralize.deep.readers.given import Given
from neuralize.deep.readers.published import IMAGENET
from neuralize.deep.readers.resnet import resnet_of
from neuralize.errors import CheckpointError, InputError

USES = ("network", "input_shape", "normalize", "units", "layers", "threshold")
PATCHCORE_USES = (*USES, "neighbors")

BANK, MEAN, PRECISION = "model.memory_bank", "model.gaussian.mean", "model.gaussian.inv_covariance"
DIMS, KERNEL = "model.idx", "model.anomaly_map_generator.blur.kernel"
BACKBONE = "model.feature_extractor."

SIZE = 256
"""Pixels that anomalib resizes pictures to, unless told otherwise."""


def is_patchcore(content: Any) -> bool:
    """Whether this is a Lightning checkpoint with a memory bank."""
    return _is_lightning(content) and BANK in content["state_dict"]


def is_padim(content: Any) -> bool:
    """Whether this is a Lightning checkpoint with Gaussians."""
    return _is_lightning(content) and MEAN in content["state_dict"]


def _is_lightning(content: Any) -> bool:
    return isinstance(content, Mapping) and isinstance(content.get("state_dict"), Mapping)


def read_patchcore(content: Any, given: Given, source: Source) -> AnomalibPatchCore:
    """A fitted PatchCore."""
    state, hyper = _parts(content, source)
    bank = state[BANK]
    if bank.numel() == 0:
        raise CheckpointError(f"{source.path}: its memory bank is empty; it was never fitted.")
    sizes(state, BANK, 2, source.path)
    k = _neighbors(hyper, given, source)
    mean, std = _normalization(hyper, given)
    layers, backbone = _layers(hyper, given, source), given.network or nn.Identity()
    detector = AnomalibPatchCore(
        backbone, layers=layers, reweight=k if k > 1 else 0, mean=mean, std=std
    )
    shape = _shape(hyper, given, (3, SIZE, SIZE))
    config = {"bank": list(bank.shape)} | _backbone(state, given, source)
    _fill(detector, config, shape, state, {"bank": BANK}, given, source)
    _require_patches(detector, None, bank.shape[1], source)
    return detector


def read_padim(content: Any, given: Given, source: Source) -> AnomalibPaDiM:
    """A fitted PaDiM."""
    state, hyper = _parts(content, source)
    if state[MEAN].numel() == 0:
        raise CheckpointError(f"{source.path}: its Gaussians are empty; it was never fitted.")
    d, positions = sizes(state, MEAN, 2, source.path)
    dims = state.get(DIMS)
    if dims is None or dims.dtype != torch.long or dims.shape != (d,) or bool((dims < 0).any()):
        raise CheckpointError(f"{source.path}: expected {d} feature numbers as {DIMS}.")
    layers = _layers(hyper, given, source)
    mean, std = _normalization(hyper, given)
    backbone = given.network or nn.Identity()
    detector = AnomalibPaDiM(backbone, layers=layers, dims=d, mean=mean, std=std)
    side = 2 * int(4 * SIGMA + 0.5) + 1
    if KERNEL in state:
        side = sizes(state, KERNEL, 4, source.path)[-1]
    config = {"gaussians": [positions, d], "kernel": side} | _backbone(state, given, source)
    pixels = math.isqrt(positions) * _shrink(layers[0])
    shape = _shape(hyper, given, (3, pixels, pixels))
    own = {"center": MEAN, "precision": PRECISION, "dims": DIMS}
    if KERNEL in state:
        own["kernel"] = KERNEL
    _fill(detector, config, shape, state | {MEAN: state[MEAN].T}, own, given, source)
    _require_patches(detector, positions, int(dims.max()) + 1, source)
    if min(shape[-2:]) <= side // 2:
        raise InputError(
            f"Expected pictures of more than {side // 2} pixels, as far as the map is smoothed, "
            f"got shape {shape}."
        )
    return detector


def _parts(content: Any, source: Source) -> tuple[State, Mapping[str, Any]]:
    state = state_of(content["state_dict"], source.path, "state_dict")
    hyper = content.get("hyper_parameters")
    return state, hyper if isinstance(hyper, Mapping) else {}


def _layers(hyper: Mapping[str, Any], given: Given, source: Source) -> tuple[str, ...]:
    layers = given.layers or hyper.get("layers")
    if not isinstance(layers, list | tuple) or not all(isinstance(name, str) for name in layers):
        raise InputError(
            f"{source.path} has no hyper-parameters; pass layers=, e.g. ('layer2', 'layer3')."
        )
    return tuple(layers)


def _neighbors(hyper: Mapping[str, Any], given: Given, source: Source) -> int:
    k = given.neighbors or hyper.get("num_neighbors")
    if isinstance(k, bool) or not isinstance(k, int) or k < 1:
        raise InputError(
            f"{source.path} has no hyper-parameters; pass neighbors=, what anomalib calls "
            "num_neighbors (9 unless told otherwise)."
        )
    return k


def _normalization(hyper: Mapping[str, Any], given: Given) -> tuple[list[float], list[float]]:
    """Mean and standard deviation per channel, in the user's units: ImageNet's by default."""
    if given.normalize is None and hyper.get("pre_processor", True) is not True:
        raise InputError(
            "The model was trained with a pre-processor of its own, which the file cannot tell "
            f"without running its code; pass normalize=(mean, std), for anomalib's own {IMAGENET}, "
            "and pictures that are resized and cropped as it did."
        )
    whole = given if given.normalize is not None else given.with_normalize("imagenet")
    mean, std = whole.mean_and_std(3)
    return mean.tolist(), std.tolist()


def _shape(hyper: Mapping[str, Any], given: Given, usual: tuple[int, int, int]) -> tuple[int, ...]:
    size = hyper.get("input_size")
    if given.input_shape is not None:
        return given.input_shape
    if isinstance(size, list | tuple) and len(size) == 2 and all(isinstance(n, int) for n in size):
        return (3, *size)
    return usual


def _shrink(layer: str) -> int:
    """How many pixels of a picture one place of a ResNet's stage is."""
    return {"layer2": 8, "layer3": 16, "layer4": 32}.get(layer, 4)


def _backbone(state: State, given: Given, source: Source) -> dict[str, Any]:
    """What the manifest says about the backbone: nothing, if it is the caller's."""
    if given.network is not None:
        return {}
    plan = resnet_of(below(state, _prefix(state)), source)
    return {"resnet": plan.model_dump(mode="json")}


def _prefix(state: State) -> str:
    """What the names of the backbone begin with."""
    twice = BACKBONE + "feature_extractor."
    return twice if any(name.startswith(twice) for name in state) else BACKBONE


def _fill(
    detector: PatchDetector, config: dict[str, Any], shape: tuple[int, ...], state: State,
    own: dict[str, str], given: Given, source: Source,
) -> None:  # fmt: skip
    """Give the detector its module, with all numbers of the file."""
    config = config | {"normalization": _post_processing(state)}
    module = assemble(detector, config, shape, given, source)
    if given.threshold is None:
        detector.threshold_ = config["normalization"]["threshold"]
    prefix, names = _prefix(state), dict(own)
    for name in module.state_dict():
        if name.startswith("features.backbone."):
            names[name] = prefix + name.removeprefix("features.backbone.")
    known = {n: t for n, t in state.items() if n.startswith("model.") and not _idle(n, prefix)}
    known |= {theirs: state[theirs] for theirs in own.values()}
    for name, tensor in module.state_dict().items():
        if name.startswith("preprocessing.") or (name == "kernel" and name not in own):
            known[name] = tensor  # set already, not from the file
    load_strictly(module, known, source.path, names)
    detector.backbone = module.features.backbone  # type: ignore[union-attr, assignment]


def _idle(name: str, prefix: str) -> bool:
    """Whether no score depends on an entry: dense layers, and the smoothing of a mere picture."""
    idle = (prefix + "fc.", prefix + "classifier.", "model.anomaly_map_generator.")
    return name.startswith(idle)


def _post_processing(state: State) -> dict[str, float | None]:
    """Threshold and extremes by which anomalib normalises; None where it never set them."""

    def number(*names: str) -> float | None:
        for name in names:
            value = state.get(name)
            if value is not None and value.numel() == 1 and math.isfinite(float(value)):
                return float(value)
        return None

    return {
        "threshold": number("post_processor._image_threshold", "post_processor._pixel_threshold",
                            "image_threshold.value"),
        "min": number("post_processor.image_min"),
        "max": number("post_processor.image_max"),
    }  # fmt: skip


def _require_patches(
    detector: PatchDetector, positions: int | None, width: int, source: Source
) -> None:
    """Run the features once: they must be as wide, and for PaDiM as many, as in the file."""
    module: Any = detector.module_
    blank = torch.zeros(1, *detector.input_shape_)
    with torch.no_grad():
        maps = module.features.maps(module.preprocessing(blank))
    found = maps.shape[1]
    fits = found == width if positions is None else found >= width
    if not fits:
        raise CheckpointError(
            f"{source.path}: layers {', '.join(detector.layers)} give {found} features, and the "
            f"file is of {width}."
        )
    if positions is not None and maps[0, 0].numel() != positions:
        raise InputError(
            f"Pictures of shape {detector.input_shape_} give {maps[0, 0].numel()} patches, and the "
            f"file has Gaussians for {positions}; pass the input_shape= it was trained on."
        )
