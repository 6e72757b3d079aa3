"""Radial power spectrum and logistic regression (Durall et al. 2019, "Unmasking DeepFakes with simple features").

As published: the 2D power spectrum of the grey image, averaged over all directions, in equal steps of the frequency,
and logistic regression (their other classifier is an SVM). Deviations: 64 steps up to the highest frequency that every
direction has, whatever the image's size, where they resample to 300 of faces of one size; the logarithm of the power,
standardised; a Hann window, so that the borders of a photograph, which do not meet, do not count as high frequencies.

The whole image is seen, uncropped and never resized.
"""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from fxray.baselines.linear import LinearHead
from fxray.baselines.pictures import Masks, Pictures
from fxray.baselines.ports import Answer, OnStep, Settings

NUM_STEPS = 64
_GREY = np.array([0.299, 0.587, 0.114])


class Frequency:
    """Logistic regression on the radial spectrum."""

    def __init__(self, settings: Settings) -> None:
        self._head = LinearHead(settings.seed)

    @property
    def num_parameters(self) -> int:
        """A weight per step, and one more."""
        return self._head.num_parameters

    def fit(self, images: Pictures, is_generated_N: NDArray[np.bool_], masks: Masks, on_step: OnStep) -> None:  # noqa: ARG002
        """Transforms each image once, then fits the regression."""
        rows = []
        for pixels_HW3 in images.each():
            rows.append(radial_spectrum(pixels_HW3))
            on_step(len(rows), len(images), np.nan)
        self._head.fit(np.array(rows), is_generated_N)

    def predict(self, images: Pictures) -> Iterator[Answer]:
        """The regression's probability."""
        for pixels_HW3 in images.each():
            yield from map(Answer, self._head.predict(radial_spectrum(pixels_HW3)[None]))


def radial_spectrum(pixels_HW3: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Log power by frequency, float64 [`NUM_STEPS`]; a step that holds no frequency of so small an image is filled up.

    Args:
        pixels_HW3: An RGB image.
    """
    grey_HW = pixels_HW3 @ _GREY / 255
    height, width = grey_HW.shape
    window_HW = np.outer(np.hanning(height + 2)[1:-1], np.hanning(width + 2)[1:-1])
    power_HW = np.abs(np.fft.rfft2((grey_HW - grey_HW.mean()) * window_HW)) ** 2 / (window_HW**2).sum()
    radius_HW = 2 * np.hypot(np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None])
    step_HW = np.ceil(radius_HW * NUM_STEPS).astype(np.int64) - 1
    is_in_HW = (step_HW >= 0) & (step_HW < NUM_STEPS)
    sums, counts = (
        np.bincount(step_HW[is_in_HW], weights, minlength=NUM_STEPS) for weights in (power_HW[is_in_HW], None)
    )
    known = np.flatnonzero(counts)
    if not len(known):
        return np.zeros(NUM_STEPS)
    return np.interp(np.arange(NUM_STEPS), known, np.log(sums[known] / counts[known] + 1e-12))
