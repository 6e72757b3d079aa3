"""What a pool of actors asks of the cluster's nodes, and hears of them."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import ray
from ray.exceptions import RayError


@dataclass(frozen=True, slots=True)
class Nodes:
    """The cluster, as far as a pool looks at it.

    Attributes:
        leaving: Ids of nodes that are being drained, and the seconds that each has left; infinite where nobody said.
        ask_for: Asks for the nodes of so many workers, and takes the last request back.
    """

    leaving: Callable[[], Mapping[str, float]]
    ask_for: Callable[[int], None]


STEADY = Nodes(dict, lambda _: None)
"""A cluster whose nodes neither come nor go."""


def cluster_nodes(worker_resources: Mapping[str, float], *, autoscales: bool) -> Nodes:
    """The Ray cluster that this process has joined.

    Args:
        worker_resources: What one worker reserves: {"CPU": 1, "GPU": 1, ...}.
        autoscales: Nodes come when they are asked for. The request is one for the whole cluster: the last one holds.
    """
    return Nodes(leaving_nodes, _asker(worker_resources) if autoscales else lambda _: None)


def leaving_nodes() -> dict[str, float]:
    """Nodes that are being drained: by the autoscaler, after a spot notice, or by `ray drain-node`.

    Ray has no public call for it; Ray Train takes this one too.
    """
    from ray._private.state import state

    try:
        draining: dict[str, int] = state.get_draining_nodes()
    except RayError:  # the head is busy or coming back: the next look will tell
        return {}
    return {node: end_ms / 1000 - time.time() if end_ms else float("inf") for node, end_ms in draining.items()}


def _asker(worker_resources: Mapping[str, float]) -> Callable[[int], None]:
    bundle: dict[str, Any] = {name: amount for name, amount in worker_resources.items() if amount}

    def ask(num_workers: int) -> None:
        from ray.autoscaler.sdk import request_resources

        if ray.is_initialized():
            request_resources(bundles=[bundle] * num_workers)

    return ask
