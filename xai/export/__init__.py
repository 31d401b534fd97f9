"""Relevance for other programs: GeoJSON (QuPath), tables, ViRelAy, and files to read back."""

from xai.export.geojson import cells_to_geojson, parts_to_geojson
from xai.export.graph_file import load_graph_relevance, save_graph_relevance
from xai.export.tables import cells_to_table, parts_to_table
from xai.export.virelay import virelay_project

__all__ = [
    "cells_to_geojson",
    "cells_to_table",
    "load_graph_relevance",
    "parts_to_geojson",
    "parts_to_table",
    "save_graph_relevance",
    "virelay_project",
]
