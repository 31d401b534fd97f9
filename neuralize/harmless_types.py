"""Types that ``.skops`` files may hold: numbers only, and nothing runs when they are restored.

skops knows scikit-learn's own estimators. Trees are not among them: a crafted one can make
scikit-learn read beyond its memory, so that who lets them in has to check them.
"""

from __future__ import annotations

_PYOD = "copod.COPOD ecod.ECOD gmm.GMM hbos.HBOS kde.KDE knn.KNN kpca.KPCA kpca.PyODKernelPCA"
_PYOD += " lof.LOF mcd.MCD ocsvm.OCSVM pca.PCA"

HARMLESS = frozenset(
    {
        *(f"pyod.models.{name}" for name in _PYOD.split()),
        "neuralize.svdd.SVDD",
        "sklearn.metrics._dist_metrics.ChebyshevDistance64",
        "sklearn.metrics._dist_metrics.EuclideanDistance64",
        "sklearn.metrics._dist_metrics.ManhattanDistance64",
        "sklearn.metrics._dist_metrics.MinkowskiDistance64",
        "sklearn.neighbors._ball_tree.BallTree",
        "sklearn.neighbors._kd_tree.KDTree",
    }
)
