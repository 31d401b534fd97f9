"""Relevance made by hand, whose sums are known without any model."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from xai import Relevance

HOSTILE = "<script>alert(1)</script>"


def made(
    shape: tuple[int, ...],
    *,
    seed: int = 0,
    dtype: str = "float64",
    absorbed: tuple[str, ...] | dict[str, NDArray[Any]] = ("bias",),
    **fields: Any,
) -> Relevance:
    """Random relevance of this shape that conserves; ``fields`` replace any field.

    ``absorbed`` names random shares, or gives them.
    """
    rng = np.random.default_rng(seed)
    values = rng.normal(size=shape).astype(dtype)
    if isinstance(absorbed, tuple):
        shares = {name: rng.normal(size=shape[0]).astype(dtype) for name in absorbed}
    else:
        shares = dict(absorbed)
    evidence = np.array(
        [values[i].sum() + sum(share[i] for share in shares.values()) for i in range(shape[0])],
        dtype,
    )
    complete: dict[str, Any] = {
        "values": values,
        "evidence": evidence,
        "absorbed": shares,
        "target": None,
        "inputs": rng.uniform(size=shape).astype(dtype),
        "kind": "outlier",
        "evidence_name": "negative log density in nats",
        "model_name": "Model",
        "method": "LRP",
        "threshold": 0.5,
    }
    return Relevance(**{**complete, **fields})
