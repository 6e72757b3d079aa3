"""What the gateway asks for answers: replicas of Ray Serve, or a fake in one process."""

from collections.abc import AsyncGenerator
from typing import Any, Protocol

from fxray.data.changes import Change
from fxray.serve.uploads import Upload


class Backend(Protocol):
    """Whatever examines images.

    Every method raises `fxray.serve.problems.Refusal` (503) where it may be asked again, and is cancelled with the
    task that awaits it.
    """

    async def detect(self, upload: Upload) -> dict[str, Any]:
        """A `DetectionOut`, or a `FailureOut` where the image cannot be examined."""
        ...

    def stream(self, upload: Upload) -> AsyncGenerator[dict[str, Any]]:
        """What is found, piece by piece.

        First `{"image": {"width_px", "height_px"}}`, then each region as `{"region": RegionOut}` once it is complete,
        last `{"detection": DetectionOut}`; or only a `FailureOut`.
        """
        ...

    async def try_change(self, upload: Upload, change: Change, original: dict[str, Any]) -> dict[str, Any]:
        """A `TrialOut`, or a `FailureOut` where the image is too long, or too long for its breadth, to be changed so.

        Args:
            upload: The image as it is.
            change: What is done to it.
            original: Its `DetectionOut`.
        """
        ...

    async def models(self) -> list[dict[str, Any]]:
        """A `ModelOut` for each model that answers."""
        ...
