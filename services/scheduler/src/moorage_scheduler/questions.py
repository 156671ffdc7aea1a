"""Answers to what the registry asks the leading scheduler, on `scheduler.<cluster>`."""

import asyncio
import contextlib
import json
import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import structlog
from nats.aio.msg import Msg
from pydantic import ValidationError

from moorage_common.bus import BUS_ERRORS, Bus
from moorage_common.contracts.answers import Waiting
from moorage_common.contracts.cluster import SchedulerAnswer, SchedulerAsk, packed_parts
from moorage_common.contracts.names import scheduler_subject
from moorage_scheduler.asking import ask_of
from moorage_scheduler.explaining import MOVED, POOLED, Placed, Standing, explanation
from moorage_scheduler.gathering import gathered
from moorage_scheduler.hosts import VersionKey
from moorage_scheduler.limits import LimitsBoard
from moorage_scheduler.reconcile import Reconciler
from moorage_scheduler.share_views import shares_view
from moorage_scheduler.views import Snapshot, granted_milli, nodes_view, seen_by

log = structlog.get_logger()

Json = dict[str, Any]
Make = Callable[[], Json | str]
"""Makes an answer, or a sentence why there is none."""

PLAIN_BYTES = 256 * 1024
"""Longer answers are packed."""
PART_BYTES = 640 * 1024
"""Of a packed answer; in base64 and JSON it stays under NATS's largest message, 1 MiB."""
TAKEN_S = 60.0
TAKEN_MOST = 8


@dataclass
class Packed:
    """Long answers that are fetched part by part. `most` of them, each for a minute."""

    clock: Callable[[], float] = time.monotonic
    _kept: dict[str, tuple[float, list[str]]] = field(default_factory=dict)

    def keep(self, parts: list[str]) -> SchedulerAnswer:
        """The first part; the others are kept to be asked for."""
        now = self.clock()
        self._kept = {take: kept for take, kept in self._kept.items() if now - kept[0] < TAKEN_S}
        while len(self._kept) >= TAKEN_MOST:
            self._kept.pop(next(iter(self._kept)))
        take = secrets.token_hex(8)
        self._kept[take] = (now, parts)
        return self.part(take, 0)

    def part(self, take: str, number: int) -> SchedulerAnswer:
        kept = self._kept.get(take)
        if kept is None or number >= len(kept[1]):
            return SchedulerAnswer(error="that answer is not kept any more; ask anew")
        return SchedulerAnswer(packed=kept[1][number], parts=len(kept[1]), take=take)


@dataclass
class Questions:
    """What the registry may ask. `leads` says whether this process is the one to answer."""

    bus: Bus
    cluster: str
    reconciler: Reconciler
    limits: LimitsBoard
    leads: Callable[[], bool]
    _packed: Packed = field(default_factory=Packed)

    async def listen(self) -> None:
        """Subscribe; the subscription outlives reconnects."""
        await self.bus.wait()
        await self.bus.client.subscribe(scheduler_subject(self.cluster), cb=self._take)

    async def _take(self, message: Msg) -> None:
        if not self.leads() or not message.reply:
            return
        answer = await self._answer_to(message.data)
        with contextlib.suppress(*BUS_ERRORS):
            await message.respond(answer.model_dump_json().encode())

    async def _answer_to(self, question: bytes) -> SchedulerAnswer:
        try:
            ask = SchedulerAsk.model_validate_json(question)
        except ValidationError as error:
            return SchedulerAnswer(error=f"the question cannot be read: {error.error_count()} errors")
        try:
            return await self.answer(ask)
        except Exception:  # a fault of ours must not end the subscription, and the asker is told that there is one
            log.exception("question not answered", what=ask.what)
            return SchedulerAnswer(error="the scheduler failed to answer; its log says why")

    async def answer(self, ask: SchedulerAsk) -> SchedulerAnswer:
        """The answer, packed where it is long."""
        if ask.take:
            return self._packed.part(ask.take, ask.part)
        if ask.what == "defragment":
            return await self._defragment(ask)
        make = self._making(ask)
        return await asyncio.to_thread(self._made, make)

    def _made(self, make: Make) -> SchedulerAnswer:
        """Off the event loop: for a large cluster it takes a second."""
        found = make()
        if isinstance(found, str):
            return SchedulerAnswer(error=found)
        if len(json.dumps(found)) <= PLAIN_BYTES:
            return SchedulerAnswer(answer=found)
        return self._packed.keep(packed_parts(found, PART_BYTES))

    def _making(self, ask: SchedulerAsk) -> Make:
        """Look at what there is now; what is returned makes the answer of it and may run beside its changes."""
        match ask.what:
            case "nodes":
                return self._nodes(ask.tenant)
            case "explain":
                return _at_once(self._explain(ask))
            case "shares":
                return _at_once(self._shares(ask))
            case "state":
                return self.reconciler.journal.recording(self.reconciler.state())
            case _:
                return lambda: f"this scheduler does not answer {ask.what}"

    async def _defragment(self, ask: SchedulerAsk) -> SchedulerAnswer:
        """Plan beside the loop, on a copy; what is ordered is planned anew move by move."""
        gathering = self.reconciler.gathering
        if not ask.dry_run and gathering.left:
            return SchedulerAnswer(error=f"free room is being gathered, {gathering.left} moves are left; wait for them")
        state, movable = self.reconciler.state().copied(), gathering.movable(time.time())
        found = await asyncio.to_thread(gathered, state, movable)
        if found.moves and not ask.dry_run:
            gathering.order(len(found.moves))
            found = found.model_copy(update={"ordered": True})
            self.reconciler.changed.set()
        return await asyncio.to_thread(self._made, lambda: found.model_dump(mode="json"))

    def _nodes(self, tenant: str) -> Make:
        reconciler = self.reconciler
        snapshot = Snapshot.of(reconciler.state())
        states = {host_id: host.state for host_id, host in reconciler.fleet.hosts.items()}
        waiting, left = _waiting(reconciler.queued), dict(reconciler.draining.left)

        def make() -> Json:
            nodes = nodes_view(snapshot, states, waiting, left)
            return (seen_by(nodes, tenant) if tenant else nodes).model_dump(mode="json")

        return make

    def _shares(self, ask: SchedulerAsk) -> Json:
        reconciler = self.reconciler
        versions = reconciler.wanted()
        waiting = [
            ask_of(versions[key]) for key, reasons in reconciler.queued.items() if key in versions for _ in reasons
        ]
        tenants = [ask.tenant] if ask.tenant else None
        return shares_view(reconciler.state(), self.limits.tenants, waiting, tenants).model_dump(mode="json")

    def _explain(self, ask: SchedulerAsk) -> Json:
        reconciler = self.reconciler
        state = reconciler.state()
        standings = [self._standing(key) for key in reconciler.wanted() if key[:2] == (ask.tenant, ask.model)]
        movable = reconciler.mover.movable(time.time()) if ask.everything else None
        return explanation(ask.model, state, standings, movable).model_dump(mode="json")

    def _standing(self, key: VersionKey) -> Standing:
        reconciler = self.reconciler
        version = reconciler.wanted()[key]
        sizes = {node.size.name: node.size for node in reconciler.nodes.live}
        placed = []
        for host_id, host in reconciler.fleet.hosts.items():
            if host.key != key:
                continue
            held = host.held()
            why = reconciler.journal.why(host_id) or (MOVED if host.placed.moved_from else "")
            milli = granted_milli(held, sizes[held.node]) if held.node in sizes else 0
            placed.append(Placed(host_id, host.state, held.node, held.devices, milli, why))
        placed += [
            Placed(one.host_id, one.state, one.node, tuple(one.devices), one.gpu_milli, POOLED)
            for one in reconciler.pools.statuses().get(key[:2], [])
            if one.version == key[2] and one.node
        ]
        waiting = reconciler.queued.get(key, [])
        failure = reconciler.fleet.failures.get(key)
        wanted = reconciler.targets.last(key)
        return Standing(
            version,
            wanted if wanted is not None else len(placed) + len(waiting),
            placed,
            waiting,
            failure.reason if failure is not None else "",
        )


def _at_once(found: Json) -> Make:
    return lambda: found


def _waiting(queued: Mapping[VersionKey, Sequence[str]]) -> list[Waiting]:
    return [
        Waiting(tenant=tenant, model=model, version=version, replicas=len(reasons), reason=reasons[0])
        for (tenant, model, version), reasons in sorted(queued.items())
    ]
