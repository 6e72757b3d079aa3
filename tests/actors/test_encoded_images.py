"""Images come from the object store together, in time, or say why not."""

import pytest
import ray
from ray.exceptions import GetTimeoutError, ObjectLostError

from actors.encoded_images import IMAGE_DEADLINE_S, fetch_images
from actors.failures import is_of_one_machine
from fxray.errors import FxrayError


def test_each_image_is_fetched_once_and_all_in_one_call(monkeypatch):
    first, second = ray.ObjectRef.from_random(), ray.ObjectRef.from_random()
    content, calls = {first: b"first", second: b"second"}, []

    def get(references, timeout):
        calls.append((set(references), len(references), timeout))
        return [content[reference] for reference in references]

    monkeypatch.setattr(ray, "get", get)
    assert fetch_images([second, b"here", first, second], "g") == [b"second", b"here", b"first", b"second"]
    assert calls == [({first, second}, 2, IMAGE_DEADLINE_S)]
    assert fetch_images([b"here"], "g") == [b"here"]
    assert len(calls) == 1


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (GetTimeoutError("late"), "groups a/0/1 to a/0/4: 1 image did not arrive within 120 s\n.*reaches that of"),
        (ObjectLostError("0" * 56, None, ""), "groups a/0/1 to a/0/4: an image is lost: (.|\n)*continue the run"),
    ],
)
def test_images_that_do_not_come_are_told_with_their_groups_and_may_reach_another_worker(monkeypatch, error, message):
    def fail(references, timeout):
        raise error

    monkeypatch.setattr(ray, "get", fail)
    with pytest.raises(FxrayError, match=message) as caught:
        fetch_images([ray.ObjectRef.from_random()], "groups a/0/1 to a/0/4")
    assert is_of_one_machine(caught.value)
