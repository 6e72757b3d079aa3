"""The page of a study on this machine, for as long as the command runs."""

import signal
from collections.abc import Callable
from urllib.parse import urlsplit

from fxray.errors import ConfigError
from fxray.listening import bound_socket, url_of
from fxray.prefer.application import build_app
from fxray.prefer.store import Store
from fxray.serve.shield import loopback_hosts

STOP_DEADLINE_S = 5
"""For answers that have begun, once the command is told to end."""


def serve_study(store: Store, host: str, port: int, url: str | None, told: Callable[[str], None]) -> None:
    """Serves until SIGINT or SIGTERM.

    Args:
        store: The study.
        host: Address to listen on.
        port: To listen on; 0 for any that is free.
        url: Where raters reach it, through a proxy for one; its name is answered too. None for the host itself.
        told: Given the address, once connections are taken.

    Raises:
        ConfigError: The address is none of a page.
        ResourceError: The port is taken.
    """
    import uvicorn

    hosts = loopback_hosts(host)
    if url is not None:
        hosts = (*hosts, host_of(url)) if hosts else ()
    bound = bound_socket(host, port, "--port")
    try:
        bound.listen(128)
        server = uvicorn.Server(
            uvicorn.Config(
                build_app(store, hosts),
                log_level="warning",
                access_log=False,
                lifespan="off",
                server_header=False,
                timeout_graceful_shutdown=STOP_DEADLINE_S,
            )
        )
        for number in (signal.SIGINT, signal.SIGTERM):  # uvicorn raises them once more when it has ended
            signal.signal(number, lambda *_: None)
        told(url or url_of(host, bound.getsockname()[1]))
        server.run(sockets=[bound])
    finally:
        bound.close()


def host_of(url: str) -> str:
    """The host in the address of a page, as it stands in the Host header.

    Raises:
        ConfigError: It is no http or https address.
    """
    try:
        parts = urlsplit(url)
        if parts.scheme in ("http", "https") and parts.hostname and not (parts.path.strip("/") or parts.query):
            return f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    except ValueError:
        pass
    raise ConfigError(
        f"{url!r} is no address of a page",
        where="--url",
        remedy="give http://HOST:PORT/ or https://HOST/, without a path",
    )
