"""From a chosen version to a host's answer: choice of the host, and retries."""

import time
from dataclasses import dataclass
from enum import Enum

from moorage_common.contracts import host_calls
from moorage_common.errors import DeadlineExceeded, UpstreamFailed
from moorage_router.bodies import StreamedBody
from moorage_router.fairness.places import Place, Waiter
from moorage_router.fairness.queue import Flow
from moorage_router.metrics import RouterMetrics
from moorage_router.parking import Parking, no_replica
from moorage_router.replicas import EndpointTable, Host, Outgoing
from moorage_router.replies import HostReply
from moorage_router.routes import ServedVersion
from moorage_router.upstream import AnswerLost, ConnectFailed, Overdue

_HOST_STALE = host_calls.HOST_STALE.encode()
_NOT_HELD = frozenset({404, 503})


class Failure(Enum):
    """Why a call gave no answer of the model."""

    NOT_SENT = "not_sent"
    """The connect failed, or the host is of another generation: nothing was worked on."""
    LOST = "lost"
    """The connection broke before the first byte of the answer went to the caller."""
    NOT_HELD = "not_held"
    """The host does not serve this version (yet, or any more)."""


@dataclass(slots=True)
class Attempt:
    """One request on its way.

    Attributes:
        kid: the key that it came with, whose turn it takes.
        weight: its tenant's, where tenants wait for one place.
        host: who was asked last; None while nobody was, or nobody worked on it.
        lost_by: who broke off before.
        took_us: microseconds that host took, or was waited for.
        reply: what it answered.
    """

    served: ServedVersion
    call: Outgoing
    deadline: float
    kid: str = ""
    weight: float = 1.0
    retried: bool = False
    parked: bool = False
    avoid: Host | None = None
    host: Host | None = None
    lost_by: Host | None = None
    took_us: int = 0
    reply: HostReply | None = None

    @property
    def tenant(self) -> str:
        return self.served.tenant

    @property
    def kept(self) -> bool:
        """A request that has waited for a replica is not shed where it waits next."""
        return self.parked


def may_retry(failure: Failure, *, body_kept: bool, data_format: bool, retried: bool) -> bool:
    """Whether a call may be made again: always if nothing was sent, once for data formats if something was."""
    if not body_kept:
        return False
    return failure is Failure.NOT_SENT or (data_format and not retried)


class Forwarder:
    """Calls hosts. A version without a ready host makes its requests wait."""

    def __init__(self, endpoints: EndpointTable, metrics: RouterMetrics, parking: Parking) -> None:
        self._endpoints = endpoints
        self._metrics = metrics
        self._parking = parking

    async def forward(self, attempt: Attempt) -> HostReply:
        """The host's answer. Raises Unavailable, UpstreamFailed or DeadlineExceeded."""
        replicas = attempt.served.replicas
        worked = replicas.worked
        while True:
            host = replicas.choose(attempt.avoid)
            if host is None:
                attempt.parked = True
                host = await self._parking.host(attempt.served, attempt.call, attempt.deadline, attempt.avoid)
            place, flow = host.place, None
            if place is not None and (flow := place.enter(attempt, worked.cost_s)) is None:
                found = await _turn(attempt, host, place)
                if found is None:
                    continue
                host, place, flow = found
            host.in_flight += 1
            attempt.host = host
            asked_at = time.monotonic()
            try:
                reply = await host.ask(attempt.call, attempt.deadline)
                if place is not None:
                    place.answered(worked, reply.busy_us, asked_at)
            except ConnectFailed as error:
                self._endpoints.eject(host)
                self._again(attempt, Failure.NOT_SENT, host, str(error))
                attempt.host = attempt.lost_by
                continue
            except AnswerLost as error:
                self._endpoints.eject(host)  # a dying process still takes connections, and loses those as well
                self._again(attempt, Failure.LOST, host, str(error))
                attempt.lost_by = host
                continue
            except Overdue as error:
                message = f"no answer within the deadline of {attempt.served.model}"
                raise DeadlineExceeded(message, detail=str(error)) from error
            finally:
                host.in_flight -= 1
                if place is not None and flow is not None:
                    place.leave(flow)
                attempt.took_us = int((time.monotonic() - asked_at) * 1_000_000)
            if reply.status < 400 or not self._misrouted(attempt, host, reply):
                if attempt.parked:
                    self._parking.answered(attempt.served)
                attempt.reply = reply
                return reply

    def _misrouted(self, attempt: Attempt, host: Host, reply: HostReply) -> bool:
        """Whether the host refused because our table is old, and the call should be made again elsewhere."""
        if reply.status == 401 and reply.error_code == _HOST_STALE:
            reply.discard()
            self._endpoints.eject(host)
            self._again(attempt, Failure.NOT_SENT, host, "stale token")
            attempt.host = attempt.lost_by
            return True
        if reply.status in _NOT_HELD and may_retry(
            Failure.NOT_HELD,
            body_kept=_kept(attempt.call.body),
            data_format=attempt.served.data_format,
            retried=attempt.retried,
        ):
            reply.discard()
            self._again(attempt, Failure.NOT_HELD, host, str(reply.status))
            attempt.host = attempt.lost_by
            return True
        if reply.status == 404:
            reply.discard()
            attempt.host = attempt.lost_by
            raise no_replica(attempt.served)
        return False

    def _again(self, attempt: Attempt, failure: Failure, host: Host, detail: str) -> None:
        """Prepare another call. Raises UpstreamFailed when there may be none."""
        if not may_retry(
            failure, body_kept=_kept(attempt.call.body), data_format=attempt.served.data_format, retried=attempt.retried
        ):
            message = "the replica failed while it worked on this request; send it again"
            raise UpstreamFailed(message, detail=f"{host.endpoint.host_id}: {detail}", retry_after_s=1)
        if failure is not Failure.NOT_SENT:
            attempt.retried = True
        attempt.avoid = host
        self._metrics.retries.labels(failure.value).inc()


async def _turn(attempt: Attempt, host: Host, place: Place) -> tuple[Host, Place, Flow[Waiter]] | None:
    """Where the request runs now: where there is room, or after its turn at `place`; None if its host went meanwhile.

    Raises:
        Unavailable, DeadlineExceeded.
    """
    replicas = attempt.served.replicas
    cost_s = replicas.worked.cost_s
    for other in replicas.ready:
        there = other.place
        if other is not attempt.avoid and there is not None and there is not place and there.has_room:
            flow = there.enter(attempt, cost_s)
            if flow is not None:
                return other, there, flow
    flow = await place.turn(attempt, cost_s)
    if host in replicas.ready:
        return host, place, flow
    for other in replicas.ready:
        if other.place is place and other is not attempt.avoid:
            return other, place, flow
    place.leave(flow)
    return None


def _kept(body: bytes | StreamedBody) -> bool:
    return isinstance(body, bytes) or not body.started
