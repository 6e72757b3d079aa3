"""Image files to examine, and where drawings of them go."""

from pathlib import Path

from PIL import Image

from fxray.data.images import decode_image, read_image_file


def files_in(path: Path) -> list[Path]:
    """The image files below a folder, by name; anything else, an empty folder too, stands for itself."""
    if not path.is_dir():
        return [path]
    extensions = {suffix for suffix, name in Image.registered_extensions().items() if name in Image.OPEN}
    return sorted(file for file in path.rglob("*") if file.suffix.lower() in extensions and file.is_file()) or [path]


def read_image(file: Path) -> Image.Image:
    """The upright RGB pixels of an image file.

    Raises:
        DataError: It is missing, no plain file, larger than 256 MiB, or no image.
    """
    return decode_image(read_image_file(file, str(file)), str(file))


def drawing_path(folder: Path, file: Path, taken: set[Path]) -> Path:
    """A PNG file in `folder` named after `file`, unlike all that are taken; it is then taken too."""
    path, number = folder / f"{file.name}.png", 1
    while path in taken:
        number += 1
        path = folder / f"{file.name}-{number}.png"
    taken.add(path)
    return path
