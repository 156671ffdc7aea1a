"""The limits that one request needs a token of each: its key's, its model's, its tenant's."""

import time

from moorage_router.limits.leases import Denied, Gate, fetch, prefetch


class Nest:
    """Gates of one request, the inner ones first: what an inner one stops is no demand on those around it."""

    __slots__ = ("gates",)

    def __init__(self, *gates: Gate) -> None:
        self.gates = gates

    def take(self, now: float) -> bool:
        """Spend a token of each from memory, if all have one."""
        held = True
        for gate in self.gates:
            gate.count()
            if not gate.holds(now):
                held = False
                if gate.denies(now) is not None:
                    return False
        if held:
            self._spend()
        return held

    async def admit(self, now: float) -> Denied | None:
        """Let a request pass that did not find all its tokens in memory, or say when to come back."""
        gates, breaker = self.gates, self.gates[0].state.breaker
        for gate in gates:
            gate.waiting += 1
        try:
            while lacking := [gate for gate in gates if not gate.holds(now)]:
                denied = next((found for gate in lacking if (found := gate.denies(now)) is not None), None)
                if denied is not None:
                    return denied
                if breaker.opened:
                    return self._without_store(lacking, now)
                pending = (gate.call for gate in lacking if gate.call is not None)
                call = next(pending, None) or fetch(lacking, now, together=True)
                await call.settled.wait()
                now = time.monotonic()
                if not call.ended:
                    return self._without_store([gate for gate in gates if not gate.holds(now)], now)
        finally:
            for gate in gates:
                gate.waiting -= 1
        self._spend()
        return None

    def fields(self) -> bytes:
        """Header lines of an answer, by the limit with the least left."""
        gate = self.gates[0]
        if len(self.gates) > 1:
            gate = min(self.gates, key=_remaining)
        return b"%b%d;t=1\r\n" % (gate.policy, gate.remaining)

    def _spend(self) -> None:
        """Fetch for all that will soon need it when one does, so that they go on asking in one call."""
        low = False
        for gate in self.gates:
            gate.spend()
            low = low or gate.is_low()
        if low:
            prefetch([gate for gate in self.gates if gate.is_low(2)])

    def _without_store(self, lacking: list[Gate], now: float) -> Denied | None:
        """Decide alone for those without a token: at the learned share of the limit or as `on_store_loss` says."""
        taken = []
        for gate in lacking:
            bucket = gate.bucket
            if bucket.on_store_loss == "closed":
                return Denied("store", 1.0, bucket)
            if bucket.on_store_loss == "local":
                found = gate.alone(now)
                if isinstance(found, Denied):
                    return found
                taken.append((gate, found))
        for gate, found in taken:
            gate.spend_alone(found, now)
        for gate in self.gates:
            if gate not in lacking:
                gate.spend()
        return None


def _remaining(gate: Gate) -> int:
    return gate.remaining
