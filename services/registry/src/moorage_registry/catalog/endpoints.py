"""/v1/models."""

from typing import Annotated

from fastapi import APIRouter, Path, Response

from moorage_common.contracts.names import Name
from moorage_registry.access import ANY_KEY, require
from moorage_registry.catalog import service
from moorage_registry.catalog.models import Model, ModelList, NewVersion, Version, VersionList
from moorage_registry.catalog.repository import CatalogRepository
from moorage_registry.catalog.service import CatalogService, model_of, no_model, no_version, version_of
from moorage_registry.deps import RegistryDep
from moorage_registry.keys.service import Principal

router = APIRouter(prefix="/models")

ModelName = Annotated[Name, Path()]
Number = Annotated[int, Path(ge=1, le=2**31)]
Anyone = Annotated[Principal, require(ANY_KEY)]


@router.post("/{model}/versions", status_code=201, responses={200: {"model": Version}})
async def push_version(
    model: ModelName,
    body: NewVersion,
    principal: Annotated[Principal, require("models:write")],
    registry: RegistryDep,
    response: Response,
) -> Version:
    service.check(body)
    pinned = None
    if body.feature_service is not None:
        pinned = await registry.features.describe(principal.tenant, body.feature_service)
    async with registry.work(principal) as work:
        version, is_new = await CatalogService(work).push(model, body, pinned)
    response.status_code = 201 if is_new else 200
    return version


@router.get("")
async def list_models(principal: Anyone, registry: RegistryDep) -> ModelList:
    async with registry.db.read() as session:
        found = await CatalogRepository(session).models(principal.tenant)
    return ModelList(models=[model_of(row, latest) for row, latest in found])


@router.get("/{model}")
async def get_model(model: ModelName, principal: Anyone, registry: RegistryDep) -> Model:
    async with registry.db.read() as session:
        rows = CatalogRepository(session)
        row = await rows.model(principal.tenant, model)
        if row is None:
            raise no_model(model)
        usable = [v.number for v in await rows.versions(principal.tenant, model) if v.state != "rejected"]
    return model_of(row, max(usable, default=None))


@router.get("/{model}/versions")
async def list_versions(model: ModelName, principal: Anyone, registry: RegistryDep) -> VersionList:
    async with registry.db.read() as session:
        rows = CatalogRepository(session)
        if await rows.model(principal.tenant, model) is None:
            raise no_model(model)
        versions = await rows.versions(principal.tenant, model)
        sizes = await rows.sizes(principal.tenant, {v.artifact_digest for v in versions})
    return VersionList(versions=[version_of(v, sizes[v.artifact_digest]) for v in versions])


@router.get("/{model}/versions/{number}")
async def get_version(model: ModelName, number: Number, principal: Anyone, registry: RegistryDep) -> Version:
    async with registry.db.read() as session:
        rows = CatalogRepository(session)
        version = await rows.version(principal.tenant, model, number)
        if version is None:
            raise no_version(model, number)
        sizes = await rows.sizes(principal.tenant, {version.artifact_digest})
    return version_of(version, sizes[version.artifact_digest])
