"""Result files that appear together and whole, or not at all."""

from __future__ import annotations

import secrets
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from xai.errors import InputError


@contextmanager
def new_files(
    folder: Path, names: Sequence[str], *, overwrite: bool = False, inputs: Sequence[Path] = ()
) -> Iterator[Path]:
    """A scratch folder whose files ``names`` move into ``folder`` when the block ends well.

    ``folder`` is made where it is missing; other files in it stay as they are. An error inside the
    block leaves nothing behind.

    Parameters
    ----------
    folder
        Where the files go.
    names
        What the block writes into the scratch folder.
    overwrite
        Whether files of these names may be replaced.
    inputs
        Files that are never replaced.

    Raises
    ------
    InputError
        A file is already there and ``overwrite`` was not given, or it is one of ``inputs``.

    Examples
    --------
    >>> from tempfile import TemporaryDirectory
    >>> with TemporaryDirectory() as where:
    ...     with new_files(Path(where, "out"), ["a.txt"]) as scratch:
    ...         _ = Path(scratch, "a.txt").write_text("whole")
    ...     Path(where, "out", "a.txt").read_text()
    'whole'
    """
    if folder.exists() and not folder.is_dir():
        raise InputError(f"Expected a folder to write to, and {folder} is a file.")
    targets = [folder / name for name in names]
    for target in targets:
        if any(target.exists() and target.samefile(path) for path in inputs):
            raise InputError(f"{target} is an input; write to another place.")
    for target in targets:
        if target.is_dir():
            raise InputError(f"Expected to write the file {target}, and there is a folder.")
    there = [str(target) for target in targets if target.exists()]
    if there and not overwrite:
        raise InputError(f"Already there: {', '.join(there)}. Pass --overwrite to replace.")
    made = _missing_parents(folder)
    folder.mkdir(parents=True, exist_ok=True)
    scratch = folder / f".unfinished-{secrets.token_hex(4)}"
    scratch.mkdir()
    try:
        yield scratch
        for name, target in zip(names, targets, strict=True):
            (scratch / name).replace(target)
    except BaseException:
        shutil.rmtree(scratch)
        for parent in made:
            if not any(parent.iterdir()):
                parent.rmdir()
        raise
    shutil.rmtree(scratch)


def _missing_parents(folder: Path) -> list[Path]:
    """``folder`` and its parents that do not exist yet, the deepest first."""
    return [path for path in (folder, *folder.parents) if not path.exists()]
