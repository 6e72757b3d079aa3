"""The real photographs that installed packages ship, split so that no photograph serves two splits.

Each is read from the package's own files; none is copied into this repository. `docs/data.md` lists the licences.
"""

import importlib.util
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image

from fxray.errors import DataError

Split = Literal["train", "validation", "test"]


@dataclass(frozen=True, slots=True)
class Photograph:
    """One photograph inside an installed package.

    Attributes:
        name: What samples call their source.
        package: Import name of the package that ships it; `file` is relative to that package.
        distribution: Name under which the package is installed.
        margin_frac: Share of each border that is no photograph (frames, black surround) and is never cropped.
    """

    name: str
    package: str
    distribution: str
    file: str
    licence: str
    category: str
    split: Split
    margin_frac: float = 0.0


def _skimage(name: str, file: str, licence: str, category: str, split: Split, margin_frac: float = 0.0) -> Photograph:
    return Photograph(name, "skimage", "scikit-image", f"data/{file}", licence, category, split, margin_frac)


PHOTOGRAPHS = (
    _skimage("astronaut", "astronaut.png", "public domain (NASA)", "person", "train"),
    _skimage("coffee", "coffee.png", "CC0 (R. Michetti)", "object", "train"),
    _skimage("motorcycle", "motorcycle_left.png", "not stated (Middlebury stereo 2014)", "object", "train"),
    _skimage("coins", "coins.png", "no known restrictions (Brooklyn Museum)", "object", "train"),
    _skimage("retina", "retina.jpg", "CC0 (M. Haggstrom)", "medical", "train", 0.15),
    _skimage("immunohistochemistry", "ihc.png", "no known restrictions (CMMI)", "medical", "train"),
    _skimage("hubble", "hubble_deep_field.jpg", "public domain (NASA)", "sky", "train"),
    _skimage("gravel", "gravel.png", "CC0 (CC0Textures)", "surface", "train"),
    _skimage("grass", "grass.png", "CC0 (linolafett)", "surface", "train"),
    _skimage("moon", "moon.png", "public domain (NASA)", "sky", "train"),
    _skimage("cell", "cell.png", "CC0", "medical", "train"),
    _skimage("page", "page.png", "no known restrictions", "text", "train"),
    _skimage("clock", "clock_motion.png", "public domain (S. van der Walt)", "object", "validation"),
    _skimage("brick", "brick.png", "CC0 (CC0Textures)", "surface", "train"),
    Photograph(
        "china",
        "sklearn",
        "scikit-learn",
        "datasets/images/china.jpg",
        "CC BY 2.0 (danielbuechele)",
        "building",
        "train",
    ),
    Photograph("ascent", "pywt", "PyWavelets", "data/ascent.npz", "public domain", "person", "train"),
    Photograph(
        "flower",
        "sklearn",
        "scikit-learn",
        "datasets/images/flower.jpg",
        "CC BY 2.0 (vultilion)",
        "plant",
        "train",
    ),
    Photograph("aero", "pywt", "PyWavelets", "data/aero.npz", "not stated", "landscape", "validation"),
    _skimage("chelsea", "chelsea.png", "CC0 (S. van der Walt)", "animal", "test"),
    _skimage("rocket", "rocket.jpg", "public domain (SpaceX)", "vehicle", "test"),
    _skimage("camera", "camera.png", "CC0 (L. Varshney)", "person", "test"),
    Photograph(
        "grace_hopper",
        "matplotlib",
        "matplotlib",
        "mpl-data/sample_data/grace_hopper.jpg",
        "public domain (US Navy)",
        "person",
        "test",
    ),
)


@cache
def load_photograph(photograph: Photograph) -> Image.Image:
    """The photograph as RGB, without its margin.

    Raises:
        DataError: The package is not installed or does not ship the file.
    """
    spec = importlib.util.find_spec(photograph.package)
    path = Path(spec.origin or "").parent / photograph.file if spec else None
    if path is None or not path.is_file():
        raise DataError(
            f"photograph {photograph.name!r} is not there, expected {photograph.file} in package {photograph.package}",
            where=str(path or photograph.package),
            remedy=f"install it: pip install {photograph.distribution}",
        )
    if path.suffix == ".npz":
        with np.load(path) as arrays:
            picture = Image.fromarray(arrays[arrays.files[0]].astype(np.uint8)).convert("RGB")
    else:
        picture = Image.open(path).convert("RGB")
    dx, dy = (round(side * photograph.margin_frac) for side in picture.size)
    return picture.crop((dx, dy, picture.width - dx, picture.height - dy))


def photographs_of(split: Split) -> tuple[Photograph, ...]:
    """The photographs that belong to `split`, in the order of the table."""
    return tuple(photograph for photograph in PHOTOGRAPHS if photograph.split == split)
