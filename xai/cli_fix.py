"""What ``xai audit --fix`` does once the audit is done: repair, audit again, write a new file."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import typer

if TYPE_CHECKING:
    from xai.audit_inputs import Subject, Wanted
    from xai.fix import Fixed
    from xai.report import Report

Fix = Annotated[
    Path | None,
    typer.Option(
        "--fix",
        metavar="FILE",
        help="Repair what was found and write the new model here, as .safetensors and .json; the "
        "old one is never written to. Exit code 1 if objections are left on held-out rows.",
    ),
]


class Outcome(NamedTuple):
    """The report with what became of its findings, the same in words, new files, exit code."""

    report: Report
    text: str
    files: list[Path]
    code: int


def require_target(out: Path | None, model: Path, *, overwrite: bool) -> None:
    """Refuse a file that cannot be written before hours of work.

    Raises
    ------
    InputError
        A name with another suffix, the old checkpoint itself, files that are there already.
    """
    if out is None:
        return
    from neuralize.sealed import MANIFEST, WEIGHTS
    from xai.errors import InputError
    from xai.repaired_files import SKOPS, require_new

    if out.suffix not in (MANIFEST, WEIGHTS):
        raise InputError(f"--fix: expected a name ending in {WEIGHTS} or {MANIFEST}, got {out}.")
    if not out.parent.is_dir():
        raise InputError(f"--fix: expected an existing folder, got {out.parent}.")
    files = [out.with_suffix(suffix) for suffix in (WEIGHTS, MANIFEST, SKOPS)]
    require_new(files, model, overwrite=overwrite)


def repaired(
    subject: Subject,
    report: Report,
    model: Path,
    out: Path | None,
    wanted: Wanted,
    *,
    checks: Any = None,
    overwrite: bool = False,
) -> Outcome:
    """Repair what the report objects to, if ``out`` says where the new model goes.

    Nothing is written where nothing could be repaired; the report then says why.
    """
    from xai.errors import InputError, UnsupportedModelError
    from xai.repaired_files import save_repaired
    from xai.report import Section

    if out is None:
        return Outcome(report, "", [], report.exit_code)
    if not report.exit_code:
        return Outcome(report, f"Nothing to repair; {out.name} was not written.", [], 0)
    try:
        fixed, reading = _fix(subject, report, model, wanted, checks)
    except (InputError, UnsupportedModelError) as error:
        text = f"Not repaired, and {out.name} was not written: {error}"
        sections = (*report.sections, Section("Repairs", text))
        return Outcome(replace(report, sections=sections), text, [], report.exit_code)
    files = save_repaired(fixed.repaired, out, model, reading=reading, overwrite=overwrite)
    told = replace(report, sections=(*report.sections, fixed.section))
    lines = fixed.section.text.replace("\n\n", "\n")
    table = fixed.table.to_string(float_format=lambda value: f"{value:.3f}")
    return Outcome(told, f"{lines}\n{table}", files, fixed.exit_code)


def _fix(
    subject: Subject, report: Report, model: Path, wanted: Wanted, checks: Any
) -> tuple[Fixed, dict[str, Any]]:
    from xai.checkpoint import read_checkpoint
    from xai.fix import fix

    options = {
        "arch": wanted.arch, "layer": wanted.layer, "normalize": wanted.normalize,
        "size": wanted.size,
    }  # fmt: skip
    read = read_checkpoint(model, trust=wanted.trust, given=wanted.given, **options)
    features, head = None, read.model
    if read.is_encoder:
        features, head = read.model, _centroids(subject.net)
    fixed = fix(
        head,
        subject.x,
        subject.labels,
        subject.groups,
        features=features,
        report=report,
        fit_on=subject.fit_on,
        checks=checks,
        seed=wanted.seed,
    )
    return fixed, {name: value for name, value in options.items() if value is not None}


def _centroids(net: Any) -> Any:
    """Centroids of the head that was fitted on an encoder.

    Raises
    ------
    UnsupportedModelError
        Another head.
    """
    from neuralize.kmeans import ClusterNetwork
    from xai.encoder_heads import UnitLength
    from xai.errors import UnsupportedModelError

    if type(net) is not ClusterNetwork or isinstance(net.features, UnitLength):
        raise UnsupportedModelError(
            "--fix fits the heads kmeans:K again; for others repair in Python, with xai.fix.fix."
        )
    distances = net.distances
    return (distances.support + distances.center).double().cpu().numpy()
