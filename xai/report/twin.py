"""What a report's JSON is made of, as types; they give the published schema and read such files.

``xai/report/schema/report.schema.json`` is :func:`report_schema` of this version. A field that is
added, renamed or taken away makes a new :data:`~xai.report.document.VERSION`.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, FailFast, Field, ValidationError

from xai.errors import FileFormatError
from xai.report.document import FORMAT, VERSION
from xai.report.finding import Relation, Severity, SuspectKind

MAX_BYTES = 20_000_000
"""A larger file is refused unread."""

SCHEMA = Path(__file__).parent / "schema" / "report.schema.json"

T = TypeVar("T")
Many = Annotated[list[T], FailFast()]
"""A list that is given up at its first fault: a file of millions of faults must not fill memory."""

Cell = bool | int | float | str | None
Sha256 = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Number(_Part):
    """A number, null where it is none (infinite, missing), and the way the page shows it."""

    value: float | None
    shown: str


class MeasureTwin(Number):
    """What was measured, and what would have been fine."""

    name: str
    relation: Relation
    threshold: float | None
    text: str


class BeforeAfterTwin(_Part):
    """One quantity before and after the data were changed, and after the same at random."""

    name: str
    before: Number
    after: Number
    random: Number | None


class CounterfactualTwin(_Part):
    """What was changed in the data, and how far the answers moved."""

    tested: str
    numbers: dict[str, Number]
    before_after: Many[BeforeAfterTwin]


class PictureTwin(_Part):
    """The words of a picture; the page has the picture itself."""

    caption: str
    alt: str


class SuspectTwin(_Part):
    """What is suspected."""

    kind: SuspectKind
    summary: str


class _AnswerTwin(_Part):
    check: str
    model: str
    command: str


class FindingTwin(_AnswerTwin):
    """A finding; severity is critical, warning or info (a note)."""

    severity: Severity
    title: str
    measure: MeasureTwin
    explanation: str
    advice: str
    counterfactual: CounterfactualTwin | None
    n_samples: Annotated[int, Field(ge=0)]
    samples: Many[str]
    suspect: SuspectTwin | None
    pictures: Many[PictureTwin]


class PassedTwin(_AnswerTwin):
    """A measure that was fine."""

    measure: MeasureTwin
    note: str


class NotAssessableTwin(_AnswerTwin):
    """A question without an answer, which is no pass."""

    question: str
    reason: str


class FrameTwin(_Part):
    """A table: values, and the same as the page shows them."""

    index_name: str
    columns: Many[str]
    index: Many[str]
    rows: Many[Many[Cell]]
    shown: Many[Many[str]]


class TableTwin(FrameTwin):
    """A table with its caption."""

    caption: str


class SectionTwin(_Part):
    """Text, pictures and tables under a title."""

    title: str
    text: str
    pictures: Many[PictureTwin]
    tables: Many[TableTwin]


class TimeTwin(_Part):
    """How long a check took; no part of the digest."""

    check: str
    seconds: Number
    share: Number


class ReportTwin(_Part):
    """A report of unsupervised-xai. ``content_sha256`` is the digest of all but the times."""

    format: Literal["unsupervised-xai report"]
    version: Literal[2]
    title: str
    headline: str
    reasons: Many[str]
    tally: str
    severity: Severity | None
    exit_code: Literal[0, 1]
    introduction: str
    overview: FrameTwin
    n_passed: Annotated[int, Field(ge=0)]
    findings: Many[FindingTwin]
    passed: Many[PassedTwin]
    not_assessable: Many[NotAssessableTwin]
    sections: Many[SectionTwin]
    appendix: Many[SectionTwin]
    provenance: dict[str, str]
    content_sha256: Sha256
    times: Many[TimeTwin]


def report_schema() -> dict[str, Any]:
    """The JSON Schema (draft 2020-12) of a report's JSON.

    Examples
    --------
    >>> report_schema()["properties"]["version"]
    {'const': 2, 'title': 'Version', 'type': 'integer'}
    """
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        **ReportTwin.model_json_schema(),
    }


def read_report(path: str | Path) -> ReportTwin:
    """The JSON twin of a report, checked against the schema.

    Raises
    ------
    FileFormatError
        Too large, no report, or one of another version.
    """
    path = Path(path)
    size = path.stat().st_size
    if size > MAX_BYTES:
        raise FileFormatError(
            f"Expected the JSON of a report, at most {MAX_BYTES / 1e6:g} MB, and {path} has "
            f"{size / 1e6:.0f} MB."
        )
    try:
        return ReportTwin.model_validate_json(path.read_bytes())
    except ValidationError as error:
        raise FileFormatError(_complaint(path, error)) from error


def _complaint(path: Path, error: ValidationError) -> str:
    first = error.errors(include_url=False)[0]
    where = ".".join(map(str, first["loc"])) or "the file"
    wrong = [e["loc"] for e in error.errors(include_url=False)]
    if ("version",) in wrong and ("format",) not in wrong:
        return (
            f"Expected the JSON of a report in version {VERSION} of its format, and {path} is of "
            "another one; write it again with this version."
        )
    return (
        f"Expected the JSON of a report ({FORMAT!r}) in {path}, and it does not fit the schema: "
        f"{where}: {first['msg']}."
    )


def written_schema() -> str:
    """The text of the published file."""
    return json.dumps(report_schema(), indent=1) + "\n"
