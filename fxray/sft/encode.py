"""From a sample to the answer that it teaches, as token ids.

chat template | image tokens | query | <answer> <end token>
not learnt ...........................| learnt ............
"""

from transformers import PreTrainedTokenizerFast

from fxray.data.frame import Frame
from fxray.errors import DataError
from fxray.grammar import render
from fxray.schema import Annotation, Region, Sample

END_TOKEN = "<|im_end|>"


def encode_answer(
    tokenizer: PreTrainedTokenizerFast, sample: Sample, frame: Frame, *, max_answer_tokens: int
) -> list[int]:
    """Token ids of the answer that a sample teaches, end token included.

    Args:
        tokenizer: The model's tokenizer.
        sample: Boxes in original pixels.
        frame: Original and model frame of the image.
        max_answer_tokens: Bound on the answer.

    Raises:
        DataError: The answer cannot be said in the grammar, or is too long.
    """
    where = f"sample {sample.sample_id}"
    try:
        answer = render(in_model_frame(sample.annotation, frame))
    except DataError as error:
        raise DataError(error.message, where=where, remedy=error.remedy) from error
    token_ids = tokenizer(answer + END_TOKEN, add_special_tokens=False).input_ids
    if len(token_ids) > max_answer_tokens:
        raise DataError(
            f"the answer has {len(token_ids)} tokens, {max_answer_tokens} are allowed (sft.max_answer_tokens)",
            where=where,
            remedy="shorten its captions, leave the row out, or raise sft.max_answer_tokens",
        )
    return list(token_ids)


def in_model_frame(annotation: Annotation, frame: Frame) -> Annotation:
    """The annotation with its boxes in the model's frame."""
    regions = tuple(Region(frame.to_model(region.box), region.caption) for region in annotation.regions)
    return Annotation(annotation.verdict, regions, annotation.tags)
