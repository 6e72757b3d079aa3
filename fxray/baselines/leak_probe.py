"""The floor: what the files give away without a look at their pixels.

It is the classifier of `fxray data check` (`fxray.data.check.leaks`): gradient-boosted trees on format, bytes, width,
height, aspect ratio and JPEG quantisation. A detector that does not beat it may have learnt how files were saved. No
paper; nothing is cropped or resized, since nothing is decoded.
"""

import math
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from fxray.baselines.pictures import Masks, Pictures
from fxray.baselines.ports import Answer, OnStep, Settings
from fxray.data.check.images import file_facts
from fxray.data.check.leaks import file_features, new_classifier

_TOGETHER = 64


class LeakProbe:
    """Gradient-boosted trees on facts of the files."""

    def __init__(self, settings: Settings) -> None:
        self._model = new_classifier(settings.seed)

    @property
    def num_parameters(self) -> int:
        """Leaves of all trees."""
        return sum(int(tree.get_n_leaf_nodes()) for stage in self._model._predictors for tree in stage)

    def fit(self, images: Pictures, is_generated_N: NDArray[np.bool_], masks: Masks, on_step: OnStep) -> None:  # noqa: ARG002
        """Looks at each file once, then grows the trees."""
        with threadpool_limits(1):
            self._model.fit(_features(images, 0, len(images)), is_generated_N)
        on_step(len(images), len(images), math.nan)

    def predict(self, images: Pictures) -> Iterator[Answer]:
        """The share of generated images among those whose files look alike."""
        for start in range(0, len(images), _TOGETHER):
            with threadpool_limits(1):
                scores = self._model.predict_proba(_features(images, start, start + _TOGETHER))[:, 1].tolist()
            yield from map(Answer, scores)


def _features(images: Pictures, start: int, end: int) -> NDArray[np.float64]:
    places = range(len(images))[start:end]
    return file_features([file_facts(images.encoded(place), images.where(place)) for place in places])
