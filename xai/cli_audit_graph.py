"""The command ``xai audit`` for a network over cell graphs: what its predicted risks hang on."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from xai import cli_graph_options as graph_options
from xai import cli_options as options
from xai.cli_output import print_json, print_text

Cells = Annotated[
    list[Path],
    typer.Option(
        "--data",
        metavar="FILE",
        help="Cells: .parquet, .csv, .tsv, .h5ad, .geojson or .json; may be repeated.",
    ),
]
PER_PATIENT = "a column of the cells with one value per patient, or FILE:COLUMN of a table with "
PER_PATIENT += "one row per patient."


def audit_graph(
    context: typer.Context,
    model: Annotated[
        Path,
        typer.Argument(
            metavar="NETWORK",
            help="Graph network or ensemble: .safetensors, or the .json manifest beside it.",
            show_default=False,
        ),
    ],
    data: Cells,
    out: options.Report = None,
    column: graph_options.Column = None,
    unit: graph_options.UnitName = None,
    mpp: graph_options.Mpp = None,
    unknown: graph_options.Unknown = "error",
    duplicates: graph_options.Duplicates = "error",
    missing: graph_options.Missing = "error",
    k: graph_options.Nearest = None,
    max_edge: graph_options.MaxEdge = None,
    radius: graph_options.Radius = None,
    delaunay: graph_options.Triangles = None,
    covariates: graph_options.Patients = None,
    id_column: graph_options.PatientId = None,
    patient: graph_options.Only = None,
    labels: Annotated[
        str | None,
        typer.Option(metavar="COLUMN|FILE:COLUMN", help=f"Class of the patients: {PER_PATIENT}"),
    ] = None,
    groups: Annotated[
        str | None,
        typer.Option(
            metavar="COLUMN|FILE:COLUMN",
            help=f"Where the tissue comes from (site, scanner): {PER_PATIENT}",
        ),
    ] = None,
    suspects: Annotated[
        list[str] | None,
        typer.Option(
            "--suspect",
            metavar="NAME",
            help="A phenotype or feature that should not matter; may be repeated.",
        ),
    ] = None,
    checks: options.Checks = None,
    seed: Annotated[int, typer.Option(min=0, help="Of cells and groups drawn at random.")] = 0,
    save: options.Save = None,
    junit: options.JUnit = None,
    device: Annotated[str, typer.Option(help="Where to compute, e.g. cuda.")] = "cpu",
    overwrite: options.Overwrite = False,
    as_json: options.AsJson = False,
) -> None:
    """Ask whether a graph network is right for the right reasons. Exit code 1 with findings.

    The same as xai audit NETWORK, if the file is one of a network over cell graphs. Join cells as
    it was done for training. All lengths are in micrometres, or in pixels where the cells are.

    Example: xai audit-graph net.safetensors --data cells.parquet --k 5 --groups site --out a.html
    """
    from graphs.checkpoint import load_network
    from neuralize.sealed import MANIFEST, WEIGHTS
    from xai import command_steps
    from xai import graph_steps as steps
    from xai.audit.graph_audit import GraphAudit
    from xai.digest import file_digest
    from xai.file_formats import require_file
    from xai.graph_patients import patient_column
    from xai.printout import report_text

    steps.require_device(device)
    weights = model.with_suffix(WEIGHTS) if model.suffix.lower() == MANIFEST else model
    neighbours = steps.Neighbours(k, max_edge, radius, delaunay)
    files = steps.CellFiles(data, dict(column or []), unit, mpp, unknown, duplicates, missing)
    inputs = [path for path in (model, weights, *data, covariates) if path is not None]
    with command_steps.report_files(out, junit, overwrite=overwrite, inputs=inputs) as write:
        net, manifest = load_network(require_file(weights))
        cells = steps.cells_for(files, manifest, patient or [])
        names = net.config.covariates
        table = steps.patient_table(covariates, id_column, names, cells.patient_names)
        given = {
            what: None if value is None else patient_column(value, files, cells.patient_names, what)
            for what, value in (("labels", labels), ("groups", groups))
        }
        joins = any(value is not None for value in (k, radius, delaunay))
        facts = {"model_file": weights.name, "weights_sha256": manifest.weights_sha256}
        facts |= {f"sha256 of {path.name}": file_digest(path) for path in data}
        facts["neighbours"] = str(neighbours)
        report = GraphAudit(
            net.to(device),
            neighbours.joined(cells),
            given["labels"],
            given["groups"],
            checks,
            covariates=table,
            suspects=suspects or (),
            join=neighbours.joined if joins else None,
            seed=seed,
            save_to=save,
            command=context.meta[options.WORDS],
            facts=facts,
        ).run()
        written = write(report)
    if as_json:
        print_json(report.to_dict())
    else:
        print_text(report_text(report), written)
    raise typer.Exit(report.exit_code)
