from dataclasses import replace
from pathlib import Path

import pytest

from fxray.data.frame import Frame
from fxray.errors import DataError
from fxray.grammar import parse
from fxray.grammar.views import RegionOrder, ViewName
from fxray.model.prompts import load_tokenizer
from fxray.schema import Annotation, Box, Region, Sample, Tag, Verdict
from fxray.sft.encode import TaughtAnswer, encode_answer

FRAME = Frame(100, 200, 56, 112)
SAMPLE = Sample(
    "cat-7",
    100,
    200,
    Annotation(Verdict.GENERATED, (Region(Box(10, 100, 50, 150), "Tail bent"),), (Tag.STRUCTURE,)),
    "squares",
    "cat",
    "photo-1",
)


def test_the_answer_speaks_in_the_models_frame_and_ends_with_the_end_token(random_model_dir: Path) -> None:
    tokenizer = load_tokenizer(random_model_dir)

    token_ids = encode_answer(tokenizer, SAMPLE, FRAME, max_answer_tokens=200).token_ids

    # 100 px become 56, 200 px become 112: every coordinate is multiplied by 0.56 and rounded.
    assert tokenizer.decode(token_ids) == (
        "<think>\n<|object_ref_start|>Tail bent<|object_ref_end|><|box_start|>(6,56),(28,84)<|box_end|>\n</think>\n"
        "<tag>structure errors</tag>\n<verdict>generated</verdict><|im_end|>"
    )
    assert token_ids.count(tokenizer.eos_token_id) == 1


def test_an_answer_of_the_allowed_length_passes_and_a_longer_one_names_its_sample(random_model_dir: Path) -> None:
    tokenizer = load_tokenizer(random_model_dir)
    length = len(encode_answer(tokenizer, SAMPLE, FRAME, max_answer_tokens=200).token_ids)

    assert len(encode_answer(tokenizer, SAMPLE, FRAME, max_answer_tokens=length).token_ids) == length
    with pytest.raises(DataError, match=f"sample cat-7: the answer has {length} tokens, {length - 1} are allowed"):
        encode_answer(tokenizer, SAMPLE, FRAME, max_answer_tokens=length - 1)


@pytest.mark.parametrize(
    "annotation",
    [
        Annotation(Verdict.GENERATED),
        Annotation(Verdict.REAL, SAMPLE.annotation.regions),
        Annotation(Verdict.GENERATED, (Region(Box(0, 0, 9, 9), "<|image_pad|> left"),)),
    ],
)
def test_an_annotation_that_no_answer_can_say_names_its_sample(random_model_dir: Path, annotation: Annotation) -> None:
    with pytest.raises(DataError, match="sample cat-7"):
        encode_answer(
            load_tokenizer(random_model_dir), replace(SAMPLE, annotation=annotation), FRAME, max_answer_tokens=200
        )


def _flawed(num_regions: int) -> Sample:
    """Boxes from the bottom up: the first region is the lowest."""
    regions = tuple(Region(Box(10, 180 - 20 * k, 90, 195 - 20 * k), f"Tail bent {k}") for k in range(num_regions))
    return replace(SAMPLE, annotation=replace(SAMPLE.annotation, regions=regions))


def test_the_answer_keeps_to_its_view_and_order(random_model_dir: Path) -> None:
    tokenizer = load_tokenizer(random_model_dir)

    def taught(view: ViewName, order: RegionOrder) -> str:
        answer = encode_answer(tokenizer, _flawed(2), FRAME, max_answer_tokens=999, view=view, region_order=order)
        return tokenizer.decode(answer.token_ids)

    # 180 and 195 px become 101 and 109, 160 and 175 px become 90 and 98, 10 and 90 px become 6 and 50.
    low, high = "<|box_start|>(6,101),(50,109)<|box_end|>", "<|box_start|>(6,90),(50,98)<|box_end|>"
    tag, verdict = "<tag>structure errors</tag>\n", "<verdict>generated</verdict><|im_end|>"
    assert taught("no-caption", "annotation") == f"<think>\n{low}\n{high}\n</think>\n{tag}{verdict}"
    assert taught("no-caption", "position") == f"<think>\n{high}\n{low}\n</think>\n{tag}{verdict}"
    assert taught("no-bbox", "position") == tag + verdict
    assert taught("label-only", "position") == verdict


def test_a_long_answer_loses_whole_regions_from_its_end(random_model_dir: Path) -> None:
    tokenizer = load_tokenizer(random_model_dir)
    lengths = [len(encode_answer(tokenizer, _flawed(n), FRAME, max_answer_tokens=999).token_ids) for n in range(1, 6)]

    def shortened(bound: int) -> TaughtAnswer:
        return encode_answer(tokenizer, _flawed(5), FRAME, max_answer_tokens=bound, may_drop_regions=True)

    assert shortened(lengths[4]).num_dropped_regions == 0
    assert shortened(lengths[4] - 1).num_dropped_regions == 1
    three = shortened(lengths[3] - 1)
    assert three.num_dropped_regions == 2
    assert three.token_ids == encode_answer(tokenizer, _flawed(3), FRAME, max_answer_tokens=999).token_ids
    assert parse(tokenizer.decode(three.token_ids)).is_strict
    assert shortened(lengths[0]).num_dropped_regions == 4
    with pytest.raises(DataError, match=f"sample cat-7: the answer has {lengths[0]} tokens with 1 of its 5 regions"):
        shortened(lengths[0] - 1)


@pytest.mark.parametrize("token", ["<IMG_CONTEXT>", "<img>"])
def test_a_caption_with_what_stands_for_pixels_is_refused_where_the_model_takes_it_for_them(
    random_internvl_dir: Path, random_model_dir: Path, token: str
) -> None:
    regions = (Region(Box(10, 100, 50, 150), f"Tag {token} in the page"),)
    sample = replace(SAMPLE, annotation=replace(SAMPLE.annotation, regions=regions))
    with pytest.raises(DataError, match=f"sample cat-7: the answer holds {token}, which stands for pixels"):
        encode_answer(load_tokenizer(random_internvl_dir), sample, FRAME, max_answer_tokens=200)
    assert encode_answer(load_tokenizer(random_model_dir), sample, FRAME, max_answer_tokens=200).token_ids
