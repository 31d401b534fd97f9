"""Names of patients and images, as tables hold them."""

from __future__ import annotations

from typing import Any

import numpy as np


def as_name(value: Any) -> str:
    """A value of a column of names as text; 7.0, as columns with gaps store numbers, is 7.

    Examples
    --------
    >>> as_name(7.0), as_name(7), as_name("7.0"), as_name(7.5)
    ('7', '7', '7.0', '7.5')
    """
    whole = isinstance(value, float | np.floating) and float(value).is_integer()
    return str(int(value)) if whole else str(value)
