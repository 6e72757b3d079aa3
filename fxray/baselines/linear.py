"""Logistic regression on standardised features: the head of baselines that do not train what they see with.

Legend: N images, F features.
"""

import numpy as np
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_limits

_MAX_ITERATIONS = 2000


class LinearHead:
    """scikit-learn's, with its own strength of regularisation (C = 1)."""

    def __init__(self, seed: int) -> None:
        self._model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=_MAX_ITERATIONS, random_state=seed))

    @property
    def num_parameters(self) -> int:
        """A weight per feature, and one more."""
        return int(self._model[-1].coef_.size) + 1

    def fit(self, features_NF: NDArray[np.float64], is_generated_N: NDArray[np.bool_]) -> None:
        """Fits it to images of both classes."""
        with threadpool_limits(1):
            self._model.fit(features_NF, is_generated_N)

    def predict(self, features_NF: NDArray[np.float64]) -> list[float]:
        """The probability of "generated" of each image."""
        with threadpool_limits(1):
            return self._model.predict_proba(features_NF)[:, 1].tolist()
