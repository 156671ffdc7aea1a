"""The feature-proxy's HTTP."""

import time
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query, Request
from fastapi.responses import Response
from pydantic import ValidationError

from moorage_common.contracts.features import FeatureServiceInfo, FeaturesForgotten, OnlineRequest, OnlineResponse
from moorage_common.contracts.model import Contract
from moorage_common.contracts.names import TenantId
from moorage_common.errors import MoorageError, NotFound, TooLarge, Unprocessable
from moorage_feature_proxy.auth import INTERNAL, require
from moorage_feature_proxy.deps import Deps
from moorage_feature_proxy.metrics import UNKNOWN_SERVICE

DEFINITIONS_MAX_BYTES = 8 * 1024 * 1024
REQUEST_MAX_BYTES = 8 * 1024 * 1024

router = APIRouter(prefix="/v1/features")


class FeatureServices(Contract):
    """A tenant's feature services, by name."""

    services: list[FeatureServiceInfo]


def deps_of(request: Request) -> Deps:
    deps: Deps = request.app.state.deps
    return deps


Dependencies = Annotated[Deps, Depends(deps_of)]
Reader = Annotated[TenantId, require("features:read")]
Writer = Annotated[TenantId, require("features:write")]
Moorage = Annotated[TenantId, require(INTERNAL)]


def _body_of(media_type: str, schema: dict[str, Any]) -> dict[str, Any]:
    """Of a body that the endpoint reads itself, bounded."""
    return {"requestBody": {"required": True, "content": {media_type: {"schema": schema}}}}


@router.put("/definitions", openapi_extra=_body_of("application/octet-stream", {"type": "string", "format": "binary"}))
async def put_definitions(tenant: Writer, request: Request, deps: Dependencies) -> FeatureServices:
    """Replace the tenant's definitions by a Feast registry (the file that `feast apply` writes)."""
    found = await deps.uploads.put(tenant, await _body(request, DEFINITIONS_MAX_BYTES))
    return FeatureServices(services=[service.info() for service in found.services.values()])


@router.delete("")
async def forget(
    tenant: Moorage, deps: Dependencies, cursor: Annotated[int, Query(ge=0, lt=2**64)] = 0
) -> FeaturesForgotten:
    """Remove all that a tenant has: for the registry alone, which deletes tenants. Asked until `cursor` is 0."""
    await deps.uploads.remove(tenant)
    cursor, removed = await deps.store.forget(tenant, cursor)
    return FeaturesForgotten(cursor=cursor, removed=removed)


@router.get("/services")
async def list_services(tenant: Reader, deps: Dependencies) -> FeatureServices:
    """All feature services of the tenant."""
    found = await deps.uploads.get(tenant)
    return FeatureServices(services=[service.info() for service in found.services.values()])


@router.get("/services/{name}")
async def get_service(name: str, tenant: Reader, deps: Dependencies) -> FeatureServiceInfo:
    """One feature service, with its fingerprint."""
    return (await deps.uploads.get(tenant)).service(name).info()


@router.post(
    "/online",
    response_model=OnlineResponse,
    openapi_extra=_body_of("application/json", OnlineRequest.model_json_schema()),
)
async def online(tenant: Reader, request: Request, deps: Dependencies) -> Response:
    """Values of a feature service for rows of entities: `OnlineRequest` in, `OnlineResponse` out."""
    started = time.perf_counter()
    service, code = UNKNOWN_SERVICE, 500
    try:
        asked = _online_request(await _body(request, REQUEST_MAX_BYTES))
        service = asked.service
        found = await deps.lookup.online(tenant, asked)
        code = 200
        return Response(found.model_dump_json(), media_type="application/json")
    except MoorageError as error:
        code = error.status
        service = UNKNOWN_SERVICE if isinstance(error, NotFound) else service
        raise
    finally:
        deps.metrics.answered(tenant, service, code, time.perf_counter() - started)


def _online_request(body: bytes) -> OnlineRequest:
    try:
        return OnlineRequest.model_validate_json(body)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        place = ".".join(str(part) for part in first["loc"]) or "body"
        message = f"the request does not have the expected form: {place}: {first['msg']}"
        raise Unprocessable(message, code="invalid_request") from error


async def _body(request: Request, most: int) -> bytes:
    """The body, read no further than `most` bytes. Raises TooLarge."""
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > most:
            raise TooLarge(f"the body is over {most} bytes; send less at once")
    return bytes(body)
