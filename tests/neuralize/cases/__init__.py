"""Every supported model on real data, with its oracle: what the conformance tests run over."""

from tests.neuralize.cases.clusters import CLUSTERS
from tests.neuralize.cases.data import Cases
from tests.neuralize.cases.deep_ensemble import ENSEMBLES
from tests.neuralize.cases.deep_fcdd import FCDD_CASES
from tests.neuralize.cases.deep_likelihoods import LIKELIHOODS
from tests.neuralize.cases.deep_memory_bank import MEMORY_BANKS
from tests.neuralize.cases.deep_one_class import ONE_CLASS
from tests.neuralize.cases.deep_outlier_exposure import EXPOSED
from tests.neuralize.cases.deep_polytope import POLYTOPES
from tests.neuralize.cases.deep_pyod import PYOD_NETWORKS
from tests.neuralize.cases.deep_residual_adaptation import ADAPTED
from tests.neuralize.cases.deep_zero_shot import ZERO_SHOT
from tests.neuralize.cases.densities import DENSITIES
from tests.neuralize.cases.distances import DISTANCES
from tests.neuralize.cases.pipelines import PIPELINES
from tests.neuralize.cases.pyod import PYOD

DEEP: Cases = {
    **ADAPTED,
    **ENSEMBLES,
    **EXPOSED,
    **FCDD_CASES,
    **LIKELIHOODS,
    **MEMORY_BANKS,
    **ONE_CLASS,
    **POLYTOPES,
    **PYOD_NETWORKS,
    **ZERO_SHOT,
}
SUBJECTS: Cases = {**CLUSTERS, **DENSITIES, **DISTANCES, **PIPELINES, **PYOD, **DEEP}
"""Functions that fit a model and say what its network is held against, by name."""

__all__ = ["SUBJECTS"]
