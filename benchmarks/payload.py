"""How many bytes cross each boundary between actors in a step, and how many of them are image bytes.

Measured, not derived: on the driver every argument, result and put object of an actor call is pickled a second time as
Ray pickles it; in the actors `ray.get` and `ray.put` note how many encoded image bytes they move. The driver records in
one step only, which is not timed.
"""

import os
import sys
from collections import defaultdict
from collections.abc import Sequence
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import Any

import ray
from ray.actor import ActorMethod
from ray.cloudpickle import CloudPickler, register_pickle_by_value

from fxray.grpo.types import PromptGroup

LEDGER_VARIABLE = "FXRAY_BENCHMARK_LEDGER"
ROLES = {"ImageStore": "image store", "RolloutWorker": "rollout", "RewardWorker": "reward", "RankActor": "learner"}
IN_ACTORS = {
    "actors.image_store put": "image store -> object store",
    "actors.rollout_worker get": "object store -> rollout",
    "actors.learner_rank get": "object store -> learner",
}


class _Pickler(CloudPickler):
    """References travel as ids, as under Ray."""

    def persistent_id(self, obj: object) -> bytes | None:
        return obj.binary() if isinstance(obj, ray.ObjectRef) else None


def pickled(value: object) -> bytes:
    buffer = BytesIO()
    _Pickler(buffer, protocol=5).dump(value)
    return buffer.getvalue()


def watch_actor() -> None:
    """Runs at the start of each Ray process: notes the image bytes that the process itself gets or puts."""
    get, put = ray.get, ray.put
    ledger = os.environ[LEDGER_VARIABLE]

    def note(what: str, values: Sequence[object], caller: str) -> None:
        num_bytes = sum(len(value) for value in values if isinstance(value, bytes))
        if num_bytes:
            with Path(ledger).open("a") as file:  # lines this short are appended whole
                file.write(f"{caller} {what} {num_bytes}\n")

    def counted_get(refs: Any, *args: Any, **kwargs: Any) -> Any:
        values = get(refs, *args, **kwargs)
        note("get", values if isinstance(refs, list) else [values], sys._getframe(1).f_globals["__name__"])
        return values

    def counted_put(value: Any, *args: Any, **kwargs: Any) -> Any:
        note("put", [value], sys._getframe(1).f_globals["__name__"])
        return put(value, *args, **kwargs)

    ray.get, ray.put = counted_get, counted_put


class Recorder:
    """Records what the driver sends and receives between `start` and `stop`.

    Args:
        folder: For the ledger of the actors.
    """

    def __init__(self, folder: Path) -> None:
        self._ledger = folder / "ledger.txt"
        self._ledger.touch()
        self._blobs: defaultdict[str, list[bytes]] = defaultdict(list)
        self._origins: dict[ray.ObjectRef, str] = {}
        self._is_on = False
        self._num_noted = 0
        os.environ[LEDGER_VARIABLE] = str(self._ledger)
        register_pickle_by_value(sys.modules[__name__])  # actors know nothing of this folder
        ray.init = partial(ray.init, runtime_env={"worker_process_setup_hook": watch_actor})
        self._watch_driver()

    def start(self) -> None:
        self._is_on = True
        self._num_noted = len(self._ledger.read_text().splitlines())

    def stop(self, prompts: Sequence[PromptGroup]) -> dict[str, Any]:
        """Bytes per boundary.

        Returns:
            "unique" image bytes, and "boundaries": per boundary all
            bytes, and image bytes among them.
        """
        self._is_on = False
        images = {prompt.image.handle: prompt.image.num_bytes for prompt in prompts}
        contents = ray.get(list(images))
        boundaries = {
            name: (sum(map(len, blobs)), sum(blob.count(image) * len(image) for blob in blobs for image in contents))
            for name, blobs in self._blobs.items()
        }
        moved: defaultdict[str, int] = defaultdict(int)
        for line in self._ledger.read_text().splitlines()[self._num_noted :]:
            caller, _, num_bytes = line.rpartition(" ")
            moved[IN_ACTORS[caller]] += int(num_bytes)
        return {"unique": sum(images.values()), "boundaries": boundaries | {k: (v, v) for k, v in moved.items()}}

    def _watch_driver(self) -> None:
        remote, get, put = ActorMethod._remote, ray.get, ray.put

        def recorded_remote(method: Any, args: Any = None, kwargs: Any = None, **options: Any) -> Any:
            returned = remote(method, args, kwargs, **options)
            if self._is_on:
                role, name = _role(method), _name(method, args)
                self._blobs[f"driver -> {role}: {name}"].append(pickled((args, kwargs)))
                for reference in returned if isinstance(returned, list) else [returned]:
                    self._origins[reference] = f"{role} -> driver: {name}"
            return returned

        def recorded_get(refs: Any, *args: Any, **kwargs: Any) -> Any:
            values = get(refs, *args, **kwargs)
            if self._is_on:
                pairs = zip(refs, values, strict=True) if isinstance(refs, list) else [(refs, values)]
                for reference, value in pairs:
                    if origin := self._origins.pop(reference, None):
                        self._blobs[origin].append(pickled(value))
            return values

        def recorded_put(value: Any, *args: Any, **kwargs: Any) -> Any:
            if self._is_on:
                self._blobs[f"driver -> object store: {type(value).__name__}"].append(pickled(value))
            return put(value, *args, **kwargs)

        ActorMethod._remote, ray.get, ray.put = recorded_remote, recorded_get, recorded_put


def _role(method: Any) -> str:
    handle = method._actor
    return ROLES[handle._ray_actor_creation_function_descriptor.class_name]


def _name(method: Any, args: Any) -> str:
    return args[0] if method._method_name == "call" else method._method_name
