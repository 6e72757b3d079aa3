"""The plain values that the service is made of; the fields of `ServeConfig` say what each is for."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class ServiceSettings:
    """What the gateway needs to know.

    Attributes:
        models: Names of what can answer; the first does where a request names none.
        allowed_hosts: Values of the Host header that are answered; empty for any.
        keys: Name of the owner by SHA-256 of an API key.
        needs_keys: Whether an API key is needed, also where none is known: then nobody is let in.
        max_images: Images in one request.
        max_image_bytes: Of one encoded image.
        max_request_bytes: Of one request's body, batches apart.
        max_upload_bytes: Of the bodies of all requests that are not answered yet, batches apart.
        max_image_pixels: Of one image, before it is decoded.
        max_in_flight: Images that are with the engines at once.
        max_waiting: Images that may wait for the engines; more are refused.
        request_deadline_s: For the answer to a request, waiting included.
        upload_deadline_s: For a request's body to arrive; longer for a larger one, in proportion.
        images_per_min: Of one key; 0 for any number.
        data_dir: Where batches lie, and what adapters were swapped in.
        max_batch_images: Images of one batch.
        max_batch_bytes: Of one batch's body.
        max_batches: Batches of one API key that are kept at once.
        keep_batches_s: A finished batch is kept so long.
    """

    models: tuple[str, ...]
    allowed_hosts: tuple[str, ...]
    keys: Mapping[str, str]
    needs_keys: bool
    max_images: int
    max_image_bytes: int
    max_request_bytes: int
    max_upload_bytes: int
    max_image_pixels: int
    max_in_flight: int
    max_waiting: int
    request_deadline_s: float
    upload_deadline_s: float
    images_per_min: int
    data_dir: Path
    max_batch_images: int
    max_batch_bytes: int
    max_batches: int
    keep_batches_s: float
