"""The eight EXIF orientations: where a box of the stored raster lies in the upright image, and back."""

from fxray.schema import Box

UPRIGHT = 1
ORIENTATION_TAG = 0x0112

_INVERSE = {6: 8, 8: 6}  # the six others undo themselves


def upright_size(width_px: int, height_px: int, orientation: int) -> tuple[int, int]:
    """Width and height in pixels of the upright image, from those of the stored raster."""
    return (height_px, width_px) if orientation >= 5 else (width_px, height_px)


def to_upright(box: Box, width_px: float, height_px: float, orientation: int) -> Box:
    """A box of the stored raster in pixels of the upright image.

    Args:
        box: In pixels of the stored raster.
        width_px: Width of the stored raster.
        height_px: Height of the stored raster.
        orientation: 1 to 8, as EXIF counts them.
    """
    x_min, y_min, x_max, y_max = box
    if orientation in (2, 3, 7, 8):
        x_min, x_max = width_px - x_max, width_px - x_min
    if orientation in (3, 4, 6, 7):
        y_min, y_max = height_px - y_max, height_px - y_min
    return Box(y_min, x_min, y_max, x_max) if orientation >= 5 else Box(x_min, y_min, x_max, y_max)


def to_stored(box: Box, width_px: float, height_px: float, orientation: int) -> Box:
    """A box of the upright image in pixels of the stored raster; it undoes `to_upright`.

    Args:
        box: In pixels of the upright image.
        width_px: Width of the upright image.
        height_px: Height of the upright image.
        orientation: 1 to 8, of the stored raster.
    """
    return to_upright(box, width_px, height_px, _INVERSE.get(orientation, orientation))
