"""Answers as a header of plain values and arrays by name, which read back equal.

Pictures are kept as the PNG they were drawn to, arrays of a suspect as they are; nothing in a file
made of these can run code.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from xai.report.finding import (
    Answer,
    BeforeAfter,
    Counterfactual,
    Finding,
    Measure,
    NotAssessable,
    Passed,
    Picture,
    Relation,
    Severity,
    Suspect,
    SuspectKind,
)

Arrays = dict[str, np.ndarray[Any, Any]]
Number = bool | int | float


class _Kept(BaseModel):
    model_config = ConfigDict(extra="forbid", from_attributes=True)


class _Measure(_Kept):
    name: str
    value: Number
    relation: Relation
    threshold: Number


class _BeforeAfter(_Kept):
    name: str
    before: Number
    after: Number
    random: Number | None


class _Counterfactual(_Kept):
    tested: str
    numbers: dict[str, Number]
    before_after: list[_BeforeAfter]


class _Words(_Kept):
    caption: str
    alt: str


class _Suspect(_Kept):
    kind: SuspectKind
    summary: str
    names: list[str]


class _Finding(_Kept):
    type: Literal["finding"] = "finding"
    severity: Severity
    title: str
    measure: _Measure
    explanation: str
    advice: str
    counterfactual: _Counterfactual | None
    pictures: list[_Words]
    samples: list[str]
    suspect: _Suspect | None


class _Passed(_Kept):
    type: Literal["passed"] = "passed"
    measure: _Measure
    note: str


class _NotAssessable(_Kept):
    type: Literal["not assessable"] = "not assessable"
    question: str
    reason: str


class KeptAnswers(_Kept):
    """The header: what answers say in words and numbers."""

    answers: list[Annotated[_Finding | _Passed | _NotAssessable, Field(discriminator="type")]]


def to_parts(answers: Sequence[Answer]) -> tuple[dict[str, Any], Arrays]:
    """Header and arrays. Who was asked is not kept; the audit knows.

    Examples
    --------
    >>> header, arrays = to_parts([Passed(Measure("tied rows", float("inf"), "<=", 1))])
    >>> header["answers"][0]["measure"]["value"]
    'Infinity'
    >>> from_parts(header, arrays)[0].measure.value
    inf
    """
    arrays: Arrays = {}
    kept = [_kept(answer, str(i), arrays) for i, answer in enumerate(answers)]
    return {"answers": kept}, arrays


def from_parts(header: Mapping[str, Any], arrays: Mapping[str, Any]) -> list[Answer]:
    """Answers from what :func:`to_parts` gave.

    Raises
    ------
    pydantic.ValidationError, InputError, KeyError, ValueError
        Something else.
    """
    # Through JSON, where texts stand for what is not finite.
    kept = KeptAnswers.model_validate_json(json.dumps(header))
    return [_answer(entry, str(i), arrays) for i, entry in enumerate(kept.answers)]


def _kept(answer: Answer, i: str, arrays: Arrays) -> dict[str, Any]:
    if isinstance(answer, NotAssessable):
        return {
            "type": "not assessable",
            "question": answer.question,
            "reason": answer.reason,
        }
    if isinstance(answer, Passed):
        return {"type": "passed", "measure": _measure(answer.measure), "note": answer.note}
    for j, picture in enumerate(answer.pictures):
        arrays[f"{i}_picture_{j}"] = np.frombuffer(picture.png(), dtype=np.uint8)
    suspect, test = answer.suspect, answer.counterfactual
    if suspect is not None:
        for name, array in suspect.arrays.items():
            arrays[f"{i}_suspect_{name}"] = _plain(array)
    return {
        "type": "finding",
        "severity": answer.severity,
        "title": answer.title,
        "measure": _measure(answer.measure),
        "explanation": answer.explanation,
        "advice": answer.advice,
        "counterfactual": None
        if test is None
        else {
            "tested": test.tested,
            "numbers": {name: _number(value) for name, value in test.numbers.items()},
            "before_after": [
                {
                    "name": entry.name,
                    "before": _number(entry.before),
                    "after": _number(entry.after),
                    "random": None if entry.random is None else _number(entry.random),
                }
                for entry in test.before_after
            ],
        },
        "pictures": [{"caption": p.caption, "alt": p.alt} for p in answer.pictures],
        "samples": [str(name) for name in answer.samples],
        "suspect": None
        if suspect is None
        else {"kind": suspect.kind, "summary": suspect.summary, "names": list(suspect.arrays)},
    }


def _measure(measure: Measure) -> dict[str, Any]:
    return {
        "name": measure.name,
        "value": _number(measure.value),
        "relation": measure.relation,
        "threshold": _number(measure.threshold),
    }


def _number(value: float) -> float | str:
    """The number itself, or the text that stands for it in JSON."""
    if isinstance(value, bool | int) or np.isfinite(value):
        return value
    return "NaN" if np.isnan(value) else "Infinity" if value > 0 else "-Infinity"


def _plain(array: Any) -> np.ndarray[Any, Any]:
    """An array of numbers, or of texts where it held objects, which only pickles can keep."""
    plain = np.asarray(array)
    return plain.astype(str) if plain.dtype.hasobject else plain


def _answer(entry: Any, i: str, arrays: Mapping[str, Any]) -> Answer:
    if isinstance(entry, _NotAssessable):
        return NotAssessable(entry.question, entry.reason)
    measure = Measure(**dict(entry.measure))
    if isinstance(entry, _Passed):
        return Passed(measure, entry.note)
    test, suspect = entry.counterfactual, entry.suspect
    return Finding(
        entry.severity,
        entry.title,
        measure,
        entry.explanation,
        entry.advice,
        None
        if test is None
        else Counterfactual(
            test.tested,
            test.numbers,
            tuple(BeforeAfter(**dict(pair)) for pair in test.before_after),
        ),
        tuple(_pictures(entry.pictures, i, arrays)),
        tuple(entry.samples),
        None
        if suspect is None
        else Suspect(
            suspect.kind,
            suspect.summary,
            {name: arrays[f"{i}_suspect_{name}"] for name in suspect.names},
        ),
    )


def _pictures(words: Sequence[_Words], i: str, arrays: Mapping[str, Any]) -> Iterator[Picture]:
    for j, entry in enumerate(words):
        content = arrays[f"{i}_picture_{j}"]
        if content.dtype != np.uint8 or content.ndim != 1:
            raise ValueError(f"picture {j} is {content.dtype} of shape {content.shape}, not bytes")
        yield Picture(content.tobytes(), entry.caption, entry.alt)
