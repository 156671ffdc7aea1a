"""/v1/artifacts: blobs in by digest and key, out by signed URL."""

from typing import Annotated

from fastapi import APIRouter, Path, Request, Response
from fastapi.responses import FileResponse, JSONResponse

from moorage_common.contracts.names import Name, TenantId
from moorage_common.errors import BadRequest, NotFound, TooLarge
from moorage_common.openapi import answered_as
from moorage_registry.access import require, signed_url
from moorage_registry.catalog.models import DIGEST_PATTERN, Artifact
from moorage_registry.catalog.repository import CatalogRepository
from moorage_registry.catalog.service import CatalogService
from moorage_registry.deps import Registry, RegistryDep
from moorage_registry.keys.service import Principal

router = APIRouter(prefix="/artifacts")

Digest = Annotated[str, Path(pattern=DIGEST_PATTERN)]
_BYTES = {"type": "string", "format": "binary"}
Pusher = Annotated[Principal, require("models:write")]


def _absent(digest: str) -> NotFound:
    return NotFound(f"there is no artifact {digest}", code="artifact_not_found")


async def _check_room(registry: Registry, tenant: TenantId, digest: str, announced: int) -> None:
    """Raises TooLarge when the tenant's artifacts would be more than its share. What is stored takes no more room."""
    async with registry.db.read() as session:
        rows = CatalogRepository(session)
        if await rows.artifact(tenant, digest) is not None:
            return
        stored = await rows.stored_bytes(tenant)
    most = registry.settings.max_tenant_artifact_bytes
    if stored + announced > most:
        message = f"this tenant's artifacts have {stored} bytes and may have {most}; ask the operator for more"
        raise TooLarge(message, code="artifact_quota")


@router.put(
    "/{digest}",
    response_model=Artifact,
    responses={201: {"model": Artifact}},
    openapi_extra={"requestBody": {"required": True, "content": {"application/octet-stream": {"schema": _BYTES}}}},
)
async def put_artifact(digest: Digest, request: Request, principal: Pusher, registry: RegistryDep) -> JSONResponse:
    """Stored and durable before the row is written: a row's blob is always there."""
    length = request.headers.get("content-length")
    if length is None or not length.isdecimal():
        raise BadRequest("say how large the artifact is with a Content-Length", code="length_required")
    announced = int(length)
    await _check_room(registry, principal.tenant, digest, announced)
    size_bytes = await registry.blobs.save(principal.tenant, digest, request.stream(), announced)
    artifact = Artifact(digest=digest, size_bytes=size_bytes)
    async with registry.work(principal) as work:
        added = await CatalogService(work).add_artifact(artifact)
    return JSONResponse(artifact.model_dump(), status_code=201 if added else 200)


@router.head("/{digest}")
async def has_artifact(digest: Digest, principal: Pusher, registry: RegistryDep) -> Response:
    async with registry.db.read() as session:
        found = await CatalogRepository(session).artifact(principal.tenant, digest)
    if found is None:
        raise _absent(digest)
    return Response(headers={"moorage-size-bytes": str(found.size_bytes)})


@router.get(
    "/{tenant}/{digest}",
    dependencies=[signed_url()],
    response_class=FileResponse,
    responses=answered_as("application/octet-stream"),
)
async def get_artifact(tenant: Annotated[Name, Path()], digest: Digest, registry: RegistryDep) -> FileResponse:
    path = registry.blobs.path(TenantId(tenant), digest)
    if not path.is_file():
        raise _absent(digest)
    return FileResponse(path, media_type="application/octet-stream")
