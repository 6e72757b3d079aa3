import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import ray.train
import torch
import torch.distributed as dist
from safetensors.torch import load_file

from fxray.errors import CheckpointError, ResourceError
from fxray.model.batch import pack
from fxray.model.folder import resolve_model_path
from fxray.model.load import load_model
from fxray.model.packed import PackedPolicy
from fxray.sft import checkpoint, worker
from fxray.sft.batches import token_weights
from fxray.sft.checkpoint import checkpoints, read_state
from fxray.sft.settings import SftSettings
from fxray.sft.worker import Trainer, run_rank

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def single_rank(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A process group of this process alone, without a socket; DeepSpeed adopts it, or one that is there already."""
    if dist.is_initialized():
        yield
        return
    store = dist.FileStore(str(tmp_path_factory.mktemp("store") / "store"), 1)
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1"}.items():
            patch.setenv(name, value)
        dist.init_process_group("gloo", store=store, rank=0, world_size=1)
        yield
        dist.destroy_process_group()


def train(
    settings: SftSettings,
    folder: Path,
    start_from: Path | None = None,
    weights_file: str = "adapter_model.safetensors",
) -> dict[str, torch.Tensor]:
    """Runs a rank to its end; returns what it has trained."""
    folder.mkdir(parents=True)
    trainer = Trainer(settings, folder, rank=0, device=torch.device("cpu"), report=lambda *_: None)
    if start_from:
        trainer.restore(start_from)
    trainer.run()
    newest = checkpoints(folder.parent)[0]
    return load_file(newest / "adapter" / weights_file)


def losses(folder: Path) -> dict[int, float]:
    records = [json.loads(line) for line in (folder / "progress.jsonl").read_text().splitlines()]
    return {record["step"]: record["metrics"]["loss"] for record in records if "step" in record}


def be_a_rank(monkeypatch: pytest.MonkeyPatch) -> None:
    """From here on this process looks like the only rank of a Ray Train job."""
    monkeypatch.setattr(checkpoint, "check_mark", lambda *_: None)
    monkeypatch.setattr(
        ray.train, "get_context", lambda: SimpleNamespace(get_local_world_size=lambda: 1, get_world_rank=lambda: 0)
    )
    monkeypatch.setattr(worker, "get_device", lambda: torch.device("cpu"))
    monkeypatch.setattr(ray.train, "get_checkpoint", lambda: None)


@pytest.mark.usefixtures("pinned")
def test_a_pinned_rank_takes_no_more_threads_than_it_has_processors(
    settings: SftSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken: list[int] = []
    be_a_rank(monkeypatch)
    monkeypatch.setattr(torch, "set_num_threads", taken.append)
    monkeypatch.setattr(worker, "Trainer", lambda *_, **__: SimpleNamespace(run=lambda: None))
    run_rank(replace(settings, threads=0), tmp_path, None, "")
    assert taken == [1]


def test_tower_projector_and_language_model_all_learn(single_rank: None, settings: SftSettings, tmp_path: Path) -> None:
    start = train(replace(settings, max_steps=1, learning_rate=1e-30), tmp_path / "start" / "a")
    end = train(replace(settings, max_steps=3), tmp_path / "end" / "a")

    unmoved = [name for name in end if torch.equal(end[name], start[name])]
    assert unmoved == []
    # Rank and scale apart, LoRA sits on all linear layers but the head: 4 x (qkv, proj, gate, up, down) in the tower,
    # two in the projector, 4 x (q, k, v, o, gate, up, down) in the language model, each with two matrices.
    prefix = "base_model.model.model."
    counts = [
        sum(name.startswith(prefix + part) for name in end)
        for part in ("visual.blocks", "visual.merger", "language_model")
    ]
    assert counts == [2 * 4 * 5, 2 * 2, 2 * 4 * 7]
    assert len(end) == sum(counts)


def test_a_job_that_is_continued_ends_with_the_weights_of_one_that_never_stopped(
    single_rank: None, settings: SftSettings, tmp_path: Path
) -> None:
    whole = train(settings, tmp_path / "whole" / "a")
    folder = tmp_path / "parts" / "a"
    folder.mkdir(parents=True)
    trainer = Trainer(settings, folder, rank=0, device=torch.device("cpu"), report=lambda *_: None)
    learn = trainer._learn

    def die_in_the_fourth_step(step: int, examples: object) -> dict[str, float]:
        if step == 3:
            raise KeyboardInterrupt
        return learn(step, examples)

    trainer._learn = die_in_the_fourth_step
    with pytest.raises(KeyboardInterrupt):
        trainer.run()
    newest = checkpoints(folder.parent)[0]
    assert newest.name == "step-000002"
    parts = train(settings, tmp_path / "parts" / "b", start_from=newest)

    assert parts.keys() == whole.keys()
    assert all(torch.equal(parts[name], whole[name]) for name in whole)
    whole_losses = losses(tmp_path / "whole" / "a")
    assert list(whole_losses) == [1, 2, 3, 4, 5, 6]
    assert whole_losses == losses(folder) | losses(tmp_path / "parts" / "b")
    assert list(losses(tmp_path / "parts" / "b")) == [3, 4, 5, 6]


def test_micro_batches_and_zero_stages_do_not_change_what_is_learnt(
    single_rank: None, settings: SftSettings, tmp_path: Path
) -> None:
    settings = replace(settings, lora_dropout=0.0, max_steps=3)
    whole = train(replace(settings, max_tokens_per_micro_batch=2000), tmp_path / "whole" / "a")

    for name, other in {
        "micro": replace(settings, max_tokens_per_micro_batch=1),
        "zero": replace(settings, zero_stage=2),
    }.items():
        parts = train(other, tmp_path / name / "a")
        for key in whole:
            torch.testing.assert_close(parts[key], whole[key], rtol=1e-3, atol=2e-4)


def test_a_job_does_not_go_on_with_a_training_split_of_another_length(
    single_rank: None, settings: SftSettings, corrupt_dataset_path: Path, tmp_path: Path
) -> None:
    train(replace(settings, max_steps=0), tmp_path / "whole" / "a")
    (newest, *_) = checkpoints(tmp_path / "whole")
    shorter = replace(settings, max_steps=0, dataset_path=str(corrupt_dataset_path))
    with pytest.raises(CheckpointError, match="an SFT of 6 steps, this training split makes 2"):
        train(shorter, tmp_path / "parts" / "a", start_from=newest)


def test_the_loss_falls(single_rank: None, settings: SftSettings, tmp_path: Path) -> None:
    train(replace(settings, max_steps=24, epochs=9, lora_dropout=0.0), tmp_path / "a")

    by_step = losses(tmp_path / "a")
    assert by_step[24] < by_step[1] - 0.4  # the frozen head of an untrained model leaves little more to win


def test_a_skipped_image_is_in_the_checkpoint_and_out_of_the_loss(
    single_rank: None, settings: SftSettings, corrupt_dataset_path: Path, tmp_path: Path
) -> None:
    settings = replace(
        settings, dataset_path=str(corrupt_dataset_path), on_corrupt_image="skip", batch_size=8, max_steps=2, epochs=2
    )

    train(settings, tmp_path / "a")

    newest = checkpoints(tmp_path)[0]
    state = read_state(newest, settings)
    assert list(state.corrupt_rows) == [2]
    records = [json.loads(line) for line in (tmp_path / "a" / "progress.jsonl").read_text().splitlines()]
    assert [record["metrics"]["num_skipped"] for record in records if "step" in record] == [1, 1]


def test_a_step_learns_and_records_the_mean_over_the_learnt_tokens(
    single_rank: None, settings: SftSettings, corrupt_dataset_path: Path, tmp_path: Path
) -> None:
    settings = replace(
        settings,
        dataset_path=str(corrupt_dataset_path),
        batch_size=8,
        epochs=4,
        max_tokens_per_micro_batch=600,
        max_answer_tokens=80,
        on_long_answer="drop-regions",
        on_corrupt_image="skip",
        lora_dropout=0.0,
    )
    trainer = Trainer(settings, tmp_path, rank=0, device=torch.device("cpu"), report=lambda *_: None)
    examples = trainer._reader.read(0)
    is_learnt_R, num_dropped = token_weights(examples), sum(example.num_dropped_regions for example in examples)
    assert 0 < is_learnt_R.sum() < len(is_learnt_R)
    assert {example.num_dropped_regions for example in examples} == {0, 1, 2}
    logprobs_R = PackedPolicy(trainer._policy.model)(pack(trainer._base, [example.row for example in examples]), 1.0)
    loss = -logprobs_R[is_learnt_R > 0].mean()
    gradients = torch.autograd.grad(loss, list(trainer._policy.parameters.values()), allow_unused=True)
    norm = torch.cat([gradient.flatten() for gradient in gradients if gradient is not None]).norm().item()

    rates, step = list[float](), trainer._engine.step
    trainer._engine.step = lambda rate: rates.append(rate) or step(rate)
    assert trainer._learn(0, examples) == {
        "loss": pytest.approx(loss.item(), rel=1e-5),
        "learning_rate": settings.learning_rate / 2,  # the first of two steps of warm-up
        "grad_norm": pytest.approx(norm, rel=1e-4),
        "num_tokens": sum(len(e.row.prompt_token_ids) + len(e.row.answers[0]) for e in examples),
        "num_skipped": 1,
        "num_dropped_regions": num_dropped,
    }
    assert rates == [settings.learning_rate / 2]


def of_held_out(folder: Path, name: str) -> dict[int, float]:
    records = [json.loads(line) for line in (folder / "progress.jsonl").read_text().splitlines()]
    metrics = {record["step"]: record["metrics"] for record in records if "step" in record}
    return {step: each[f"validation/{name}"] for step, each in metrics.items() if f"validation/{name}" in each}


def test_the_loss_of_held_out_answers_is_told_and_changes_nothing_of_what_is_learnt(
    single_rank: None, settings: SftSettings, corrupt_dataset_path: Path, tmp_path: Path
) -> None:
    settings = replace(settings, augment_share=1.0, max_steps=4)
    plain = train(settings, tmp_path / "plain" / "a")
    held_out = replace(
        settings, validation_path=str(corrupt_dataset_path), validation_rows=(0, 1, 2, 5, 6, 7), validate_every_steps=2
    )
    validated = train(held_out, tmp_path / "validated" / "a")

    assert all(torch.equal(validated[name], plain[name]) for name in plain)
    assert losses(tmp_path / "validated" / "a") == losses(tmp_path / "plain" / "a")
    told = of_held_out(tmp_path / "validated" / "a", "loss")
    assert list(told) == [2, 4]
    assert of_held_out(tmp_path / "validated" / "a", "num_skipped") == {2: 1, 4: 1}

    (tmp_path / "look").mkdir()
    trainer = Trainer(held_out, tmp_path / "look", rank=0, device=torch.device("cpu"), report=lambda *_: None)
    trainer.restore(checkpoints(tmp_path / "validated")[0])
    trainer._policy.model.eval()
    as_they_are = trainer._held_out.read_rows(held_out.validation_rows)
    assert [example.is_learnt for example in as_they_are] == [True, True, False, True, True, True]
    batch = pack(trainer._base, [example.row for example in as_they_are])
    with torch.no_grad():
        logprobs_R = PackedPolicy(trainer._policy.model)(batch, 1.0)
    assert told[4] == pytest.approx(-logprobs_R[token_weights(as_they_are) > 0].mean().item(), rel=1e-5)


def test_modes_of_a_model_are_as_before_when_it_was_asked_without_dropout(
    single_rank: None, settings: SftSettings, tmp_path: Path
) -> None:
    rows = {"validation_path": settings.dataset_path, "validation_rows": (0, 1), "validate_every_steps": 1}
    settings = replace(settings, lora_dropout=0.5, **rows)
    trainer = Trainer(settings, tmp_path, rank=0, device=torch.device("cpu"), report=lambda *_: None)
    trainer._learn(0, trainer._reader.read(0))
    before = [module.training for module in trainer._policy.model.modules()]
    assert any(before)
    first, second = (trainer._validate()["validation/loss"] for _ in range(2))
    assert first == second
    assert [module.training for module in trainer._policy.model.modules()] == before


def test_dropout_is_anew_in_each_step_and_on_each_rank(
    single_rank: None, settings: SftSettings, tmp_path: Path
) -> None:
    settings = replace(settings, lora_dropout=0.5, warmup_frac=0.0)
    trainer = Trainer(settings, tmp_path, rank=0, device=torch.device("cpu"), report=lambda *_: None)
    examples = trainer._reader.read(0)
    trainer._learn(0, examples)  # an adapter that is still zero has nothing to drop
    trainer._settings = replace(settings, learning_rate=1e-30)

    first, second, again = (trainer._learn(step, examples)["loss"] for step in (1, 2, 1))
    trainer._rank = 1
    assert first == again
    assert len({first, second, trainer._learn(1, examples)["loss"]}) == 3


def test_all_weights_learn_and_their_checkpoints_are_models(
    single_rank: None, settings: SftSettings, tmp_path: Path
) -> None:
    settings = replace(settings, lora_rank=0, max_steps=2, checkpoint_every_steps=1, learning_rate=1e-3, warmup_frac=0)
    train(settings, tmp_path / "a" / "a", weights_file="model.safetensors")
    after_first, after_second = tmp_path / "a/a/step-000001", tmp_path / "a/a/step-000002"

    folders = (Path(settings.model_path), resolve_model_path(str(after_second / "adapter")))
    base, learnt = (dict(load_model(folder, dtype="float32").named_parameters()) for folder in folders)
    assert [name for name in base if torch.equal(base[name], learnt[name])] == []
    resumed = train(settings, tmp_path / "b" / "b", start_from=after_first, weights_file="model.safetensors")
    assert all(torch.equal(resumed[name], learnt[name]) for name in learnt)


def test_an_optimizer_file_of_another_rank_is_refused(single_rank: None, settings: SftSettings, tmp_path: Path) -> None:
    train(replace(settings, max_steps=1), tmp_path / "a" / "a")
    newest = checkpoints(tmp_path / "a")[0]

    with pytest.raises(CheckpointError, match="other values of lora_rank"):
        train(replace(settings, max_steps=1, lora_rank=16), tmp_path / "b" / "a", start_from=newest)


def test_a_step_that_is_too_large_for_the_gpu_says_what_helps(
    single_rank: None, settings: SftSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run_out(*_: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 3.00 GiB.\nGPU 0 has ...")

    monkeypatch.setattr(Trainer, "_learn", run_out)
    with pytest.raises(ResourceError, match=r"SFT rank 0: out of GPU memory in a pass of 200 tokens: CUDA") as caught:
        train(settings, tmp_path / "run" / "a")
    assert "sft.max_tokens_per_micro_batch" in caught.value.remedy


@pytest.mark.parametrize(
    ("where", "what"),
    [
        ("_load_model", "loading the model"),
        ("ZeroEngine.load_optimizer_state", "loading the model"),
        ("ZeroEngine.optimizer_state", "saving a checkpoint"),
    ],
)
def test_a_gpu_without_room_for_model_or_checkpoint_is_told_and_not_taken_for_a_death(
    single_rank: None, settings: SftSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str, what: str
) -> None:
    def run_out(*_: object, **__: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 3.00 GiB.\nGPU 0 has ...")

    (tmp_path / "first").mkdir()
    be_a_rank(monkeypatch)
    monkeypatch.setattr(worker, "_report", lambda *_: None)
    settings = replace(settings, max_steps=4)
    run_rank(settings, tmp_path / "first", None, "")
    monkeypatch.setattr(f"fxray.sft.worker.{where}", run_out)
    start_from = tmp_path / "first" / "step-000002"
    with pytest.raises(ResourceError, match=rf"SFT rank 0: out of GPU memory in {what}: CUDA") as caught:
        run_rank(settings, tmp_path, start_from, "")
    assert "nvidia-smi" in caught.value.remedy
