"""The tiny model's architecture: a genuine Qwen2.5-VL with few and narrow layers."""

from pathlib import Path

import torch
from transformers import (
    PreTrainedTokenizerFast,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2_5_VLProcessor,
    Qwen2VLImageProcessor,
    Qwen2VLVideoProcessor,
    Qwen3VLProcessor,
    Qwen3VLVideoProcessor,
)

PATCH_PX = 14
CELL_PX = 28
"""Side of the square that one image token covers: 2 x 2 patches."""
MIN_PIXELS = 56 * 56
MAX_PIXELS = 112 * 112
HIDDEN = 128
OUTPUT_GAIN = 3.0
"""Factor on the logits of the trained model. Its embeddings are tied to the output and short, and adapters change
neither them nor the last norm: without it a fine-tuned model leaves a tenth of a sure token's probability to others."""
IMAGE_MEAN = IMAGE_STD = 0.5


def build_model(tokenizer: PreTrainedTokenizerFast, seed: int) -> Qwen2_5_VLForConditionalGeneration:
    """An untrained model, its weights drawn by `seed`, for the vocabulary of `tokenizer`.

    The windows of the vision tower are 8 image tokens wide, so images up to 224 px see themselves whole in each layer.
    """
    ids = {token: int(tokenizer.convert_tokens_to_ids(token)) for token in tokenizer.all_special_tokens}
    end, pad = ids["<|im_end|>"], ids["<|endoftext|>"]
    config = Qwen2_5_VLConfig(
        text_config={
            "vocab_size": (len(tokenizer) + 63) // 64 * 64,
            "hidden_size": HIDDEN,
            "intermediate_size": 384,
            "num_hidden_layers": 4,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "max_position_embeddings": 4096,
            "rope_theta": 10000.0,
            "rope_scaling": {"type": "mrope", "mrope_section": [4, 6, 6]},
            "tie_word_embeddings": True,
            "bos_token_id": None,
            "eos_token_id": end,
            "pad_token_id": pad,
        },
        vision_config={
            "depth": 4,
            "hidden_size": 128,
            "intermediate_size": 320,
            "num_heads": 4,
            "out_hidden_size": HIDDEN,
            "patch_size": PATCH_PX,
            "spatial_merge_size": 2,
            "temporal_patch_size": 2,
            "window_size": 8 * CELL_PX,
            "fullatt_block_indexes": [1, 3],
        },
        image_token_id=ids["<|image_pad|>"],
        video_token_id=ids["<|video_pad|>"],
        vision_start_token_id=ids["<|vision_start|>"],
        vision_end_token_id=ids["<|vision_end|>"],
        tie_word_embeddings=True,
    )
    torch.manual_seed(seed)
    model = Qwen2_5_VLForConditionalGeneration(config)
    _order_numbers(model, tokenizer)
    model.generation_config.eos_token_id = [end, pad]
    model.generation_config.pad_token_id = pad
    return model


def sharpen(model: Qwen2_5_VLForConditionalGeneration) -> None:
    """Multiplies all logits by `OUTPUT_GAIN`, in place; greedy answers stay as they are."""
    with torch.no_grad():
        model.model.language_model.norm.weight *= OUTPUT_GAIN


def _order_numbers(model: Qwen2_5_VLForConditionalGeneration, tokenizer: PreTrainedTokenizerFast) -> None:
    """Start neighbouring numbers at neighbouring embeddings: a sum of waves of falling length, plus the random draw."""
    numbers = torch.arange(256)
    lengths = torch.logspace(0.7, 2.7, HIDDEN // 2)
    phase = 2 * torch.pi * numbers[:, None] / lengths
    waves = torch.cat([phase.sin(), phase.cos()], dim=1)
    rows = torch.tensor([tokenizer.convert_tokens_to_ids(str(number)) for number in range(256)])
    embedding = model.get_input_embeddings().weight
    with torch.no_grad():
        embedding[rows] = 0.5 * embedding[rows] + embedding.std() * waves


def build_processor(
    tokenizer: PreTrainedTokenizerFast, model_type: str = "qwen2_5_vl", *, patch_px: int = PATCH_PX
) -> Qwen2_5_VLProcessor | Qwen3VLProcessor:
    """The processor that loads as `AutoProcessor`: images of at most `MAX_PIXELS`, values in [-1, 1].

    Args:
        tokenizer: With the chat template.
        model_type: A family of `fxray.config.families`.
        patch_px: Side of a patch.
    """
    is_qwen3 = model_type == "qwen3_vl"
    processor, video = (
        (Qwen3VLProcessor, Qwen3VLVideoProcessor) if is_qwen3 else (Qwen2_5_VLProcessor, Qwen2VLVideoProcessor)
    )
    settings = {
        "patch_size": patch_px,
        "temporal_patch_size": 2,
        "merge_size": 2,
        "image_mean": [IMAGE_MEAN] * 3,
        "image_std": [IMAGE_STD] * 3,
        "size": {"shortest_edge": MIN_PIXELS, "longest_edge": MAX_PIXELS},
    }
    return processor(
        image_processor=Qwen2VLImageProcessor(**settings),
        tokenizer=tokenizer,
        video_processor=video(**settings),
        chat_template=tokenizer.chat_template,
    )


def save_model(out_dir: Path, model: Qwen2_5_VLForConditionalGeneration, tokenizer: PreTrainedTokenizerFast) -> None:
    """Write weights (float16), configuration, tokenizer and processor into `out_dir`, which exists."""
    weights = {name: tensor.detach().half() for name, tensor in model.state_dict().items()}
    model.save_pretrained(out_dir, state_dict=weights)
    save_processor(out_dir, tokenizer)
    (out_dir / "model.safetensors").chmod(0o644)


def save_processor(
    out_dir: Path, tokenizer: PreTrainedTokenizerFast, model_type: str = "qwen2_5_vl", *, patch_px: int = PATCH_PX
) -> None:
    """Write what `build_processor` makes, whole and part by part, into `out_dir`, which exists."""
    processor = build_processor(tokenizer, model_type, patch_px=patch_px)
    processor.save_pretrained(out_dir)
    processor.image_processor.save_pretrained(out_dir)
    processor.video_processor.save_pretrained(out_dir)
