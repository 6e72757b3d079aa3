"""The texts that a file carries about itself: PNG text, EXIF, XMP, comments; and which of them are about people."""

import codecs
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from PIL import ExifTags, Image

from fxray.counts import counted
from fxray.detect.xmp import properties_of

MAX_FIELD_CHARACTERS = 2**16
"""Longer ones are cut: a workflow of ComfyUI has a few ten thousand."""
_PERSONAL_EXIF = {
    "Artist": "author",
    "Copyright": "copyright",
    "CameraOwnerName": "owner of the camera",
    "BodySerialNumber": "serial number of the camera",
    "LensSerialNumber": "serial number of the lens",
    "ImageUniqueID": "unique number of the image",
    "HostComputer": "name of the computer",
    "XPAuthor": "author",
    "MakerNote": "maker note",
}
_WINDOWS_EXIF = (
    "XPTitle",
    "XPComment",
    "XPAuthor",
    "XPKeywords",
    "XPSubject",
)  # UTF-16, whatever the file's byte order
_PERSONAL_PNG = {"png:author": "author", "png:copyright": "copyright"}
_PERSONAL_XMP = {
    "author": r"dc:creator|photoshop:AuthorsPosition|Iptc4xmpCore:CreatorContactInfo",
    "copyright": r"dc:rights|xmpRights:Owner",
    "serial number of the camera": r"aux:SerialNumber|exifEX:BodySerialNumber",
    "owner of the camera": r"aux:OwnerName|exifEX:CameraOwnerName",
    "position (GPS)": r"exif:GPS",
    "people shown": r"Iptc4xmpExt:PersonInImage|mwg-rs:Name",
}
_CAMERA = {"camera": ("Make", "Model"), "software": ("Software",), "taken": ("DateTimeOriginal",)}


@dataclass(frozen=True, slots=True)
class Metadata:
    """What a file says of itself.

    Attributes:
        texts: By place: "png:parameters", "exif:Software", "xmp:CreatorTool", "comment".
        camera: "camera", "software" and "taken", as far as they are there.
        personal: What is about people: the kind, and the value as text.
    """

    texts: Mapping[str, str] = field(default_factory=dict)
    camera: Mapping[str, str] = field(default_factory=dict)
    personal: Mapping[str, str] = field(default_factory=dict)


def read_metadata(image: Image.Image) -> Metadata:
    """Reads it. Whatever Pillow raises on a damaged file is raised: call within `fxray.data.images.decoding`.

    Args:
        image: Opened, and loaded if texts that stand behind the pixels are to be found.
    """
    texts = dict(_png_texts(image))
    personal = {_PERSONAL_PNG[place.lower()]: text for place, text in texts.items() if place.lower() in _PERSONAL_PNG}
    exif = image.getexif()
    tags = {ExifTags.TAGS.get(tag, str(tag)): value for tag, value in exif.items()}
    tags |= {ExifTags.TAGS.get(tag, str(tag)): value for tag, value in exif.get_ifd(ExifTags.IFD.Exif).items()}
    for name, value in tags.items():
        if (text := _text(value, is_utf_16=name in _WINDOWS_EXIF)) and not isinstance(value, int | float | dict):
            texts[f"exif:{name}"] = text
            if name in _PERSONAL_EXIF:
                personal[_PERSONAL_EXIF[name]] = text
    if gps := exif.get_ifd(ExifTags.IFD.GPSInfo):
        personal["position (GPS)"] = _position(gps)
    if xmp := _text(image.info.get("xmp") or image.info.get("XML:com.adobe.xmp") or ""):
        texts |= {f"xmp:{name}": text for name, text in properties_of(xmp).items()}
        for kind, pattern in _PERSONAL_XMP.items():
            if found := re.search(rf"(?:{pattern})\b[^\n]{{0,200}}", xmp):
                personal.setdefault(kind, found.group())
    if comment := _text(image.info.get("comment") or ""):
        texts["comment"] = comment
    camera = {
        what: " ".join(text for name in names if (text := texts.get(f"exif:{name}", "").strip()))
        for what, names in _CAMERA.items()
    }
    return Metadata(texts, {what: text for what, text in camera.items() if text}, personal)


def _png_texts(image: Image.Image) -> Iterator[tuple[str, str]]:
    for key, value in image.info.items() if image.format == "PNG" else ():
        if isinstance(key, str) and isinstance(value, str) and key != "XML:com.adobe.xmp":
            yield f"png:{key[:80]}", value[:MAX_FIELD_CHARACTERS]


def _text(value: object, *, is_utf_16: bool = False) -> str:
    """A field as text; EXIF's user comments name their encoding in the first eight bytes."""
    if isinstance(value, bytes) and is_utf_16:
        value = value[: 2 * MAX_FIELD_CHARACTERS].decode("utf-16-le", "replace")
    elif isinstance(value, bytes):
        start, rest = value[:8], value[8:]
        if start == b"UNICODE\0":
            value = _utf_16(rest[: 4 * MAX_FIELD_CHARACTERS])
        else:
            value = (rest if start in (b"ASCII\0\0\0", bytes(8)) else value)[:MAX_FIELD_CHARACTERS].decode(
                "utf-8", "replace"
            )
    return str(value)[:MAX_FIELD_CHARACTERS].replace("\0", "").strip()


def _utf_16(encoded: bytes) -> str:
    """Text whose byte order is told by a mark, or else by where the zeros of Latin letters and digits stand."""
    if encoded[:2] in (codecs.BOM_UTF16_BE, codecs.BOM_UTF16_LE):
        return encoded.decode("utf-16", "replace")
    is_little = encoded[1::2].count(0) > encoded[::2].count(0)  # most programs write the other order
    return encoded.decode("utf-16-le" if is_little else "utf-16-be", "replace")


def _position(gps: Mapping[int, Any]) -> str:
    """Degrees north and east, such as "52.51630, 13.37770"; where they cannot be read, how many fields there are."""
    try:
        degrees = [sum(float(part) / 60**power for power, part in enumerate(gps[place])) for place in (2, 4)]
        signs = [-1 if str(gps.get(place)).strip("\0") in ("S", "W") else 1 for place in (1, 3)]
    except (KeyError, TypeError, ValueError, ArithmeticError):
        return counted(len(gps), "field")
    return ", ".join(f"{sign * value:.5f}" for sign, value in zip(signs, degrees, strict=True))
