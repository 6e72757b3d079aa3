"""The weights of the reward sum in one stage of GRPO (paper, Table 1)."""

from dataclasses import dataclass, replace

from fxray.grammar.views import VIEWS, ViewName
from rewards.custom import CustomReward
from rewards.localization import Matching


@dataclass(frozen=True, slots=True)
class RightWrong:
    """The two values of a reward that is either earned or not."""

    right: float
    wrong: float


@dataclass(frozen=True, slots=True)
class StageRewards:
    """R = r_base + w_G R_G + w_C R_C + w_F R_F, as numbers.

    Attributes:
        name: The stage.
        r_base: Added to every answer; it cancels in the group advantage and only moves the logged curve.
        w_iou: w_G, weight of the relaxed IoU at the start of the stage.
        label: R_C of a right and of a wrong verdict.
        format: R_F of a well-formed and of any other answer.
        w_label: w_C.
        w_format: w_F.
        w_iou_final: w_G at the end of the stage, reached linearly; None keeps `w_iou`.
        eta: Relaxing constant of the IoU.
        matching: How predicted and true boxes are compared.
        custom: The user's own rewards.
        view: What the answers are to speak of; `parts_off` says what that switches off.
    """

    name: str
    r_base: float
    w_iou: float
    label: RightWrong
    format: RightWrong
    w_label: float = 1.0
    w_format: float = 1.0
    w_iou_final: float | None = None
    eta: float = 1.1
    matching: Matching = "union"
    custom: tuple[CustomReward, ...] = ()
    view: ViewName = "full"


def weights_at(stage: StageRewards, progress_frac: float) -> StageRewards:
    """The weights in force at a point of a stage.

    Args:
        stage: The stage as configured.
        progress_frac: t / T: updates done in the stage over its number of updates.

    Returns:
        A stage whose `w_iou` is the present one and does not move any more.
    """
    if stage.w_iou_final is None:
        return stage
    w_iou = stage.w_iou + (stage.w_iou_final - stage.w_iou) * progress_frac
    return replace(stage, w_iou=w_iou, w_iou_final=None)


def parts_off(view: ViewName) -> tuple[str, ...]:
    """The parts of the reward that a view switches off: they earn nothing, whatever their weight (section 5.3).

    Without boxes there is no R_G. Captions and tags have no reward of their own; without them R_F asks for less.
    """
    return () if VIEWS[view].has_regions else ("iou",)
