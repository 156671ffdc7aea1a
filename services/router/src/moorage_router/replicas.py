"""Replica hosts in memory: who holds which version, who is ready, and requests that wait for one."""

import asyncio
import random
import time
from collections.abc import Iterator
from typing import NamedTuple

import structlog
from pydantic import ValidationError

from moorage_common.contracts import host_calls
from moorage_common.contracts.endpoints import Endpoint
from moorage_common.contracts.host_frames import FRAMED_BYTES
from moorage_common.contracts.versioned import Versioned
from moorage_router import balancer
from moorage_router.bodies import StreamedBody
from moorage_router.fairness.places import Place, Places, Worked
from moorage_router.links import Link, NotSpoken
from moorage_router.pool import Pool
from moorage_router.replies import HostReply, answer_at, of_frame, of_http
from moorage_router.upstream import AnswerLost, ConnectFailed

log = structlog.get_logger()

EJECTED_S = 1.0
_FRAMED_FIELDS = 32 * 1024


class Outgoing(NamedTuple):
    """A call as a host gets it: request line, header lines, trace parent and body."""

    line: bytes
    fields: bytes
    traceparent: bytes
    body: bytes | StreamedBody


class Host:
    """One generation of a replica host, its connections and its requests in flight."""

    __slots__ = ("ejected", "endpoint", "headers", "in_flight", "link", "place", "pool")

    def __init__(self, endpoint: Endpoint, pool: Pool, place: Place | None = None) -> None:
        self.endpoint = endpoint
        self.place = place
        self.pool = pool
        self.in_flight = 0
        self.ejected = False
        self.headers = (
            f"host: {endpoint.address}\r\n{host_calls.TOKEN}: {endpoint.token}\r\n"
            f"{host_calls.TENANT}: {endpoint.tenant}\r\n"
        ).encode()
        self.link = Link(endpoint.address, self.headers)

    async def ask(self, call: Outgoing, deadline: float) -> HostReply:
        """One call: small ones over the link, long ones and those to a host without links over HTTP.

        Raises:
            ConnectFailed, AnswerLost, Overdue.
        """
        body = call.body
        if isinstance(body, bytes) and len(body) <= FRAMED_BYTES and len(call.fields) <= _FRAMED_FIELDS:
            try:
                answer = await self.link.call(call.line + call.fields, call.traceparent, body, deadline)
            except NotSpoken:
                pass
            else:
                reply = of_frame(answer)
                at = answer_at(reply)
                return reply if at is None else await self._read(at, reply, deadline)
        return of_http(await self.pool.exchange(self._head(call, deadline), body, deadline))

    async def _read(self, at: bytes, reply: HostReply, deadline: float) -> HostReply:
        """The answer that was too long for a frame."""
        head = b"GET %b HTTP/1.1\r\n%bcontent-length: 0\r\n\r\n" % (at, self.headers)
        try:
            found = of_http(await self.pool.exchange(head, b"", deadline))
        except ConnectFailed as error:
            raise AnswerLost(f"the answer cannot be read: {error}") from error
        if found.status != reply.status:
            found.discard()
            raise AnswerLost("the answer is not there any more")
        found.rows, found.busy_us, found.state, found.output = reply.rows, reply.busy_us, reply.state, reply.output
        return found

    def _head(self, call: Outgoing, deadline: float) -> bytes:
        length = len(call.body) if isinstance(call.body, bytes) else call.body.length
        framing = b"content-length: %d" % length if length is not None else b"transfer-encoding: chunked"
        left_ms = max(1, int((deadline - time.monotonic()) * 1000))
        return b"%b%bmoorage-deadline-ms: %d\r\n%btraceparent: %b\r\n%b\r\n\r\n" % (
            call.line, self.headers, left_ms, call.fields, call.traceparent, framing,
        )  # fmt: skip

    def sweep(self, now: float) -> None:
        self.pool.sweep(now)
        self.link.sweep(now)

    def close(self) -> None:
        """Take no more calls; those under way end by themselves."""
        self.pool.close()
        self.link.close()

    @property
    def empty(self) -> bool:
        """Nothing is under way."""
        return self.pool.empty and self.link.empty

    def is_same_process(self, endpoint: Endpoint) -> bool:
        held = self.endpoint
        return (held.generation, held.token, held.address) == (endpoint.generation, endpoint.token, endpoint.address)


class Replicas:
    """The hosts of one version of a model. The object stays for as long as the router runs."""

    __slots__ = ("_hosts", "_waiting", "in_flight", "model", "ready", "requests", "tenant", "version", "worked")

    def __init__(self, tenant: str, model: str, version: int) -> None:
        self.tenant = tenant
        self.model = model
        self.version = version
        self.in_flight = 0
        self.requests = 0
        self.worked = Worked()
        self.ready: tuple[Host, ...] = ()
        self._hosts: dict[str, Host] = {}
        self._waiting: dict[asyncio.Future[None], None] = {}

    @property
    def parked(self) -> int:
        """Requests that wait for a host."""
        return len(self._waiting)

    def choose(self, avoid: Host | None = None) -> Host | None:
        """A ready host, the less loaded of two."""
        ready = self.ready
        return ready[0] if len(ready) == 1 else balancer.choose(ready, random.random, avoid)

    def hold(self, key: str, host: Host) -> None:
        """`host` serves this version."""
        self._hosts[key] = host
        self.refresh()

    def drop(self, key: str) -> None:
        """Host `key` does not serve this version, or not any more."""
        if self._hosts.pop(key, None) is not None:
            self.refresh()

    def refresh(self) -> None:
        """Recount the ready ones; wake who waits if there is one, in the order in which they came."""
        self.ready = tuple(host for host in self._hosts.values() if not host.ejected)
        if self.ready:
            for waiting in self._waiting:
                if not waiting.done():
                    waiting.set_result(None)

    async def park(self, waiting: asyncio.Future[None], timeout_s: float) -> None:
        """Wait until a host is ready, which ends `waiting`. Raises TimeoutError."""
        self._waiting[waiting] = None
        try:
            async with asyncio.timeout(max(0.0, timeout_s)):
                await waiting
        finally:
            self._waiting.pop(waiting, None)


class EndpointTable:
    """All replica hosts, fed by `endpoints/<cluster>.<host_id>`."""

    def __init__(self, connections_per_host: int, places: Places | None = None) -> None:
        self._most = connections_per_host
        self._places = places or Places("off")
        self._hosts: dict[str, Host] = {}
        self._replicas: dict[tuple[str, str, int], Replicas] = {}
        self._retired: set[Host] = set()

    def replicas(self, tenant: str, model: str, version: int) -> Replicas:
        """The hosts of a version, none so far perhaps."""
        key = (tenant, model, version)
        held = self._replicas.get(key)
        if held is None:
            held = self._replicas[key] = Replicas(tenant, model, version)
        return held

    def all(self) -> Iterator[Replicas]:
        return iter(self._replicas.values())

    def apply(self, key: str, entry: Versioned) -> None:
        """Take one entry of the bucket `endpoints`."""
        endpoint = None
        if entry.value is not None:
            try:
                endpoint = Endpoint.model_validate(entry.value)
            except ValidationError as error:
                log.warning("unreadable endpoint ignored", key=key, errors=error.error_count())
                return
        held = self._hosts.get(key)
        if endpoint is None or (held is not None and not held.is_same_process(endpoint)):
            self._remove(key)
            held = None
        if endpoint is None:
            return
        if held is None:
            place = self._places.of(endpoint)
            held = self._hosts[key] = Host(endpoint, Pool(endpoint.address, self._most), place)
            if place is not None:
                place.count_hosts(1)
        before = {(v.model, v.version) for v in held.endpoint.versions}
        held.endpoint = endpoint
        ready = {(v.model, v.version) for v in endpoint.versions if v.state == "ready"}
        for model, version in before - ready:
            self.replicas(endpoint.tenant, model, version).drop(key)
        for model, version in ready:
            self.replicas(endpoint.tenant, model, version).hold(key, held)

    def _remove(self, key: str) -> None:
        host = self._hosts.pop(key, None)
        if host is None:
            return
        for held in host.endpoint.versions:
            self.replicas(host.endpoint.tenant, held.model, held.version).drop(key)
        if host.place is not None:
            host.place.count_hosts(-1)
            self._places.forget(host.place)
        host.close()
        self._retired.add(host)

    def eject(self, host: Host) -> None:
        """Leave this generation of a host out until another comes or a second has passed."""
        if host.ejected:
            return
        host.ejected = True
        log.info("host ejected", host=host.endpoint.host_id, generation=host.endpoint.generation)
        self._refresh(host)
        asyncio.get_running_loop().call_later(EJECTED_S, self._readmit, host)

    def _readmit(self, host: Host) -> None:
        host.ejected = False
        self._refresh(host)

    def _refresh(self, host: Host) -> None:
        for held in host.endpoint.versions:
            self.replicas(host.endpoint.tenant, held.model, held.version).refresh()

    def sweep(self, now: float) -> None:
        """End overdue exchanges; called every 50 ms."""
        for host in self._hosts.values():
            host.sweep(now)
        for host in list(self._retired):
            host.sweep(now)
            if host.empty:
                self._retired.discard(host)

    def close(self) -> None:
        for host in self._hosts.values():
            host.close()
