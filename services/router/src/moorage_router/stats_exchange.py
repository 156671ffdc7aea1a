"""Statistics over all routers: each counts its own requests and asks the others when a tenant asks it."""

import asyncio
import contextlib
import time

import structlog
from nats.aio.msg import Msg
from pydantic import ValidationError

from moorage_common.bus import BUS_ERRORS, Bus
from moorage_common.contracts.names import STATS_SUBJECT, load_subject
from moorage_common.contracts.stats import StatsAnswer, StatsAsk, VersionStats
from moorage_router import stats
from moorage_router.routes import RouteTable

log = structlog.get_logger()

WAIT_S = 0.25
HEARD_S = 3.5
"""A router whose load report was not heard for this long is not waited for."""


class StatsExchange:
    """Asks and answers; with the bus away a router knows its own counts alone."""

    def __init__(self, bus: Bus, routes: RouteTable, router: str) -> None:
        self._bus = bus
        self._routes = routes
        self._router = router
        self._heard: dict[str, float] = {}
        self._asking: dict[str, asyncio.Task[list[VersionStats]]] = {}

    async def run(self) -> None:
        """Answer other routers, and listen who they are, until cancelled."""
        await self._bus.wait()
        client = self._bus.client
        subscriptions = [
            await client.subscribe(STATS_SUBJECT, cb=self._answer),
            await client.subscribe(load_subject("*"), cb=self._hear),
        ]
        try:
            await asyncio.Event().wait()
        finally:
            for subscription in subscriptions:
                with contextlib.suppress(*BUS_ERRORS):
                    await subscription.unsubscribe()

    def others(self) -> int:
        """How many other routers reported lately."""
        oldest = time.monotonic() - HEARD_S
        self._heard = {name: at for name, at in self._heard.items() if at >= oldest}
        return len(self._heard)

    async def of_tenant(self, tenant: str) -> list[VersionStats]:
        """The tenant's versions on this router, with what the others counted and said within 250 ms.

        A tenant's callers at one time share one question, so that they cannot flood the bus.
        """
        task = self._asking.get(tenant)
        if task is None:
            task = self._asking[tenant] = asyncio.create_task(self._ask(tenant), name="stats")
            task.add_done_callback(lambda _done: self._asking.pop(tenant))
        others = await asyncio.shield(task)
        return stats.summed(stats.kept(self._routes.of_tenant(tenant)), others)

    async def _ask(self, tenant: str) -> list[VersionStats]:
        expected = self.others()
        answers: dict[str, list[VersionStats]] = {}
        complete = asyncio.Event()

        async def take(message: Msg) -> None:
            with contextlib.suppress(ValidationError):
                answer = StatsAnswer.model_validate_json(message.data)
                answers[answer.router] = answer.stats
            if len(answers) >= expected:
                complete.set()

        if expected and self._bus.connected:
            ask = StatsAsk(tenant=tenant, router=self._router).model_dump_json().encode()
            with contextlib.suppress(*BUS_ERRORS):
                inbox = self._bus.client.new_inbox()
                subscription = await self._bus.client.subscribe(inbox, cb=take)
                try:
                    await self._bus.client.publish(STATS_SUBJECT, ask, reply=inbox)
                    await asyncio.wait_for(complete.wait(), WAIT_S)
                finally:
                    await subscription.unsubscribe()
        return [one for told in answers.values() for one in told]

    async def _answer(self, message: Msg) -> None:
        try:
            ask = StatsAsk.model_validate_json(message.data)
        except ValidationError:
            log.debug("unreadable question for statistics")
            return
        if ask.router == self._router:
            return
        answer = StatsAnswer(router=self._router, stats=list(stats.kept(self._routes.of_tenant(ask.tenant))))
        with contextlib.suppress(*BUS_ERRORS):
            await message.respond(answer.model_dump_json().encode())

    async def _hear(self, message: Msg) -> None:
        name = message.subject.rpartition(".")[2]
        if name != self._router:
            self._heard[name] = time.monotonic()
