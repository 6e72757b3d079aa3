"""Tokens of Ray: a Ray of one's own takes work from its own processes alone, and a cluster says when it wants one."""

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager

MODE, TOKEN, TOKEN_FILE = "RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"
REMEDY = f"set {MODE}=token and {TOKEN} (or {TOKEN_FILE}); `ray get-auth-token` on the head shows the cluster's"


@contextmanager
def own_token() -> Iterator[None]:
    """Has a Ray that starts in the block refuse whoever does not know a token made for it.

    Without one, anybody with an account on this machine could run code as this user for as long as the Ray is up. Its
    processes inherit the token; it goes with the block. Where `RAY_AUTH_MODE` says something, that stays.
    """
    if os.environ.get(MODE):
        yield
        return
    before = {name: os.environ.pop(name, None) for name in (MODE, TOKEN, TOKEN_FILE)}
    os.environ |= {MODE: "token", TOKEN: secrets.token_hex(32)}
    read_again()
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value
        read_again()


def read_again() -> None:
    """Ray reads the variables once, when it is imported."""
    from ray._raylet import AuthenticationTokenLoader, Config  # type: ignore[attr-defined] # compiled

    Config.initialize("")
    AuthenticationTokenLoader.instance().reset_cache()
