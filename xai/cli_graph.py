"""The command ``xai explain --graph``: which cells drive the predicted risk of patients."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import typer

from xai import cli_graph_options as graph_options
from xai import cli_options as options
from xai.cli_output import print_json, print_text


def explain_graph(
    model: graph_options.Network,
    graph: graph_options.Cells,
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
    time: graph_options.Time = None,
    event: graph_options.Event = None,
    patient: graph_options.Only = None,
    grid: graph_options.Grid = None,
    offsets: graph_options.Offsets = 1,
    sizes: graph_options.Range = None,
    gamma: graph_options.Gamma = 0.25,
    out: options.Out = None,
    formats: Annotated[
        Any,
        typer.Option(
            "--format",
            metavar="LIST",
            parser=graph_options.graph_formats,
            help=f"What goes into the folder, of {','.join(graph_options.GRAPH_FORMATS)}; "
            f"{','.join(graph_options.GRAPH_DEFAULT_FORMATS)} unless given.",
        ),
    ] = None,
    report: graph_options.WithReport = False,
    slide_mpp: graph_options.SlideMpp = None,
    device: Annotated[str, typer.Option(help="Where to compute, e.g. cuda.")] = "cpu",
    dtype: Annotated[Literal["float32", "float64"], typer.Option(help="Precision.")] = "float64",
    overwrite: options.Overwrite = False,
    as_json: options.AsJson = False,
) -> None:
    """Say which cells led a graph network to the risk of every patient.

    The same as xai explain MODEL --graph FILE. All lengths are in micrometres, or in pixels of
    unknown size where the cells are.

    Example: xai explain-graph net.safetensors --graph cells.parquet --k 3 --out explained
    """
    import torch

    from graphs.checkpoint import load_network
    from xai import command_steps, graph_files
    from xai import graph_steps as steps
    from xai.cohort_report import cohort_report
    from xai.file_formats import require_file
    from xai.graph_printout import graph_document, graph_text

    neighbours = steps.Neighbours(k, max_edge, radius, delaunay)
    method = steps.Method(gamma, grid, offsets, sizes or (), getattr(torch, dtype), device)
    files = steps.CellFiles(graph, dict(column or []), unit, mpp, unknown, duplicates, missing)
    net, manifest = load_network(require_file(model))
    cells = steps.cells_for(files, manifest, patient or [])
    wanted = [*net.config.covariates, *(name for name in (time, event) if name is not None)]
    table = steps.patient_table(covariates, id_column, wanted, cells.patient_names)
    outcome = steps.outcome_of(table, time, event, manifest.unit)
    where = graph_files.graph_destination(
        out, formats, cells, grid=grid is not None, sizes=bool(sizes), report=report
    )
    names = () if where is None else where.names
    scale = slide_mpp if slide_mpp is not None else mpp
    graph_files.require_scale(names, cells, scale)
    inputs = [path for path in (model, *graph, covariates) if path is not None]
    with command_steps.results(where, overwrite=overwrite, inputs=inputs) as scratch:
        cells = neighbours.joined(cells)
        relevance = method.relevance(net, cells, table)
        interaction = method.interaction(net, cells, table)
        found = steps.provenance(model, manifest, files, neighbours, method)
        if scratch is not None:
            graph_files.write_files(relevance, interaction, names, scratch, scale)
            if report or any(name.endswith(".html") for name in names):
                made = cohort_report(
                    relevance, outcome, interaction, title=f"Cohort report: {model.name}",
                    subject=model.name, provenance=found,
                )  # fmt: skip
                for name in names:
                    if report and name == "report.json":
                        made.to_json(scratch / name)
                    elif name.endswith(".html"):
                        made.to_html(scratch / name)
    paths = [] if where is None else where.paths
    if as_json:
        print_json(graph_document(relevance, model.name, found, paths))
    else:
        print_text(graph_text(relevance, model.name), paths)
