"""Where a service listens: loopback or not, a port that is free, the address to open."""

import errno
import ipaddress
import socket

from fxray.errors import ResourceError


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches what listens on a host's address."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def bound_socket(host: str, port: int, setting: str) -> socket.socket:
    """A socket that holds the port and does not listen yet.

    Args:
        host: Address of this machine.
        port: The port; 0 for any that is free.
        setting: What chooses another one.

    Raises:
        ResourceError: The port is taken, or the host is no address of this machine.
    """
    bound = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM)
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind((host, port))
    except OSError as error:
        bound.close()
        if isinstance(error, socket.gaierror) or error.errno == errno.EADDRNOTAVAIL:
            raise ResourceError(
                f"{host} is no address of this machine: {error.strerror}",
                where=f"{host}:{port}",
                remedy="give an address of this machine as the host, or 127.0.0.1",
            ) from error
        raise ResourceError(
            f"port {port} cannot be listened on: {error.strerror}",
            where=f"{host}:{port}",
            remedy=f"choose another {setting}, or end what listens there",
        ) from error
    return bound


def url_of(host: str, port: int) -> str:
    """The address of what listens there."""
    return f"http://[{host}]:{port}/" if ":" in host else f"http://{host}:{port}/"
