"""What runs where and why: /v1/nodes, /v1/gpus, /v1/cluster, /v1/quota, and explanations of deployments."""

from typing import Annotated, Any

from fastapi import APIRouter, Path
from fastapi.responses import JSONResponse

from moorage_common.contracts.answers import Defragmented, Explanation, Nodes, Shares
from moorage_common.contracts.cluster import ClusterIntent, SchedulerAsk
from moorage_common.contracts.names import Name
from moorage_common.errors import Unavailable
from moorage_registry.access import ANY_KEY, require
from moorage_registry.clusters.schedulers import ORDER_TIMEOUT_S
from moorage_registry.clusters.service import ClusterService, check_known
from moorage_registry.deployments.service import DeploymentReader
from moorage_registry.deps import RegistryDep
from moorage_registry.keys.scopes import ADMIN
from moorage_registry.keys.service import PLATFORM, Principal

router = APIRouter()

Anyone = Annotated[Principal, require(ANY_KEY)]
Operator = Annotated[Principal, require(ADMIN)]
NodeName = Annotated[str, Path(max_length=253, pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]


@router.get("/deployments/{model}/explain")
async def explain_deployment(model: Annotated[Name, Path()], principal: Anyone, registry: RegistryDep) -> Explanation:
    """Why the deployment's replicas are where they are, or wait, and what would make them fit."""
    async with registry.db.read() as session:
        await DeploymentReader(session, principal.tenant).live(model)
    return await registry.schedulers.ask(
        SchedulerAsk(what="explain", tenant=principal.tenant, model=model, everything=principal.is_admin), Explanation
    )


@router.get("/gpus")
async def get_gpus(principal: Anyone, registry: RegistryDep) -> Nodes:
    """Nodes, devices and where the tenant's own replicas sit; what others hold is told without names."""
    return await registry.schedulers.ask(SchedulerAsk(what="nodes", tenant=principal.tenant), Nodes)


@router.get("/nodes")
async def get_nodes(_principal: Operator, registry: RegistryDep) -> Nodes:
    """Nodes, devices and who sits where."""
    return await registry.schedulers.ask(SchedulerAsk(what="nodes"), Nodes)


@router.put("/nodes/{node}/drain")
async def drain_node(node: NodeName, principal: Operator, registry: RegistryDep) -> ClusterIntent:
    """Have the node take no more replicas and lose those it has, each once another one answers in its place."""
    try:
        known = await registry.schedulers.ask(SchedulerAsk(what="nodes"), Nodes)
    except Unavailable:
        known = None  # the wish stands without the scheduler, which then only cannot say whether the name is right
    if known is not None:
        check_known(node, known)
    async with registry.works.begin(PLATFORM, principal.kid) as work:
        return await ClusterService(work, registry.settings.cluster).drain(node)


@router.delete("/nodes/{node}/drain")
async def undrain_node(node: NodeName, principal: Operator, registry: RegistryDep) -> ClusterIntent:
    """Have the node take replicas again."""
    async with registry.works.begin(PLATFORM, principal.kid) as work:
        return await ClusterService(work, registry.settings.cluster).undrain(node)


@router.get("/cluster/state", response_class=JSONResponse)
async def get_cluster_state(_principal: Operator, registry: RegistryDep) -> dict[str, Any]:
    """All that placement decides by, with the last decisions, for `moorage scheduler replay`."""
    return await registry.schedulers.ask_json(SchedulerAsk(what="state"), ORDER_TIMEOUT_S)


@router.post("/cluster/defragment")
async def defragment_cluster(principal: Operator, registry: RegistryDep, dry_run: bool = False) -> Defragmented:
    """The moves that gather free room, and the figures before and after; carried out unless `dry_run`."""
    question = SchedulerAsk(what="defragment", dry_run=dry_run)
    answer = await registry.schedulers.ask(question, Defragmented, ORDER_TIMEOUT_S)
    if answer.ordered:
        async with registry.works.begin(PLATFORM, principal.kid) as work:
            work.audit("cluster.defragmented", f"clusters/{registry.settings.cluster}", moves=len(answer.moves))
    return answer


@router.get("/quota")
async def get_quota(principal: Anyone, registry: RegistryDep) -> Shares:
    """What the tenant is guaranteed, may borrow, holds and waits for; of every tenant to an operator."""
    everyone = principal.is_admin and principal.tenant == PLATFORM
    asked = SchedulerAsk(what="shares", tenant="" if everyone else principal.tenant)
    return await registry.schedulers.ask(asked, Shares)
