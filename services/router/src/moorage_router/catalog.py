"""What a tenant may know of its models, from memory: lists, metadata, readiness, statistics."""

from importlib.metadata import version

import orjson

from moorage_common.contracts.keys import KeyRecord
from moorage_common.errors import BadRequest, NotFound, Unavailable
from moorage_common.key_table import require_scope
from moorage_router import stats
from moorage_router.routes import RouteTable, ServedRoute, ServedVersion
from moorage_router.stats_exchange import StatsExchange

EXTENSIONS = ["binary_tensor_data", "statistics", "model_repository_index"]
"""Of Triton's `model_repository` only the index: models are loaded and unloaded through the registry."""
INDEX_BODY_BYTES = 4096


class Catalog:
    """Answers are encoded JSON of the Open Inference Protocol, to callers that were let in."""

    def __init__(self, routes: RouteTable, exchange: StatsExchange) -> None:
        self._routes = routes
        self._exchange = exchange
        self.server = orjson.dumps({"name": "moorage", "version": version("moorage-router"), "extensions": EXTENSIONS})

    def models(self, principal: KeyRecord) -> bytes:
        """The tenant's models with their versions and whether they are ready."""
        models = [
            {
                "name": route.model,
                "versions": [str(number) for number in route.versions],
                "ready": not _waiting_for(route),
            }
            for route in self._routes.of_tenant(principal.tenant)
        ]
        return orjson.dumps({"models": models})

    def metadata(self, route: ServedRoute, number: str | None) -> bytes:
        """Metadata of a version, or of the one with most of the traffic. Raises NotFound."""
        return self._served(route, number).metadata

    def ready(self, route: ServedRoute, number: str | None) -> bytes:
        """Readiness of a version, or of every version with traffic. Raises NotFound, Unavailable."""
        waiting = _waiting_for(route) if number is None else _unready([self._served(route, number)])
        if waiting:
            message = f"{route.model} is not ready: no replica of version {', '.join(map(str, waiting))} yet"
            raise Unavailable(message, code="no_replica", retry_after_s=2)
        return orjson.dumps({"name": route.model, "ready": True})

    def index(self, principal: KeyRecord, body: bytes) -> bytes:
        """The tenant's versions and their states, as Triton's repository index. Raises BadRequest."""
        only_ready = _asks_for_ready(body)
        entries = []
        for route in self._routes.of_tenant(principal.tenant):
            for served in route.versions.values():
                ready = bool(served.replicas.ready)
                if ready or not only_ready:
                    state, reason = ("READY", "") if ready else ("UNAVAILABLE", "no replica is ready")
                    named = {"name": route.model, "version": str(served.number)}
                    entries.append({**named, "state": state, "reason": reason})
        return orjson.dumps(entries)

    async def stats(self, route: ServedRoute, number: str | None) -> bytes:
        """What all routers counted of a version, or of each of a model's. Raises NotFound."""
        served = None if number is None else route.version(number)
        if served is not None and not served.series.own:
            message = "this tenant has more versions than statistics are kept of; see `moorage usage`"
            raise NotFound(message, code="stats_not_kept")
        found = [one for one in await self._exchange.of_tenant(route.tenant) if one.model == route.model]
        return stats.encoded(one for one in found if served is None or one.version == served.number)

    async def all_stats(self, principal: KeyRecord) -> bytes:
        """The same of every model that the key covers. A model that is called `stats` keeps its path."""
        routes = {route.model: route for route in self._routes.of_tenant(principal.tenant)}
        if "stats" in routes:
            require_scope(principal, "infer", "stats")
            return self.metadata(routes["stats"], None)
        covered = {model for model in routes if principal.allows("infer", model)}
        found = await self._exchange.of_tenant(principal.tenant)
        return stats.encoded(one for one in found if one.model in covered)

    @staticmethod
    def _served(route: ServedRoute, number: str | None) -> ServedVersion:
        served = route.default if number is None else route.version(number)
        if served is None:
            message = f"{route.model} has no version deployed"
            raise NotFound(message, code="version_not_found")
        return served


def _asks_for_ready(body: bytes) -> bool:
    """`ready` of an index request; false where it or the body is left out. Raises BadRequest."""
    try:
        asked = orjson.loads(body) if body else {}
    except orjson.JSONDecodeError:
        asked = None
    ready = asked.get("ready", False) if isinstance(asked, dict) else None
    if not isinstance(ready, bool):
        raise index_request_refused()
    return ready


def index_request_refused() -> BadRequest:
    return BadRequest('the index takes `{}` or `{"ready": true}`', code="index_request_invalid")


def _waiting_for(route: ServedRoute) -> list[int]:
    """Versions with traffic, or all where none has, that no replica is ready for; [0] of a route without versions."""
    served = [route.versions[arm.version] for arm in route.split.arms] or list(route.versions.values())
    return _unready(served) if served else [0]


def _unready(served: list[ServedVersion]) -> list[int]:
    return [version.number for version in served if not version.replicas.ready]
