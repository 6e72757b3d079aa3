"""What was seen of images, as bytes: they travel between processes, and lie beside the dataset for the next run.

The facts of an image follow from its bytes alone and are found again by their SHA-256, so a dataset may change between
two runs: what is new is looked at, the rest is known.
"""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import astuple
from pathlib import Path
from typing import Any

import numpy as np
import PIL
import pyarrow as pa

from fxray.data.check.images import FileFacts, ImageFacts, Unseen
from fxray.data.near_duplicates import NUM_COEFFICIENTS
from fxray.errors import ResourceError
from fxray.files import write_atomically

Seen = ImageFacts | Unseen

_SCHEMA = pa.schema(
    [
        ("digest", pa.binary()),
        ("format", pa.string()),
        ("num_bytes", pa.int64()),
        ("width_px", pa.int32()),
        ("height_px", pa.int32()),
        ("luminance", pa.int32()),
        ("chrominance", pa.int32()),
        ("subsampling", pa.int32()),
        ("loss", pa.string()),
        ("fingerprint", pa.binary()),
        ("unseen", pa.list_(pa.string())),
    ],
    metadata={"fxray.facts": "2", "pillow": PIL.__version__},
)
"""`unseen` holds rule, field, message and value of an image without facts, and is null elsewhere."""


def folder_of(dataset: Path) -> Path:
    """Where the facts of a dataset file lie."""
    return dataset.with_name(f".{dataset.name}.facts")


def pack(seen: Sequence[Seen]) -> bytes:
    """Facts of images as an Arrow stream."""
    table = pa.Table.from_pylist([_fields(image) for image in seen], schema=_SCHEMA)
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, _SCHEMA) as stream:
        stream.write_table(table)
    return bytes(sink.getvalue())


def unpack(packed: bytes) -> list[Seen]:
    """Facts of images, as `pack` was given them.

    Raises:
        ArrowInvalid: It is no such stream, or one of another version of fxray or Pillow.
    """
    with pa.ipc.open_stream(packed) as stream:
        table = stream.read_all()
    if not table.schema.equals(_SCHEMA, check_metadata=True):
        raise pa.ArrowInvalid("facts of another version")
    table.validate(full=True)
    return [_image(fields) for fields in table.to_pylist()]


def keep(path: Path, seen: Sequence[Seen]) -> None:
    """Lays facts down for the next run; where nothing can be written, that one looks again."""
    with suppress(ResourceError):
        write_atomically(path, pack(seen))


def known(path: Path) -> dict[bytes, Seen]:
    """Facts that an earlier run laid down, by the SHA-256 of the images; none where they are missing or damaged."""
    try:
        return {image.digest: image for image in unpack(path.read_bytes()) if image.digest}
    except (OSError, pa.ArrowException, ValueError, TypeError):
        return {}


def forget_others(folder: Path, names: Sequence[str]) -> None:
    """Deletes what an earlier run laid down under other names, for other rows, if it can be deleted."""
    wanted = set(names)
    for path in folder.glob("*.arrow"):
        if path.name not in wanted:
            with suppress(OSError):
                path.unlink()


def _fields(image: Seen) -> dict[str, object]:
    if isinstance(image, Unseen):
        return {"digest": image.digest, "unseen": [image.rule, image.field, image.message, image.value]}
    form, num_bytes, width_px, height_px, (luminance, chrominance), subsampling = astuple(image.file)
    return {
        "digest": image.digest,
        "format": form,
        "num_bytes": num_bytes,
        "width_px": width_px,
        "height_px": height_px,
        "luminance": luminance,
        "chrominance": chrominance,
        "subsampling": subsampling,
        "loss": image.loss,
        "fingerprint": None if image.fingerprint is None else image.fingerprint.tobytes(),
    }


def _image(fields: dict[str, Any]) -> Seen:
    if fields["unseen"] is not None:
        rule, field, message, value = fields["unseen"]
        return Unseen(rule, field, message, value, fields["digest"])
    looks = fields["fingerprint"]
    file = FileFacts(
        fields["format"],
        fields["num_bytes"],
        fields["width_px"],
        fields["height_px"],
        (fields["luminance"], fields["chrominance"]),
        fields["subsampling"],
    )
    fingerprint = None if looks is None else np.frombuffer(looks, np.float32)
    if fingerprint is not None and fingerprint.shape != (NUM_COEFFICIENTS,):
        raise ValueError(f"a fingerprint of {fingerprint.shape}, expected ({NUM_COEFFICIENTS},)")
    return ImageFacts(file, fields["digest"], fields["loss"], fingerprint)
