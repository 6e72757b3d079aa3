"""Where Ray Serve itself listens for the calls of one replica to another."""

from functools import partial
from typing import Any


def keep_to_this_node() -> None:
    """Keeps Ray Serve's own server of this replica, which unpickles whatever it is sent, to the node's address.

    Ray Serve has it listen on every address of the machine, also where Ray itself is kept to loopback. It starts after
    the deployment's object is made, so that the object's constructor is the place to call this.
    """
    import ray
    from ray.serve._private import replica

    address, now = ray.util.get_node_ip_address(), replica.add_port_to_grpc_server
    add_port = now.args[0] if isinstance(now, partial) else now  # it was called before in this process
    host = f"[{address}]" if ":" in address else address
    replica.add_port_to_grpc_server = partial(_add_port_at, add_port, host)


def _add_port_at(add_port: Any, host: str, server: Any, address: str) -> Any:  # noqa: ARG001
    return add_port(server, f"{host}:0")
