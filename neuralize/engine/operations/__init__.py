"""What each operation does with relevance; importing this fills the table."""

from neuralize.engine.operations import (
    affine,
    attention,
    elementwise,
    normalization,
    pooling,
    products,
    scatter,
    views,
)

__all__ = ["affine", "attention", "elementwise", "normalization", "pooling", "products", "scatter",
           "views"]  # fmt: skip
