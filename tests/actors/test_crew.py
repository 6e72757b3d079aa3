"""Whose fault the loss of a worker is, from Ray's own errors."""

import pytest
from ray.core.generated.common_pb2 import ActorDiedErrorContext, NodeDeathInfo
from ray.exceptions import ActorDiedError

from actors.crew import Worker, was_taken

DRAINED = NodeDeathInfo(reason=NodeDeathInfo.AUTOSCALER_DRAIN_PREEMPTED)
NODE_DIED = "The actor died because its node has died. Node Id: 1a2b"


@pytest.mark.parametrize(
    ("facts", "leaves_s", "expected"),
    [
        ({"error_message": NODE_DIED}, None, False),
        ({"error_message": NODE_DIED, "never_started": True}, None, True),
        ({"error_message": "its process crashed", "never_started": True}, None, False),
        ({"node_death_info": DRAINED}, None, True),
        ({"error_message": "OOM"}, None, False),
        ({"error_message": "OOM"}, 5.0, True),
    ],
)
def test_a_worker_whose_node_goes_before_it_ran_is_no_failure(facts: dict, leaves_s: float | None, expected: bool):
    error = ActorDiedError(ActorDiedErrorContext(actor_id=bytes(16), **facts))
    assert was_taken(Worker("rollout-1", None, 0.0, leaves_s=leaves_s), error) is expected
