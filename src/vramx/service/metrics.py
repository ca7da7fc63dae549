"""What Prometheus reads of the service."""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client import (
    CollectorRegistry,
    Counter,
    ProcessCollector,
    generate_latest,
)
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from vramx.service.card import Card
from vramx.service.events import Changes
from vramx.service.store import Store
from vramx.service.work import Moved

#: What an answer says that it is.
CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


class Metrics:
    """Counts of requests and uploads, and what the parts of a service tell when they are asked.

    Parameters
    ----------
    store, card, changes, moved : Store, Card, Changes and Moved
        The parts.
    """

    def __init__(self, store: Store, card: Card, changes: Changes, moved: Moved) -> None:
        self._registry = CollectorRegistry()
        self._requests = Counter(
            "vramx_requests",
            "Answered requests.",
            ("method", "route", "status"),
            registry=self._registry,
        )
        self.uploaded = Counter(
            "vramx_uploaded_bytes", "Bytes of uploaded files.", registry=self._registry
        )
        ProcessCollector(registry=self._registry)
        self._registry.register(_Parts(store, card, changes, moved))

    def answered(self, method: str, route: str, status: int) -> None:
        """Count an answer; methods that there are not are one."""
        known = method if method in ("GET", "HEAD", "POST", "DELETE") else "other"
        self._requests.labels(known, route, status).inc()

    def text(self) -> bytes:
        """Write all in Prometheus's format."""
        return generate_latest(self._registry)


class _Parts(Collector):
    """What the parts of a service tell."""

    def __init__(self, store: Store, card: Card, changes: Changes, moved: Moved) -> None:
        self._store, self._card, self._changes, self._moved = store, card, changes, moved

    def describe(self) -> list[Metric]:
        """Tell nothing before anyone asks."""
        return []

    def collect(self) -> Iterator[Metric]:
        """Look at the parts."""
        jobs = GaugeMetricFamily("vramx_jobs", "Jobs by their state.", labels=["state"])
        for state, count in self._store.counts().items():
            jobs.add_metric([state], count)
        yield jobs
        look, health = self._card.look(), self._card.health()
        yield GaugeMetricFamily(
            "vramx_card_there", "Whether the card is there.", value=health["there"]
        )
        card = GaugeMetricFamily(
            "vramx_card_bytes", "Of the card: its budget, and what jobs have.", labels=["what"]
        )
        for name in ("budget", "claimed", "resident", "kept", "packed_on_card"):
            card.add_metric([name], look[name])
        yield card
        yield GaugeMetricFamily("vramx_sessions", "Open sessions.", value=look["sessions"])
        yield GaugeMetricFamily(
            "vramx_event_streams", "Open streams of events.", value=self._changes.streams
        )
        moved = CounterMetricFamily(
            "vramx_moved_bytes", "Bytes that finished jobs moved.", labels=["way"]
        )
        with self._moved.lock:
            moved.add_metric(["in"], self._moved.inwards)
            moved.add_metric(["crossed_in"], self._moved.crossed)
            moved.add_metric(["out"], self._moved.outwards)
        yield moved
