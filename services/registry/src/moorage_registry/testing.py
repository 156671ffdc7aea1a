"""A whole registry in the process of a test, called over ASGI: real database, real bus."""

import asyncio
import contextlib
import hashlib
import secrets
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import httpx

from moorage_common.contracts.names import TenantId
from moorage_registry.app import create_app
from moorage_registry.deps import Registry
from moorage_registry.metrics import Metrics
from moorage_registry.settings import Settings

Json = dict[str, Any]

SIGNATURE = {
    "inputs": [{"name": "x", "datatype": "FP32", "shape": [-1, 4]}],
    "outputs": [{"name": "y", "datatype": "INT64", "shape": [-1]}],
}
TENANT_SCOPES = [
    "infer:*", "models:write", "deploy:write", "events:read", "logs:read", "metrics:read", "usage:read", "keys:admin",
]  # fmt: skip


async def eventually(check: Callable[[], Awaitable[Any]], timeout_s: float = 15.0) -> Any:
    """Poll until `check` gives something true; that. Raises TimeoutError."""
    deadline = time.monotonic() + timeout_s
    while not (found := await check()):
        if time.monotonic() > deadline:
            message = f"{check} gave {found!r} until the deadline"
            raise TimeoutError(message)
        await asyncio.sleep(0.05)
    return found


@dataclass
class Caller:
    """One API key calling the registry."""

    http: httpx.AsyncClient
    tenant: TenantId
    key: str

    async def call(self, method: str, path: str, **options: Any) -> httpx.Response:
        """The answer, whatever it is."""
        headers = {"authorization": f"Bearer {self.key}", **options.pop("headers", {})}
        return await self.http.request(method, path, headers=headers, **options)

    async def ok(self, method: str, path: str, **options: Any) -> Any:
        """The body of a good answer. Raises AssertionError with any other."""
        answer = await self.call(method, path, **options)
        if not answer.is_success:
            message = f"{method} {path}: {answer.status_code} {answer.text}"
            raise AssertionError(message)
        return answer.json() if answer.content else None

    async def upload(self, content: bytes) -> str:
        """Its digest."""
        digest = f"sha256:{hashlib.sha256(content).hexdigest()}"
        await self.ok("PUT", f"/v1/artifacts/{digest}", content=content)
        return digest

    async def push(self, model: str, content: bytes, **more: Any) -> Json:
        """Upload and make a version; the version."""
        body = {"artifact_digest": await self.upload(content), "format": "onnx", "signature": SIGNATURE, **more}
        version: Json = await self.ok("POST", f"/v1/models/{model}/versions", json=body)
        return version

    async def with_key(self, *scopes: str) -> "Caller":
        """The same tenant with a key of these scopes."""
        created = await self.ok("POST", "/v1/keys", json={"scopes": list(scopes)})
        return Caller(self.http, self.tenant, created["key"])


@dataclass
class Platform:
    """A running registry and its operator."""

    registry: Registry
    operator: Caller
    settings: Settings

    async def tenant(self, name: str = "") -> Caller:
        """A new tenant, with a key that may do everything a tenant may."""
        tenant = TenantId(name or f"t{secrets.token_hex(6)}")
        await self.operator.ok("POST", "/v1/tenants", json={"name": tenant})
        created = await self.operator.ok(
            "POST", "/v1/keys", json={"scopes": TENANT_SCOPES}, headers={"moorage-tenant": tenant}
        )
        return Caller(self.operator.http, tenant, created["key"])


@contextlib.asynccontextmanager
async def platform_of(settings: Settings) -> AsyncIterator[Platform]:
    """Run a registry with these settings, which name a bootstrap key, until the block ends."""
    key = settings.bootstrap_admin_key
    if key is None:
        message = "the settings name no bootstrap key"
        raise ValueError(message)
    app = create_app(settings, Metrics())
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=transport, base_url="http://registry") as http,
    ):
        operator = Caller(http, TenantId("platform"), key.get_secret_value())
        yield Platform(app.state.registry, operator, settings)
