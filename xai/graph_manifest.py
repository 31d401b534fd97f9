"""Whether a file is one of a network over cell graphs: light, as every audit asks it first."""

from __future__ import annotations

import json
from pathlib import Path

LARGEST = 2**26
"""Bytes of a manifest that is looked into."""

KIND = "cell graph network"


def is_graph_network(path: Path) -> bool:
    """Whether the manifest, at ``path`` or beside it, is one of a cell graph network.

    Examples
    --------
    >>> is_graph_network(Path("nowhere.safetensors"))
    False
    """
    if path.suffix.lower() not in (".safetensors", ".json"):
        return False
    manifest = path.with_suffix(".json")
    try:
        if not manifest.is_file() or manifest.stat().st_size > LARGEST:
            return False
        found = json.loads(manifest.read_bytes())
    except (OSError, ValueError, RecursionError):
        return False  # whoever reads it will say what is wrong
    return isinstance(found, dict) and found.get("kind") == KIND
