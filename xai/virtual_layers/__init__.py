"""Relevance in another basis: frequencies, components, relevant subspaces.

A virtual layer is an inverse transform put below a network, or below one of its layers. It changes
nothing the network computes, and relevance propagates through it like through any linear layer.
"""

from xai.virtual_layers.bases import DCT, DFT, Basis, Frequencies, LinearBasis, pca_basis
from xai.virtual_layers.explain import frequency, in_basis
from xai.virtual_layers.relevance import BasisRelevance
from xai.virtual_layers.subspaces import LayerSample, drsa, layer_sample, prca

__all__ = [
    "DCT",
    "DFT",
    "Basis",
    "BasisRelevance",
    "Frequencies",
    "LayerSample",
    "LinearBasis",
    "drsa",
    "frequency",
    "in_basis",
    "layer_sample",
    "pca_basis",
    "prca",
]
