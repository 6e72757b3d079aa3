"""What a start of the service tells, and leaves on a Ray, without one."""

from itertools import chain, count, repeat
from types import SimpleNamespace

import pytest

from fxray.config.load import load_config
from fxray.errors import DeadlineError, FxrayError
from fxray.serve import run


def application(status, **replicas):
    """What Ray Serve says of the application: "RUNNING" and so on, and how many replicas are how far, by part."""
    parts = {name: SimpleNamespace(replica_states=states, message="") for name, states in replicas.items()}
    return SimpleNamespace(status=status, message="no module", deployments=parts)


def start_with(called, monkeypatch, *said, is_joined=True):
    """Starts; Serve says one thing after the other of our application, the last one for ever, a minute apart."""
    import ray.serve

    states, minutes, told = chain(said, repeat(said[-1])), count(), []

    def status():
        return SimpleNamespace(applications=called.others | {"fxray": next(states)})

    monkeypatch.setattr(ray.serve, "status", status)
    monkeypatch.setattr(ray.serve, "run_many", lambda targets, **_: ["handle"])
    clock = SimpleNamespace(monotonic=lambda: 60.0 * next(minutes), sleep=lambda _: None)
    monkeypatch.setattr("fxray.serve.run.time", clock)
    config = load_config("tiny", ["rollout.start_deadline_s=200"])
    try:
        return run._start(None, config, told.append, is_joined=is_joined), told
    finally:
        called.told = [note.text for note in told]


def test_a_start_tells_how_far_it_is(called, monkeypatch):
    handle, _ = start_with(
        called,
        monkeypatch,
        application("DEPLOYING"),
        application("DEPLOYING", detector={"STARTING": 1}, gateway={}),
        application("DEPLOYING", detector={"STARTING": 1, "RUNNING": 1}, gateway={"RUNNING": 1, "STOPPING": 0}),
        application("RUNNING"),
    )
    assert handle == "handle"
    assert called.told == [
        "starting for 60 s: nothing is there yet",
        "starting for 120 s: detector 1 starting; gateway waits",
        "starting for 180 s: detector 1 starting, 1 running; gateway 1 running",
    ]
    assert called.names == ["start"]


def test_a_start_that_fails_says_why_in_the_words_of_the_part_that_failed(called, monkeypatch):
    failed = application("DEPLOY_FAILED", detector={"STARTING": 1}, gateway={})
    failed.deployments["gateway"].message = (
        'The deployment failed to start 3 times in a row. Error:\nray::gateway (pid=1)\n  File "a.py", line 1\n'
        "fxray.errors.ResourceError: /data: cannot be made\n  remedy: choose another folder\n"
    )
    with pytest.raises(FxrayError) as caught:
        start_with(called, monkeypatch, failed)
    said = "the service did not come up: gateway: fxray.errors.ResourceError: /data: cannot be made"
    assert (caught.value.message, caught.value.remedy) == (said, "choose another folder")


def test_why_a_part_is_tried_again_is_told_at_once(called, monkeypatch):
    fails = application("DEPLOYING", detector={"STARTING": 1}, gateway={"RUNNING": 1})
    fails.deployments["detector"].message = (
        "A replica failed to start with exception. Retrying 2 more time(s). Error:\nray::detector (pid=1)\n"
        '  File "a.py", line 1\nfxray.errors.ModelError: /m: no room\n  remedy: take less\n'
    )
    slow = application("DEPLOYING", detector={"STARTING": 1})
    slow.deployments["detector"].message = "Deployment detector has 1 replicas that take long:\na slow one"
    start_with(called, monkeypatch, slow, fails, fails, application("RUNNING"))
    why = "trying again after detector: fxray.errors.ModelError: /m: no room remedy: take less"
    assert [text for text in called.told if not text.startswith("starting for")] == [why]


@pytest.mark.parametrize(("is_joined", "proxies"), [(True, ["HeadOnly"]), (False, ["Disabled"])])
def test_ray_serves_proxy_listens_only_where_the_gateway_may_be_anywhere(called, monkeypatch, is_joined, proxies):
    start_with(called, monkeypatch, application("RUNNING"), is_joined=is_joined)
    assert called.proxies == proxies


def test_a_start_that_fails_takes_nothing_of_others_with_it(called, monkeypatch):
    called.others = {"theirs": object()}
    with pytest.raises(FxrayError, match="did not come up: no module"):
        start_with(called, monkeypatch, application("DEPLOY_FAILED"))
    assert called.names == ["start", "delete fxray"]


def test_a_start_that_is_interrupted_leaves_nothing(called, monkeypatch):
    def interrupt(*_):
        raise KeyboardInterrupt

    called.others = {"theirs": object()}
    monkeypatch.setattr(run, "_states", interrupt)
    with pytest.raises(KeyboardInterrupt):
        start_with(called, monkeypatch, application("DEPLOYING", detector={"STARTING": 1}))
    assert called.names == ["start", "delete fxray"]


def test_a_start_has_a_deadline_that_names_what_it_waits_for(called, monkeypatch):
    called.others = {"theirs": object()}
    with pytest.raises(
        DeadlineError, match=r"within 400 s .twice rollout.start_deadline_s.; there is detector 1 starting"
    ):
        start_with(called, monkeypatch, application("DEPLOYING", detector={"STARTING": 1}))
    assert called.names == ["start", "delete fxray"]
