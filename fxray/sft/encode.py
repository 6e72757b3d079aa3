"""From a sample to the answer that it teaches, as token ids.

chat template | image tokens | query | <answer> <end token>
not learnt ...........................| learnt ............
"""

from dataclasses import dataclass, replace

from transformers import PreTrainedTokenizerFast

from fxray.counts import counted
from fxray.data.frame import Frame
from fxray.errors import DataError
from fxray.grammar import render
from fxray.grammar.views import VIEWS, RegionOrder, ViewName, in_order
from fxray.grpo.types import FORBIDDEN_TOKENS
from fxray.schema import Annotation, Region, Sample
from fxray.sft.settings import SftSettings

END_TOKEN = "<|im_end|>"


@dataclass(frozen=True, slots=True)
class TaughtAnswer:
    """An answer to learn.

    Attributes:
        token_ids: End token included.
        num_dropped_regions: Regions of the sample that it leaves out to keep to its bound.
    """

    token_ids: list[int]
    num_dropped_regions: int = 0


def encode_answer(
    tokenizer: PreTrainedTokenizerFast,
    sample: Sample,
    frame: Frame,
    *,
    max_answer_tokens: int,
    view: ViewName = "full",
    region_order: RegionOrder = "annotation",
    may_drop_regions: bool = False,
) -> TaughtAnswer:
    """The answer that a sample teaches. It is never cut: it is whole, or lacks whole regions.

    Args:
        tokenizer: The model's tokenizer.
        sample: Boxes in original pixels.
        frame: Original and model frame of the image.
        max_answer_tokens: Bound on the answer.
        view: What the answer speaks of.
        region_order: In which order it names the regions.
        may_drop_regions: A longer answer loses its last regions until it fits; one region always stays.

    Raises:
        DataError: The answer cannot be said in the grammar or with this tokenizer, or is too long.
    """
    where = f"sample {sample.sample_id}"
    annotation = replace(sample.annotation, regions=in_order(sample.annotation.regions, region_order))
    taught = _encode(tokenizer, annotation, frame, view, where)
    num_regions = len(annotation.regions)
    num_kept = num_regions
    if may_drop_regions and VIEWS[view].has_regions:
        while len(taught) > max_answer_tokens and num_kept > 1:
            num_kept -= 1
            shorter = replace(annotation, regions=annotation.regions[:num_kept])
            taught = _encode(tokenizer, shorter, frame, view, where)
    if len(taught) > max_answer_tokens:
        left = f" with {num_kept} of its {counted(num_regions, 'region')}" if num_kept < num_regions else ""
        raise DataError(
            f"the answer has {len(taught)} tokens{left}, {max_answer_tokens} are allowed (sft.max_answer_tokens)",
            where=where,
            remedy="shorten its captions, leave the row out, raise sft.max_answer_tokens, or let answers lose regions "
            "with sft.on_long_answer=drop-regions",
        )
    return TaughtAnswer(taught, num_regions - num_kept)


def taught_answer(
    tokenizer: PreTrainedTokenizerFast, sample: Sample, frame: Frame, settings: SftSettings
) -> TaughtAnswer:
    """The answer that a job teaches of a sample; as `encode_answer`."""
    return encode_answer(
        tokenizer,
        sample,
        frame,
        max_answer_tokens=settings.max_answer_tokens,
        view=settings.view,
        region_order=settings.region_order,
        may_drop_regions=settings.on_long_answer == "drop-regions",
    )


def in_model_frame(annotation: Annotation, frame: Frame) -> Annotation:
    """The annotation with its boxes in the model's frame."""
    regions = tuple(Region(frame.to_model(region.box), region.caption) for region in annotation.regions)
    return Annotation(annotation.verdict, regions, annotation.tags)


def _encode(
    tokenizer: PreTrainedTokenizerFast, annotation: Annotation, frame: Frame, view: ViewName, where: str
) -> list[int]:
    try:
        answer = render(in_model_frame(annotation, frame), view)
    except DataError as error:
        raise DataError(error.message, where=where, remedy=error.remedy) from error
    taught = list(tokenizer(answer + END_TOKEN, add_special_tokens=False).input_ids)
    named = [token for token in FORBIDDEN_TOKENS if token in answer]
    if pixels := [token for token in named if tokenizer.convert_tokens_to_ids(token) in taught]:
        raise DataError(
            f"the answer holds {', '.join(sorted(pixels))}, which stands for pixels of an image",
            where=where,
            remedy="write its captions in other words",
        )
    return taught
