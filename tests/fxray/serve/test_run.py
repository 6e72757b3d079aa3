"""What the command leaves on a Ray, without one."""

from types import SimpleNamespace

import pytest

from fxray.config.load import load_config
from fxray.errors import FxrayError, ResourceError
from fxray.events import Note
from fxray.serve import run


class Handle:
    """A gateway that drains at once."""

    def __init__(self) -> None:
        self.drain = SimpleNamespace(remote=lambda deadline_s: SimpleNamespace(result=lambda timeout_s: True))


@pytest.fixture
def called(monkeypatch):
    """What is asked of Ray Serve, on which somebody else's applications run too, as `called.others` names them."""
    import ray.serve

    called = SimpleNamespace(names=[], others={})
    monkeypatch.setattr(ray.serve, "shutdown", lambda: called.names.append("shutdown"))
    monkeypatch.setattr(ray.serve, "delete", lambda name: called.names.append(f"delete {name}"))
    monkeypatch.setattr(ray.serve, "status", lambda: SimpleNamespace(applications=called.others))
    monkeypatch.setattr(ray.serve, "start", lambda **options: called.names.append("start"))
    return called


@pytest.mark.parametrize(
    ("is_joined", "others", "names"),
    [
        (False, {}, ["shutdown"]),
        (True, {}, ["delete fxray", "shutdown"]),
        (True, {"theirs": object()}, ["delete fxray"]),
    ],
)
def test_what_others_serve_on_a_cluster_goes_on(called, is_joined, others, names):
    called.others, told = others, []
    run._stop(Handle(), 1.0, told.append, is_joined=is_joined)
    assert called.names == names
    assert told == [Note("ending what has begun")]


def test_a_start_that_fails_takes_nothing_of_others_with_it(called, monkeypatch):
    import ray.serve

    def fail(*args, **options):
        raise RuntimeError("Deploying application fxray failed")

    monkeypatch.setattr(ray.serve, "run", fail)
    called.others = {"theirs": object()}
    with pytest.raises(FxrayError, match="did not come up"):
        run._start(None, load_config("tiny"), is_joined=True)
    assert called.names == ["start", "delete fxray"]


def test_a_cluster_whose_serve_runs_already_is_refused(monkeypatch):
    import ray

    asked = []
    monkeypatch.setattr(ray, "get_actor", lambda name, namespace: asked.append((name, namespace)))
    with pytest.raises(ResourceError, match=r"(?s)runs on this cluster already.*serve deploy"):
        run._refuse_running_serve()
    assert asked == [("SERVE_CONTROLLER_ACTOR", "serve")]

    def none(name, namespace):
        raise ValueError(f"Failed to look up actor with name '{name}'")

    monkeypatch.setattr(ray, "get_actor", none)
    run._refuse_running_serve()
