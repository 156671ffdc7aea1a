"""/v1/deployments."""

from typing import Annotated

from fastapi import APIRouter, Path

from moorage_common.contracts.names import Name
from moorage_registry.access import ANY_KEY, require
from moorage_registry.deployments.models import (
    Changes,
    Deployment,
    DeploymentList,
    DeploymentSpec,
    DeploymentStatus,
    Logs,
    Shadows,
    Traffic,
    TrafficChange,
)
from moorage_registry.deployments.service import DeploymentReader, DeploymentService, Planner
from moorage_registry.deployments.shadows import shadows_of
from moorage_registry.deployments.status import ready_by_version
from moorage_registry.deps import RegistryDep
from moorage_registry.keys.service import Principal

router = APIRouter(prefix="/deployments")

ModelName = Annotated[Name, Path()]
Anyone = Annotated[Principal, require(ANY_KEY)]
Deployer = Annotated[Principal, require("deploy:write")]


@router.put("/{model}", response_model=None)
async def apply(
    model: ModelName, body: DeploymentSpec, principal: Deployer, registry: RegistryDep, dry_run: bool = False
) -> Deployment | dict[str, object]:
    if dry_run:
        async with registry.db.read() as session:
            planned = await Planner(session, principal.tenant).plan(model, body, lock=False)
        return Changes(changes=planned.changes()).model_dump(mode="json", by_alias=True)
    async with registry.work(principal) as work:
        return await DeploymentService(work).apply(model, body)


@router.get("")
async def list_deployments(principal: Anyone, registry: RegistryDep) -> DeploymentList:
    async with registry.db.read() as session:
        return DeploymentList(deployments=await DeploymentReader(session, principal.tenant).all())


@router.get("/{model}")
async def get_deployment(model: ModelName, principal: Anyone, registry: RegistryDep) -> Deployment:
    async with registry.db.read() as session:
        return await DeploymentReader(session, principal.tenant).get(model)


@router.delete("/{model}", status_code=204)
async def delete_deployment(model: ModelName, principal: Deployer, registry: RegistryDep) -> None:
    async with registry.work(principal) as work:
        await DeploymentService(work).delete(model)


@router.get("/{model}/traffic")
async def get_traffic(model: ModelName, principal: Anyone, registry: RegistryDep) -> Traffic:
    async with registry.db.read() as session:
        return await DeploymentReader(session, principal.tenant).traffic(model)


@router.put("/{model}/traffic")
async def set_traffic(model: ModelName, body: TrafficChange, principal: Deployer, registry: RegistryDep) -> Traffic:
    async with registry.work(principal) as work:
        return await DeploymentService(work).set_traffic(model, body)


@router.get("/{model}/shadows")
async def get_shadows(model: ModelName, principal: Anyone, registry: RegistryDep) -> Shadows:
    async with registry.db.read() as session:
        traffic = await DeploymentReader(session, principal.tenant).traffic(model)
    families = await registry.router_series.gather(principal.tenant)
    return Shadows(shadows=shadows_of(model, traffic.arms, families))


@router.get("/{model}/status")
async def get_status(model: ModelName, principal: Anyone, registry: RegistryDep) -> DeploymentStatus:
    async with registry.db.read() as session:
        await DeploymentReader(session, principal.tenant).live(model)
    status = registry.status.of(principal.tenant, model)
    url = f"{registry.settings.router_url.rstrip('/')}/v2/models/{model}/infer"
    return DeploymentStatus(replicas=status.replicas, ready=ready_by_version(status), url=url)


@router.get("/{model}/logs")
async def get_logs(
    model: ModelName, principal: Annotated[Principal, require("logs:read")], registry: RegistryDep
) -> Logs:
    async with registry.db.read() as session:
        await DeploymentReader(session, principal.tenant).live(model)
    return Logs(lines=registry.status.of(principal.tenant, model).log_lines)
