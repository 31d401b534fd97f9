"""The README and the first pages of the documentation do what they say.

Python blocks are run, page by page in one namespace. A ``text`` block after a Python block is what
it prints; in a ``console`` block, commands that start with ``xai`` are run and the lines below them
are what they print. ``...`` stands for anything.
"""

from __future__ import annotations

import doctest
import io
import re
import shlex
import sys
from collections.abc import Iterator
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from xai.cli import app

ROOT = Path(__file__).parent.parent
PAGES = ("README.md", *(f"docs/{name}.md" for name in (
    "start", "cli", "rules", "presets", "coverage", "bilrp", "virtual_layers",
    "report", "checkpoints_in", "detectors/checkpoints")))  # fmt: skip
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def same(printed: str, written: str) -> bool:
    flags = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
    return doctest.OutputChecker().check_output(
        written.strip() + "\n", printed.strip() + "\n", flags
    )


def commands(block: str) -> Iterator[tuple[str, str]]:
    """Every command of a console block, and what the page says it prints."""
    for part in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
        command, _, output = part.partition("\n")
        yield command, output


@pytest.mark.parametrize("page", PAGES)
def test_the_page_is_true(page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = (ROOT / page).read_text(encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    space: dict[str, Any] = {"__name__": page}
    printed = None
    blocks = BLOCK.findall(text)
    assert blocks
    for language, block in blocks:
        if language == "python":
            with redirect_stdout(io.StringIO()) as out:
                exec(compile(block, page, "exec"), space)
            printed = out.getvalue()
        elif language == "text":
            assert printed is not None
            assert same(printed, block), f"{page} says\n{block}\nand it is\n{printed}"
            printed = None
        elif language == "console":
            for command, output in commands(block):
                program, *args = shlex.split(command)
                if program == "xai":
                    result = CliRunner().invoke(app, args)
                    # a slow machine shows progress bars, on stderr
                    said = result.output if result.exit_code == 2 else result.stdout
                    assert same(said, output), f"{command} printed\n{result.output}"


def test_links_lead_somewhere() -> None:
    for page in PAGES:
        for target in re.findall(r"\]\(([^)#]+)[^)]*\)", (ROOT / page).read_text(encoding="utf-8")):
            if not target.startswith("http"):
                assert (ROOT / page).parent.joinpath(target).exists(), f"{page}: {target}"


def test_the_readme_names_every_supported_model() -> None:
    pytest.importorskip("pyod")
    import neuralize.pyod_models  # noqa: F401
    from neuralize.convert import _convert

    text = (ROOT / "README.md").read_text(encoding="utf-8")
    models = {
        t.__name__
        for t in _convert.registry
        if t.__module__.partition(".")[0] in LIBRARIES
        and hasattr(sys.modules[t.__module__], t.__name__)  # not the one of a docstring's example
    }
    missing = {name for name in models if not re.search(rf"\b{name}\b", text)}
    assert missing == set()


LIBRARIES = ("sklearn", "pyod", "neuralize")
