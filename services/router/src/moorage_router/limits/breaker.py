"""Circuit breaker before the limit store. While it is open the router's heartbeat alone asks, once a second."""

from dataclasses import dataclass

FAILURES = 3


@dataclass(slots=True)
class Breaker:
    """Opens after 3 failures in a row or one slow call, closes with the first success."""

    failures: int = 0
    opened: bool = False
    trips: int = 0

    def succeeded(self) -> None:
        self.failures = 0
        self.opened = False

    def failed(self, *, slow: bool = False) -> None:
        """Count a failure; `slow` opens at once."""
        self.failures += 1
        if not self.opened and (slow or self.failures >= FAILURES):
            self.opened = True
            self.trips += 1
