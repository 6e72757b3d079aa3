"""The loop's ports with every call on the timeline, so that it shows what the driver was blocked by."""

from collections.abc import Callable
from typing import Any

from fxray import spans
from fxray.grpo.loop import Ports


class Traced:
    """A port whose methods are spans on a track of the driver.

    Args:
        port: Any port.
        track: Where its calls are drawn.
    """

    def __init__(self, port: Any, track: str) -> None:
        self._port, self._track = port, track

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._port, name)
        return _on_track(found, self._track, name) if callable(found) else found


def traced(ports: Ports) -> Ports:
    """The same ports, each on its own track."""
    return Ports(
        Traced(ports.generator, "generate"),
        Traced(ports.scorer, "score"),
        Traced(ports.learner, "learn"),
        Traced(ports.publisher, "publish"),
    )


def _on_track(method: Callable[..., Any], track: str, name: str) -> Callable[..., Any]:
    def call(*args: Any, **kwargs: Any) -> Any:
        with spans.span(track, name):
            return method(*args, **kwargs)

    return call
