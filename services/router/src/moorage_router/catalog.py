"""What a tenant may know of its models, from memory: lists, metadata, readiness."""

from importlib.metadata import version

import orjson

from moorage_common.errors import NotFound, Unavailable
from moorage_router.auth import Credentials
from moorage_router.gateway import Gateway
from moorage_router.routes import RouteTable, ServedRoute, ServedVersion


class Catalog:
    """Answers are encoded JSON of the Open Inference Protocol."""

    def __init__(self, gateway: Gateway, routes: RouteTable) -> None:
        self._gateway = gateway
        self._routes = routes
        self.server = orjson.dumps(
            {"name": "moorage", "version": version("moorage-router"), "extensions": ["binary_tensor_data"]}
        )

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

    @staticmethod
    def _served(route: ServedRoute, number: str | None) -> ServedVersion:
        served = route.default if number is None else route.version(number, 0.0)
        if served is None:
            message = f"{route.model} has no version deployed"
            raise NotFound(message, code="version_not_found")
        return served


def _waiting_for(route: ServedRoute) -> list[int]:
    """Versions with traffic, or all where none has, that no replica is ready for; [0] of a route without versions."""
    served = [route.versions[arm.version] for arm in route.split.arms] or list(route.versions.values())
    return _unready(served) if served else [0]


def _unready(served: list[ServedVersion]) -> list[int]:
    return [version.number for version in served if not version.replicas.ready]
