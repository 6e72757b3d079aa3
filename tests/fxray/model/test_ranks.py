"""Two real processes that meet, and what they listen on meanwhile."""

import json
import subprocess
import sys

import psutil
import pytest

from fxray.model.ranks import open_meeting

RANK = """
import json, psutil, socket, sys
import torch
from torch import distributed
from fxray.model.ranks import meet

rank, port, fd = map(int, sys.argv[1:])
listener = socket.socket(fileno=fd) if rank == 0 else None
meet(backend="gloo", rank=rank, world_size=2, address="127.0.0.1", port=port, listener=listener, timeout_s=100)
total = torch.tensor(rank + 1.0)
distributed.all_reduce(total)
sockets = psutil.Process().net_connections("tcp")
print(json.dumps([total.item(), [s.laddr.ip for s in sockets if s.status == psutil.CONN_LISTEN]]), flush=True)
distributed.barrier()
distributed.destroy_process_group()
"""


def test_a_meeting_listens_on_its_address_alone() -> None:
    with open_meeting("127.0.0.1") as listener:
        listening = [
            each for each in psutil.Process().net_connections("tcp") if each.laddr.port == listener.getsockname()[1]
        ]
    assert [(each.laddr.ip, each.status) for each in listening] == [("127.0.0.1", psutil.CONN_LISTEN)]


@pytest.mark.slow
def test_ranks_on_one_machine_exchange_over_loopback_alone() -> None:
    listener = open_meeting("127.0.0.1")
    listener.set_inheritable(True)
    arguments = [str(listener.getsockname()[1]), str(listener.fileno())]
    ranks = [
        subprocess.Popen(
            [sys.executable, "-c", RANK, str(rank), *arguments],
            stdout=subprocess.PIPE,
            text=True,
            pass_fds=[listener.fileno()] if rank == 0 else [],
        )
        for rank in range(2)
    ]
    told = [json.loads(rank.communicate(timeout=120)[0]) for rank in ranks]
    listener.close()
    for total, addresses in told:
        assert total == 3.0
        assert set(addresses) == {"127.0.0.1"}
