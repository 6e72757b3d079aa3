"""How the ranks of a job meet: at a store that listens on rank 0's own address alone.

Left to itself torch listens on every address of the machine, which shows a job to whoever reaches it.
"""

import os
import socket
from datetime import timedelta

import psutil
from torch import distributed
from torch._C._distributed_c10d import HashStore, Store, TCPStore

_INTERFACE_VARIABLES = ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME")


def open_meeting(address: str) -> socket.socket:
    """A socket that listens on a free port of `address`, for rank 0 to hand to `meet`."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    return socket.create_server((address, 0), family=family)


def meet(
    *,
    backend: str,
    rank: int,
    world_size: int,
    address: str,
    port: int,
    listener: socket.socket | None,
    timeout_s: float,
) -> None:
    """Makes this process one of the ranks of a job.

    Args:
        backend: "nccl" for ranks that train on GPUs, else "gloo".
        rank: Of this process.
        world_size: Ranks in all; a single one opens no port.
        address: Of rank 0; unused where it is alone, like port and listener.
        port: Where rank 0 listens.
        listener: What `open_meeting` gave, on rank 0; torch owns it from here on.
        timeout_s: For the ranks to meet, and for any exchange between them.

    Raises:
        RuntimeError: The others do not come in time.
    """
    where = {"RANK": rank, "WORLD_SIZE": world_size, "MASTER_ADDR": address, "MASTER_PORT": port}
    os.environ.update({name: str(value) for name, value in where.items()})
    timeout = timedelta(seconds=timeout_s)
    if world_size == 1:
        store: Store = HashStore()
    else:
        _exchange_through(_interface_of(address))
        descriptor = None if listener is None else listener.detach()
        store = TCPStore(address, port, world_size, rank == 0, timeout, master_listen_fd=descriptor)
    distributed.init_process_group(backend, store=store, rank=rank, world_size=world_size, timeout=timeout)


def _interface_of(rank_0_address: str) -> str | None:
    """The network interface of this machine through which it reaches rank 0."""
    family = socket.AF_INET6 if ":" in rank_0_address else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as probe:  # connecting it sends nothing
        probe.connect((rank_0_address, 9))
        own_address = probe.getsockname()[0]
    for name, addresses in psutil.net_if_addrs().items():
        if any(each.address.partition("%")[0] == own_address for each in addresses):
            return name
    return None


def _exchange_through(interface: str | None) -> None:
    """Keeps tensors on that interface, unless the environment already names one."""
    for variable in _INTERFACE_VARIABLES:
        if interface is not None:
            os.environ.setdefault(variable, interface)
