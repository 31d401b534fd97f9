"""The table of supported models says what the converters say, and its code runs."""

import re
import sys
from pathlib import Path

import pytest

from neuralize import convert

DOCS = Path(__file__).parents[1] / "docs"


def test_every_converter_is_in_the_table() -> None:
    pytest.importorskip("pyod")
    import neuralize.pyod_models  # noqa: F401  (registers PyOD's converters)

    page = (DOCS / "models.md").read_text()
    library = ("sklearn.", "pyod.", "numpy", "torch", "neuralize.")
    names = {
        cls.__name__
        for cls in convert._convert.registry
        if cls is not object
        and cls.__module__.startswith(library)
        # docstring examples register classes of their own
        and hasattr(sys.modules[cls.__module__], cls.__name__)
    }
    assert len(names) > 25
    missing = {name for name in names if not re.search(rf"`{name}\b", page)}
    assert not missing


@pytest.mark.parametrize("page", ["models.md", "neuralization.md"])
def test_code_on_the_page_runs(page: str) -> None:
    blocks = re.findall(r"```python\n(.*?)```", (DOCS / page).read_text(), re.DOTALL)
    assert blocks
    for block in blocks:
        exec(compile(block, page, "exec"), {"__name__": "docs"})
