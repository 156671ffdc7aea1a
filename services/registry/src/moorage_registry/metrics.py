"""Metrics of the registry's own process, on its operations port."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from moorage_common.metrics import LATENCY_BUCKETS_S
from moorage_registry.usage.repository import BootCount


@dataclass
class Metrics:
    """One registry of collectors an app."""

    registry: CollectorRegistry = field(default_factory=CollectorRegistry)

    def __post_init__(self) -> None:
        labels = ("method", "route", "status")
        self.requests = Counter("moorage_registry_requests", "HTTP requests answered.", labels, registry=self.registry)
        self.latency = Histogram(
            "moorage_registry_request_seconds",
            "Time to answer an HTTP request.",
            ("method", "route"),
            buckets=LATENCY_BUCKETS_S,
            registry=self.registry,
        )
        self.outbox = Gauge(
            "moorage_registry_outbox_rows", "Events committed and not published yet.", registry=self.registry
        )
        self.chunks = Counter("moorage_registry_usage_chunks", "Usage chunks counted.", registry=self.registry)
        self.duplicates = Counter(
            "moorage_registry_usage_duplicates", "Usage chunks seen again and not counted.", registry=self.registry
        )
        self.missing = Gauge(
            "moorage_registry_usage_chunks_missing",
            "Chunk numbers of a router's last boot that have not arrived.",
            ("router",),
            registry=self.registry,
        )
        self.feedback = Counter(
            "moorage_registry_feedback",
            "Labels and answers taken in that were not known, and what of both could not be read.",
            ("what",),
            registry=self.registry,
        )
        self.failures = Counter(
            "moorage_registry_task_failures",
            "Background tasks that failed and were restarted.",
            ("task",),
            registry=self.registry,
        )
        self.rollouts = RolloutMetrics(self.registry)

    def feedback_taken(self, what: str, count: int) -> None:
        self.feedback.labels(what).inc(count)

    def usage_taken(self, new: int, duplicates: int, boots: Sequence[BootCount]) -> None:
        self.chunks.inc(new)
        self.duplicates.inc(duplicates)
        for boot in boots:
            self.missing.labels(boot.router).set(boot.expected - boot.held)


@dataclass
class RolloutMetrics:
    """Of the rollouts that this registry moves, and of what it is told about them."""

    registry: CollectorRegistry

    def __post_init__(self) -> None:
        registry = self.registry
        self.running = Gauge("moorage_registry_rollouts", "Rollouts that are not over.", registry=registry)
        self.leads = Gauge("moorage_registry_rollouts_lead", "1 where this registry moves rollouts.", registry=registry)
        self.verdicts = Counter(
            "moorage_registry_rollout_verdicts", "Verdicts of the judge.", ("kind",), registry=registry
        )
        self.batches = Counter(
            "moorage_registry_rollout_batches", "Batches of routers by what became of them.", ("outcome",),
            registry=registry,
        )  # fmt: skip
        self.missing = Counter(
            "moorage_registry_rollout_batches_missing", "Batches that a router counted and never came.",
            registry=registry,
        )  # fmt: skip
        self.failures = Counter(
            "moorage_registry_rollout_failures", "Looks at a rollout that failed and are made anew.", registry=registry
        )
        self.look_seconds = Histogram(
            "moorage_registry_rollout_look_seconds", "Time to look at a rollout, its transaction counted.",
            buckets=LATENCY_BUCKETS_S, registry=registry,
        )  # fmt: skip


@dataclass
class RequestMetrics:
    """Counts and times requests by route template, never by path: names of tenants' things are not labels here."""

    app: ASGIApp
    metrics: Metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        status = 500
        began = time.perf_counter()

        async def watch(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self.app(scope, receive, watch)
        finally:
            route = getattr(scope.get("route"), "path", "none")
            self.metrics.requests.labels(scope["method"], route, str(status)).inc()
            self.metrics.latency.labels(scope["method"], route).observe(time.perf_counter() - began)
