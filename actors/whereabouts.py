"""Where an actor runs, for messages."""

from typing import Any

import ray


def node_of(actor: Any) -> str:
    """The node of an actor as words, "node 10.0.0.3"; empty where it has none yet, or Ray has only one.

    Ray offers this without its dashboard in `ray._private.state` alone.
    """
    from ray._private import state

    try:
        if sum(bool(node["Alive"]) for node in ray.nodes()) < 2:
            return ""
        address = state.actors(actor._actor_id.hex()).get("Address", {}).get("IPAddress", "")
    except Exception:  # noqa: BLE001  a message goes without it
        return ""
    return f"node {address}" if address else ""
