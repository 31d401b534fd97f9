"""What to type to ask one check again."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from typing import Any

from xai.audit.check import Question

WITH_VALUE = ("--out", "--save", "--junit", "--check", "--seed")
FLAGS = ("--json", "--overwrite")
"""Options of the command line that say what to do with the answers, not what is asked of what."""


def command_line(arguments: Sequence[str], check: str, seed: int) -> str:
    """The command an audit was started with, for one check and without its results.

    Examples
    --------
    >>> command_line(["audit", "m.skops", "--data", "a b.csv", "--out=x.html"], "collapse", 0)
    "xai audit m.skops --data 'a b.csv' --check collapse --seed 0"
    """
    kept, words = [], iter(arguments)
    for word in words:
        if word in WITH_VALUE:
            next(words, None)
        elif word not in FLAGS and not word.startswith(tuple(f"{name}=" for name in WITH_VALUE)):
            kept.append(word)
    return shlex.join(["xai", *kept, "--check", check, "--seed", str(seed)])


def python_line(
    given: Sequence[str],
    check: Question[Any],
    known: bool,
    seed: int,
    call: str = "xai.Audit(model, data",
) -> str:
    """The same as Python, with a placeholder for everything that was ``given``.

    Parameters
    ----------
    given
        Names of the optional arguments the audit got.
    check
        Which check.
    known
        Whether it is asked by its name.
    seed
        Of the audit.
    call
        How it begins.

    Examples
    --------
    >>> from xai.audit import Collapse
    >>> python_line(["labels"], Collapse(), True, 0)
    "xai.Audit(model, data, labels=labels, checks=['collapse'], seed=0).run()"
    """
    asked = repr(check.name) if known else f"{type(check).__name__}(...)"
    options = "".join(f"{name}={name}, " for name in given)
    return f"{call}, {options}checks=[{asked}], seed={seed}).run()"
