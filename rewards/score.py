"""The reward of one answer, with its parts and what is worth logging."""

from dataclasses import dataclass

from fxray.data.frame import Frame
from fxray.errors import ConfigError
from fxray.geometry import clip, union_iou
from fxray.grammar import parse
from fxray.schema import Annotation
from rewards.answer_format import format_reward
from rewards.label import label_reward
from rewards.localization import relaxed_iou
from rewards.stage import StageRewards, parts_off

LARGEST_SUM = 1e100
"""Far below where the squares of rewards, and with them a whole group's advantages, are no numbers any more."""


@dataclass(frozen=True, slots=True)
class Score:
    """What one answer earned.

    Attributes:
        total: The weighted sum.
        label: R_C, unweighted.
        iou: R_G (relaxed), unweighted; 0 where the view switches it off.
        format: R_F, unweighted.
        custom: Value of each of the user's rewards by its path, unweighted.
        is_right: The verdict is the true one.
        is_strict: The answer keeps to the grammar.
        faults: Names of what is wrong with its form.
        num_boxes: Predicted boxes after clipping and dropping.
        union_iou: IoU of the two unions, not relaxed, whatever the stage's matching.
    """

    total: float
    label: float
    iou: float
    format: float
    custom: dict[str, float]
    is_right: bool
    is_strict: bool
    faults: tuple[str, ...]
    num_boxes: int
    union_iou: float


def score(answer_text: str, annotation: Annotation, frame: Frame, stage: StageRewards) -> Score:
    """R = r_base + w_G R_G + w_C R_C + w_F R_F (paper section 4.4), plus the user's rewards.

    Args:
        answer_text: The sampled answer, special tokens kept. Any string has a score.
        annotation: The truth, boxes in pixels of the original image.
        frame: Frames of the image; predicted boxes are clipped in the model's and compared in the original one.
        stage: Weights in force (`weights_at` for a stage whose weights move).

    Raises:
        ConfigError: A user's reward cannot be loaded or returned no finite number, or the weighted sum is beyond
            `LARGEST_SUM`. What a user's reward raises passes through.
    """
    answer = parse(answer_text, view=stage.view).clipped(frame.box_width, frame.box_height)
    predicted = [frame.to_original(region.box) for region in answer.regions]
    truth = [box for region in annotation.regions if (box := clip(region.box, frame.width_px, frame.height_px))]
    r_label = label_reward(answer.verdict, annotation.verdict, right=stage.label.right, wrong=stage.label.wrong)
    is_off = "iou" in parts_off(stage.view)
    r_iou = 0.0 if is_off else relaxed_iou(predicted, truth, eta=stage.eta, matching=stage.matching)
    r_format = format_reward(answer, right=stage.format.right, wrong=stage.format.wrong)
    custom = {reward.path: reward.value(answer_text, annotation, frame) for reward in stage.custom}
    total = stage.r_base + stage.w_iou * r_iou + stage.w_label * r_label + stage.w_format * r_format
    total += sum(reward.weight * custom[reward.path] for reward in stage.custom)
    if not abs(total) <= LARGEST_SUM:
        raise ConfigError(
            f"the weighted rewards of an answer add up to {total:g}, expected at most {LARGEST_SUM:g}",
            where=", ".join(f"{reward.weight:g} x {reward.path}" for reward in stage.custom) or f"stage {stage.name}",
            remedy="lower the weights, or let the reward functions return numbers of the size of the others'",
        )
    return Score(
        total=total,
        label=r_label,
        iou=r_iou,
        format=r_format,
        custom=custom,
        is_right=answer.verdict is annotation.verdict,
        is_strict=answer.is_strict,
        faults=tuple(fault.kind.value for fault in answer.faults),
        num_boxes=len(predicted),
        union_iou=union_iou(predicted, truth),
    )
