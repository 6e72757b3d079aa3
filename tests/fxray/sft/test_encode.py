from dataclasses import replace
from pathlib import Path

import pytest

from fxray.data.frame import Frame
from fxray.errors import DataError
from fxray.model.load import load_tokenizer
from fxray.schema import Annotation, Box, Region, Sample, Tag, Verdict
from fxray.sft.encode import encode_answer

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

    token_ids = encode_answer(tokenizer, SAMPLE, FRAME, max_answer_tokens=200)

    # 100 px become 56, 200 px become 112: every coordinate is multiplied by 0.56 and rounded.
    assert tokenizer.decode(token_ids) == (
        "<think>\n<|object_ref_start|>Tail bent<|object_ref_end|><|box_start|>(6,56),(28,84)<|box_end|>\n</think>\n"
        "<tag>structure errors</tag>\n<verdict>generated</verdict><|im_end|>"
    )
    assert token_ids.count(tokenizer.eos_token_id) == 1


def test_an_answer_of_the_allowed_length_passes_and_a_longer_one_names_its_sample(random_model_dir: Path) -> None:
    tokenizer = load_tokenizer(random_model_dir)
    length = len(encode_answer(tokenizer, SAMPLE, FRAME, max_answer_tokens=200))

    assert len(encode_answer(tokenizer, SAMPLE, FRAME, max_answer_tokens=length)) == length
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
