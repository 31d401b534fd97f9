"""Errors of the toolkit; the command line turns each of them into exit code 2."""

from neuralize.errors import (
    InputError,
    NoRuleError,
    UnfittedModelError,
    UnsupportedModelError,
    XaiError,
)


class FileFormatError(XaiError, ValueError):
    """A file cannot be read as what it claims to be, or its format is unknown."""


class UntrustedFileError(XaiError, PermissionError):
    """Reading the file would run code it contains, and nobody said it may."""


__all__ = [
    "FileFormatError",
    "InputError",
    "NoRuleError",
    "UnfittedModelError",
    "UnsupportedModelError",
    "UntrustedFileError",
    "XaiError",
]
