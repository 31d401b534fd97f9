"""Answers of an audit that is saved as it goes, so that one that was stopped can go on.

One file per check holds what it said and a key: the digest of everything the answers depend on. A
file with another key, or one that is damaged, is not used; the check is asked again.
"""

from __future__ import annotations

import json
import os
import re
import warnings
import zipfile
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from xai.audit.check import Question
from xai.errors import FileFormatError
from xai.header_files import read_npz, write_npz
from xai.report.finding import Answer
from xai.report.kept_answers import from_parts, to_parts
from xai.storage import replacing

FORMAT = "unsupervised-xai answers"
VERSION = 1
MAX_BYTES = 500_000_000
"""A file of answers is refused beyond this size."""


class Said(NamedTuple):
    """What a check said, how long it took, and whether relevance had been computed by then.

    The last is kept because an audit that goes on must stand where the first one stood: evidence
    taken from an explanation and evidence asked for can differ in the last bit.
    """

    answers: list[Answer]
    seconds: float
    explained: bool


class SavedAnswers:
    """A folder of answers.

    Parameters
    ----------
    folder
        Made where it is missing, with its parents.

    Raises
    ------
    FileFormatError
        The path is a file.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        if self.folder.exists() and not self.folder.is_dir():
            raise FileFormatError(f"Expected a folder to save answers in, and {folder} is a file.")
        self.folder.mkdir(parents=True, exist_ok=True)

    def path(self, check: Question[Any], position: int) -> Path:
        """Where the answers of the check at this position are."""
        name = re.sub(r"[^a-z0-9]+", "-", check.name.lower()).strip("-")[:60] or "check"
        return self.folder / f"{position:02d}-{name}.npz"

    def load(self, check: Question[Any], position: int, key: str) -> Said | None:
        """What the check said under this key; None, with a warning, for a file of no use."""
        path = self.path(check, position)
        if not path.exists():
            return None
        try:
            header, arrays = _read(path)
            if header.pop("key") != key:
                warnings.warn(
                    f"{path} was saved for another model, other data, settings or version; "
                    f"{check.name!r} is asked again.",
                    stacklevel=2,
                )
                return None
            seconds = float(header.pop("seconds"))
            explained = bool(header.pop("explained"))
            return Said(from_parts(header, arrays), seconds, explained)
        except (KeyError, TypeError, ValueError, OverflowError, RecursionError, OSError) as error:
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            warnings.warn(
                f"{path} holds no answers that can be read ({reason}); {check.name!r} is asked "
                "again.",
                stacklevel=2,
            )
            return None

    def save(self, check: Question[Any], position: int, key: str, said: Said) -> None:
        """Write what the check said; the file is whole or not there, also after a power cut."""
        header, arrays = to_parts(said.answers)
        header |= {"format": FORMAT, "version": VERSION, "key": key}
        header |= {"seconds": said.seconds, "explained": said.explained}
        text = json.dumps(header, ensure_ascii=False).encode("utf-8", "replace").decode()
        with replacing(self.path(check, position)) as file:
            write_npz(json.loads(text), arrays, file)
            file.flush()
            os.fsync(file.fileno())


def _read(path: Path) -> tuple[dict[str, Any], dict[str, np.ndarray[Any, Any]]]:
    size = path.stat().st_size
    if size > MAX_BYTES:
        raise ValueError(f"it is larger than {MAX_BYTES / 1e6:g} MB")
    with path.open("rb") as file:
        try:
            with zipfile.ZipFile(file) as archive:
                unpacked = sum(entry.file_size for entry in archive.infolist())
        except (zipfile.BadZipFile, NotImplementedError, EOFError) as error:
            raise ValueError(str(error)) from error
        if unpacked > size:  # ours are not compressed
            raise ValueError(f"it unpacks to {unpacked} bytes from {size}")
        file.seek(0)
        header, arrays = read_npz(file)
    if not isinstance(header, dict) or header.pop("format", None) != FORMAT:
        raise ValueError(f"there is no {FORMAT!r} header")
    if header.pop("version") != VERSION:
        raise ValueError(f"it is not of version {VERSION}")
    return header, arrays
