"""Which workers are lost, how that counts, and what time their successors have; over stubs of Ray's calls."""

import pytest
from plain_pool import TWO, check_groups, prompts
from ray.exceptions import RuntimeEnvSetupError
from stub_pool import Ray, stub_pool

from actors.errands import Deadlines

LONG = Deadlines(600, 1800, 60)


@pytest.fixture
def stub(monkeypatch: pytest.MonkeyPatch) -> Ray:
    return Ray(monkeypatch)


def test_a_worker_whose_node_cannot_make_the_job_ready_is_lost_while_another_draws(stub: Ray) -> None:
    error = RuntimeEnvSetupError("Failed to download gcs://package.zip: No space left on device")
    workers = {1: {"draw_s": 3.0}, 2: {"start_error": error}}
    pool = stub_pool(stub, workers, num_workers=2, deadlines=LONG, max_restarts=1)
    check_groups(pool.generate(prompts(8), TWO), prompts(8))
    assert pool.num_deaths == 1
