"""Where actors run: Ray's options for each role, from plain numbers."""

from collections.abc import Mapping
from typing import Any

NODE_TYPES = LEARNER, ROLLOUT, REWARD = "learner", "rollout", "reward"
"""Custom resources that the node types of cluster.yaml and deploy/ offer, one of each."""


def actor_options(*, num_cpus: float, num_gpus: float, node_type: str = "") -> dict[str, Any]:
    """Ray's options for an actor that is never restarted behind its owner's back.

    Args:
        num_cpus: Logical processors that it reserves.
        num_gpus: GPUs that it reserves.
        node_type: Custom resource that its node must offer ("rollout", "learner"); any node where empty.
    """
    return {
        "num_cpus": num_cpus,
        "num_gpus": num_gpus,
        "resources": node_share(node_type),
        "max_restarts": 0,
        "max_task_retries": 0,
    }


def reserved(options: Mapping[str, Any]) -> dict[str, float]:
    """What an actor with such options takes of a node, in Ray's names."""
    return {"CPU": options["num_cpus"], "GPU": options["num_gpus"], **options["resources"]}


def node_share(node_type: str) -> dict[str, float]:
    """What an actor takes of a node's custom resource: so little that it never limits how many share the node."""
    return {node_type: 0.001} if node_type else {}
