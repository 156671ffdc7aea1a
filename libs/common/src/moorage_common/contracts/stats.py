"""Statistics of served versions, which routers ask of each other over core NATS (`STATS_SUBJECT`)."""

from moorage_common.contracts.model import Contract


class VersionStats(Contract):
    """Sums since a router started. `success` counts answers with 200, `failed` all others."""

    model: str
    version: int
    success: int = 0
    failed: int = 0
    success_us: int = 0
    """From the request's head to its answer."""
    failed_us: int = 0
    rows: int = 0
    model_us: int = 0
    """In the model, a batch's time shared by rows."""
    last_ms: int = 0
    """When a request was last answered, since 1970."""


class StatsAsk(Contract):
    """`router` asks all others; it knows its own."""

    tenant: str
    router: str


class StatsAnswer(Contract):
    router: str
    stats: list[VersionStats]
