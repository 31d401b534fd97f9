"""The command ``xai``: explain and audit fitted models without writing code.

Heavy libraries are imported inside the commands, so that ``xai --help`` answers at once.
"""

from __future__ import annotations

import traceback
import warnings
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, ParamSpec

import typer
from typer.core import TyperGroup

from xai import cli_checkpoint as checkpoint
from xai import cli_options as options
from xai.cli_audit_graph import audit_graph
from xai.cli_fix import Fix
from xai.cli_graph import explain_graph
from xai.cli_output import print_json, print_text
from xai.cli_report import compare, schema
from xai.graph_manifest import is_graph_network

if TYPE_CHECKING:
    import pandas as pd

    from xai.relevance import Array

WRONG_USE = 2

P = ParamSpec("P")


class Commands(TyperGroup):
    """What is for cell graphs takes other options, and is another command under the same name.

    ``xai explain --graph``, and ``xai audit`` of a network over cell graphs.
    """

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """The command that the arguments name."""
        ctx.meta[options.WORDS] = tuple(args)  # for reports, which say how to repeat them
        graph = any(arg == "--graph" or arg.startswith("--graph=") for arg in args)
        if args[0] == "explain" and graph:
            args = ["explain-graph", *args[1:]]
        if args[0] == "audit" and any(is_graph_network(Path(arg)) for arg in args[1:]):
            args = ["audit-graph", *args[1:]]
        return super().resolve_command(ctx, args)


# Plain text: messages stay on one line, whatever the width of the terminal.
app = typer.Typer(
    name="xai",
    cls=Commands,
    help="Explain and audit fitted clusterings and anomaly detectors.",
    epilog="Exit codes: 0 fine, 1 the audit has findings, 2 wrong use or an error.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)


def main() -> None:
    """Entry point of the script ``xai``."""
    app()


def reports_errors(command: Callable[P, None]) -> Callable[P, None]:
    """Turn what goes wrong in a command into one message on stderr and exit code 2."""

    @wraps(command)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        with warnings.catch_warnings():
            warnings.showwarning = _show_warning
            try:
                command(*args, **kwargs)
            except (typer.Exit, typer.Abort):
                raise
            except Exception as error:
                from xai.errors import XaiError

                if isinstance(error, MemoryError):
                    _complain(f"not enough memory ({error}); try --batch-size or --rows")
                elif isinstance(error, XaiError | OSError):
                    _complain(str(error))
                else:
                    traceback.print_exc()
                    _complain("this is a fault in xai, please report it with the lines above")
                raise typer.Exit(WRONG_USE) from error

    return run


def _complain(message: str) -> None:
    typer.echo(f"Error: {message}", err=True)


def _show_warning(message: Warning | str, *_: Any, **__: Any) -> None:
    typer.echo(f"Warning: {message}", err=True)


@app.callback(invoke_without_command=True)
def root(
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
) -> None:
    """Explain and audit fitted clusterings and anomaly detectors."""
    if version:
        from importlib.metadata import version as version_of

        typer.echo(version_of("unsupervised-xai"))
        raise typer.Exit


@app.command()
@reports_errors
def explain(
    model: options.Model,
    data: options.Data,
    out: options.Out = None,
    formats: Annotated[
        Any,
        typer.Option(
            "--format",
            metavar="LIST",
            parser=options.format_list,
            help=f"What goes into the folder, of {','.join(options.FORMATS)}; "
            f"{','.join(options.DEFAULT_FORMATS)} unless given.",
        ),
    ] = None,
    target: Annotated[
        int | None, typer.Option(help="Cluster to explain; unless given, the assigned one.")
    ] = None,
    method: Annotated[options.MethodName, typer.Option(help="LRP or a baseline.")] = "lrp",
    output: Annotated[
        Literal["score", "margin"],
        typer.Option(help="The evidence, or the evidence minus the model's threshold."),
    ] = "score",
    image: options.Image = None,
    rows: Annotated[
        Any, typer.Option(metavar="START:STOP", parser=options.span, help="Only these rows.")
    ] = None,
    background: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Reference rows of the baselines that need some."),
    ] = None,
    seed: Annotated[int, typer.Option(help="Of the method random.")] = 0,
    settings: options.Settings = None,
    given: options.Given = None,
    key: options.Key = None,
    drop: options.Drop = None,
    id_column: options.Id = None,
    batch_size: Annotated[int | None, typer.Option(min=1, help="Rows at a time.")] = None,
    device: Annotated[str, typer.Option(help="Where to compute, e.g. cuda.")] = "cpu",
    dtype: Annotated[Literal["float32", "float64"], typer.Option(help="Precision.")] = "float64",
    trust: options.Trust = False,
    overwrite: options.Overwrite = False,
    as_json: options.AsJson = False,
) -> None:
    """Say which features of every row led the model to its decision.

    With --graph FILE, which cells led a graph network to the risk of every patient; that has other
    options, see xai explain-graph --help.

    Example: xai explain model.skops --data wine.csv --out explained
    """
    from xai import command_steps as steps
    from xai.data_files import read_data
    from xai.model_files import read_model
    from xai.printout import to_document, to_text
    from xai.rows import match_columns

    where = steps.destination(out, formats)
    inputs = [path for path in (model, data, background) if path is not None]
    with steps.results(where, overwrite=overwrite, inputs=inputs) as scratch:
        loaded = read_model(model, trust=trust, given=dict(given or []))
        net = steps.network(loaded.model, settings or [], dtype, device)

        def read(path: Path) -> pd.DataFrame | Array:
            x = read_data(path, key=key, drop=drop or [], id_column=id_column).x
            matched: pd.DataFrame | Array = match_columns(x, loaded.feature_names, path)
            return matched

        relevance = steps.explain_rows(
            net,
            read(data),
            rows,
            image,
            target=target,
            batch_size=batch_size,
            method=method,
            output=output,
            background=None if background is None else read(background),
            seed=seed,
        )
        if where is not None and scratch is not None:
            for name in where.names:
                steps.write(relevance, scratch / name)
    files = [] if where is None else where.paths
    if as_json:
        print_json(to_document(relevance, values=where is None, files=files))
    else:
        print_text(to_text(relevance), files)


app.command("explain-graph")(reports_errors(explain_graph))
app.command("audit-graph")(reports_errors(audit_graph))


@app.command()
@reports_errors
def audit(
    context: typer.Context,
    model: checkpoint.Checkpoint,
    data: checkpoint.Data,
    out: options.Report = None,
    labels: Annotated[
        str | None,
        typer.Option(
            metavar="COLUMN|FILE[:COLUMN]|folder",
            help="Known classes: a column of the table, an array of the .npz file, a file, or the "
            "sub-folders of pictures.",
        ),
    ] = None,
    groups: Annotated[
        str | None,
        typer.Option(
            metavar="COLUMN|FILE[:COLUMN]|folder",
            help="Where rows come from (site, batch, patient).",
        ),
    ] = None,
    masks: Annotated[
        Path | None,
        typer.Option(
            metavar="PATH",
            help="Where in each picture evidence may lie: .npy or .npz (n, h, w), or a folder of "
            "pictures of the same names.",
        ),
    ] = None,
    against: Annotated[
        Path | None,
        typer.Option(
            metavar="CHECKPOINT",
            help="A second model for the same data: do the two agree in score and not in reasons?",
        ),
    ] = None,
    checks: options.Checks = None,
    seed: Annotated[int, typer.Option(min=0, help="Of random rows and places.")] = 0,
    save: options.Save = None,
    junit: options.JUnit = None,
    fix: Fix = None,
    image: options.Image = None,
    settings: options.Settings = None,
    given: options.Given = None,
    key: options.Key = None,
    drop: options.Drop = None,
    id_column: options.Id = None,
    arch: checkpoint.Arch = None,
    layer: checkpoint.Layer = None,
    normalize: checkpoint.Normalisation = None,
    size: checkpoint.Size = None,
    head: checkpoint.Head = None,
    fit_on: checkpoint.FitOn = None,
    units: checkpoint.Units = 1.0,
    rows: checkpoint.Rows = None,
    batch_size: checkpoint.BatchSize = None,
    device: checkpoint.Device = "cpu",
    trust: options.Trust = False,
    overwrite: options.Overwrite = False,
    as_json: options.AsJson = False,
) -> None:
    """Ask whether the model decides for the right reasons. Exit code 1 if there are findings.

    A checkpoint that is an encoder gets a head first, fitted on one half of the data. A network
    over cell graphs takes other options, see xai audit-graph --help.

    Example: xai audit model.skops --data wine.csv --labels grape --out report.html
    """
    from xai import cli_fix
    from xai import command_steps as steps
    from xai.audit_inputs import Wanted, audit_subject
    from xai.digest import file_digest
    from xai.printout import report_text

    wanted = Wanted(
        arch=arch, layer=layer, normalize=normalize, size=size, trust=trust,
        given=dict(given or []), head=head, fit_on=fit_on, labels=labels, groups=groups,
        masks=masks, key=key, drop=drop or [], id_column=id_column, image=image, units=units,
        rows=rows, seed=seed, settings=settings or [], device=device, batch_size=batch_size,
        against=against, repairs=fix is not None,
    )  # fmt: skip
    inputs = [path for path in (model, data, masks, fit_on, against) if path is not None]
    cli_fix.require_target(fix, model, overwrite=overwrite)
    with steps.report_files(out, junit, overwrite=overwrite, inputs=inputs) as write:
        subject = audit_subject(model, data, wanted)
        report = subject.introduced(
            subject.audit(
                checks=checks,
                seed=seed,
                save_to=save,
                command=context.meta[options.WORDS],
                facts={"model_file": model.name, "model_file_sha256": file_digest(model)},
            ).run()
        )
        done = cli_fix.repaired(
            subject, report, model, fix, wanted, checks=checks, overwrite=overwrite
        )
        files = write(done.report)
    if as_json:
        print_json(done.report.to_dict())
    else:
        print_text("\n".join(filter(None, (report_text(report), done.text))), [*files, *done.files])
    raise typer.Exit(done.code)


@app.command()
@reports_errors
def demo(
    out: Annotated[
        Path, typer.Option(metavar="FOLDER", help="Where the report goes; replaced if there.")
    ] = Path("demo-report"),
    as_json: options.AsJson = False,
) -> None:
    """Audit models with a planted flaw on data that come with the package. Exit code 0.

    Example: xai demo --out demo-report
    """
    from xai.demo import run_demo
    from xai.printout import report_text

    report = run_demo(out)
    if as_json:
        print_json(report.to_dict())
    else:
        print_text(report_text(report), [out / "report.html", out / "report.json"])


app.command()(reports_errors(compare))
app.command()(reports_errors(schema))
