"""The tiny model's own byte-level BPE tokenizer, with all of Qwen2.5-VL's special tokens.

Every number from 0 to 255 is one token, so a coordinate is one decision of the policy; longer numbers fall into
pieces. The markers of the answer grammar are frequent strings like any other, so each of them merges into one token.
"""

import json
import re
from collections.abc import Iterable

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

SPECIAL_TOKENS = (
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|object_ref_start|>",
    "<|object_ref_end|>",
    "<|box_start|>",
    "<|box_end|>",
    "<|quad_start|>",
    "<|quad_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|vision_pad|>",
    "<|image_pad|>",
    "<|video_pad|>",
)
MAX_WHOLE_NUMBER = 255
WORD_MERGES = 700

_MARKERS = (r"\n?</think>\n<tag>", r"</tag>\n<verdict>", r"<think>\n", r"</?(?:think|tag|verdict)>")
_PIECES = "|".join((*_MARKERS, r"\d{1,3}", r" ?\p{L}+", r"[^\s\p{L}\d<]+", r"<", r"\s+(?!\S)", r"\s"))
_MARKER_TEXT = (
    "<think>\n</think>\n<tag></tag>\n<verdict></verdict><think></think><tag><verdict></tag>. \n</think>\n<tag>"
)

CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{% if loop.first and message['role'] != 'system' %}"
    "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"
    "{% endif %}"
    "<|im_start|>{{ message['role'] }}\n"
    "{% if message['content'] is string %}{{ message['content'] }}"
    "{% else %}{% for part in message['content'] %}"
    "{% if part['type'] == 'image' or 'image' in part or 'image_url' in part %}"
    "<|vision_start|><|image_pad|><|vision_end|>"
    "{% elif part['type'] == 'video' or 'video' in part %}<|vision_start|><|video_pad|><|vision_end|>"
    "{% elif 'text' in part %}{{ part['text'] }}"
    "{% endif %}{% endfor %}{% endif %}<|im_end|>\n"
    "{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def train_tokenizer(corpus: Iterable[str]) -> PreTrainedTokenizerFast:
    """A tokenizer whose words come from `corpus` and whose numbers and markers are whole tokens.

    Args:
        corpus: Texts such as prompts and answers; digits in them are ignored.
    """
    words = Tokenizer(models.BPE())
    words.pre_tokenizer = _pre_tokenizer()
    texts = [piece for text in corpus for piece in re.split(r"\d+", text)]
    trainer = trainers.BpeTrainer(
        vocab_size=256 + WORD_MERGES,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    words.train_from_iterator([*texts, *[_MARKER_TEXT] * 500], trainer)
    trained = json.loads(words.to_str())["model"]
    merges = [tuple(pair) for pair in trained["merges"]] + _number_merges()
    vocab: dict[str, int] = {}
    for token in (*sorted(trained["vocab"], key=trained["vocab"].__getitem__), *map("".join, _number_merges())):
        vocab.setdefault(token, len(vocab))
    whole = Tokenizer(models.BPE(vocab=vocab, merges=merges))
    whole.pre_tokenizer = _pre_tokenizer()
    whole.decoder = decoders.ByteLevel()
    whole.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in SPECIAL_TOKENS])
    return PreTrainedTokenizerFast(
        tokenizer_object=whole,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        additional_special_tokens=list(SPECIAL_TOKENS),
        model_specific_special_tokens={
            "image_token": "<|image_pad|>",
            "video_token": "<|video_pad|>",
            "vision_bos_token": "<|vision_start|>",
            "vision_eos_token": "<|vision_end|>",
        },
        chat_template=CHAT_TEMPLATE,
        model_max_length=4096,
        clean_up_tokenization_spaces=False,
    )


def _pre_tokenizer() -> pre_tokenizers.PreTokenizer:
    return pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_PIECES), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )


def _number_merges() -> list[tuple[str, str]]:
    """Merges that make each number from 10 to 255 one token: pairs of digits, then the third digit at either end."""
    numbers = [str(number) for number in range(10, MAX_WHOLE_NUMBER + 1)]
    ends = [(text[0], text[1:]) for text in numbers if len(text) == 3 and text[1] != "0"]
    return [(text[:-1], text[-1]) for text in numbers] + ends
