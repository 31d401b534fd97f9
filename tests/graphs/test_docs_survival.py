"""The code on the page runs, block after block."""

import contextlib
import io
import re
from pathlib import Path

PAGE = Path(__file__).parents[2] / "docs" / "graphs" / "survival.md"


def test_code_on_the_page_runs():
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    assert len(blocks) == 4
    space = {"__name__": "page"}
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        for block in blocks:
            exec(compile(block, PAGE.name, "exec"), space)
    scores = [float(line.rsplit(" ", 1)[1]) for line in printed.getvalue().splitlines()]
    assert len(scores) == 4 and all(0 < score < 1 for score in scores)
    assert space["spoilt"].shortcut.any() and space["cohort"].motif.any()
