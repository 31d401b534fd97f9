"""Support vector data description: the smallest sphere that holds most of the data.

Tax and Duin, Support Vector Data Description, Machine Learning 54, 2004: minimise ``R^2 + 1/(nu n)
sum_i max(0, ||phi(x_i) - c||^2 - R^2)``; the dual gives ``c = sum_j a_j phi(u_j)`` with ``0 <= a_j
<= 1/(nu n)`` and ``sum_j a_j = 1``. For a Gaussian kernel, where ``k(x, x) = 1``, this dual is that
of the one-class SVM, whose solver is used.
"""

from __future__ import annotations

from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator, OutlierMixin
from sklearn.metrics.pairwise import rbf_kernel
from sklearn.svm import OneClassSVM
from sklearn.utils.validation import check_is_fitted, validate_data


class SVDD(OutlierMixin, BaseEstimator):
    """Gaussian SVDD with scikit-learn's interface.

    Parameters
    ----------
    nu
        Upper bound on the share of training points outside, in ``(0, 1]``.
    gamma
        Kernel stiffness in ``exp(-gamma ||x - u||^2)``, or ``"scale"``: ``1 / (d var(X))``.
    tol
        Tolerance of the solver.

    Attributes
    ----------
    support_vectors_
        ``(m, d)``.
    dual_coef_
        ``a`` ``(m,)``, sum 1.
    radius_squared_, center_norm_squared_
        ``R^2`` and ``||c||^2`` in feature space.
    gamma_, center_
        The stiffness used, and the mean of the data ``(d,)``.

    Examples
    --------
    >>> x = np.array([[0.0], [0.1], [0.2], [0.3], [5.0]])
    >>> SVDD(nu=0.3, gamma=1.0).fit(x).predict(np.array([[0.15], [4.0]])).tolist()
    [1, -1]
    """

    def __init__(self, *, nu: float = 0.1, gamma: float | str = "scale", tol: float = 1e-6) -> None:
        self.nu = nu
        self.gamma = gamma
        self.tol = tol

    def fit(self, X: Any, y: object = None) -> Self:
        """Fit to ``X`` ``(n, d)``; ``y`` is ignored."""
        X = validate_data(self, X, dtype=np.float64)
        # The kernel knows differences only, and those lose no digits around the mean.
        self.center_ = X.mean(0)
        gamma = self.gamma
        if gamma == "scale":
            variance = X.var()
            gamma = 1 / (X.shape[1] * variance) if variance > 0 else 1.0
        svm = OneClassSVM(kernel="rbf", nu=self.nu, gamma=gamma, tol=self.tol)
        svm.fit(X - self.center_)
        self.gamma_ = float(svm._gamma)
        total = svm.dual_coef_.sum()
        self.support_vectors_ = X[svm.support_]
        self.dual_coef_ = svm.dual_coef_[0] / total
        kernel = rbf_kernel(svm.support_vectors_, gamma=self.gamma_)
        self.center_norm_squared_ = float(self.dual_coef_ @ kernel @ self.dual_coef_)
        # On the sphere the one-class SVM's g(x) equals rho.
        self.radius_squared_ = 1 - 2 * float(svm.offset_[0]) / total + self.center_norm_squared_
        return self

    def decision_function(self, X: Any) -> NDArray[Any]:
        """``R^2 - ||phi(x) - c||^2`` ``(n,)``: positive inside."""
        check_is_fitted(self)
        X = validate_data(self, X, dtype=np.float64, reset=False)
        support = self.support_vectors_ - self.center_
        similarity = rbf_kernel(X - self.center_, support, gamma=self.gamma_) @ self.dual_coef_
        distance = 1 - 2 * similarity + self.center_norm_squared_
        scores: NDArray[Any] = self.radius_squared_ - distance
        return scores

    def predict(self, X: ArrayLike) -> NDArray[Any]:
        """+1 inside, -1 outside ``(n,)``."""
        return np.where(self.decision_function(X) >= 0, 1, -1)
