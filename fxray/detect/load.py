"""A detector in this process: one engine, an adapter of a run, and the question that evaluation asks."""

import os
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from fxray import __version__
from fxray.config.limits import check
from fxray.config.load import load_config
from fxray.config.problem import refuse
from fxray.config.tree import Config
from fxray.data.frame import sight_of
from fxray.detect.detection import Versions
from fxray.detect.detector import Detector
from fxray.engine.engine import Answers, Question, Questions
from fxray.errors import CheckpointError, ConfigError
from fxray.evaluate.calibration import read_calibration
from fxray.grammar.prompts import EVALUATION_TEMPLATE, templates_of
from fxray.grpo.types import AdapterBlob, PolicyBlob, SamplingSettings
from fxray.launch.calibration import base_name, fitted_for
from fxray.launch.fleet import read_policy
from fxray.launch.run import finished_phases
from fxray.launch.start import engine_settings
from fxray.model.folder import resolve_model_path, weights_fingerprint
from fxray.model.prompts import load_chat, render_prompt
from fxray.remote import local_copy


def load_detector(run_dir: str, adapter: Path | None, overrides: Sequence[str]) -> Detector:
    """What `Detector.load` does."""
    folder = local_copy(run_dir)
    adapter = adapter or latest_adapter(folder)
    config = load_config(folder / "config.yaml", overrides)
    refuse(check(config), where=str(folder / "config.yaml"))
    return open_detector(config, adapter)


def open_detector(config: Config, adapter: Path | None) -> Detector:
    """Starts an engine; it lives as long as this process, which must not train.

    Args:
        config: For model, engine and evaluation.
        adapter: Folder in PEFT layout; None for the base model.

    Raises:
        CheckpointError: There is no adapter in the folder, or the calibration beside it is not of it.
        ModelError: The engine cannot be started.
        SyncError: The adapter does not fit the model.
    """
    described = describe_detector(config, adapter)
    settings = engine_settings(config, resolve_model_path(config.model.path))
    with _stderr_held_back():
        from fxray.engine.engine import Engine

        if adapter is None:
            engine = Engine(settings)
        else:
            blob = open_adapter(adapter)
            engine = Engine(replace(settings, lora_rank=rank_of(blob)))
            engine.load_policy(blob)
    return replace(described, source=engine)


def describe_detector(config: Config, adapter: Path | None) -> Detector:
    """A detector without its engine: it can be asked what it is, but nothing about images.

    Raises:
        CheckpointError: There is no adapter in the folder, or the calibration beside it is not of it.
        ModelError: There is no complete base model in its folder.
    """
    model_path = resolve_model_path(config.model.path)
    sha256 = open_adapter(adapter).sha256 if adapter else ""
    return Detector(
        _NoEngine(),
        render_prompt(load_chat(model_path), templates_of(config.data.view)[EVALUATION_TEMPLATE.index]),
        min_pixels=config.model.min_pixels,
        max_pixels=config.model.max_pixels,
        max_new_tokens=config.evaluate.max_new_tokens,
        versions=Versions(
            __version__,
            base_name(config),
            adapter.name if adapter else "",
            sha256,
            weights_fingerprint(model_path),
            config.model.dtype,
        ),
        view=config.data.view,
        calibration=read_calibration(adapter, fitted_for(config, sha256)) if adapter else None,
        sight=sight_of(model_path),
    )


class _NoEngine:
    """In place of an engine that was not started."""

    def generate(self, questions: Sequence[Question], sampling: SamplingSettings) -> list[Answers]:  # noqa: ARG002
        raise AssertionError("no engine was started")

    def stream(
        self,
        questions: Questions,
        sampling: SamplingSettings,  # noqa: ARG002
    ) -> Iterator[tuple[str, Answers | ConfigError]]:
        while question := questions.take(wait=True):
            problem = ConfigError("came when no engine was started, for no file was there", remedy="run it again")
            yield question.where, problem


def latest_adapter(run_dir: Path) -> Path:
    """The adapter of the last phase that a run finished.

    Raises:
        CheckpointError: It is no run directory, or nothing is finished in it.
    """
    return list(finished_phases(run_dir).values())[-1]


def open_adapter(folder: Path, version: int = 0) -> PolicyBlob:
    """An adapter in PEFT layout as bytes, or the weights of a whole model as pieces.

    Raises:
        CheckpointError: There is neither in the folder.
    """
    try:
        return read_policy(folder, version)
    except CheckpointError as error:
        remedy = "give a folder with adapter_config.json and adapter_model.safetensors, or that of a whole model"
        if error.where != str(folder):  # a file of it, which is there
            raise
        raise CheckpointError(
            f"holds no readable adapter: {error.message}", where=str(folder), remedy=remedy
        ) from error


def rank_of(policy: PolicyBlob) -> int:
    """Rank of the adapters that an engine must take to answer with this policy; 0 for whole weights."""
    return int(str(policy.peft_config["r"])) if isinstance(policy, AdapterBlob) else 0


@contextmanager
def _stderr_held_back() -> Iterator[None]:
    """What libraries write to stderr in the block, from C++ too, is shown only if the block fails."""
    sys.stderr.flush()
    stderr = os.dup(2)
    with tempfile.TemporaryFile() as held_back:
        os.dup2(held_back.fileno(), 2)
        try:
            yield
        except BaseException:
            sys.stderr.flush()
            held_back.seek(0)
            os.write(stderr, held_back.read())
            raise
        finally:
            sys.stderr.flush()
            os.dup2(stderr, 2)
            os.close(stderr)
