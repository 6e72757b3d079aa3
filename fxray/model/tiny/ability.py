"""What the tiny base model can do, measured on grounding scenes on photographs that it was not trained on."""

import re
from dataclasses import dataclass

import numpy as np
import torch
from transformers import PreTrainedTokenizerFast, Qwen2_5_VLForConditionalGeneration

from fxray.geometry import union_iou
from fxray.model.tiny.architecture import CELL_PX
from fxray.model.tiny.batches import patchify
from fxray.model.tiny.grounding import Scene, draw_scene
from fxray.schema import Box

_BOX = re.compile(r"<\|box_start\|>\((\d+),(\d+)\),\((\d+),(\d+)\)<\|box_end\|>")
_NAME = re.compile(r"<\|object_ref_start\|>([^<]+)<\|object_ref_end\|>")
_SIDE_CELLS = 4


@dataclass(frozen=True, slots=True)
class Ability:
    """Greedy answers on `num_scenes` scenes on the validation photographs.

    Attributes:
        list_iou: Mean union IoU of "List every shape with its box." where there are shapes.
        names_frac: Share of true shape names among the listed ones.
        count_frac: Share of scenes with shapes for which as many are listed as there are.
        empty_frac: Share of scenes without shapes of which the model says so.
    """

    num_scenes: int
    list_iou: float
    names_frac: float
    count_frac: float
    empty_frac: float


def measure_ability(
    model: Qwen2_5_VLForConditionalGeneration, tokenizer: PreTrainedTokenizerFast, *, num_scenes: int = 256
) -> Ability:
    """Asks for all shapes of square scenes that no training step has seen."""
    rng = np.random.default_rng(977)
    side_px = _SIDE_CELLS * CELL_PX
    scenes = [draw_scene(rng, side_px, side_px, "validation") for _ in range(num_scenes)]
    answers = _answer(model, tokenizer, scenes, "List every shape with its box.")
    ious, named, counted, empty = [], [], [], []
    for scene, answer in zip(scenes, answers, strict=True):
        boxes = [Box(*map(float, corners)) for corners in _BOX.findall(answer)]
        if not scene.shapes:
            empty.append(not boxes)
            continue
        ious.append(union_iou(boxes, [Box(*shape.box) for shape in scene.shapes]))
        counted.append(len(boxes) == len(scene.shapes))
        listed = _NAME.findall(answer)
        named += [shape.name in listed for shape in scene.shapes]
    return Ability(num_scenes, *(float(np.mean(values)) for values in (ious, named, counted, empty)))


def _answer(
    model: Qwen2_5_VLForConditionalGeneration, tokenizer: PreTrainedTokenizerFast, scenes: list[Scene], question: str
) -> list[str]:
    image = "<|vision_start|>" + "<|image_pad|>" * _SIDE_CELLS**2 + "<|vision_end|>"
    prompt = (
        "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"
        f"<|im_start|>user\n{image}{question}<|im_end|>\n<|im_start|>assistant\n"
    )
    ids = torch.tensor([tokenizer(prompt, add_special_tokens=False).input_ids] * len(scenes))
    model.eval()
    with torch.no_grad():
        out = model.generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            pixel_values=patchify(torch.from_numpy(np.stack([scene.pixels for scene in scenes]))),
            image_grid_thw=torch.tensor([[1, 2 * _SIDE_CELLS, 2 * _SIDE_CELLS]] * len(scenes)),
            mm_token_type_ids=(ids == model.config.image_token_id).int(),
            max_new_tokens=90,
            do_sample=False,
        )
    return tokenizer.batch_decode(out[:, ids.shape[1] :], skip_special_tokens=False)
