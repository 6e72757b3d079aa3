"""Many image files over many engines: Ray Data streams paths to them and findings back, wherever on a cluster they are.

Files, run and adapter must lie where every node sees them under the same path.
"""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from fxray.config.tree import Config
from fxray.detect.folder import Record
from fxray.detect.load import open_detector
from fxray.detect.offline import detect_files
from fxray.detect.reading import Wanted
from fxray.errors import DeadlineError, WorkerDiedError
from fxray.launch.cluster import ray_cluster
from fxray.launch.parts import each_in_time

_FILES_AT_ONCE = 128
_MAX_RESTARTS = 3


def detect_on_workers(
    config: Config, adapter: Path | None, files: Sequence[str], wanted: Wanted, num_workers: int
) -> Iterator[tuple[Record, bytes]]:
    """What detectors in actors of their own find in image files.

    Args:
        config: For model, engine and Ray.
        adapter: Folder in PEFT layout; None for the base model.
        files: Paths, each once.
        wanted: What is wanted of each file beside its pixels.
        num_workers: Engines.

    Yields:
        The record of a finding, which names its file by an absolute path, and its thumbnail, as they come.

    Raises:
        ResourceError: The cluster cannot be reached or started.
        WorkerDiedError: A worker cannot do its work, or dies again and again.
        DeadlineError: Nothing came within the deadline of an engine's start and of a step together.
    """
    rollout = config.rollout
    deadline_s = rollout.start_deadline_s + rollout.step_deadline_s
    with ray_cluster(config.ray, min_cpus=num_workers * max(1, int(rollout.cpus_per_worker))):
        import ray.data

        context = ray.data.DataContext.get_current()
        context.enable_progress_bars = False
        context.wait_for_min_actors_s = int(rollout.start_deadline_s)
        rows = absolute_rows(files)
        num_blocks = max(num_workers, -(-len(rows) // _FILES_AT_ONCE))
        paths = ray.data.from_items(rows, override_num_blocks=num_blocks)
        found = paths.map_batches(
            DetectorWorker,
            fn_constructor_args=(config.model_dump_json(), str(adapter.resolve()) if adapter else "", wanted),
            batch_size=None,
            compute=ray.data.ActorPoolStrategy(size=num_workers),
            num_cpus=rollout.cpus_per_worker,
            num_gpus=rollout.gpus_per_worker,
            max_restarts=_MAX_RESTARTS,
            max_task_retries=_MAX_RESTARTS,
        )
        for row in _within(found.iter_rows(), deadline_s):
            yield json.loads(row["record"]), row["thumbnail"]


def absolute_rows(files: Sequence[str]) -> list[dict[str, str]]:
    """Files as rows, each once, by paths that hold in whatever folder a worker was started."""
    folder = Path.cwd()
    return [{"file": file} for file in dict.fromkeys(str(folder / file) for file in files)]


class DetectorWorker:
    """One engine in an actor of Ray Data."""

    def __init__(self, config: str, adapter: str, wanted: Wanted) -> None:
        self._detector = open_detector(Config.model_validate_json(config), Path(adapter) if adapter else None)
        self._wanted = wanted

    def __call__(self, batch: Mapping[str, Any]) -> dict[str, list[Any]]:
        """Findings of a batch of files, as columns."""
        findings = list(detect_files(self._detector, [str(file) for file in batch["file"]], self._wanted))
        return {
            "record": [json.dumps(finding.as_record()) for finding in findings],
            "thumbnail": [finding.thumbnail for finding in findings],
        }


def _within(rows: Iterable[Any], deadline_s: float) -> Iterator[Any]:
    """Rows as they come, each within a deadline after the one before."""
    late = DeadlineError(
        f"no finding came within {deadline_s:g} s",
        where="detection workers",
        remedy="see `ray status`: the cluster may have no room for them (rollout.gpus_per_worker)",
    )
    try:
        yield from each_in_time(rows, deadline_s, late)
    except DeadlineError:
        raise
    except Exception as error:  # Ray raises bare ones here
        raise WorkerDiedError(
            f"the workers gave up: {error}", where="detection workers", remedy="try again; what was found is kept"
        ) from error
