"""The learner group over real Ray actors, and what it does without them."""

import gc
import os
import signal
import sys
import time
import weakref
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import psutil
import pytest
import ray
from peft import PeftModel
from plain_rank import SETTINGS, make_group, spec
from ray.exceptions import RayTaskError

from actors.learner import LearnerGroup, _join, learnable_answers, learnt_groups
from fxray.errors import CheckpointError, DeadlineError, LearnerLostError, ModelError
from fxray.model.adapter import adapter_tensors
from fxray.model.load import load_model

LOOPBACK = {"127.0.0.1", "::1", "::ffff:127.0.0.1"}


def test_metrics_are_joined_over_ranks_and_updates():
    of_ranks = [
        {
            "loss": 0.5,
            "kl": 4.0,
            "clipped": 1.0,
            "importance": 10.0,
            "surprisal": 20.0,
            "tokens": 10.0,
            "ratio_max": 1.5,
        }
        | {"grad_norm": 3.0, "seconds/forward": 0.5},
        {
            "loss": 0.25,
            "kl": 2.0,
            "clipped": 2.0,
            "importance": 32.0,
            "surprisal": 40.0,
            "tokens": 20.0,
            "ratio_max": 1.2,
        }
        | {"grad_norm": 3.0, "seconds/forward": 0.75},
    ]
    assert _join(of_ranks, num_updates=2) == {
        "loss": 0.375,
        "grad_norm": 1.5,
        "ratio_max": 1.5,
        "tokens": 15.0,
        "kl": 0.2,
        "clip_frac": 0.1,
        "importance": 1.4,
        "entropy": 2.0,
        "seconds/update/forward": 0.75,
    }


def test_only_valid_answers_with_tokens_are_learnt(random_model_dir):
    group = make_group(random_model_dir, 0, valid=(True, False, True))
    assert learnable_answers(group) == [0, 2]
    first, *rest = group.rollouts.rollouts
    silent = replace(first, token_ids=first.token_ids[:0], logprobs=first.logprobs[:0])
    assert learnable_answers(replace(group, rollouts=replace(group.rollouts, rollouts=(silent, *rest)))) == [2]


def test_a_group_without_spread_is_learnt_by_its_kl_term_or_left_out(random_model_dir):
    with_spread, without, masked = (make_group(random_model_dir, index) for index in range(3))
    without = replace(without, advantages_G=np.zeros(3, np.float32))
    masked = replace(masked, is_valid_G=np.zeros(3, np.bool_))
    with_spread = replace(with_spread, advantages_G=np.array([1, 0, -1], np.float32))
    groups = [with_spread, without, masked]
    assert learnt_groups(groups, SETTINGS) == [with_spread, without]
    assert learnt_groups(groups, replace(SETTINGS, kl_without_spread=False)) == [with_spread]
    assert learnt_groups(groups, replace(SETTINGS, kl_beta=0.0)) == [with_spread]


def test_a_pass_holds_no_more_tokens_and_groups_than_it_may(random_model_dir):
    learner = LearnerGroup.__new__(LearnerGroup)
    groups = [make_group(random_model_dir, index) for index in range(5)]

    def of_passes(**bounds):
        learner._spec, learner._num_ranks = spec(random_model_dir, **bounds), 1
        return [len(each.groups) for each in learner._share(groups)[0]]

    assert of_passes(max_tokens_per_micro_batch=10_000) == [5]
    assert of_passes(max_tokens_per_micro_batch=10_000, max_groups_per_micro_batch=2) == [2, 2, 1]
    assert of_passes(max_tokens_per_micro_batch=1, max_groups_per_micro_batch=2) == [1] * 5


def test_the_mean_counts_groups_that_are_left_out(random_model_dir, monkeypatch):
    groups = [make_group(random_model_dir, index) for index in range(3)]
    groups[1] = replace(groups[1], advantages_G=np.zeros(3, np.float32))
    asked = []

    class Call:
        def remote(self, *what):
            asked.append(what)

    class Rank:
        call = Call()

    learner = LearnerGroup.__new__(LearnerGroup)
    learner._ranks, learner._num_ranks = [Rank()], 1
    learner._spec = spec(random_model_dir)
    monkeypatch.setattr(learner, "_in_time", lambda calls, what: [{"tokens": 1.0, "grad_norm": 0.0}])
    learner.update(groups, replace(SETTINGS, kl_beta=0.0))
    ((_, passes, _, num_groups),) = asked
    assert sorted(group.rollouts.prompt.group_id for each in passes for group in each.groups) == [
        groups[0].rollouts.prompt.group_id,
        groups[2].rollouts.prompt.group_id,
    ]
    assert num_groups == 3


def test_a_learner_that_is_not_up_in_time_names_its_whole_deadline(monkeypatch):
    group = LearnerGroup.__new__(LearnerGroup)
    group._start_deadline_s, group._ranks, group._num_ranks, group._bundle = 600.0, [], 2, {"CPU": 1}
    group._placement, group._health = SimpleNamespace(ready=lambda: None), None
    given_s = []

    def await_nothing(calls, deadline_s, what, *_):
        given_s.append(deadline_s)
        if "room" not in what:
            raise DeadlineError("no answer within 5 s", where=f"waiting for {what}")

    group._spec = spec("m")
    monkeypatch.setattr("actors.learner.await_ranks", await_nothing)
    with pytest.raises(DeadlineError) as told:
        group.start()
    assert str(told.value).startswith("waiting for the learner's ranks to come up: the learner was not up within 600 s")
    assert "learner.start_deadline_s" in told.value.remedy
    assert 599 < given_s[0] <= 600


@pytest.mark.parametrize("cause", [RuntimeError("CUDA error\nat 0x1"), ModelError("the gradient is not finite")])
def test_a_rank_that_fails_is_lost_and_one_that_refuses_is_heard(monkeypatch, cause):
    group = LearnerGroup.__new__(LearnerGroup)
    group._deadline_s = 1.0

    def answers(*asked, **how):
        raise RayTaskError("call", "a traceback", cause)

    monkeypatch.setattr(group, "_answers", answers)
    is_refusal = isinstance(cause, ModelError)
    expected = RayTaskError if is_refusal else LearnerLostError
    with pytest.raises(expected, match="a traceback" if is_refusal else "a rank failed: RuntimeError: CUDA error"):
        group._in_time([], "the learner's update")


def test_a_learner_keeps_no_file_of_the_policy_that_it_begins_with(monkeypatch):
    class Files(dict):
        """One that can be watched."""

    class Actor:
        def options(self, **_):
            return self

        def remote(self, spec_reference, *_):
            return self

    monkeypatch.setattr("actors.learner.placement_group", lambda *_, **__: None)
    monkeypatch.setattr("actors.learner.PlacementGroupSchedulingStrategy", lambda *_, **__: None)
    monkeypatch.setattr(ray, "remote", lambda **_: lambda cls: Actor())
    sent = []
    monkeypatch.setattr(ray, "put", lambda value: sent.append(dict(value.initial_policy)))
    deadlines = {"start_deadline_s": 1, "step_deadline_s": 1, "hang_deadline_s": 1}
    files = Files({"model.safetensors": b"weights"})
    kept = weakref.ref(files)
    learner = LearnerGroup(spec("m", initial_policy=files), num_ranks=2, cpus_per_rank=1, gpus_per_rank=0, **deadlines)
    del files
    gc.collect()
    assert sent == [{"model.safetensors": b"weights"}]
    assert len(learner._ranks) == 2
    assert kept() is None


@pytest.fixture
def groups(random_model_dir, cluster):
    """Five groups whose images lie in the object store."""
    made = [make_group(random_model_dir, index) for index in range(5)]
    for group in made:
        image = group.rollouts.prompt.image
        object.__setattr__(image, "handle", ray.put(image.handle))
    return made


def start(model_dir, num_ranks=1, **changes):
    learner = LearnerGroup(
        spec(model_dir, **changes),
        num_ranks=num_ranks,
        cpus_per_rank=1,
        gpus_per_rank=0,
        start_deadline_s=240,
        step_deadline_s=240,
        hang_deadline_s=60,
    )
    learner.start()
    return learner


def listening_addresses(learner):
    pids = ray.get([rank.__ray_call__.remote(lambda _: os.getpid()) for rank in learner._ranks])
    sockets = [socket for pid in pids for socket in psutil.Process(pid).net_connections("tcp")]
    return {socket.laddr.ip for socket in sockets if socket.status == psutil.CONN_LISTEN}


def moments(folder):
    from safetensors.numpy import load_file

    state = load_file(folder / "optimizer.safetensors")
    return np.concatenate([tensor.ravel() for name, tensor in sorted(state.items()) if name.startswith("exp_avg.")])


def read_state(folder):
    """Policy, reference and optimizer of a checkpoint, whoever wrote it: tensors by file and name."""
    from safetensors.numpy import load_file

    files = sorted(folder.rglob("*.safetensors"))
    return {(str(file.relative_to(folder)), name): t for file in files for name, t in load_file(file).items()}


def assert_close(metrics, one):
    for name in ("loss", "kl", "grad_norm", "entropy", "tokens"):
        assert metrics[name] == pytest.approx(one[name], rel=1e-4, abs=1e-6)


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.long
@pytest.mark.parametrize("lora_rank", [8, 0], ids=["adapter", "whole"])
def test_ranks_and_zero_stages_change_no_result_and_each_goes_on_where_another_stopped(
    random_model_dir, groups, tmp_path, lora_rank
):
    results, before = [], None
    for num_ranks, stage in ((1, 0), (2, 0), (2, 2), (2, 3), (1, 0)):
        learner = start(
            random_model_dir, num_ranks, zero_stage=stage, max_tokens_per_micro_batch=300, lora_rank=lora_rank
        )
        folder, again = tmp_path / f"{len(results)}", tmp_path / f"{len(results)}-again"
        if before is not None:
            learner.load(before)
            learner.save(again)
            written, read = read_state(before), read_state(again)
            assert written.keys() == read.keys()
            assert all(np.array_equal(written[name], read[name]) for name in written)
            assert_close(learner.update(groups, SETTINGS), results[-1][2])
            learner.load(tmp_path / "untrained")
        else:
            learner.save(tmp_path / "untrained")
        metrics = learner.update(groups, SETTINGS)
        assert listening_addresses(learner) <= LOOPBACK
        learner.save(folder)
        results.append((metrics, moments(folder), learner.update(groups, SETTINGS)))
        before = folder
        learner.close()
    (one, gradient, _), *others = results
    for metrics, other_gradient, _ in others:
        assert_close(metrics, one)
        assert np.linalg.norm(other_gradient - gradient) / np.linalg.norm(gradient) < 1e-5
    assert one["tokens"] == 5 * 17


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_life_of_a_learner(random_model_dir, groups, tmp_path):
    learner = start(random_model_dir)
    learner.update(groups, SETTINGS)
    blob = learner.export_policy(7)
    assert (blob.version, blob.num_modules * 2) == (7, len(adapter_names(blob.safetensors)))
    learner.save(tmp_path)
    peft = PeftModel.from_pretrained(load_model(random_model_dir, dtype="float32"), tmp_path / "adapter")
    assert set(adapter_tensors(peft, "default")) == adapter_names(blob.safetensors)

    learner.update(groups, SETTINGS)
    assert learner.export_policy(8).sha256 != blob.sha256
    learner.load(tmp_path)
    assert learner.export_policy(9).sha256 == blob.sha256
    gap = learner.probe([group.rollouts for group in groups], 0.9)
    assert gap.largest_nats > gap.mean_nats > 0

    odd = make_group(random_model_dir, 2, num_image_tokens=12)
    with pytest.raises(ModelError, match="sample sample-2: the prompt has 12 image placeholders"):
        learner.update([odd], SETTINGS)
    masked = [make_group(random_model_dir, 1, valid=(False, False, False))]
    assert learner.update(masked, SETTINGS)["tokens"] == 0
    assert learner.export_policy(10).sha256 == blob.sha256
    names = {"torch", "sklearn", "scipy", "boto3"}  # only the first is of use to a learner
    assert ray.get(learner._ranks[0].__ray_call__.remote(lambda _: names & sys.modules.keys())) == {"torch"}

    (tmp_path / "optimizer.safetensors").unlink()
    with pytest.raises(CheckpointError, match="No such file"):
        learner.load(tmp_path)
    learner.close()


def process_of(rank):
    return psutil.Process(ray.get(rank.__ray_call__.remote(lambda _: os.getpid())))


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    ("sign", "within_s", "message"), [(signal.SIGKILL, 5, "died"), (signal.SIGSTOP, 15, "has not said for 3 s")]
)
def test_a_rank_that_dies_or_hangs_is_noticed_and_all_ranks_end(random_model_dir, groups, sign, within_s, message):
    learner = start(random_model_dir, 2)
    learner._health.deadline_s = 3
    learner.update(groups, SETTINGS)
    processes = [process_of(rank) for rank in learner._ranks]
    os.kill(processes[1].pid, sign)
    start_s = time.monotonic()
    with pytest.raises(LearnerLostError, match=f"waiting for the learner's update: .*{message}"):
        learner.update(groups, SETTINGS)
    print(f"noticed after {time.monotonic() - start_s:.1f} s")
    assert time.monotonic() - start_s < within_s
    learner.close()
    _, alive = psutil.wait_procs(processes, timeout=30)
    print(f"gone after {time.monotonic() - start_s:.1f} s")
    assert not alive


def adapter_names(blob):
    from safetensors.torch import load

    return set(load(blob))


@pytest.mark.ray
@pytest.mark.timeout(600)
def test_room_that_never_comes_is_named(random_model_dir, cluster):
    learner = LearnerGroup(
        spec(random_model_dir),
        num_ranks=2,
        cpus_per_rank=64,
        gpus_per_rank=0,
        start_deadline_s=1,
        step_deadline_s=1,
        hang_deadline_s=1,
    )
    with pytest.raises(DeadlineError, match=r"room for 2 learner ranks of \{'CPU': 64\}"):
        learner.start()
    learner.close()
