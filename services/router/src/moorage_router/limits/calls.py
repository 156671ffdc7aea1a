"""One question to the store, and how long those who need its answer wait."""

import asyncio
from dataclasses import dataclass, field

from moorage_router.limits.breaker import Breaker
from moorage_router.limits.store import LimitStore


@dataclass(slots=True)
class StoreState:
    """What all gates share: the store, its breaker, and how many routers there are.

    Attributes:
        leased_wait_s: how long an answer is waited for where many requests live from it.
        direct_wait_s: where it is for few, each of which waits.
    """

    store: LimitStore
    breaker: Breaker = field(default_factory=Breaker)
    routers: int = 1
    leased_wait_s: float = 0.020
    direct_wait_s: float = 0.005


class Call:
    """One question to the store. `settled` is set when it has ended, or has taken longer than is waited for.

    A late call goes on: what it brings is spent by later requests.
    """

    __slots__ = ("_breaker", "_leased", "_timer", "ended", "settled", "task")

    def __init__(self, state: StoreState, *, leased: bool) -> None:
        self.settled = asyncio.Event()
        self.ended = False
        self.task: asyncio.Task[None] | None = None
        self._breaker = state.breaker
        self._leased = leased
        patience_s = state.leased_wait_s if leased else state.direct_wait_s
        self._timer = asyncio.get_running_loop().call_later(patience_s, self._look_again)

    def end(self) -> None:
        self.ended = True
        self._timer.cancel()
        self.settled.set()

    def _look_again(self, turns: int = 2) -> None:
        """Late; but a loop that was busy itself must not blame the store, so read the sockets first."""
        if self.ended:
            return
        if turns:
            asyncio.get_running_loop().call_later(0.001, self._look_again, turns - 1)
            return
        self._breaker.failed(slow=self._leased)
        self.settled.set()
