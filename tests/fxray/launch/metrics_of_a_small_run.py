"""A driver with real reward workers that shows its series; prints where, and waits to be ended. Run by a test."""

import sys
import time
from pathlib import Path

import numpy as np

from actors.failures import FailureBudget
from actors.reward_pool import RewardPool
from fxray import spans
from fxray.config.tree import RayConfig
from fxray.data.frame import Frame
from fxray.events import Note, PhaseStarted, Step
from fxray.grpo.types import ImageRef, PromptGroup, Rollout, RolloutGroup
from fxray.launch import watch as watch_module
from fxray.launch.cluster import ray_cluster
from fxray.launch.watch import watch_run
from fxray.schema import Annotation, Verdict
from fxray.status.record import read_record
from rewards.stage import RightWrong, StageRewards

watch_module.HEARTBEAT_S = watch_module.TICK_S = 0.3
folder = Path(sys.argv[1])
prompt = PromptGroup("a/0/0", "s", ImageRef(b"", 7), "?", Annotation(Verdict.REAL), Frame(28, 28, 28, 28), 1)
answer = Rollout(np.array([1], np.int32), np.array([-1.0], np.float32), "?", True)
group = RolloutGroup(prompt, np.array([1], np.int32), (answer, answer), 3)
stage = StageRewards("alpha", 0.0, 1.0, RightWrong(1.0, -1.0), RightWrong(2.0, -1.0))
metrics = {"policy_version": 3.0, "reward": 1.5, "reward/iou": 0.25, "seconds": 4.0, "seconds/generate": 3.0}
metrics |= {"num_tokens": 64.0, "parse_rate": 0.5, "num_rollout_failures": 2.0}
with (
    watch_run(folder, lambda _: None, warning_s=60, phases=("alpha",)) as watch,
    ray_cluster(RayConfig(num_cpus=1, object_store_mib=80), min_cpus=1),
    watch.exporting(),
):
    failures = FailureBudget("reward workers", max_restarts=0, window_s=60, remedy="")
    pool = RewardPool(num_workers=1, function_paths=[], group_deadline_s=60, start_deadline_s=120, failures=failures)
    watch.on_event(PhaseStarted("alpha", 10))
    pool.score([group, group], stage, 0.0)
    watch.on_event(Step("alpha", 1, 10, metrics))
    watch.on_event(Note("late", is_warning=True))
    spans.begin("rollout-1", "load adapter", facts={"bytes": 1000}).end()
    spans.begin("rollout-1", "draw", facts={"groups": 12, "bytes": 7})
    time.sleep(1)
    print(read_record(folder).metrics_url, flush=True)
    sys.stdin.readline()
    pool.close()
