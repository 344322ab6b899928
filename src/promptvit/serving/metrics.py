"""Prometheus metrics of one service, in a registry of its own."""

import time
from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from starlette.types import ASGIApp, Message, Receive, Scope, Send

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
_SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256)


class Metrics:
    """What is counted; ``waiting`` tells the images in the queue."""

    def __init__(self, waiting: Callable[[], int]) -> None:
        self.registry = own = CollectorRegistry()
        self.requests = Counter("promptvit_requests", "Requests answered.", ["route", "status"], registry=own)
        self.seconds = Histogram(
            "promptvit_request_seconds", "From a request's headers to its answer.", ["route"], buckets=_SECONDS, registry=own
        )
        self.images = Counter("promptvit_images", "Images answered.", ["task"], registry=own)
        self.batch_images = Histogram("promptvit_batch_images", "Images of a batch.", buckets=_SIZES, registry=own)
        self.batch_seconds = Histogram("promptvit_batch_seconds", "Computing a batch.", buckets=_SECONDS, registry=own)
        Gauge("promptvit_queue_images", "Images that wait for a batch.", registry=own).set_function(waiting)

    def batch(self, size: int, seconds: float) -> None:
        """Count a batch."""
        self.batch_images.observe(size)
        self.batch_seconds.observe(seconds)

    def text(self) -> bytes:
        """Everything, in Prometheus' text format."""
        return generate_latest(self.registry)


class Counted:
    """ASGI middleware that counts requests by route; whatever no route knows is one of them, ``none``."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self.app, self.metrics = app, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        started, status = time.monotonic(), 500

        async def noting(message: Message) -> None:
            nonlocal status
            status = message.get("status", status)
            await send(message)

        try:
            await self.app(scope, receive, noting)
        finally:
            route = getattr(scope.get("route"), "path", "none")
            self.metrics.requests.labels(route, status).inc()
            self.metrics.seconds.labels(route).observe(time.monotonic() - started)
