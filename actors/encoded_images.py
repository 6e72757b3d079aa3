"""Encoded images on their way from the object store to the actor that decodes them."""

from collections.abc import Sequence

import ray
from ray.exceptions import GetTimeoutError, ObjectLostError

from fxray.counts import counted
from fxray.errors import DeadlineError, FxrayError

IMAGE_DEADLINE_S = 120.0
"""For the images of a lease, or of a pass of the learner, to arrive from the object store."""


def fetch_images(handles: Sequence[object], where: str) -> list[bytes]:
    """The encoded images behind handles: references, each fetched once and all at one time, or the bytes themselves.

    Args:
        handles: Of `fxray.grpo.types.ImageRef`.
        where: Named in errors: their groups.

    Raises:
        DeadlineError: They do not arrive.
        FxrayError: One is lost.
    """
    references = list({handle for handle in handles if isinstance(handle, ray.ObjectRef)})
    if not references:  # one process without Ray hands over bytes
        return list(handles)  # type: ignore[arg-type]
    try:
        arrived = dict(zip(references, ray.get(references, timeout=IMAGE_DEADLINE_S), strict=True))
    except GetTimeoutError as error:
        raise DeadlineError(
            f"{counted(len(references), 'image')} did not arrive within {IMAGE_DEADLINE_S:g} s",
            where=where,
            remedy="see whether this node reaches that of the driver, where the images lie",
        ) from error
    except ObjectLostError as error:
        raise FxrayError(
            f"an image is lost: {error}",
            where=where,
            remedy="the actor or node that held the images died; continue the run",
        ) from error
    return [arrived[handle] if isinstance(handle, ray.ObjectRef) else handle for handle in handles]  # type: ignore[misc]
