"""Options of ``xai audit`` about checkpoints that are encoders, and about pictures."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from xai.cli_given import VALUES


def height_and_width(text: str) -> tuple[int, int]:
    """``224`` or ``224x192``.

    Examples
    --------
    >>> height_and_width("224"), height_and_width("224x192")
    ((224, 224), (224, 192))
    """
    sides = text.lower().split("x")
    if len(sides) > 2 or not all(s.isdecimal() and 0 < int(s) < 10**5 for s in sides):
        raise typer.BadParameter(f"expected H or HxW, like 224 or 224x192, got {text!r}")
    return int(sides[0]), int(sides[-1])


def normalisation(text: str) -> Any:
    """``imagenet``, ``none``, or ``MEAN:STD`` with one number or one per channel.

    Examples
    --------
    >>> normalisation("imagenet"), normalisation("0.5:0.25")
    ('imagenet', (0.5, 0.25))
    """
    try:
        return VALUES["normalize"][0](text)
    except ValueError as error:
        raise typer.BadParameter(
            f"expected imagenet, none or MEAN:STD, like 0.5,0.5,0.5:0.25, got {text!r}"
        ) from error


Checkpoint = Annotated[
    Path,
    typer.Argument(
        metavar="CHECKPOINT",
        help="Fitted model: .skops; .npy, .npz or .csv with centroids (K, d); .safetensors with "
        "its manifest; .pt, .pth, .tar or .ckpt of another project, see --given; with --trust a "
        "pickle (.joblib, .pkl). Or an encoder: .onnx, or weights with --arch.",
        show_default=False,
    ),
]
Data = Annotated[
    Path,
    typer.Option(
        "--data",
        metavar="PATH",
        help="A folder of pictures, .csv, .parquet, .npy, .npz, or IDX (MNIST).",
    ),
]
Arch = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help="Network of the weights: timm:NAME, torchvision:NAME, cifar_resnet20, or with --trust "
        "MODULE:FUNCTION.",
    ),
]
Layer = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help="Where an encoder's features are taken; unless given, pooled before the classifier.",
    ),
]
Normalisation = Annotated[
    Any,
    typer.Option(
        "--normalize",
        metavar="imagenet|none|MEAN:STD",
        parser=normalisation,
        help="What an encoder's pictures, from 0 to 1, are normalised by; unless given, what timm "
        "or torchvision say.",
    ),
]
Size = Annotated[
    Any,
    typer.Option(metavar="H[xW]", parser=height_and_width, help="Pictures are resized to this."),
]
Head = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help="What an encoder decides by: kmeans:10 (unless given), patchcore, d2neighbors, "
        "similarity.",
    ),
]
FitOn = Annotated[
    Path | None,
    typer.Option(
        metavar="PATH",
        help="Data to fit the head on, and with --fix the repaired model; unless given, a random "
        "half of --data, of which --fix takes normal rows for detectors.",
    ),
]
Units = Annotated[
    float, typer.Option(help="Largest value of a pixel for the model: 1, or 255.", min=0.0)
]
Rows = Annotated[
    int | None, typer.Option(metavar="N", min=1, help="Only so many rows, drawn at random.")
]
BatchSize = Annotated[
    int | None, typer.Option(min=1, help="Rows that go through a network at a time.")
]
Device = Annotated[str, typer.Option(help="Where to compute, e.g. cuda.")]
