"""Cross-validated survival prediction on a real cohort: the graph network beside Cox models.

python benchmarks/cohort.py ../shared/data/nsclc_cells [--out FILE]

879,694 cells in 761 images of 153 patients (mxfda's lung table). 5 times 5 folds by patient,
stratified by event, stage and time. Models, in the same folds: ridge Cox on stage, on stage and
age, on composition, on all; and networks (ensembles with ``--members``) without covariates, and
with stage. Nothing was tuned on the folds. Measures on the test patients: Harrell's C,
Uno's C, AUC at 2, 3 and 5 years (mean), integrated Brier score from half a year to 5 years. One row
per fold and model; runs that are in the output already are skipped.
"""

from __future__ import annotations

import argparse
import csv
import sys
import time
from collections.abc import Callable
from functools import partial
from itertools import product
from pathlib import Path

# A file beside this one is called neuralize, like the package, and this folder comes first.
sys.path[:] = [entry for entry in sys.path if Path(entry or ".").resolve() != Path(__file__).parent]

import numpy as np
import pandas as pd
import torch
from tqdm import tqdm

from graphs.baseline_hazard import BaselineHazard
from graphs.batches import PatientBatches
from graphs.build import knn_graph
from graphs.cell_graph import CellGraph
from graphs.cox_models import CoxModel, baseline_tables
from graphs.cross_validation import Fold, stratified_folds
from graphs.ensemble import fit_ensemble
from graphs.metrics import harrell, integrated_brier, time_dependent_auc, uno
from graphs.network import GraphConfig
from graphs.survival import Outcome
from graphs.training import GraphTraining, predict_batches

YEAR = 365.25
AUC_TIMES = np.array([2.0, 3.0, 5.0]) * YEAR
BRIER_TIMES = np.linspace(0.5, 5, 19) * YEAR
TAU = 8 * YEAR
EPOCHS = 12
NETWORKS = {"network": (), "network + stage": ("stage",)}
Hazards = tuple[pd.Series, pd.Series]
"""Of the training and of the test patients."""
COLUMNS = ("repeat", "fold", "model", "harrell", "uno", "auc", "ibs", "harrell_train", "seconds")


def cohort(folder: Path) -> tuple[CellGraph, Outcome, pd.DataFrame]:
    cells = pd.read_parquet(folder / "lung_cells_153patients.parquet")
    cells = cells.sort_values(["patient_id", "image_id", "cell_id"], kind="stable")
    images, names = pd.factorize(cells["patientImage_id"])
    kinds, phenotypes = np.unique(cells["cell_type"].to_numpy(str), return_inverse=True)
    graph = CellGraph(
        positions=cells[["x", "y"]].to_numpy(float), phenotypes=phenotypes,
        phenotype_names=tuple(kinds), images=images, image_names=tuple(names),
        patients=tuple(name.split("_")[0] for name in names),
    )  # fmt: skip
    table = pd.read_csv(folder / "lung_patients.csv").set_index("patient_id")
    table.index = table.index.astype(int).astype(str)
    outcome = Outcome.from_table(table, "days", "event", "days").matched(graph)
    return knn_graph(graph, k=3, max_edge=50), outcome, table.loc[list(outcome.patients)]


def cox(table: pd.DataFrame, outcome: Outcome, fold: Fold) -> Hazards:
    model = CoxModel().fit(table, outcome.of(fold.train))
    return model.predict(table.loc[list(fold.train)]), model.predict(table.loc[list(fold.test)])


def network(
    data: PatientBatches, config: GraphConfig, outcome: Outcome, members: int, fold: Fold
) -> Hazards:
    number = {name: k for k, name in enumerate(outcome.patients)}
    train = data.of([number[name] for name in fold.train])
    plan = GraphTraining(
        EPOCHS, 32, images_per_step=1, lr=3e-3, weight_decay=0.1,
        seed=1000 * fold.repeat + 100 * fold.number, progress=False,
    )  # fmt: skip
    net = fit_ensemble(config, train, outcome.of(fold.train), plan, members=members)
    hazards = pd.Series(predict_batches(net, data), index=outcome.patients)
    return hazards[list(fold.train)], hazards[list(fold.test)]


def measured(train: pd.Series, test: pd.Series, outcome: Outcome) -> dict[str, str]:
    of_train, of_test = outcome.of(tuple(train.index)), outcome.of(tuple(test.index))
    curves = BaselineHazard.of(train, of_train).survival(test, BRIER_TIMES)
    found = {
        "harrell": harrell(test, of_test),
        "uno": uno(test, of_test, of_train, TAU),
        "auc": float(np.nanmean(time_dependent_auc(test, of_test, AUC_TIMES, of_train))),
        "ibs": integrated_brier(curves, of_test, BRIER_TIMES, of_train),
        "harrell_train": harrell(train, of_train),
    }
    return {name: f"{value:.4f}" for name, value in found.items()}


def printed(path: Path) -> None:
    table = pd.read_csv(path)
    folds = table.groupby(["repeat", "fold"]).ngroups
    print(f"Mean and standard deviation over {folds} folds.\n")
    print("| model | Harrell | Uno | AUC | IBS | Harrell, training |\n|---|---|---|---|---|---|")
    for name, rows in table.groupby("model", sort=False):
        cells = [
            f"{rows[c].mean():.3f} +- {rows[c].std(ddof=0):.3f}"
            for c in ("harrell", "uno", "auc", "ibs", "harrell_train")
        ]
        print(f"| {name} | {' | '.join(cells)} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="with lung_cells_153patients.parquet")
    parser.add_argument("--out", type=Path, default=Path(__file__).with_suffix(".csv"))
    parser.add_argument("--members", type=int, default=1, help="networks in an ensemble")
    parser.add_argument("--folds", type=int, default=25, help="stop after so many")
    options = parser.parse_args()
    if not (options.folder / "lung_cells_153patients.parquet").is_file():
        print(f"Not run: there is no lung_cells_153patients.parquet in {options.folder}.")
        return
    torch.set_num_threads(1)
    graph, outcome, clinical = cohort(options.folder)
    print(graph, outcome, sep="\n")
    folds = stratified_folds(outcome, clinical["stage"], folds=5, repeats=5)[: options.folds]
    models: dict[str, Callable[[Fold], Hazards]] = {}
    for name, table in baseline_tables(graph, clinical).items():
        models[name] = partial(cox, table, outcome)
    for name, names in NETWORKS.items():
        config = GraphConfig(len(graph.phenotype_names), 32, 2, covariates=names)
        data = PatientBatches(graph, clinical, names, config.conv)
        models[name] = partial(network, data, config, outcome, options.members)
    done = set()
    if options.out.exists():
        with options.out.open(newline="") as file:
            done = {(row["repeat"], row["fold"], row["model"]) for row in csv.DictReader(file)}
    with options.out.open("a", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS)
        if not done:
            writer.writeheader()
        for fold, (name, model) in tqdm(list(product(folds, models.items()))):
            run = {"repeat": str(fold.repeat), "fold": str(fold.number), "model": name}
            if tuple(run.values()) in done:
                continue
            started = time.process_time()
            train, test = model(fold)
            spent = {"seconds": f"{time.process_time() - started:.1f}"}
            writer.writerow(run | measured(train, test, outcome) | spent)
            file.flush()
    printed(options.out)


if __name__ == "__main__":
    main()
