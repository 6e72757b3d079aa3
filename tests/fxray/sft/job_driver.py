"""A driver to be killed: `python job_driver.py RUN_DIR SETTINGS_JSON` starts a Ray of its own and prints each event."""

import json
import shutil
import sys
import tempfile
from pathlib import Path

import ray

from fxray.events import PhaseStarted, Step
from fxray.sft.job import run_sft
from fxray.sft.settings import SftSettings


def tell(event: object) -> None:
    if isinstance(event, PhaseStarted):
        print("started", event.first_step, flush=True)
    elif isinstance(event, Step):
        print("step", event.step, flush=True)


if __name__ == "__main__":
    temp_dir = tempfile.mkdtemp(prefix="fxs", dir="/tmp")
    ray.init(
        address="local",
        num_cpus=2,
        include_dashboard=False,
        object_store_memory=200_000_000,
        log_to_driver=False,
        logging_level="ERROR",
        _temp_dir=temp_dir,
        _node_ip_address="127.0.0.1",
    )
    run_sft(SftSettings(**json.loads(sys.argv[2])), run_dir=Path(sys.argv[1]), on_event=tell)
    ray.shutdown()
    shutil.rmtree(temp_dir, ignore_errors=True)
