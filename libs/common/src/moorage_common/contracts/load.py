"""Load reports (core NATS, `load.<router>`, each second) and wake requests (`wake.<cluster>`)."""

from moorage_common.contracts.model import Contract


class VersionLoad(Contract):
    tenant: str
    model: str
    version: int
    in_flight: int
    queued: int = 0
    requests: int = 0


class LoadReport(Contract):
    """`loads` names every version with traffic in the last second; `requests` since the last report."""

    router: str
    boot: str
    at: float
    loads: list[VersionLoad]


class Wake(Contract):
    """Ask the scheduler to start a version that has no replica."""

    tenant: str
    model: str
    version: int


class WakeAnswer(Contract):
    """The scheduler's answer. `ready_in_s`: how long such a start took lately, less what has passed of one under way;
    None when none has been seen."""

    ready_in_s: float | None = None
