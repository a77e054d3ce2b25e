"""What is counted, in Prometheus' words."""

from __future__ import annotations

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    disable_created_metrics,
    generate_latest,
)

#: Paths that are counted by name; a client cannot make more.
PATHS = ("/", "/predict", "/health", "/metrics", "/model", "/openapi.json")
_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)

_SIZES = (1, 2, 4, 8, 16, 32, 64, 128)


class Metrics:
    """Counters and histograms of one server.

    Attributes:
        requests: answered, by path and status.
        images: answered, by result: `right` for those that got classes, `refused` for the others.
        errors: by kind: `not_an_image`, `busy`, `slow_body`, …
        seconds: from a whole head to the answer of `/predict`.
        batches: images that were answered together.
        network_seconds: that the network took for a batch.
        queue: images that wait.
        at_work: requests whose body is whole and whose answer is not.
        connections: open.
    """

    def __init__(self) -> None:
        disable_created_metrics()  # type: ignore[no-untyped-call]  # a second number beside each, of use to next to nobody
        self.registry = mine = CollectorRegistry()
        self.requests = Counter("densely_requests", "Requests answered", ("path", "status"), registry=mine)
        self.images = Counter("densely_images", "Images answered", ("result",), registry=mine)
        self.errors = Counter("densely_errors", "Requests, images, connections refused", ("kind",), registry=mine)
        self.seconds = Histogram(
            "densely_request_seconds", "From a request's head to its answer, /predict", buckets=_SECONDS, registry=mine
        )
        self.batches = Histogram("densely_batch_size", "Images answered together", buckets=_SIZES, registry=mine)
        self.network_seconds = Histogram(
            "densely_network_seconds", "That the network took for a batch", buckets=_SECONDS, registry=mine
        )
        self.queue = Gauge("densely_queue_images", "Images that wait for the network", registry=mine)
        self.at_work = Gauge("densely_requests_in_flight", "Requests that are being answered", registry=mine)
        self.connections = Gauge("densely_connections", "Connections that are open", registry=mine)
        ProcessCollector(registry=mine)  # memory, files, processor time; only on Linux

    def answered(self, path: str, status: int) -> None:
        """Count a request."""
        name = path if path in PATHS else "/samples" if path.startswith("/samples/") else "other"
        self.requests.labels(name, str(status)).inc()

    def text(self) -> bytes:
        """All of it, as Prometheus reads it."""
        return generate_latest(self.registry)
