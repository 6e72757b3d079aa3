"""What the service tells Prometheus. Labels have few values: routes and statuses, never names or texts."""

import time

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from fxray.serve.admission import Admission

_METHODS = ("GET", "HEAD", "POST", "DELETE")
_BUCKETS_S = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)


class Metrics:
    """The numbers of one gateway, in a registry of their own.

    Args:
        admission: Its counts are read when somebody asks.
    """

    def __init__(self, admission: Admission) -> None:
        registry = self._registry = CollectorRegistry()
        self._requests = Counter(
            "fxray_requests", "Requests answered", ["route", "method", "status"], registry=registry
        )
        self._seconds = Histogram(
            "fxray_request_seconds",
            "Seconds from a request's first byte to the start of its answer",
            ["route"],
            buckets=_BUCKETS_S,
            registry=registry,
        )
        self._images = Counter(
            "fxray_images",
            "Images examined: real, generated, none (no verdict), failed; changed (copies of one, for its stability)",
            ["verdict"],
            registry=registry,
        )
        flying = Gauge("fxray_images_in_flight", "Images with the engines", registry=registry)
        flying.set_function(lambda: admission.num_in_flight)
        waiting = Gauge("fxray_images_waiting", "Images that wait for an engine", registry=registry)
        waiting.set_function(lambda: admission.num_waiting)

    def count_request(self, route: str, method: str, status: int, seconds: float) -> None:
        """Notes an answered request; `route` is the pattern, not the path."""
        self._requests.labels(route, method, str(status)).inc()
        self._seconds.labels(route).observe(seconds)

    def count_image(self, outcome: dict[str, object]) -> None:
        """Notes an examined image: a `DetectionOut` or a `FailureOut`."""
        verdict = "failed" if "problem" in outcome else str(outcome.get("verdict") or "none")
        self._images.labels(verdict).inc()

    def count_changed(self) -> None:
        """Notes an examined copy of an image, whose answer is about that image's stability alone."""
        self._images.labels("changed").inc()

    def text(self) -> bytes:
        """All of it in Prometheus' text format."""
        return generate_latest(self._registry)


class Counted:
    """An ASGI middleware that notes every answer.

    Args:
        app: What answers.
        metrics: Where it is noted.
    """

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self._app, self._metrics = app, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Passes a request on, and notes the status of its answer when that starts."""
        start_s = time.monotonic()

        async def counting(message: Message) -> None:
            if message["type"] == "http.response.start":
                route = getattr(scope.get("route"), "path", "other")
                method = scope["method"] if scope["method"] in _METHODS else "other"
                self._metrics.count_request(route, method, message["status"], time.monotonic() - start_s)
            await send(message)

        await self._app(scope, receive, counting if scope["type"] == "http" else send)
