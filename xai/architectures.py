"""Networks by name, with the weights of a file: timm's, torchvision's, our own, or a function's.

The whole network is built and its weights loaded strictly, classifier included where the file has
one; only then is the classifier taken off. What does not fit is an error, never left out.
"""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from neuralize.deep.detector import load_strictly
from neuralize.deep.patch_features import IMAGENET_MEAN, IMAGENET_STD
from neuralize.deep.readers.content import State
from neuralize.errors import CheckpointError
from neuralize.seeding import seeded
from neuralize.torchvision_guard import ensure_importable_torchvision
from xai.encoder import Normalize
from xai.errors import InputError, UntrustedFileError
from xai.pretrained import CifarResNet

IMAGENET: Normalize = (IMAGENET_MEAN, IMAGENET_STD)
OWN = {f"cifar_resnet{depth}": depth for depth in (20, 32, 44, 56, 110)}
FORMS = f"timm:NAME, torchvision:NAME, {', '.join(OWN)}, or with --trust MODULE:FUNCTION"
CLASSES = 1000
"""Of a torchvision network whose weights are not known yet."""


@dataclass(frozen=True)
class Built:
    """A network with its weights, and how it wants its pictures where that is known.

    Attributes
    ----------
    network
        Ends with its features, or with its classifier where that was asked for.
    normalize, channels, size
        Of its input; None where nobody knows, or where it takes what it gets.
    described
        What became of the classifier.
    """

    network: nn.Module
    normalize: Normalize | None
    channels: int | None
    size: tuple[int, int] | None
    described: str


def build(
    arch: str,
    state: State,
    source: Path,
    *,
    whole: bool = False,
    size: tuple[int, int] | None = None,
    trust: bool = False,
) -> Built:
    """The network called ``arch`` with the weights ``state``.

    Parameters
    ----------
    arch
        ``timm:mobilenetv2_100``, ``torchvision:mobilenet_v2``, ``cifar_resnet20``, or
        ``package.module:function``, which is called without arguments.
    state, source
        Weights by name, and where they are from.
    whole
        Keep the classifier.
    size
        Height and width of the pictures, for networks that are built for one.
    trust
        Whether code may be imported.

    Raises
    ------
    InputError
        An unknown name.
    UntrustedFileError
        A function, without ``trust``.
    CheckpointError
        Weights that are not this network's.
    """
    library, colon, name = arch.partition(":")
    if arch in OWN:
        return _own(arch, state, source, whole)
    if not colon or not library or not name:
        raise InputError(f"Expected an architecture as {FORMS}, got {arch!r}.")
    if library == "timm":
        return _timm(name, state, source, whole, size)
    if library == "torchvision":
        return _torchvision(name, state, source, whole)
    return _imported(library, name, state, source, trust)


def _own(arch: str, state: State, source: Path, whole: bool) -> Built:
    with seeded(0):
        network = CifarResNet(OWN[arch], "logits" if whole else "features")
    _load(network, state, source)
    return Built(network, None, 3, (32, 32), "" if whole else "the classifier linear left out")


def _timm(
    name: str, state: State, source: Path, whole: bool, size: tuple[int, int] | None
) -> Built:
    ensure_importable_torchvision()
    try:
        import timm
    except ModuleNotFoundError as error:
        raise InputError(
            "--arch timm:... needs timm: pip install 'unsupervised-xai[networks]'."
        ) from error
    # other forms of names ("hf-hub:...") would be looked up in the net or on the disk
    if not timm.is_model(name):
        raise InputError(f"timm has no network {name!r}{_near(name, timm.list_models())}")
    config: Any = timm.get_pretrained_cfg(name)
    channels, options = 3, dict[str, Any]()
    if config is not None:
        channels = config.input_size[0]
        heads = [f"{head}.weight" for head in _names(config.classifier)]
        known = [state[head] for head in heads if head in state]
        options["num_classes"] = len(known[0]) if known and known[0].ndim else 0
        first = [state[key] for c in _names(config.first_conv) if (key := f"{c}.weight") in state]
        if first and first[0].ndim == 4:
            channels = first[0].shape[1]
        if config.fixed_input_size and size is not None and size != tuple(config.input_size[1:]):
            options["img_size"] = size
    with seeded(0):
        network: Any = timm.create_model(name, pretrained=False, in_chans=channels, **options)
    _load(network, state, source)
    described = ""
    if not whole and options.get("num_classes"):
        network.reset_classifier(0)
        described = f"the classifier {', '.join(_names(config.classifier))} left out"
    if config is None:
        return Built(network, IMAGENET, channels, None, described)
    own = (tuple(config.mean), tuple(config.std)) if channels == len(config.mean) else None
    return Built(network, own, channels, tuple(config.input_size[1:]), described)


def _torchvision(name: str, state: State, source: Path, whole: bool) -> Built:
    ensure_importable_torchvision()
    try:
        from torchvision import models
    except ModuleNotFoundError as error:
        raise InputError(
            "--arch torchvision:... needs torchvision: pip install 'unsupervised-xai[networks]'."
        ) from error
    known = models.list_models(module=models)
    if name not in known:
        raise InputError(f"torchvision has no classifier {name!r}{_near(name, known)}")
    with torch.device("meta"):
        path = _last_layer(models.get_model(name, weights=None, num_classes=CLASSES), CLASSES)
    weights = state.get(f"{path}.weight")
    classes = CLASSES if weights is None or not weights.ndim else len(weights)
    with seeded(0):
        network = models.get_model(name, weights=None, num_classes=classes)
    if weights is None:  # an encoder's weights, saved without the classifier
        _replace(network, path, nn.Identity())
    _load(network, state, source)
    if weights is not None and not whole:
        _replace(network, path, nn.Identity())
        return Built(network, IMAGENET, 3, (224, 224), f"the classifier {path} left out")
    return Built(network, IMAGENET, 3, (224, 224), "")


def _last_layer(network: nn.Module, classes: int) -> str:
    """Path of the layer that gives the classes."""
    found = [
        path
        for path, module in network.named_modules()
        if classes in (getattr(module, "out_features", None), getattr(module, "out_channels", None))
    ]
    if not found:
        raise CheckpointError(f"{type(network).__name__} has no layer of {classes} classes.")
    return str(found[-1])


def _replace(network: nn.Module, path: str, module: nn.Module) -> None:
    parent, _, name = path.rpartition(".")
    setattr(network.get_submodule(parent), name, module)


def _load(network: nn.Module, state: State, source: Path) -> None:
    """Load all weights; only counters of batches, which decide nothing, may be missing."""
    counters = {
        name: tensor
        for name, tensor in network.state_dict().items()
        if name.endswith("num_batches_tracked") and name not in state
    }
    load_strictly(network, state | counters, source)


def _imported(module: str, name: str, state: State, source: Path, trust: bool) -> Built:
    if not trust:
        raise UntrustedFileError(
            f"--arch {module}:{name} imports {module} and calls {name}(), which runs their code. "
            f"Pass --trust if that is meant; names without code are {FORMS}."
        )
    try:
        function: Callable[[], Any] = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise InputError(
            f"Cannot import {name} from {module}: {error}. It must be installed, or its folder be "
            "in PYTHONPATH."
        ) from error
    with seeded(0):
        network = function()
    if not isinstance(network, nn.Module):
        raise InputError(f"Expected an nn.Module from {module}:{name}(), got {type(network)}.")
    _load(network, state, source)
    return Built(network, None, None, None, "")


def _names(given: str | tuple[str, ...] | None) -> tuple[str, ...]:
    if given is None:
        return ()
    return (given,) if isinstance(given, str) else tuple(given)


def _near(name: str, known: Sequence[str]) -> str:
    """The end of a message about an unknown name.

    Examples
    --------
    >>> _near("resnet19", ["resnet18", "vgg16"])
    "; did you mean 'resnet18'?"
    """
    near = difflib.get_close_matches(name, known, 5)
    return f"; did you mean {', '.join(map(repr, near))}?" if near else "."
