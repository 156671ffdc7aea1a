"""What a tenant may know of its models, from memory: lists, metadata, readiness, statistics."""

from importlib.metadata import version

import orjson

from moorage_common.errors import BadRequest, NotFound, Unavailable
from moorage_router import stats
from moorage_router.auth import Credentials
from moorage_router.gateway import Gateway
from moorage_router.routes import RouteTable, ServedRoute, ServedVersion
from moorage_router.stats_exchange import StatsExchange

EXTENSIONS = ["binary_tensor_data", "statistics", "model_repository_index"]
"""Of Triton's `model_repository` only the index: models are loaded and unloaded through the registry."""
INDEX_BODY_BYTES = 4096


class Catalog:
    """Answers are encoded JSON of the Open Inference Protocol."""

    def __init__(self, gateway: Gateway, routes: RouteTable, exchange: StatsExchange) -> None:
        self._gateway = gateway
        self._routes = routes
        self._exchange = exchange
        self.server = orjson.dumps({"name": "moorage", "version": version("moorage-router"), "extensions": EXTENSIONS})

    def models(self, credentials: Credentials, tenant: str | None) -> bytes:
        """The tenant's models with their versions and whether they are ready."""
        principal = self._gateway.identify(credentials, tenant)
        models = [
            {
                "name": route.model,
                "versions": [str(number) for number in route.versions],
                "ready": not _waiting_for(route),
            }
            for route in self._routes.of_tenant(principal.tenant)
        ]
        return orjson.dumps({"models": models})

    def metadata(self, credentials: Credentials, tenant: str | None, model: str, number: str | None) -> bytes:
        """Metadata of a version, or of the one with most of the traffic. Raises NotFound."""
        _, route = self._gateway.authorize(credentials, tenant, model)
        return self._served(route, number).metadata

    def ready(self, credentials: Credentials, tenant: str | None, model: str, number: str | None) -> bytes:
        """Readiness of a version, or of every version with traffic. Raises NotFound, Unavailable."""
        _, route = self._gateway.authorize(credentials, tenant, model)
        waiting = _waiting_for(route) if number is None else _unready([self._served(route, number)])
        if waiting:
            message = f"{model} is not ready: no replica of version {', '.join(map(str, waiting))} yet"
            raise Unavailable(message, code="no_replica", retry_after_s=2)
        return orjson.dumps({"name": model, "ready": True})

    def index(self, credentials: Credentials, tenant: str | None, body: bytes) -> bytes:
        """The tenant's versions and their states, as Triton's repository index. Raises BadRequest."""
        principal = self._gateway.identify(credentials, tenant)
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

    async def stats(self, credentials: Credentials, tenant: str | None, model: str, number: str | None) -> bytes:
        """What all routers counted of a version, or of each of a model's. Raises NotFound."""
        _, route = self._gateway.authorize(credentials, tenant, model)
        served = None if number is None else route.version(number)
        if served is not None and not served.series.own:
            message = "this tenant has more versions than statistics are kept of; see `moorage usage`"
            raise NotFound(message, code="stats_not_kept")
        found = [one for one in await self._exchange.of_tenant(route.tenant) if one.model == model]
        return stats.encoded(one for one in found if served is None or one.version == served.number)

    async def all_stats(self, credentials: Credentials, tenant: str | None) -> bytes:
        """The same of every model that the key covers. A model that is called `stats` keeps its path."""
        principal = self._gateway.identify(credentials, tenant)
        covered = {
            route.model for route in self._routes.of_tenant(principal.tenant) if principal.allows("infer", route.model)
        }
        if any(route.model == "stats" for route in self._routes.of_tenant(principal.tenant)):
            return self.metadata(credentials, tenant, "stats", None)
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
