"""One rank in this process: no Ray, the images as bytes."""

import hashlib
from dataclasses import replace

import numpy as np
import pytest
import ray
import torch
from plain_rank import SETTINGS, make_group, one_pass, start
from ray.exceptions import GetTimeoutError, ObjectLostError
from safetensors.torch import load

from actors.learner import PARTS, POLICY_FOLDER, RankPass
from fxray.errors import CheckpointError, DataError, LearnerLostError, ModelError, ResourceError
from fxray.files import write_atomically
from fxray.grpo.types import ImageRef, TrainingGroup
from fxray.model.batch import pack
from fxray.model.folder import resolve_model_path
from fxray.model.load import load_model
from fxray.model.phases import PhaseClock
from fxray.model.prompts import load_tokenizer


@pytest.mark.usefixtures("pinned")
def test_a_pinned_rank_takes_no_more_threads_than_it_has_processors(tmp_path, monkeypatch):
    taken = []
    monkeypatch.setattr(torch, "set_num_threads", taken.append)
    with pytest.raises(ModelError):  # it loads the model next
        start(tmp_path, threads=0)
    assert taken == [1]


@pytest.fixture(scope="module")
def worker(random_model_dir):
    return start(random_model_dir)


@pytest.fixture(scope="module")
def groups(random_model_dir):
    return [make_group(random_model_dir, index) for index in range(4)]


def of_part(saved, part):
    """The files of a part of a saved state."""
    return {path.removeprefix(f"{part}/"): saved[path] for path in saved if path.startswith(f"{part}/")}


def weights(worker):
    return worker.export_policy(1)[0].safetensors


def state(worker):
    """All parts of a checkpoint."""
    return {name: content for part in PARTS for name, content in worker.state(part).items()}


def restore(worker, saved, where):
    for part in PARTS:
        files = of_part(saved, part) | {name: saved[name] for name in saved if name == part}
        worker.restore(part, files, f"{where}/{part}")


def test_the_first_update_is_on_policy_and_at_the_reference(worker, groups):
    saved = state(worker)
    sums = worker.update(one_pass(*groups), SETTINGS, num_groups=4)
    assert sums["tokens"] == 4 * 17
    assert sums["ratio_max"] == 1
    assert sums["clipped"] == 0
    assert sums["kl"] == pytest.approx(0, abs=1e-5)
    # On policy with ratio 1 the loss is minus the weighted advantages: their mean over answers, then groups.
    assert sums["loss"] == pytest.approx(-np.mean([group.advantages_G.mean() for group in groups]), rel=1e-4)
    assert sums["grad_norm"] > 0
    assert {"seconds/preprocess", "seconds/reference", "seconds/forward", "seconds/backward", "seconds/step"} <= set(
        sums
    )
    assert worker.update(one_pass(*groups), SETTINGS, num_groups=4)["kl"] > 1e-4
    restore(worker, saved, "saved")


def test_several_updates_on_a_batch_leave_the_old_policy_behind(worker, groups):
    saved = state(worker)
    sums = worker.update(one_pass(*groups), replace(SETTINGS, num_updates=3), num_groups=4)
    assert sums["tokens"] == 3 * 4 * 17
    assert sums["ratio_max"] > 1.01
    restore(worker, saved, "saved")


def test_division_into_passes_does_not_matter(worker, groups):
    saved = state(worker)
    worker.reset_optimizer()
    whole = worker.update(one_pass(*groups), SETTINGS, num_groups=4)
    gradient = first_moments(worker)
    restore(worker, saved, "saved")
    worker.reset_optimizer()
    filler = RankPass((groups[0],), is_filler=True)
    passes = [*one_pass(groups[2], groups[0]), *one_pass(groups[3]), *one_pass(groups[1]), filler]
    parts = worker.update(passes, SETTINGS, num_groups=4)
    for name in ("loss", "tokens", "surprisal", "grad_norm", "importance", "ratio_max"):
        assert parts[name] == pytest.approx(whole[name], rel=1e-4)
    assert (first_moments(worker) - gradient).norm() / gradient.norm() < 1e-5
    restore(worker, saved, "saved")


def test_without_a_kl_term_groups_without_spread_may_be_left_out(worker, groups):
    flat = replace(groups[1], advantages_G=np.zeros(3, np.float32))
    saved, settings = state(worker), replace(SETTINGS, kl_beta=0.0)
    worker.reset_optimizer()
    worker.update(one_pass(groups[0], flat, groups[2]), settings, num_groups=3)
    gradient = first_moments(worker)
    restore(worker, saved, "saved")
    worker.reset_optimizer()
    worker.update(one_pass(groups[0], groups[2]), settings, num_groups=3)
    assert (first_moments(worker) - gradient).norm() / gradient.norm() < 1e-5
    restore(worker, saved, "saved")


def first_moments(worker):
    """After the first step they are a tenth of the clipped gradient."""
    state = worker._engine.optimizer_state()
    return torch.cat([tensor.flatten() for name, tensor in state.items() if name.startswith("exp_avg.")])


def test_a_masked_answer_is_as_if_it_were_not_there(worker, groups, random_model_dir):
    masked = make_group(random_model_dir, 1, valid=(True, False, True))
    rollouts = masked.rollouts.rollouts
    without = TrainingGroup(
        replace(masked.rollouts, rollouts=(rollouts[0], rollouts[2])),
        masked.advantages_G[[0, 2]],
        np.array([True, True]),
    )
    saved = state(worker)
    first = worker.update(one_pass(masked), SETTINGS, num_groups=1)
    after_first = weights(worker)
    restore(worker, saved, "saved")
    second = worker.update(one_pass(without), SETTINGS, num_groups=1)
    assert first["loss"] == second["loss"]
    assert first["tokens"] == second["tokens"] == 5 + 3
    assert weights(worker) == after_first
    restore(worker, saved, "saved")


def test_resume_is_bit_exact(worker, groups, random_model_dir):
    worker.update(one_pass(*groups[:2]), SETTINGS, num_groups=2)
    worker.set_reference()
    worker.update(one_pass(*groups[2:]), SETTINGS, num_groups=2)
    saved = state(worker)
    on = worker.update(one_pass(*groups), SETTINGS, num_groups=4)
    expected = weights(worker)
    fresh = start(random_model_dir)
    restore(fresh, saved, "saved")
    resumed = fresh.update(one_pass(*groups), SETTINGS, num_groups=4)
    assert weights(fresh) == expected
    assert {name: value for name, value in resumed.items() if "seconds" not in name} == {
        name: value for name, value in on.items() if "seconds" not in name
    }
    restore(worker, saved, "saved")
    assert weights(worker) != expected


@pytest.mark.parametrize("zero_stage", [0, 2])
def test_a_gradient_that_is_not_finite_ends_the_run_with_a_way_out_that_there_is(groups, random_model_dir, zero_stage):
    worker = start(random_model_dir, zero_stage=zero_stage)
    broken = replace(groups[0], advantages_G=np.full(3, np.inf, np.float32))
    with pytest.raises(ModelError, match=r"the norm of the gradient is (nan|inf), so the update is lost") as caught:
        worker.update(one_pass(broken), SETTINGS, num_groups=1)
    for field in ("sft.learning_rate", "grpo.learning_rate", "model.dtype=float32"):
        assert field in caught.value.remedy
    assert "in another run directory" in caught.value.remedy  # for that of the run keeps to its settings


@pytest.mark.parametrize("zero_stage", [0, 1, 2])
def test_part_of_the_way_from_the_reference_is_kept_and_trained_on(groups, random_model_dir, zero_stage):
    worker = start(random_model_dir, zero_stage=zero_stage)
    worker.update(one_pass(*groups), SETTINGS, num_groups=4)
    worker.set_reference()
    reference = state(worker)
    worker.update(one_pass(*groups[:2]), SETTINGS, num_groups=2)
    end = load(weights(worker))
    worker.interpolate(0.25)
    kept = state(worker)
    assert of_part(kept, "reference") == of_part(reference, "reference")
    start_of = load(of_part(reference, "adapter")["adapter_model.safetensors"])
    for name, tensor in load(weights(worker)).items():
        torch.testing.assert_close(tensor, 0.75 * start_of[name] + 0.25 * end[name])

    fresh = start(random_model_dir, zero_stage=zero_stage)
    restore(fresh, kept, "kept")
    for each in (worker, fresh):
        each.update(one_pass(*groups), SETTINGS, num_groups=4)
    assert weights(worker) == weights(fresh) != kept["adapter/adapter_model.safetensors"]


@pytest.mark.parametrize("zero_stage", [0, 2])
def test_the_passes_of_an_update_ask_a_gpu_for_no_number(groups, random_model_dir, asking_nothing, zero_stage):
    worker = start(random_model_dir, zero_stage=zero_stage)
    prepared = [worker._prepare(each, SETTINGS, num_groups=2) for group in groups[:2] for each in one_pass(group)]
    with asking_nothing:
        for each in prepared:
            told = worker._learn(each, SETTINGS, PhaseClock(torch.device("cpu")), is_last=each is prepared[-1])
    assert told["surprisal"] > 0


def test_a_reset_optimizer_is_a_fresh_one(worker, groups, random_model_dir):
    worker.update(one_pass(*groups), SETTINGS, num_groups=4)
    worker.reset_optimizer()
    saved = state(worker)
    worker.update(one_pass(*groups), SETTINGS, num_groups=4)
    fresh = start(random_model_dir, initial_policy=of_part(saved, "adapter"))
    restore(fresh, saved, "saved")
    fresh.reset_optimizer()
    fresh.update(one_pass(*groups), SETTINGS, num_groups=4)
    assert weights(fresh) == weights(worker)


def test_an_initial_policy_is_policy_and_reference(worker, groups, random_model_dir):
    worker.update(one_pass(*groups), SETTINGS, num_groups=4)
    saved = state(worker)
    started = start(random_model_dir, initial_policy=of_part(saved, "adapter"), seed=9)
    assert weights(started) == weights(worker)
    assert started._spec.initial_policy is started._initial_policy is None  # its files are let go of
    assert started.update(one_pass(*groups), SETTINGS, num_groups=4)["kl"] == pytest.approx(0, abs=1e-5)


def test_the_probe_finds_each_difference(worker, groups):
    passes = one_pass(*groups[:2])
    shifts = iter([0.0, 0.0, 0.25, 0.0, 0.0, 0.0])
    exact = [_with_logprobs(g, [values + next(shifts) for values in _learner_logprobs(worker, g)]) for g in groups[:2]]
    found = worker.probe(one_pass(*exact), 0.9)
    assert found.max() == pytest.approx(0.25, abs=1e-4)
    lengths = [len(rollout.token_ids) for group in groups[:2] for rollout in group.rollouts.rollouts]
    assert (len(found), (found > 0.2).sum()) == (sum(lengths), lengths[2])
    assert worker.probe(passes, 0.9).max() > 0.25
    filler = RankPass(passes[0].groups, is_filler=True)
    assert worker.probe([*one_pass(*exact), filler], 0.9) == pytest.approx(found)
    assert len(worker.probe([filler], 0.9)) == 0


def _learner_logprobs(worker, group):
    rows = worker._rows(RankPass((group,), is_filler=False))
    with torch.no_grad():
        flat = worker._engine(pack(worker._base, rows), 0.9).numpy()
    return np.split(flat, np.cumsum([len(answer) for answer in rows[0].answers])[:-1])


def _with_logprobs(group, logprobs):
    rollouts = tuple(
        replace(rollout, logprobs=values) for rollout, values in zip(group.rollouts.rollouts, logprobs, strict=True)
    )
    return replace(group, rollouts=replace(group.rollouts, rollouts=rollouts))


def test_an_image_of_another_size_is_refused(worker, random_model_dir):
    odd = make_group(random_model_dir, 2, num_image_tokens=12)
    with pytest.raises(ModelError, match="sample sample-2: the prompt has 12 image placeholders"):
        worker.update(one_pass(odd), SETTINGS, num_groups=1)


def test_a_corrupt_image_is_named(worker, random_model_dir):
    with pytest.raises(DataError, match="sample sample-3"):
        worker.update(one_pass(make_group(random_model_dir, 3, encoded=b"not an image")), SETTINGS, num_groups=1)


@pytest.mark.parametrize("error", [GetTimeoutError("late"), ObjectLostError("0" * 56, None, "")])
def test_a_rank_that_images_do_not_reach_is_lost_and_says_so(worker, groups, monkeypatch, error):
    def fail(references, timeout):
        raise error

    group = groups[2]
    prompt = replace(group.rollouts.prompt, image=ImageRef(ray.ObjectRef.from_random(), 9))
    monkeypatch.setattr(ray, "get", fail)
    with pytest.raises(LearnerLostError, match=rf"rank 0, groups {prompt.group_id} to .*: .*(not arrive|is lost)"):
        worker.update(one_pass(replace(group, rollouts=replace(group.rollouts, prompt=prompt))), SETTINGS, num_groups=1)


def test_a_sampled_vision_token_is_refused(worker, groups, random_model_dir):
    token = load_tokenizer(random_model_dir).convert_tokens_to_ids("<|vision_start|>")
    ids = groups[0].rollouts.rollouts[0].token_ids
    before, ids[1] = ids[1], token
    with pytest.raises(ModelError, match="answer 0 contains a vision token"):
        worker.update(one_pass(groups[0]), SETTINGS, num_groups=1)
    ids[1] = before


def test_a_damaged_checkpoint_is_refused(worker):
    with pytest.raises(CheckpointError, match=r"^run/adapter: adapter_config\.json is missing"):
        restore(worker, {}, "run")
    saved = state(worker)
    with pytest.raises(CheckpointError, match=r"^run/optimizer\.safetensors: cannot be read"):
        restore(worker, saved | {"optimizer.safetensors": b"torn"}, "run")


def test_gradient_checkpointing_changes_no_number(worker, groups, random_model_dir):
    saved = state(worker)
    plain = worker.update(one_pass(*groups), SETTINGS, num_groups=4)
    thrifty = start(random_model_dir, gradient_checkpointing=True)
    restore(thrifty, saved, "saved")
    assert thrifty.update(one_pass(*groups), SETTINGS, num_groups=4)["grad_norm"] == pytest.approx(
        plain["grad_norm"], rel=1e-5
    )


def test_a_pass_that_is_too_large_for_the_gpu_says_how_large_and_what_helps(worker, groups, monkeypatch):
    def run_out(*_):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 3.00 GiB.\nGPU 0 has ...")

    monkeypatch.setattr(worker, "_engine", run_out)
    num_tokens = sum(len(group.rollouts.prompt_token_ids) + 17 for group in groups)
    with pytest.raises(ResourceError, match=f"in a pass of {num_tokens:,} tokens: CUDA out of memory") as caught:
        worker.update(one_pass(*groups), SETTINGS, num_groups=4)
    assert caught.value.remedy == "use smaller passes"
    with pytest.raises(ResourceError, match="in a probe"):
        worker.probe(one_pass(*groups), 1.0)


def test_a_gpu_without_room_for_the_model_or_a_checkpoint_says_so(worker, random_model_dir, monkeypatch):
    def run_out(*_, **__):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 3.00 GiB.")

    saved = state(worker)
    with monkeypatch.context() as patch:
        patch.setattr(worker._engine, "read", run_out)
        patch.setattr(worker._engine, "write", run_out)
        with pytest.raises(ResourceError, match="in saving adapter: CUDA out of memory") as caught:
            worker.state(POLICY_FOLDER)
        assert "nvidia-smi" in caught.value.remedy
        with pytest.raises(ResourceError, match="in restoring adapter"):
            worker.restore(POLICY_FOLDER, of_part(saved, POLICY_FOLDER), "saved")
    monkeypatch.setattr("actors.learner_rank.load_model", run_out)
    with pytest.raises(ResourceError, match="in loading the model"):
        start(random_model_dir)


@pytest.mark.parametrize("is_checkpointed", [False, True])
def test_a_bfloat16_base_learns_in_the_same_direction(random_model_dir, groups, is_checkpointed):
    results = []
    for dtype in ("float32", "bfloat16"):
        worker = start(random_model_dir, dtype=dtype, gradient_checkpointing=is_checkpointed)
        assert {p.dtype for p in worker._policy.parameters.values()} == {torch.float32}
        sums = worker.update(one_pass(*groups), SETTINGS, num_groups=4)
        state = worker._engine.optimizer_state()
        moments = torch.cat([tensor.flatten() for name, tensor in sorted(state.items()) if name.startswith("exp_avg.")])
        results.append((sums, moments))
    (exact, direction), (rounded, other_direction) = results
    assert rounded["surprisal"] == pytest.approx(exact["surprisal"], rel=0.01)
    assert rounded["kl"] == pytest.approx(0, abs=1e-6)
    assert torch.nn.functional.cosine_similarity(direction, other_direction, dim=0) > 0.98


def whole_weights(worker):
    """What is published of whole weights, joined."""
    blob, pieces = worker.export_policy(1)
    content = b"".join(piece.tobytes() for piece in pieces)
    assert (len(content), hashlib.sha256(content).hexdigest()) == (blob.num_bytes, blob.sha256)
    return load(content)


@pytest.mark.parametrize("zero_stage", [0, 2])
def test_all_weights_learn_beside_a_frozen_copy_and_resume_bit_exactly(random_model_dir, groups, zero_stage):
    settings = replace(SETTINGS, learning_rate=1e-3)
    worker = start(random_model_dir, lora_rank=0, zero_stage=zero_stage)
    before = whole_weights(worker)
    first = worker.update(one_pass(*groups[:2]), settings, num_groups=2)
    assert (first["kl"], first["ratio_max"]) == (pytest.approx(0, abs=1e-6), 1)
    after = whole_weights(worker)
    unmoved = [name for name in before if torch.equal(before[name], after[name])]
    assert unmoved == []  # vision tower, projector, embedding and norms too

    saved = state(worker)
    assert torch.equal(
        load(saved["reference/model.safetensors"])["model.visual.merger.ln_q.weight"],
        before["model.visual.merger.ln_q.weight"],
    )
    on = worker.update(one_pass(*groups[2:]), settings, num_groups=2)
    assert on["kl"] > 1e-5
    fresh = start(random_model_dir, lora_rank=0, zero_stage=zero_stage)
    restore(fresh, saved, "saved")
    resumed = fresh.update(one_pass(*groups[2:]), settings, num_groups=2)
    assert {name: value for name, value in resumed.items() if "seconds" not in name} == {
        name: value for name, value in on.items() if "seconds" not in name
    }
    expected, got = whole_weights(worker), whole_weights(fresh)
    assert all(torch.equal(expected[name], got[name]) for name in expected)


def test_a_checkpoint_of_whole_weights_is_a_model_that_others_load(worker, random_model_dir, tmp_path):
    whole = start(random_model_dir, lora_rank=0, dtype="bfloat16")
    for name, content in whole.state("adapter").items():
        write_atomically(tmp_path / name, content)
    folder = resolve_model_path(str(tmp_path / "adapter"))
    kept, published = dict(load_model(folder, dtype="float32").named_parameters()), whole_weights(whole)
    base = dict(load_model(random_model_dir, dtype="float32").named_parameters())
    assert all(torch.equal(kept[name], base[name]) for name in base)
    assert {tensor.dtype for tensor in published.values()} == {torch.bfloat16}  # as the engine multiplies
    assert all(torch.equal(published[name], kept[name].bfloat16()) for name in kept)
    with pytest.raises(CheckpointError, match=r"adapter_config\.json is missing"):
        worker.restore("adapter", whole.state("adapter"), "whole")
    with pytest.raises(CheckpointError, match=r"model\.safetensors is missing"):
        whole.restore("adapter", of_part(state(worker), "adapter"), "lora")
