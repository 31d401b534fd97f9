"""What a checkpoint of others does not say, as texts of a command line."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import typer

Reader = Callable[[str], Any]


def given(text: str) -> tuple[str, Any]:
    """``NAME=VALUE``, the value as :func:`neuralize.deep.import_detector` takes that name.

    Raises
    ------
    typer.BadParameter
        An unknown name, or a value of another form.

    Examples
    --------
    >>> given("input_shape=3x32x32"), given("contrast=mnist:3")
    (('input_shape', (3, 32, 32)), ('contrast', 'mnist:3'))
    >>> given("normalize=0.5,0.4,0.3:0.2")
    ('normalize', ((0.5, 0.4, 0.3), 0.2))
    """
    name, equals, value = (part.strip() for part in text.partition("="))
    if name not in VALUES or not (equals and value):
        raise typer.BadParameter(
            f"expected NAME=VALUE with one of {', '.join(VALUES)}, like contrast=mnist:3, got "
            f"{text!r}"
        )
    read, form = VALUES[name]
    try:
        return name, read(value)
    except ValueError as error:
        raise typer.BadParameter(f"expected {name}={form}, got {text!r}") from error


def _shape(text: str) -> tuple[int, ...]:
    return tuple(map(int, text.lower().split("x")))


def _numbers(text: str) -> float | tuple[float, ...]:
    values = tuple(map(float, text.split(",")))
    return values if len(values) > 1 else values[0]


def _named(name: str) -> Reader:
    """A pair of numbers, or what matches ``name`` as it is."""

    def read(text: str) -> Any:
        if re.fullmatch(name, text):
            return text
        first, colon, second = text.partition(":")
        if not colon:
            raise ValueError(text)
        return _numbers(first), _numbers(second)

    return read


def _names(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(","))


VALUES: dict[str, tuple[Reader, str]] = {
    "format": (str, "NAME"),
    "input_shape": (_shape, "CxHxW"),
    "normalize": (_named(r"[a-z]+"), "MEAN:STD or imagenet, several numbers with commas"),
    "contrast": (_named(r"[a-z]\w*:\d+"), "LOW:HIGH or mnist:3"),
    "units": (float, "255"),
    "activation": (str, "elu"),
    "objective": (str, "NAME"),
    "center": (_numbers, "NUMBERS with commas"),
    "layers": (_names, "NAMES with commas"),
    "neighbors": (int, "NUMBER"),
    "threshold": (float, "NUMBER"),
}
"""How each value is read, and how it is written."""
