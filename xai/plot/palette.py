"""Colours of categories, the same in every figure and export: phenotypes, and groups of risk."""

from __future__ import annotations

from collections.abc import Sequence

UNKNOWN = "#9a9a9a"
"""Cells whose phenotype nobody knows."""

# Okabe and Ito's seven without black, told apart by most colour-blind readers, and others between.
CATEGORIES = (
    "#e69f00", "#56b4e9", "#009e73", "#cc79a7", "#6b4420", "#0072b2", "#d55e00", "#f0e442",
    "#2f4b7c", "#5b3a8c", "#8a1c4a", "#3f6b1f", "#00a5a8", "#b59ad6", "#c1c95a",
)  # fmt: skip

RISK = {"low": "#2166ac", "middle": "#6b6b6b", "high": "#b2182b"}
"""Groups of risk, in the hues of signed relevance."""


def category_colors(names: Sequence[str]) -> dict[str, str]:
    """A colour for every name by its place; they repeat after fifteen.

    Examples
    --------
    >>> category_colors(["tumour", "T cell"])
    {'tumour': '#e69f00', 'T cell': '#56b4e9'}
    """
    return {name: CATEGORIES[k % len(CATEGORIES)] for k, name in enumerate(names)}


def group_colors(names: Sequence[str]) -> dict[str, str]:
    """Colours of groups of patients: those of risk by name, others by their place.

    Examples
    --------
    >>> group_colors(["low", "high"])
    {'low': '#2166ac', 'high': '#b2182b'}
    """
    known = all(name in RISK for name in names)
    return {name: RISK[name] for name in names} if known else category_colors(names)


def rgb(color: str) -> list[int]:
    """Red, green and blue from 0 to 255.

    Examples
    --------
    >>> rgb("#e69f00")
    [230, 159, 0]
    """
    return [int(color[k : k + 2], 16) for k in (1, 3, 5)]
