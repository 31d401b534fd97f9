"""Zip archives that unpack to absurd sizes, told from what they declare and before unpacking.

Python's and torch's readers unpack no more of a member than its declared size, so a bound on what
is declared is a bound on what a file can take.
"""

from __future__ import annotations

import zipfile
from pathlib import Path

LARGEST = 8 * 2**30
"""Bytes that any archive may unpack to."""

ORDINARY = 2**30
"""Bytes that an archive may unpack to however well it is compressed."""

RATIO = 200
"""Beyond that, how often its own size it may unpack to."""


def archive_fault(path: Path, *, stored: bool = False) -> str | None:
    """Why a zip archive should not be unpacked; None where nothing speaks against it.

    Parameters
    ----------
    path
        The file; what is no zip archive has no fault here.
    stored
        Whether the format never compresses, as that of ``torch.save``: it then unpacks to less
        than the file's own size.

    Examples
    --------
    >>> from tempfile import TemporaryDirectory
    >>> with TemporaryDirectory() as folder:
    ...     path = Path(folder, "a.zip")
    ...     with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
    ...         archive.writestr("zeros", bytes(10**6))
    ...     archive_fault(path), archive_fault(path, stored=True)
    (None, "its member 'zeros' is compressed, which this format never does")
    """
    try:
        if not zipfile.is_zipfile(path):
            return None
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
    except (zipfile.BadZipFile, ValueError, NotImplementedError) as error:
        return f"it is a damaged archive ({error})"
    size, total = path.stat().st_size, sum(member.file_size for member in members)
    if stored:
        for member in members:
            if member.compress_type != zipfile.ZIP_STORED:
                return f"its member {member.filename!r} is compressed, which this format never does"
        if total > size:
            return f"it declares {_readable(total)} and the file has {_readable(size)}"
    if total > LARGEST or (total > ORDINARY and total > RATIO * size):
        return (
            f"it would unpack from {_readable(size)} to {_readable(total)}; at most "
            f"{_readable(LARGEST)}, and beyond {_readable(ORDINARY)} {RATIO} times its own size, "
            "is taken for real"
        )
    return None


def _readable(size: int) -> str:
    for unit, step in (("GB", 2**30), ("MB", 2**20), ("kB", 2**10)):
        if size >= step:
            return (
                f"{size / step:.3g} {unit}" if size < 10**6 * step else f"{size / step:.1e} {unit}"
            )
    return f"{size} bytes"
