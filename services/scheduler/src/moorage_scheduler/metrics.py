"""What the scheduler counts, in one CollectorRegistry an app."""

from dataclasses import dataclass, field

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from moorage_common.metrics import TenantSeries

_RECOVERY_BUCKETS_S = (0.5, 1.0, 2.0, 3.0, 5.0, 7.5, 10.0, 15.0, 30.0, 60.0, 120.0)


@dataclass
class SchedulerMetrics:
    """Gauges are set at each reconciliation."""

    series: TenantSeries = field(default_factory=TenantSeries)
    replicas: Gauge = field(init=False)
    gpu_milli_free: Gauge = field(init=False)
    placements: Counter = field(init=False)
    moves: Counter = field(init=False)
    queued: Gauge = field(init=False)
    warm_hosts: Gauge = field(init=False)
    recovery_seconds: Histogram = field(init=False)
    validations: Counter = field(init=False)
    start_seconds: Histogram = field(init=False)
    wakes: Counter = field(init=False)
    leader: Gauge = field(init=False)
    fencing: Gauge = field(init=False)

    def __post_init__(self) -> None:
        registry = self.registry
        self.replicas = Gauge(
            "moorage_scheduler_replicas", "Replicas.", ["tenant", "model", "version", "state"], registry=registry
        )
        self.gpu_milli_free = Gauge(
            "moorage_scheduler_gpu_milli_free", "Thousandths of a GPU free.", ["node", "device"], registry=registry
        )
        self.placements = Counter("moorage_scheduler_placements", "Replicas placed.", registry=registry)
        self.moves = Counter(
            "moorage_scheduler_moves", "Replicas moved, by outcome: done or aborted.", ["outcome"], registry=registry
        )
        self.queued = Gauge("moorage_scheduler_queued", "Replicas that fit nowhere now.", registry=registry)
        self.warm_hosts = Gauge(
            "moorage_scheduler_warm_hosts", "Empty hosts, by node and whether they can be taken.", ["node", "ready"],
            registry=registry,
        )  # fmt: skip
        self.recovery_seconds = Histogram(
            "moorage_scheduler_recovery_seconds",
            "From the loss of a host's process until its version was ready again.",
            buckets=_RECOVERY_BUCKETS_S,
            registry=registry,
        )
        self.validations = Counter(
            "moorage_scheduler_validations", "Validation runs by outcome.", ["tenant", "state"], registry=registry
        )
        self.start_seconds = Histogram(
            "moorage_scheduler_start_seconds",
            "From the decision to start a replica until it was first ready; warm: in a process started ahead.",
            ["kind", "format"],
            buckets=_RECOVERY_BUCKETS_S,
            registry=registry,
        )
        self.wakes = Counter("moorage_scheduler_wakes", "Routers' requests to start a version.", registry=registry)
        self.leader = Gauge("moorage_scheduler_leader", "1 while this scheduler leads and may act.", registry=registry)
        self.fencing = Gauge(
            "moorage_scheduler_fencing_number", "The number it leads with; 0 before it does.", registry=registry
        )

    @property
    def registry(self) -> CollectorRegistry:
        return self.series.registry
