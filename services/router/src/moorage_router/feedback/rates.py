"""How fast a tenant may send labels. Pure: times are seconds of the monotonic clock, given from outside.

A call of a thousand labels is one request of the tenant's quota, and all tenants' labels wait in one stream until the
registry has written them down: sent without end, those of one would fill it and the others' be refused.
"""

from dataclasses import dataclass, field

LABELS_A_S = 5000.0
BURST = 100_000


@dataclass
class LabelRates:
    """Labels a second of each tenant at this router: a bucket of `burst` that refills at `a_second` (GCRA)."""

    a_second: float = LABELS_A_S
    burst: int = BURST
    _until: dict[str, float] = field(default_factory=dict)
    """When each tenant's bucket is full again."""

    def wait_s(self, tenant: str, now: float) -> float:
        """For how long the tenant is to send no more; 0 when it may."""
        return max(0.0, self._until.get(tenant, now) - now - self.burst / self.a_second)

    def spend(self, tenant: str, labels: int, now: float) -> None:
        """It has sent so many, good ones or not. The last call may be beyond the burst: the next one waits for it."""
        self._until[tenant] = max(self._until.get(tenant, now), now) + labels / self.a_second
