"""Names of microenvironment readouts, such as ``CELL_DENSITY_LYMPHOCYTE_STROMA``, taken apart.

The scheme is OpenTME's (arXiv 2604.12075): upper case, the kind of feature first, then the classes
it is about and, for neighbours, the radius. Names of classes hold underscores themselves
(``CARCINOMA_CELL`` beside ``CARCINOMA``), so the longest class that fits is the one that is meant.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields

from neuralize.errors import InputError

_RADIUS = re.compile(r"(\d+)(UM)?")


@dataclass(frozen=True)
class TmeName:
    """What one readout is about.

    Parameters
    ----------
    template
        The name with ``{cell}``, ``{cell_b}``, ``{radius}``, ``{tissue}`` and ``{qc}`` in place of
        what the other fields say.
    cell
        The class of the cells that are described.
    cell_b
        The class of their neighbours.
    radius
        How far a neighbour may be, in micrometres.
    tissue
        The tissue region.
    qc
        The class of image quality.

    Examples
    --------
    >>> name = TmeName("CELL_DENSITY_{cell}_{tissue}", cell="T cell", tissue="Stroma")
    >>> str(name), name.kind
    ('CELL_DENSITY_T_CELL_STROMA', 'CELL_DENSITY')
    """

    template: str
    cell: str | None = None
    cell_b: str | None = None
    radius: int | None = None
    tissue: str | None = None
    qc: str | None = None

    def __post_init__(self) -> None:
        for field in fields(self)[1:]:
            there = f"{{{field.name}}}" in self.template
            if there != (getattr(self, field.name) is not None):
                raise InputError(
                    f"Expected {field.name} exactly where the template {self.template!r} has "
                    f"{{{field.name}}}, got {getattr(self, field.name)!r}."
                )

    @property
    def kind(self) -> str:
        """The name without what it is about."""
        words = [word for word in re.split(r"_?\{\w+\}(?:UM)?", self.template) if word]
        return "_".join(word.strip("_") for word in words)

    def __str__(self) -> str:
        words = {f.name: upper(str(getattr(self, f.name))) for f in fields(self)[1:]}
        return re.sub(r"\{(\w+)\}", lambda match: words[match[1]], self.template)


def upper(label: str) -> str:
    """A class as it is written in names.

    Examples
    --------
    >>> upper("T cell"), upper("Tumor: CK+")
    ('T_CELL', 'TUMOR_CK')
    """
    return re.sub(r"[^0-9A-Z]+", "_", label.upper()).strip("_")


class TmeNames:
    """Reads names, given the classes there are.

    Parameters
    ----------
    cells
        Classes of cells, in any spelling: ``"Carcinoma Cell"`` is written ``CARCINOMA_CELL``.
    tissues
        Tissue regions.
    qcs
        Classes of image quality.

    Raises
    ------
    InputError
        Two classes that are written alike, or one that would be written as nothing.

    Examples
    --------
    >>> names = TmeNames(["Lymphocyte", "Carcinoma Cell"], ["Carcinoma", "Stroma"])
    >>> names.parse("CELL_DENSITY_CARCINOMA_CELL_CARCINOMA")
    TmeName(template='CELL_DENSITY_{cell}_{tissue}', cell='Carcinoma Cell', cell_b=None,
            radius=None, tissue='Carcinoma', qc=None)
    """

    def __init__(
        self, cells: Sequence[str], tissues: Sequence[str] = (), qcs: Sequence[str] = ()
    ) -> None:
        self.cells, self.tissues, self.qcs = tuple(cells), tuple(tissues), tuple(qcs)
        self._known: dict[tuple[str, ...], tuple[str, str]] = {}
        for use, labels in (("cell", cells), ("tissue", tissues), ("qc", qcs)):
            for label in labels:
                key = tuple(upper(label).split("_"))
                if key == ("",):
                    raise InputError(f"Expected names with letters or digits, got {label!r}.")
                if key in self._known:
                    other = self._known[key][1]
                    raise InputError(
                        f"Expected classes of cells and tissues that are written differently, got "
                        f"{other!r} and {label!r}, both {upper(label)}. Rename one: 'Carcinoma "
                        "Cell' beside the tissue 'Carcinoma', say."
                    )
                self._known[key] = (use, label)
        self._longest = max((len(key) for key in self._known), default=0)

    def parse(self, name: str) -> TmeName:
        """What a name is about; ``str`` of the result is the name again.

        From the left, the longest class that fits is read. A number (``20``, ``20UM``) is a radius
        if two classes of cells are named. What is named beyond two classes of cells, one tissue
        and one class of quality stays part of the kind.
        """
        words = name.split("_")
        found: dict[str, str] = {}
        template: list[str] = []
        at = 0
        while at < len(words):
            length, use, label = self._class_at(words, at)
            if use == "cell" and use in found:
                use = "cell_b"
            if length and use not in found:
                found[use] = label
                template.append(f"{{{use}}}")
                at += length
            else:
                template.append(words[at])
                at += 1
        radius = None
        for k, word in enumerate(template):
            match = _RADIUS.fullmatch(word)
            if match and "cell_b" in found and radius is None and str(int(match[1])) == match[1]:
                radius = int(match[1])
                template[k] = "{radius}" + (match[2] or "")
        return TmeName("_".join(template), radius=radius, **found)

    def _class_at(self, words: list[str], at: int) -> tuple[int, str, str]:
        for length in range(min(self._longest, len(words) - at), 0, -1):
            known = self._known.get(tuple(words[at : at + length]))
            if known is not None:
                return length, *known
        return 0, "", ""

    def parse_all(self, names: Sequence[str]) -> Mapping[str, TmeName]:
        """Every name by itself."""
        return {name: self.parse(name) for name in names}
