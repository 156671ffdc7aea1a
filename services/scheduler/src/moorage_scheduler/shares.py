"""The queue tree as the tenants' limits say it is now."""

from dataclasses import dataclass, field

from moorage_scheduler.limits import LimitsBoard
from moorage_scheduler.placement.shares import Shares


@dataclass
class SharesBoard:
    """Made anew when a tenant's limits change."""

    limits: LimitsBoard
    grace_s: float
    _made: Shares = field(default_factory=lambda: Shares.of({}))
    _made_of: int = -1

    def current(self) -> Shares:
        """The queue tree."""
        if self._made_of != self.limits.version:
            self._made = Shares.of_limits(self.limits.tenants.values(), self.grace_s)
            self._made_of = self.limits.version
        return self._made
