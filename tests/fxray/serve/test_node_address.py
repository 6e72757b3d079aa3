"""Where Ray Serve's own server of a replica listens."""

from types import SimpleNamespace

import pytest
import ray
from ray.serve._private import replica

from fxray.serve.node_address import keep_to_this_node


@pytest.mark.parametrize(
    ("node", "bound"), [("127.0.0.1", "127.0.0.1:0"), ("10.0.0.7", "10.0.0.7:0"), ("fd00::7", "[fd00::7]:0")]
)
def test_the_server_of_a_replica_listens_on_its_node_alone(monkeypatch, node, bound):
    monkeypatch.setattr(replica, "add_port_to_grpc_server", replica.add_port_to_grpc_server)  # put back afterwards
    asked = []
    for address in ("192.0.2.9", node):  # the second time counts
        monkeypatch.setattr(ray.util, "get_node_ip_address", lambda address=address: address)
        keep_to_this_node()
    server = SimpleNamespace(add_insecure_port=asked.append)
    replica.add_port_to_grpc_server(server, "[::]:0")
    assert asked == [bound]
