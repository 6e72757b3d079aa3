"""Addresses that cannot be listened on."""

import pytest

from fxray.errors import ResourceError
from fxray.listening import bound_socket


def test_a_host_that_is_not_this_machine_is_not_said_to_be_a_port_that_is_taken() -> None:
    for host in ("192.0.2.1", "2001:db8::1", "nothing.invalid"):
        with pytest.raises(ResourceError, match=r"is no address of this machine.*\n.*as the host"):
            bound_socket(host, 8000, "--port")


def test_a_port_that_is_taken_is() -> None:
    with bound_socket("127.0.0.1", 0, "--port") as bound:
        bound.listen()
        with pytest.raises(ResourceError, match=r"cannot be listened on.*\n.*choose another --port"):
            bound_socket("127.0.0.1", bound.getsockname()[1], "--port")
