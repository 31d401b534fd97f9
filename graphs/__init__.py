"""Cell graphs: building them, the survival network, relevance over graphs.

The package may use ``neuralize`` and never ``xai``.
"""

from graphs.cell_graph import CellGraph, concatenated, each_patient
from graphs.lrp import explain, graph_composite, grid_relevance, interaction_range
from graphs.network import CellGraphNet, GraphConfig, GraphInput, graph_input
from graphs.partition import Partition, grid_partition, neighbourhoods, partition_by
from graphs.relevance import GraphRelevance

__all__ = [
    "CellGraph",
    "CellGraphNet",
    "GraphConfig",
    "GraphInput",
    "GraphRelevance",
    "Partition",
    "concatenated",
    "each_patient",
    "explain",
    "graph_composite",
    "graph_input",
    "grid_partition",
    "grid_relevance",
    "interaction_range",
    "neighbourhoods",
    "partition_by",
]
