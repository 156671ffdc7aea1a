"""What routers saw of a rollout's versions: stream SIGNALS, subject `signals.<tenant>.<model>`.

A batch holds the requests that one router *routed* within a second (500 at most) under one revision of a route, and is
sent when each of them was answered or its deadline has passed. It is bounded in size whatever the traffic is.
"""

import math

from pydantic import Field

from moorage_common.contracts.model import Contract

BATCH_REQUESTS = 500
BATCH_S = 1.0
COUNTED_A_SECOND = 1000
"""Requests of one rollout and stratum that one router counts in a second, the first ones: evidence enough, at a cost
that does not grow with the traffic."""
BUCKET_RATIO = 1.05 ** (1 / 3)
"""So that the least difference of latencies that counts, 5 %, is three buckets exactly."""
SAMPLED = 100
"""Predictions of one version in one batch, at most."""
CLASSES = 64
"""Different classes told of one version in one batch; the others are one, `OTHER`."""
OTHER = "\u2026"

_LOG_RATIO = math.log(BUCKET_RATIO)


def bucket_of(us: float) -> int:
    """The log bucket of a latency in microseconds: bucket k holds [1.05^(k/3), 1.05^((k+1)/3))."""
    return int(math.log(us) / _LOG_RATIO) if us > 1 else 0


def edge_us(bucket: int) -> float:
    """The lower edge of a bucket, microseconds."""
    return math.exp(bucket * _LOG_RATIO)


class HostCounts(Contract):
    """Requests of one version that one replica host answered ("" where none did).

    `requests` counts those judged for errors, `bad` how many of them were bad and `causes` why; `slow` is the
    histogram, by `bucket_of`, of those judged for latency.
    """

    host: str
    requests: int = 0
    bad: int = 0
    causes: dict[str, int] = {}
    slow: dict[int, int] = {}


class Predictions(Contract):
    """A sample of what was answered, by order of routing: classes counted, or numbers as they are."""

    classes: dict[str, int] = {}
    numbers: list[float] = Field(default=[], max_length=SAMPLED)


class ArmCounts(Contract):
    version: int
    hosts: list[HostCounts] = []
    predictions: Predictions = Predictions()
    bad_keys: list[int] = Field(
        default=[], max_length=BATCH_REQUESTS,
        description="Sticky traffic: 63-bit hashes of the keys whose first bad event this is, one a bad request.",
    )  # fmt: skip


class SignalBatch(Contract):
    """`seq` counts a router process's batches of a rollout up from 1 without a gap, so that none is counted twice.

    `stratum` tells requests apart that are shared out by other odds: "" all, `ring:<name>`, `unkeyed` (sticky traffic
    without its key; `ring:<name>/unkeyed` of a ring), `shadow` (the candidate answered a copy). Versions are compared
    within one batch only.
    """

    router: str
    boot: str
    seq: int
    tenant: str
    model: str
    rollout: str
    revision: int
    stratum: str = ""
    opened_at: float
    closed_at: float
    candidate: ArmCounts
    stable: ArmCounts

    @property
    def batch_id(self) -> str:
        return f"{self.rollout}:{self.router}:{self.boot}:{self.seq}"
