"""Deep anomaly detectors, trainable and neuralized: fit, score, and explain down to the input.

All count as PyOD does: ``decision_function`` is higher for the more abnormal, ``predict`` gives 1
for outliers.
"""

from neuralize.deep.autoencoder import Autoencoder, VariationalAutoencoder
from neuralize.deep.binary import BinaryClassifier
from neuralize.deep.case_detector import CaseDetector
from neuralize.deep.case_relevance import CaseRelevance
from neuralize.deep.confounds import Confounds, audit_confounds
from neuralize.deep.d2neighbors import D2Neighbors
from neuralize.deep.deep_gmm import DeepGMM
from neuralize.deep.deep_sad import DeepSAD
from neuralize.deep.deep_svdd import DeepSVDD
from neuralize.deep.detector import DeepDetector, load_detector
from neuralize.deep.ensemble import Ensemble
from neuralize.deep.fcdd import FCDD
from neuralize.deep.flow import RealNVP
from neuralize.deep.hypersphere import HypersphereClassifier
from neuralize.deep.padim import PaDiM
from neuralize.deep.patchcore import PatchCore
from neuralize.deep.polytope import RandomPolytope
from neuralize.deep.readers import import_detector
from neuralize.deep.residual_adaptation import ResidualAdaptation
from neuralize.deep.score_network import ScoreNetwork
from neuralize.deep.training import Training
from neuralize.deep.zero_shot import ZeroShot, clip_towers

__all__ = [
    "FCDD",
    "Autoencoder",
    "BinaryClassifier",
    "CaseDetector",
    "CaseRelevance",
    "Confounds",
    "D2Neighbors",
    "DeepDetector",
    "DeepGMM",
    "DeepSAD",
    "DeepSVDD",
    "Ensemble",
    "HypersphereClassifier",
    "PaDiM",
    "PatchCore",
    "RandomPolytope",
    "RealNVP",
    "ResidualAdaptation",
    "ScoreNetwork",
    "Training",
    "VariationalAutoencoder",
    "ZeroShot",
    "audit_confounds",
    "clip_towers",
    "import_detector",
    "load_detector",
]
