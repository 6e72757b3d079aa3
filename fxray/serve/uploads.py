"""Images out of a request's body: multipart parts or base64 in JSON, each within its limits. Nothing is fetched."""

import base64
import binascii
import errno
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path

from fastapi import Request
from pydantic import ValidationError
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException

from fxray.counts import counted
from fxray.data.images import open_image
from fxray.draw import plain_text
from fxray.errors import DataError
from fxray.files import disk_errors
from fxray.serve.problems import Refusal, unavailable
from fxray.serve.wire import DetectIn

MAX_NAME_CHARACTERS = 200
MAX_SIGNS = 256
"""Commas, brackets and braces that JSON may hold for each image: three are its own, the others of its name."""
FIELD = "images"
"""Name of the multipart field that holds an image; it may be repeated."""
FORM = f"multipart/form-data with fields `{FIELD}`"
FORM_OR_JSON = f"{FORM}, or application/json with `images`"
_RETRY_AFTER_S = 5.0


@dataclass(frozen=True, slots=True)
class Upload:
    """An image that was sent.

    Attributes:
        name: As the sender calls it, made harmless: one line, no folders, no control characters.
        content: The encoded image.
        model: Name of what is to answer.
    """

    name: str
    content: bytes
    model: str


@dataclass(frozen=True, slots=True)
class UploadLimits:
    """What a request may hold."""

    max_images: int
    max_image_bytes: int
    max_image_pixels: int


def harmless_name(name: str, number: int) -> str:
    """The last part of a path, on one line and without anything unprintable; "image 3" where nothing is left.

    Args:
        name: As it was sent.
        number: Of the image in its request, from 1.
    """
    last = name.replace("\\", "/").rpartition("/")[2]
    return plain_text(last, MAX_NAME_CHARACTERS).strip(". ") or f"image {number}"


def check_size(name: str, num_bytes: int, limits: UploadLimits) -> None:
    """Refuses what need not even be read.

    Raises:
        DataError: The image file is too large.
    """
    if num_bytes > limits.max_image_bytes:
        raise DataError(
            f"image of {num_bytes} bytes, expected at most {limits.max_image_bytes}",
            where=name,
            remedy="scale the image down",
        )


def check_image(upload: Upload, limits: UploadLimits) -> None:
    """Refuses what an engine need not see: by size, and by what the image's header claims.

    Raises:
        DataError: The image is too large, or none.
    """
    check_size(upload.name, len(upload.content), limits)
    image = open_image(upload.content, upload.name)
    if image.width * image.height > limits.max_image_pixels:
        raise DataError(
            f"image of {image.width}x{image.height} px, expected at most {limits.max_image_pixels} pixels",
            where=upload.name,
            remedy="scale the image down",
        )


async def read_uploads(request: Request, limits: UploadLimits, model: str) -> list[Upload]:
    """The images of a request, in order, for a model.

    Raises:
        Refusal: It is neither of the two content types, holds no image or too many, or is malformed.
    """
    if _media_type(request) == "application/json":
        return await _from_json(request, limits, model)
    async with uploaded_files(request, limits, FORM_OR_JSON) as files:
        uploads = []
        for number, file in enumerate(files, start=1):
            uploads.append(Upload(harmless_name(file.filename or "", number), await file.read(), model))
        return uploads


@asynccontextmanager
async def uploaded_files(request: Request, limits: UploadLimits, accepted: str) -> AsyncIterator[list[UploadFile]]:
    """The files of a multipart request; those that are large lie on disk, unnamed, until the block ends.

    Args:
        request: The request.
        limits: What it may hold.
        accepted: What its route accepts, in words.

    Raises:
        Refusal: It is not multipart, malformed, holds no file, too many or other fields.
        ResourceError: The temporary folder is full.
    """
    if _media_type(request) != "multipart/form-data":
        raise Refusal(
            HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
            f"content type {plain_text(request.headers.get('content-type', ''), 80)!r}, expected {accepted}",
            where="header Content-Type",
            remedy=f"send each image as a file in a field named `{FIELD}`",
        )
    try:
        with _spool_errors():
            form = await request.form(max_files=limits.max_images, max_fields=0, max_part_size=1024)
    except (HTTPException, ValueError, LookupError) as error:  # the latter of a charset that is none
        said = str(error.detail if isinstance(error, HTTPException) else error)
        is_too_many = "Too many files" in said
        raise Refusal(
            HTTPStatus.REQUEST_ENTITY_TOO_LARGE if is_too_many else HTTPStatus.BAD_REQUEST,
            f"the multipart body cannot be read: {plain_text(said)}",
            where="body",
            remedy=f"send at most {counted(limits.max_images, 'file')} in fields named `{FIELD}`, and no other field",
        ) from error
    try:
        files = [value for name, value in form.multi_items() if name == FIELD and isinstance(value, UploadFile)]
        if len(files) < len(form.multi_items()) or not files:
            raise Refusal(
                HTTPStatus.UNPROCESSABLE_ENTITY,
                f"{len(files)} of {counted(len(form.multi_items()), 'field')} sent as files named `{FIELD}`, expected "
                "all",
                where="body",
                remedy=f"send each image as a file in a field named `{FIELD}`",
            )
        yield files
    finally:
        await form.close()


@contextmanager
def _spool_errors() -> Iterator[None]:
    """Tells of a temporary folder, where the large files of a form lie, that takes no more.

    Raises:
        Refusal: 503: the process has too many files open.
        ResourceError: The disk is full, broken, or not writable.
    """
    try:
        yield
    except OSError as error:
        if error.errno in (errno.EMFILE, errno.ENFILE):
            raise unavailable(
                "too many files are open",
                retry_after_s=_RETRY_AFTER_S,
                remedy="send fewer images at once, or raise the service's limit of open files (ulimit -n)",
            ) from error
        with disk_errors(Path(tempfile.gettempdir(), "upload")):
            raise


async def _from_json(request: Request, limits: UploadLimits, model: str) -> list[Upload]:
    body = await request.body()
    _check_signs(body, limits.max_images)
    try:
        parsed = DetectIn.model_validate_json(body)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        raise Refusal(
            HTTPStatus.UNPROCESSABLE_ENTITY,
            plain_text(first["msg"]),
            where="body" + "".join(f".{plain_text(str(part), 40)}" for part in first["loc"]),
            remedy='send {"images": [{"name": "photo.jpg", "data": "BASE64"}]}',
        ) from error
    if len(parsed.images) > limits.max_images:
        raise Refusal(
            HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
            f"{counted(len(parsed.images), 'image')}, expected at most {limits.max_images}",
            where="body.images",
            remedy="send fewer at once, or a batch",
        )
    uploads = []
    for number, image in enumerate(parsed.images, start=1):
        name = harmless_name(image.name, number)
        try:
            uploads.append(Upload(name, base64.b64decode(image.data, validate=True), model))
        except (binascii.Error, ValueError) as error:
            raise Refusal(
                HTTPStatus.UNPROCESSABLE_ENTITY,
                f"no base64: {error}",
                where=f"body.images.{number - 1}.data",
                remedy="encode the file's bytes in standard base64, without line breaks and without a data: prefix",
            ) from error
    return uploads


def _check_signs(body: bytes, max_images: int) -> None:
    """Refuses JSON of very many values before it is taken apart: a small one is two bytes then, and hundreds after."""
    num_signs, limit = sum(map(body.count, (b",", b"[", b"{"))), MAX_SIGNS * max_images
    if num_signs > limit:
        raise Refusal(
            HTTPStatus.UNPROCESSABLE_ENTITY,
            f"JSON with {num_signs} commas, brackets and braces, expected at most {limit}",
            where="body",
            remedy=f"send at most {counted(max_images, 'image')}, each with `data` and `name` alone",
        )


def _media_type(request: Request) -> str:
    return request.headers.get("content-type", "").partition(";")[0].strip().lower()
