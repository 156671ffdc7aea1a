"""One inference, told once. Nothing here knows how the request came in or how the answer goes out."""

import random
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Protocol

from moorage_common import trace
from moorage_common.contracts.keys import KeyRecord
from moorage_common.errors import MoorageError, NotFound
from moorage_common.key_table import require_scope
from moorage_router.assignment import Keying, choose, entity_of
from moorage_router.auth import Authenticator, Credentials
from moorage_router.bodies import IncomingBody, StreamedBody
from moorage_router.calls import Call
from moorage_router.features.service import FeatureJoiner, Received
from moorage_router.forwarding import Attempt, Forwarder
from moorage_router.limits.limiter import Limiter, Tenant
from moorage_router.limits.month import Months
from moorage_router.limits.nests import Nest
from moorage_router.observation import Observer
from moorage_router.replicas import Outgoing
from moorage_router.replies import HostReply
from moorage_router.routes import RouteTable, ServedRoute, ServedVersion
from moorage_router.upstream import UpstreamError
from moorage_router.usage import Outcome, UsageMeter


class InferCall:
    """A request for inference: what its head asks, its body, and its id as soon as the version is known."""

    __slots__ = ("asks", "body", "received", "request_id")

    def __init__(self, asks: Call, body: IncomingBody) -> None:
        self.asks = asks
        self.body = body
        self.request_id = ""
        self.received: Received | None = None


@dataclass(slots=True)
class Answer:
    """What goes back to the caller.

    Attributes:
        fields: header lines, encoded, without those of framing.
        body: the whole of it unless `parts` is set.
        parts: the whole of a long one, part by part.
        length: bytes in all; None where the host did not say.
    """

    status: int
    fields: bytes
    body: bytes
    parts: AsyncIterator[bytes] | None = None
    length: int | None = None


class Reply(Protocol):
    """The way back to the caller."""

    async def send(self, answer: Answer) -> int:
        """Send an answer; the bytes of its body. Raises UpstreamError when a long answer breaks off."""
        ...


@dataclass(slots=True)
class Admitted:
    """A request within its limits: who asks for what, what it counts against, and when it came (monotonic)."""

    principal: KeyRecord
    route: ServedRoute
    tenant: Tenant
    nest: Nest
    started: float


class Gateway:
    """The data plane's decisions in their order."""

    def __init__(
        self,
        *,
        keys: Authenticator,
        routes: RouteTable,
        limits: Limiter,
        months: Months,
        features: FeatureJoiner,
        forwarder: Forwarder,
        usage: UsageMeter,
        observer: Observer,
    ) -> None:
        self._keys = keys
        self._routes = routes
        self._limits = limits
        self._months = months
        self._features = features
        self._forwarder = forwarder
        self._usage = usage
        self._observer = observer

    async def infer(self, call: InferCall, reply: Reply) -> None:
        """Answer one call through `reply`. Raises MoorageError for a refusal."""
        started = time.monotonic()
        asks = call.asks
        principal, route = self.authorize(asks.credentials, asks.tenant, asks.model)
        tenant = self._limits.of(principal.tenant)
        nest = await self._limits.admit(tenant, principal, asks.model)
        month, outcome = await self._months.admit(tenant.name), Outcome()
        try:
            await self._serve(call, reply, Admitted(principal, route, tenant, nest, started), outcome)
        finally:
            if month is not None:
                month.ended(counted=outcome.status == 200)

    async def _serve(self, call: InferCall, reply: Reply, admitted: Admitted, outcome: Outcome) -> None:
        asks, principal, route = call.asks, admitted.principal, admitted.route
        tenant, nest, started = admitted.tenant, admitted.nest, admitted.started
        entity = None if route.keying is None else await self._entity(call, tenant, route.keying)
        chosen = choose(route, asks, principal.kid, random.random(), entity)  # noqa: S311 - a share, not a secret
        served = chosen.served
        call.request_id = served.ids.new()
        observed = self._observer.begin(call, tenant, route, chosen, principal.kid) if route.is_observed else None
        attempt = None
        tenant.in_flight += 1
        served.replicas.in_flight += 1
        served.replicas.requests += 1
        try:
            deadline = started + route.deadline_s
            fields, body = await self._body(call, tenant, served, deadline)
            line = served.request_line if observed is None or not observed.wants_output() else served.asking_line
            outgoing = Outgoing(line, asks.passed_on + fields, trace.child_of(asks.traceparent).encode(), body)
            attempt = Attempt(served, outgoing, deadline, principal.kid, tenant.limits.weight)
            answered = await self._forwarder.forward(attempt)
            outcome.status, outcome.rows, outcome.busy_us = answered.status, answered.rows, answered.busy_us
            outcome.bytes_out, outcome.bytes_in = await reply.send(_answer(call, nest, answered)), call.body.size
        except (MoorageError, UpstreamError) as error:
            outcome.status = error.status
            raise
        finally:
            tenant.in_flight -= 1
            served.replicas.in_flight -= 1
            if observed is not None:
                observed.ended(outcome.status, attempt)
            served.series.count(outcome.status, time.monotonic() - started, outcome.rows, outcome.busy_us)
            self._usage.add(served.tenant, served.model, served.number, principal.kid, outcome)

    def authorize(self, credentials: Credentials, tenant: str | None, model: str) -> tuple[KeyRecord, ServedRoute]:
        """Who calls and the route of `model`, which the key must cover. Raises Unauthenticated, NotFound, Forbidden."""
        principal = self.identify(credentials, tenant)
        route = self._routes.find(principal.tenant, model)
        if route.covered.get(principal.kid) is not principal:
            require_scope(principal, "infer", model)
            route.covered[principal.kid] = principal
        return principal, route

    def identify(self, credentials: Credentials, tenant: str | None) -> KeyRecord:
        """Who calls; a tenant in the path must be the key's own."""
        principal = self._keys.authenticate(credentials)
        if tenant is not None and tenant != principal.tenant:
            message = "this path belongs to another tenant than the key; leave /t/<tenant> out"
            raise NotFound(message, code="tenant_not_found")
        return principal

    async def _entity(self, call: InferCall, tenant: Tenant, keying: Keying) -> bytes | None:
        """The key of a route that is sticky by an input: its first row."""
        if keying.entity is None or call.asks.version is not None:
            return None
        tenant.in_flight += 1
        try:
            received = call.received = await self._received(call, tenant.limits.max_body_bytes)
            return entity_of(await received.input_of(keying.entity))
        finally:
            tenant.in_flight -= 1

    @staticmethod
    async def _received(call: InferCall, most: int) -> Received:
        return Received(await call.body.read_whole(most), call.asks.body_fields, most)

    async def _body(
        self, call: InferCall, tenant: Tenant, served: ServedVersion, deadline: float
    ) -> tuple[bytes, bytes | StreamedBody]:
        """The body for a host, after the header lines that describe it."""
        most, fields = tenant.limits.max_body_bytes, call.asks.body_fields
        if served.features is None:
            return fields, call.body.take(most)
        received = call.received or await self._received(call, most)
        joined = await self._features.join(served, served.features, received, deadline)
        return "".join([f"{name}: {value}\r\n" for name, value in joined.headers.items()]).encode(), joined.body


def _answer(call: InferCall, nest: Nest, answered: HostReply) -> Answer:
    fields = b"%bmoorage-request-id: %b\r\n%b" % (answered.fields, call.request_id.encode(), nest.fields())
    return Answer(answered.status, fields, answered.body, answered.parts(), answered.length)
