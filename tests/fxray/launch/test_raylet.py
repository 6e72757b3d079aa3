"""A Ray of a process's own is reached by no signal to that process's group, and its end is noticed."""

import os
import subprocess
import sys
import time
from types import SimpleNamespace

import pytest
import ray
from ray._private import services

from fxray.errors import HeadLostError
from fxray.launch import head
from fxray.launch.raylet import own_groups, watched_raylet

SLEEP = [sys.executable, "-c", "import time; time.sleep(60)"]


def group_of_a_process_of_rays() -> int:
    process = services.ConsolePopen(SLEEP)
    try:
        return os.getpgid(process.pid)
    finally:
        process.kill()
        process.wait()


def test_processes_of_ray_are_groups_of_their_own() -> None:
    with own_groups():
        inside = group_of_a_process_of_rays()
    assert inside != os.getpgrp()
    assert group_of_a_process_of_rays() == os.getpgrp()


def test_the_end_of_ray_ends_the_block(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(head, "ASK_EVERY_S", 0.05)
    process = subprocess.Popen(SLEEP)
    node = SimpleNamespace(all_processes={"raylet": [SimpleNamespace(process=process)]})
    monkeypatch.setattr(ray._private.worker, "_global_node", node)
    try:
        with watched_raylet():
            time.sleep(0.5)  # it lives, when asked ten times
        with pytest.raises(HeadLostError, match=r"Ray has ended.*\n.*KillMode=mixed"), watched_raylet():
            time.sleep(process.kill() or 60)
    finally:
        process.kill()
        process.wait()
