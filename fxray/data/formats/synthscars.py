"""SynthScars (LEGION): a list of `{id: {img_file_name, caption, refs}}`, polygons in pixels of the stored raster.

Every image is generated. A region is the box around a ref's polygons; its caption is the ref's explanation, else its
sentence. Some images are there twice, as .png and .jpg of different sizes, and some are annotated twice: all that share
a name without its ending are one image, the largest file, and the polygons of the others are scaled to it.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fxray.data.formats import fields, stream
from fxray.data.formats.location import Images
from fxray.data.formats.record import FieldProblem, Finding, Place, RawRegion, Record, Rows, read_each
from fxray.data.images import open_image, read_image_file
from fxray.errors import DataError

_Entry = tuple[Place, Mapping[str, Any]]


def read(src: Path, images: Images) -> Rows:
    """One record per image. The annotations are gathered first, since twins may lie far apart.

    Raises:
        DataError: The file is no JSON.
    """
    stream.first_key(src)
    by_image: dict[str, list[_Entry]] = {}
    for raw in stream.items(src, "", "entry"):
        if isinstance(raw, Finding):
            yield raw
            continue
        place, value = raw
        try:
            entry = fields.mapping(value, "entry")
            if "img_file_name" not in entry:
                entry = fields.mapping(next(iter(entry.values()), None), "entry")
            name = fields.text(entry.get("img_file_name"), "img_file_name")
        except FieldProblem as problem:
            yield Finding.of(place, problem)
            continue
        by_image.setdefault(name.rsplit(".", 1)[0], []).append((place, entry))
    grouped = ((entries[0][0], entries) for entries in by_image.values())
    yield from read_each(grouped, lambda place, entries: _read_image(place, entries, images))


def _read_image(place: Place, entries: list[_Entry], images: Images) -> Record:
    files = {str(e["img_file_name"]): images.find(e["img_file_name"], "img_file_name") for _, e in entries}
    name, scales = next(iter(files)), dict.fromkeys(files, (1.0, 1.0))
    if len(files) > 1:
        sizes = {key: _size(path, key) for key, path in files.items()}
        name = max(sizes, key=lambda key: (sizes[key][0] * sizes[key][1], key.lower().endswith(".png"), key))
        scales = {key: (sizes[name][0] / size[0], sizes[name][1] / size[1]) for key, size in sizes.items()}
    regions = [
        _region(fields.mapping(ref, f"refs[{index}]"), f"refs[{index}]", scales[str(entry["img_file_name"])])
        for _, entry in entries
        for index, ref in enumerate(fields.sequence(entry.get("refs"), "refs"))
    ]
    rows = ", ".join(each.row for each, _ in entries)
    return Record(
        place=Place(place.file, rows),
        image=files[name],
        image_field="img_file_name",
        name=name,
        regions=tuple(regions),
        label="generated",
    )


def _region(ref: Mapping[str, Any], field: str, scale: tuple[float, float]) -> RawRegion:
    x_min, y_min, x_max, y_max = fields.around_flat(ref.get("segmentation"), f"{field}.segmentation")
    caption = fields.caption_in({"caption": ref.get("explanation"), "text": ref.get("sentence")}) or ""
    corners = (x_min * scale[0], y_min * scale[1], x_max * scale[0], y_max * scale[1])
    return RawRegion(corners, caption, f"{field}.segmentation")


def _size(path: str, name: str) -> tuple[int, int]:
    try:
        return open_image(read_image_file(Path(path), path), path).size
    except DataError as error:
        raise FieldProblem("img_file_name", name, f"no readable image: {error.message}") from error
