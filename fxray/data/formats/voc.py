"""Pascal VOC: one XML file per image, boxes in pixels of the displayed image, read as LabelImg and CVAT write them.

A caption is an object's `caption` or `description`, else its name. The first VOC sets counted pixels from 1; the tools
that write the format today do not, and nothing is subtracted here.
"""

from pathlib import Path
from xml.etree.ElementTree import Element, ParseError

from defusedxml.common import DefusedXmlException
from defusedxml.ElementTree import fromstring

from fxray.data.formats import fields, stream
from fxray.data.formats.location import Images
from fxray.data.formats.record import FieldProblem, Place, RawRegion, Record, Rows, read_each

_IMAGE_FOLDER = "JPEGImages"


def read(src: Path, images: Images) -> Rows:
    """One record per XML file; in the classic layout images lie in `JPEGImages/` beside `Annotations/`.

    Raises:
        DataError: There is no XML file.
    """
    files = stream.documents(src, ".xml")
    return read_each(((Place(str(path)), path) for path in files), lambda place, path: _read_file(place, path, images))


def _read_file(place: Place, path: Path, images: Images) -> Record:
    try:
        root: Element = fromstring(path.read_bytes(), forbid_dtd=True)
    except (ParseError, DefusedXmlException, UnicodeDecodeError, LookupError, OSError, ValueError) as error:
        raise FieldProblem("file", str(path), f"no XML that is read here: {type(error).__name__} {error}") from error
    name = fields.text(root.findtext("filename"), "filename")
    objects = root.findall("object")
    classic = images.folder / _IMAGE_FOLDER
    image = images.find(name, "filename", path.parent, path.parent.parent / _IMAGE_FOLDER, classic)
    return Record(
        place=place,
        image=image,
        image_field="filename",
        name=name if Path(image) == classic / name else images.name_below(image, name),
        regions=tuple(_region(item, f"object[{index}]") for index, item in enumerate(objects)),
        tags=fields.tags_among(item.findtext("name") or "" for item in objects),
        size_px=fields.size(root.findtext("size/width"), root.findtext("size/height")),
    )


def _region(item: Element, field: str) -> RawRegion:
    if item.find("robndbox") is not None:
        raise FieldProblem(f"{field}.robndbox", "a turned box", "expected an upright one (bndbox)")
    texts = {child.tag: child.text for child in item}
    caption = fields.caption_in(texts) or item.findtext("name") or ""
    corners = [
        fields.number(item.findtext(f"bndbox/{name}"), f"{field}.bndbox.{name}")
        for name in ("xmin", "ymin", "xmax", "ymax")
    ]
    return RawRegion((corners[0], corners[1], corners[2], corners[3]), caption, f"{field}.bndbox")
