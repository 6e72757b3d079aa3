"""Which shelf of the gallery an answer is laid on."""

import pytest
from PIL import Image

from fxray.evaluate.predictions import Prediction
from fxray.report.gallery import fill_shelves
from fxray.schema import Annotation, Box, Region, Sample, Verdict

FLAW = Region(Box(0, 0, 50, 50), "Flaw")


def shelved(sample: Sample, *regions: Region, has_boxes: bool = True) -> tuple[str, float | None]:
    """The only shelf of the gallery of one image that was called generated, and the IoU of its card."""
    said = {sample.sample_id: Prediction(sample.sample_id, Verdict.GENERATED, regions)}
    (shelf,) = fill_shelves(
        [sample], said, lambda _: Image.new("RGB", (100, 100)), num_cards=4, seed=0, has_boxes=has_boxes
    )
    return shelf.title, shelf.cards[0].iou


def generated(*regions: Region) -> Sample:
    return Sample("a", 100, 100, Annotation(Verdict.GENERATED, regions), "GLIDE", "thing", "photograph")


@pytest.mark.parametrize("said", [(), (FLAW,)])
def test_an_image_without_marked_regions_is_neither_located_nor_missed(said: tuple[Region, ...]) -> None:
    assert shelved(generated(), *said) == ("Found, no region marked", None)
    assert shelved(generated(), *said, has_boxes=False) == ("Found", None)


def test_an_image_with_marked_regions_is_laid_by_its_iou() -> None:
    assert shelved(generated(FLAW), FLAW) == ("Found and located", 1.0)
    assert shelved(generated(FLAW)) == ("Called generated, flaw located poorly or not", 0.0)
