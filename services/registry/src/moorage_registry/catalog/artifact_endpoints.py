"""/v1/artifacts: blobs in by digest and key, out by signed URL."""

from typing import Annotated

from fastapi import APIRouter, Path, Request, Response
from fastapi.responses import FileResponse, JSONResponse

from moorage_common.contracts.names import Name, TenantId
from moorage_common.errors import NotFound
from moorage_registry.access import require, signed_url
from moorage_registry.catalog.models import DIGEST_PATTERN, Artifact
from moorage_registry.catalog.repository import CatalogRepository
from moorage_registry.catalog.service import CatalogService
from moorage_registry.deps import RegistryDep
from moorage_registry.keys.service import Principal

router = APIRouter(prefix="/artifacts")

Digest = Annotated[str, Path(pattern=DIGEST_PATTERN)]
Pusher = Annotated[Principal, require("models:write")]


def _absent(digest: str) -> NotFound:
    return NotFound(f"there is no artifact {digest}", code="artifact_not_found")


@router.put("/{digest}")
async def put_artifact(digest: Digest, request: Request, principal: Pusher, registry: RegistryDep) -> JSONResponse:
    """Stored and durable before the row is written: a row's blob is always there."""
    length = request.headers.get("content-length")
    announced = int(length) if length is not None and length.isdigit() else None
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


@router.get("/{tenant}/{digest}", dependencies=[signed_url()])
async def get_artifact(tenant: Annotated[Name, Path()], digest: Digest, registry: RegistryDep) -> FileResponse:
    path = registry.blobs.path(TenantId(tenant), digest)
    if not path.is_file():
        raise _absent(digest)
    return FileResponse(path, media_type="application/octet-stream")
