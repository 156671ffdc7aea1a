"""/v1/deployments/{model}/rollouts."""

from typing import Annotated

from fastapi import APIRouter, Path, Query

from moorage_common.contracts.names import Name
from moorage_registry.access import ANY_KEY, require
from moorage_registry.deps import RegistryDep
from moorage_registry.keys.service import Principal
from moorage_registry.rollouts.models import (
    Explanation,
    LogPage,
    NewRollout,
    ReplayAsk,
    Replayed,
    Rollout,
    RolloutList,
    Verdicts,
)
from moorage_registry.rollouts.reading import RolloutReader
from moorage_registry.rollouts.service import RolloutService

router = APIRouter(prefix="/deployments/{model}/rollouts")

ModelName = Annotated[Name, Path()]
RolloutId = Annotated[
    str, Path(pattern="^[0-9A-Za-z]{1,64}$", description="Or `current`: the running one, else the last.")
]
After = Annotated[int, Query(ge=0, lt=2**63)]
Anyone = Annotated[Principal, require(ANY_KEY)]
Deployer = Annotated[Principal, require("deploy:write")]


@router.post("", status_code=201)
async def start_rollout(model: ModelName, body: NewRollout, principal: Deployer, registry: RegistryDep) -> Rollout:
    status = registry.status.of(principal.tenant, model)
    async with registry.work(principal) as work:
        started = await RolloutService(work).start(model, body, status)
    registry.rollouts.wake()
    return started


@router.get("")
async def list_rollouts(
    model: ModelName, principal: Anyone, registry: RegistryDep, limit: Annotated[int, Query(ge=1, le=100)] = 20
) -> RolloutList:
    async with registry.db.read() as session:
        return RolloutList(rollouts=await RolloutReader(session, principal.tenant).page(model, limit))


@router.get("/{rollout}")
async def get_rollout(model: ModelName, rollout: RolloutId, principal: Anyone, registry: RegistryDep) -> Rollout:
    async with registry.db.read() as session:
        return await RolloutReader(session, principal.tenant).get(model, rollout)


@router.post("/{rollout}/pause")
async def pause_rollout(model: ModelName, rollout: RolloutId, principal: Deployer, registry: RegistryDep) -> Rollout:
    async with registry.work(principal) as work:
        return await RolloutService(work).pause(model, rollout)


@router.post("/{rollout}/resume")
async def resume_rollout(model: ModelName, rollout: RolloutId, principal: Deployer, registry: RegistryDep) -> Rollout:
    async with registry.work(principal) as work:
        resumed = await RolloutService(work).resume(model, rollout)
    registry.rollouts.wake()
    return resumed


@router.post("/{rollout}/promote")
async def promote_rollout(model: ModelName, rollout: RolloutId, principal: Deployer, registry: RegistryDep) -> Rollout:
    status = registry.status.of(principal.tenant, model)
    async with registry.work(principal) as work:
        return await RolloutService(work).promote(model, rollout, status)


@router.post("/{rollout}/abort")
async def abort_rollout(model: ModelName, rollout: RolloutId, principal: Deployer, registry: RegistryDep) -> Rollout:
    async with registry.work(principal) as work:
        return await RolloutService(work).abort(model, rollout)


@router.get("/{rollout}/verdicts")
async def get_verdicts(
    model: ModelName,
    rollout: RolloutId,
    principal: Anyone,
    registry: RegistryDep,
    *,
    after: After = 0,
    limit: Annotated[int, Query(ge=1, le=500)] = 500,
) -> Verdicts:
    """Every decision by number, with whether the chain of all their hashes is whole."""
    async with registry.db.read() as session:
        return await RolloutReader(session, principal.tenant).verdicts(model, rollout, after, limit)


@router.get("/{rollout}/explain")
async def explain_rollout(
    model: ModelName, rollout: RolloutId, principal: Anyone, registry: RegistryDep
) -> Explanation:
    """Why the rollout is where it is, in a sentence with numbers."""
    async with registry.db.read() as session:
        return await RolloutReader(session, principal.tenant).explain(model, rollout)


@router.get("/{rollout}/log")
async def get_log(
    model: ModelName,
    rollout: RolloutId,
    principal: Anyone,
    registry: RegistryDep,
    *,
    after: After = 0,
    limit: Annotated[int, Query(ge=1, le=500)] = 100,
) -> LogPage:
    """What the rollout saw, in the order it was judged."""
    async with registry.db.read() as session:
        return await RolloutReader(session, principal.tenant).log(model, rollout, after, limit)


@router.post("/{rollout}/replay")
async def replay_rollout(
    model: ModelName, rollout: RolloutId, body: ReplayAsk, principal: Anyone, registry: RegistryDep
) -> Replayed:
    """Judge again what it saw, under its own policy or another one; nothing is changed."""
    return await registry.replays.of(principal.tenant, model, rollout, body.policy)
