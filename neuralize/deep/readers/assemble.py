"""From weights and what was given to a fitted detector, as one of ours."""

from __future__ import annotations

import copy
import hashlib
from pathlib import Path
from typing import Any, NamedTuple

from torch import nn

from neuralize.deep.detector import DeepDetector
from neuralize.deep.readers.given import Given
from neuralize.seeding import seeded


class Source(NamedTuple):
    """The file that is read, and which format it was taken for."""

    path: Path
    format: str

    def provenance(self) -> dict[str, str]:
        """What a manifest written later says about it."""
        with self.path.open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
        return {"format": self.format, "file": self.path.name, "sha256": found}


def assemble(
    detector: DeepDetector,
    config: dict[str, Any],
    input_shape: tuple[int, ...],
    given: Given,
    source: Source,
) -> nn.Module:
    """Give a detector of this configuration its module, with fresh weights, and return that.

    The threshold is the given one; there are no training scores, losses or data.
    """
    detector.input_shape_ = input_shape
    detector.config_ = config | {"imported": source.provenance()}
    detector.threshold_ = given.threshold
    detector.history_ = {}
    detector.data_sha256_ = ""
    with seeded(0):
        module = detector._build(config, copy.deepcopy(given.network))
    detector.module_ = module.eval()
    return detector.module_
