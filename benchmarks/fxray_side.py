"""fxray's side of the comparison: the run as `fxray grpo` makes it, its steps taken in turn with the other side's."""

import sys
import time
from pathlib import Path

from payload import Recorder
from turns import Turns
from workload import STAGE, WARMUP_STEPS, Job

from fxray.grpo.loop import Cursor, run_stage
from fxray.grpo.types import PromptGroup
from fxray.launch.fleet import open_fleet
from fxray.launch.plan import plan_stage
from fxray.launch.session import Session, open_session
from fxray.model.adapter import attach_adapter, save_adapter
from fxray.model.load import load_model


def main() -> None:
    turns, job = Turns(), Job.read(Path(sys.argv[1]))
    recorder = Recorder(job.folder)
    steps = [f"grpo.steps_per_stage={WARMUP_STEPS + job.num_steps + 1}"]
    with open_session(job.config(steps), job.folder / "run", lambda _: None) as session:
        save_fresh_adapter(session)
        run(session, job, recorder, turns)


def save_fresh_adapter(session: Session) -> None:
    """What SFT would leave: here an adapter that changes nothing yet."""
    lora = session.config.model.lora
    assert lora is not None
    model = load_model(session.model_path, dtype=session.config.model.dtype)
    adapter = attach_adapter(model, rank=lora.rank, alpha=lora.alpha, dropout=0.0, seed=session.config.seed)
    save_adapter(adapter, session.run.sft_adapter)


def run(session: Session, job: Job, recorder: Recorder, turns: Turns) -> None:
    """Takes the steps; the one after the timed ones is for counting bytes."""
    recorded_step = WARMUP_STEPS + job.num_steps
    prompts: list[PromptGroup] = []
    report: dict[str, object] = {}

    with open_fleet(session, session.splits.test) as fleet:
        plan = plan_stage(session.config, session.stages[0], num_samples=len(fleet.training_prompts))

        def draw(step: int) -> list[PromptGroup]:
            if step == recorded_step:
                recorder.start()
            start_s = time.perf_counter()
            prompts[:] = fleet.training_prompts.of_step(STAGE, step)
            report["draw_s"] = time.perf_counter() - start_s
            return list(prompts)

        def observe(cursor: Cursor, metrics: dict[str, float]) -> None:
            report["metrics"] = metrics
            if cursor.step == recorded_step + 1:
                report["payload"] = recorder.stop(prompts)

        run_stage(
            plan, Cursor(STAGE, 0, 0), fleet.ports, draw=draw, observe=observe, save=lambda *_: turns.end_step(report)
        )


if __name__ == "__main__":
    main()
