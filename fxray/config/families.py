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
        has_compiled_layers: `fxray.model.layers` runs its layers on a GPU.
        box_grid: Into how many parts boxes divide each side of an image; 0 where they count pixels of the image that
            the model sees. The convention in which the models were trained to ground.
    """

    title: str
    patch_px: int
    has_key_norms: bool = False
    has_gated_vision: bool = True
    has_compiled_layers: bool = False
    box_grid: int = 0


FAMILIES = {
    "qwen2_5_vl": Family("Qwen2.5-VL", patch_px=14, has_compiled_layers=True),
    "qwen3_vl": Family("Qwen3-VL", patch_px=16, has_key_norms=True, has_gated_vision=False, box_grid=1000),
}
"""By `model_type` of a config.json."""
KNOWN = " or ".join(family.title for family in FAMILIES.values())
