"""What a baseline is: something that is fitted on pictures, and then gives each picture a score and perhaps a mask.

Legend: N images, H and W pixels of one upright image.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from fxray.baselines.pictures import Masks, Pictures

OnStep = Callable[[int, int, float], None]
"""Is told of steps done, steps in all, and the loss, NaN where there is none."""
Size = Literal["small", "published"]
SIZES: tuple[Size, ...] = ("small", "published")


@dataclass(frozen=True, slots=True)
class Settings:
    """How a baseline is set up.

    Attributes:
        seed: Of weights, order and crops.
        device: As torch names it.
        epochs: Passes over the images; None for the baseline's own number.
        size: "published" for the architecture of the paper, "small" for one that two processor cores can fit.
        weights: What fitting starts from: a .safetensors file or a model's folder; None for random weights.
    """

    seed: int
    device: str = "cpu"
    epochs: int | None = None
    size: Size = "small"
    weights: Path | None = None


@dataclass(frozen=True, slots=True)
class Answer:
    """What a baseline says of one picture.

    Attributes:
        score: The higher, the more it looks generated, in [0, 1].
        is_flawed_HW: Where it does; None for a baseline that gives no mask.
    """

    score: float
    is_flawed_HW: NDArray[np.bool_] | None = None


class Baseline(Protocol):
    """A detector to compare with; built from `Settings` alone."""

    @property
    def num_parameters(self) -> int:
        """Numbers that are used for an answer, those of a frozen encoder among them."""

    def fit(self, images: Pictures, is_generated_N: NDArray[np.bool_], masks: Masks, on_step: OnStep) -> None:
        """Learns from images of both classes.

        Args:
            images: N of them.
            is_generated_N: Their labels.
            masks: Where their flaws are; for a baseline of labels alone to ignore.
            on_step: Is told of the progress.

        Raises:
            DataError: An image cannot be read.
        """

    def predict(self, images: Pictures) -> Iterator[Answer]:
        """An answer per image, in order.

        Raises:
            DataError: An image cannot be read.
        """
