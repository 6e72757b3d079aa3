"""What the tests of the service need."""

import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from browser import browser, page, url  # noqa: F401  fixtures
from fake_service import backend, make_service  # noqa: F401  fixtures


@pytest.fixture
def called(monkeypatch):
    """What is asked of Ray Serve, on which somebody else's applications run too, as `called.others` names them."""
    import ray.serve

    called = SimpleNamespace(names=[], others={}, proxies=[])
    monkeypatch.setattr(ray.serve, "shutdown", lambda: called.names.append("shutdown"))
    monkeypatch.setattr(ray.serve, "delete", lambda name: called.names.append(f"delete {name}"))
    monkeypatch.setattr(ray.serve, "status", lambda: SimpleNamespace(applications=called.others))

    def start(**options):
        called.names.append("start")
        called.proxies.append(options["proxy_location"])

    monkeypatch.setattr(ray.serve, "start", start)
    return called
