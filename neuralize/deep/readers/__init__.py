"""Readers for checkpoints of other projects, by the names in them and without their code."""

from neuralize.deep.readers.importer import READERS, import_detector

__all__ = ["READERS", "import_detector"]
