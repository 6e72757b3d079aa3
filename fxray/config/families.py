"""The families of base models that fxray drives, and what of each matters before anything is loaded."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Family:
    """A family of base models.

    Attributes:
        title: As its makers write it.
        patch_px: Side of a patch of the vision tower where a config.json does not say.
        has_key_norms: Queries and keys are normed head by head, and have no biases.
        has_gated_vision: Blocks of the vision tower have a gated product and norms without biases; else two layers and
            norms with biases.
        sees_tiles: Images are cut into square tiles of one size, and seen whole once more where there is more than one;
            else they are resized to whole tokens.
        num_axes: Of the language model's rotary embedding: frame, row and column, or one for all.
        adapts_vision: An adapter sits on vision tower and projector too, as vLLM lets it.
        box_grid: Into how many parts boxes divide each side of an image; 0 where they count pixels of the image that
            the model sees. The convention in which the models were trained to ground.
        placeholder: What stands for an image in a chat template, and then once for each of its tokens.
        image_start: What comes before these tokens and is not in the chat template.
        image_end: What comes after them.
    """

    title: str
    patch_px: int
    has_key_norms: bool = False
    has_gated_vision: bool = True
    sees_tiles: bool = False
    num_axes: int = 3
    adapts_vision: bool = True
    box_grid: int = 0
    placeholder: str = "<|image_pad|>"
    image_start: str = ""
    image_end: str = ""


FAMILIES = {
    "qwen2_5_vl": Family("Qwen2.5-VL", patch_px=14),
    "qwen3_vl": Family("Qwen3-VL", patch_px=16, has_key_norms=True, has_gated_vision=False, box_grid=1000),
    "internvl": Family(
        "InternVL",
        patch_px=14,
        has_gated_vision=False,
        sees_tiles=True,
        num_axes=1,
        adapts_vision=False,
        box_grid=1000,
        placeholder="<IMG_CONTEXT>",
        image_start="<img>",
        image_end="</img>",
    ),
}
"""By `model_type` of a config.json."""
KNOWN = " or ".join(family.title for family in FAMILIES.values())
