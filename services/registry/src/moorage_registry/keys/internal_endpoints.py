"""/v1/internal: what routers and the feature-proxy ask past a bus that is silent."""

from fastapi import APIRouter
from fastapi.responses import Response

from moorage_common.contracts.keys import KeyTables
from moorage_registry.access import internal
from moorage_registry.deps import RegistryDep

router = APIRouter(prefix="/internal", dependencies=[internal()])


@router.get("/keys", response_model=KeyTables)
async def published_keys(registry: RegistryDep) -> Response:
    """Every key and every tenant's limits, as the bus has them or will."""
    publisher = registry.publisher
    tables = KeyTables(keys=dict(await publisher.all_keys()), limits=dict(await publisher.all_limits()))
    return Response(tables.model_dump_json(), media_type="application/json")
