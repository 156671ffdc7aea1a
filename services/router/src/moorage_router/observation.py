"""What a request is for beside its answer: it counts for a rollout, its output is kept for labels, it is copied."""

import random
from dataclasses import dataclass
from typing import TYPE_CHECKING

from moorage_router.assignment import Assigned
from moorage_router.feedback.outputs import Outputs
from moorage_router.forwarding import Attempt
from moorage_router.limits.limiter import Tenant
from moorage_router.mirrors import Mirror
from moorage_router.routes import ServedRoute
from moorage_router.shadow import Copies, Original, Shadows
from moorage_router.signals.batch import Mark

if TYPE_CHECKING:
    from moorage_router.gateway import InferCall


@dataclass(frozen=True, slots=True)
class Observer:
    """Where what is observed goes."""

    outputs: Outputs
    shadows: Shadows

    def begin(
        self, call: "InferCall", tenant: Tenant, route: ServedRoute, chosen: Assigned, kid: str
    ) -> "Observation | None":
        """Count a request that was just routed; None where it is for its answer alone.

        One whose version nobody chose by lot is not judged, nor copied.
        """
        mark, mirrors = None, []
        keeps = route.kept > 0 and random.random() < route.kept  # noqa: S311 - a sample, not a secret
        if chosen.stratum is not None:
            if route.judged is not None:
                mark = route.judged.begin(chosen.served.number, kid, chosen.stratum, chosen.key, call.asks.idempotency)
            if route.mirrors:
                mirrors = self.shadows.drawn(route, chosen.served, keeps=keeps)
        if mark is None and not keeps and not mirrors:
            return None
        return Observation(self, call, tenant, route, chosen, mark, keeps, mirrors)


@dataclass(slots=True)
class Observation:
    """Of one request, from its routing to its end."""

    _observer: Observer
    _call: "InferCall"
    _tenant: Tenant
    _route: ServedRoute
    _chosen: Assigned
    _mark: Mark | None
    _keeps: bool
    _mirrors: list[Mirror]
    _copies: Copies | None = None

    def wants_output(self) -> bool:
        """Take the room for copies, now that the body has come; whether the host is asked for its compact output."""
        if self._mirrors:
            self._copies = self._admitted()
        return self._keeps or self._copies is not None or (self._mark is not None and self._mark.wants_output)

    def ended(self, status: int, attempt: Attempt | None) -> None:
        """The caller has its answer: tell what became of the request, keep its output, and make its copies."""
        mark, host, took_us, reply = self._mark, None, 0, None
        if attempt is not None:
            host, took_us, reply = attempt.host, attempt.took_us, attempt.reply
        state, output = ("ok", None) if reply is None else (reply.state, reply.output)
        if self._keeps and output is not None:
            paired = self._copies is not None and self._copies.have_pair
            self._observer.outputs.answered(self._call.request_id, self._chosen.served, output, paired=paired)
        if self._copies is not None:
            self._copies.go(status, attempt)
        if mark is not None:
            mark.done(status, took_us, host, state, output)

    def _admitted(self) -> Copies | None:
        """The copies to be made, their room taken."""
        asks, body, route = self._call.asks, self._call.body.whole, self._route
        shadows = self._observer.shadows
        mirrors = shadows.admitted(self._tenant, self._mirrors, body)
        if not mirrors or body is None:
            return None
        may_count = self._mark is not None or asks.idempotency is None  # else it is perhaps a retry, counted already
        original = Original(self._call.request_id, asks, body, route.judged if may_count else None)
        return Copies(shadows, self._tenant, route, mirrors, original)
