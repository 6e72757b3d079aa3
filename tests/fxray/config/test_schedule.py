import pytest

from fxray.config.schedule import load_stages, num_sft_steps
from fxray.errors import ConfigError

REWARDS = "rewards: {w_iou: 1, label: {right: 1, wrong: -1}, format: {right: 2, wrong: -1}}"


def load(tmp_path, text):
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    return load_stages(path)


def test_a_fourth_stage_is_only_data(tmp_path):
    names = ["a", "b", "c", "delta-2"]
    stages = load(tmp_path, "stages:\n" + "".join(f"- {{name: {name}, steps: 3, {REWARDS}}}\n" for name in names))
    assert [(stage.name, stage.steps) for stage in stages] == [(name, 3) for name in names]


def test_what_a_stage_leaves_out_is_left_to_the_grpo_section(tmp_path):
    (stage,) = load(tmp_path, f"stages: [{{name: a, {REWARDS}}}]")
    assert (stage.epochs, stage.steps, stage.learning_rate, stage.max_new_tokens, stage.reference) == (1, *[None] * 4)
    assert (stage.rewards.eta, stage.rewards.matching, stage.rewards.w_iou_final) == (1.1, "union", None)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("stages: []", "at least one stage"),
        ("", "stages is missing"),
        ("stages: 3", "stages is 3"),
        (f"stages: [{{name: a, {REWARDS}}}, {{name: a, {REWARDS}}}]", "stage names must differ, got a twice"),
        (f"stages: [{{name: sft, {REWARDS}}}]", "cannot be called sft"),
        (f"stages: [{{name: ../up, {REWARDS}}}]", "stages.0.name is '../up'"),
        (f"stages: [{{name: a, epoch: 2, {REWARDS}}}]", "did you mean `stages.0.epochs`?"),
        (f"stages: [{{name: a, steps: 0, {REWARDS}}}]", "stages.0.steps is 0"),
        (f"stages: [{{name: a, {REWARDS.replace('right: 2', 'right: -1')}}}]", "`right` must earn more"),
        (f"stages: [{{name: a, {REWARDS.replace('w_iou', 'w_iuo')}}}]", "did you mean `stages.0.rewards.w_iou`?"),
        (f"stages: [{{name: a, {REWARDS.replace('right: 1', 'right: .inf')}}}]", "must be a finite number"),
    ],
)
def test_a_wrong_schedule_is_refused_with_the_field(tmp_path, text, said):
    with pytest.raises(ConfigError) as caught:
        load(tmp_path, text)
    assert said in str(caught.value)
    assert "mine.yaml" in str(caught.value)


def test_an_unknown_preset_is_told_the_nearest():
    with pytest.raises(ConfigError, match="did you mean `paper`"):
        load_stages("papers")


@pytest.mark.parametrize(
    ("epochs", "num_samples", "batch_size", "num_steps"),
    [(1.1, 100, 10, 11), (1.1, 100, 11, 10), (2.2, 100, 10, 22), (0.7, 10, 7, 1), (3, 101, 10, 31), (1e-05, 10, 4, 1)],
)
def test_epochs_make_as_many_steps_as_their_digits_say(epochs, num_samples, batch_size, num_steps):
    assert num_sft_steps(num_samples, epochs=epochs, batch_size=batch_size, max_steps=0) == num_steps
    stage = load_stages("paper")[0].model_copy(update={"epochs": epochs})
    assert stage.num_steps(0, num_samples, batch_size) == num_steps


@pytest.mark.parametrize(
    ("steps", "steps_per_stage", "num_steps"), [(3, 36, 3), (None, 36, 36), (3, 0, 3), (None, 0, 2)]
)
def test_the_steps_of_a_stage_go_before_those_of_the_configuration(steps, steps_per_stage, num_steps):
    stage = load_stages("paper")[0].model_copy(update={"steps": steps})
    assert stage.num_steps(steps_per_stage, 16, 8) == num_steps
