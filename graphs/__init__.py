"""Cell graphs: building them, the survival network, relevance over graphs.

The package may use ``neuralize`` and never ``xai``.
"""

from graphs.build import delaunay_graph, knn_graph, radius_graph
from graphs.cell_graph import CellGraph, concatenated, each_patient
from graphs.checkpoint import load_network, save_network
from graphs.ensemble import GraphEnsemble, train_ensemble
from graphs.inputs import GraphInput, graph_input
from graphs.lrp import explain, graph_composite, grid_relevance, interaction_range
from graphs.network import CellGraphNet, GraphConfig
from graphs.partition import Partition, grid_partition, neighbourhoods, partition_by
from graphs.readers import Columns, DroppedCellsWarning, read_cells, to_anndata
from graphs.relevance import GraphRelevance
from graphs.survival import Outcome
from graphs.tissue_area import tissue_area
from graphs.tme import tme_readouts
from graphs.tme_names import TmeName, TmeNames
from graphs.tme_table import TmeTable, grouped_relevance, read_tme_table
from graphs.training import GraphTraining, predict, train

__all__ = [
    "CellGraph",
    "CellGraphNet",
    "Columns",
    "DroppedCellsWarning",
    "GraphConfig",
    "GraphEnsemble",
    "GraphInput",
    "GraphRelevance",
    "GraphTraining",
    "Outcome",
    "Partition",
    "TmeName",
    "TmeNames",
    "TmeTable",
    "concatenated",
    "delaunay_graph",
    "each_patient",
    "explain",
    "graph_composite",
    "graph_input",
    "grid_partition",
    "grid_relevance",
    "grouped_relevance",
    "interaction_range",
    "knn_graph",
    "load_network",
    "neighbourhoods",
    "partition_by",
    "predict",
    "radius_graph",
    "read_cells",
    "read_tme_table",
    "save_network",
    "tissue_area",
    "tme_readouts",
    "to_anndata",
    "train",
    "train_ensemble",
]
