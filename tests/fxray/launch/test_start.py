"""What actors are made with."""

import pytest

from fxray.config.load import load_config
from fxray.launch import start


@pytest.mark.parametrize(
    ("asked", "num_processes", "overrides", "expected"),
    [
        (0, 2, [], 4),
        (0, 3, [], 2),
        (0, 16, [], 1),
        (0, 1, [], 0),
        (3, 2, [], 3),
        (0, 2, ["ray.address=10.0.0.1:6379"], 0),
    ],
)
def test_processes_share_the_processors_of_a_machine_that_is_theirs_alone(
    monkeypatch, asked, num_processes, overrides, expected
):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr(start, "num_processors", lambda: 8)
    assert start.threads_of_each(asked, num_processes, load_config("tiny", overrides)) == expected
