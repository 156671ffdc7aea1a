"""/v1/rings."""

from typing import Annotated

from fastapi import APIRouter, Path

from moorage_common.contracts.names import Name
from moorage_registry.access import ANY_KEY, require
from moorage_registry.deps import RegistryDep
from moorage_registry.keys.service import Principal
from moorage_registry.rings.models import Ring, RingList, RingSpec
from moorage_registry.rings.service import RingReader, RingService

router = APIRouter(prefix="/rings")

RingName = Annotated[Name, Path()]
Anyone = Annotated[Principal, require(ANY_KEY)]
Deployer = Annotated[Principal, require("deploy:write")]


@router.get("")
async def list_rings(principal: Anyone, registry: RegistryDep) -> RingList:
    async with registry.db.read() as session:
        return RingList(rings=await RingReader(session, principal.tenant).all())


@router.get("/{name}")
async def get_ring(name: RingName, principal: Anyone, registry: RegistryDep) -> Ring:
    async with registry.db.read() as session:
        return await RingReader(session, principal.tenant).get(name)


@router.put("/{name}")
async def put_ring(name: RingName, body: RingSpec, principal: Deployer, registry: RegistryDep) -> Ring:
    async with registry.work(principal) as work:
        return await RingService(work).put(name, body)


@router.delete("/{name}", status_code=204)
async def delete_ring(name: RingName, principal: Deployer, registry: RegistryDep) -> None:
    async with registry.work(principal) as work:
        await RingService(work).delete(name)
