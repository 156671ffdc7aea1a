"""/v1/whoami and /v1/keys."""

from typing import Annotated

from fastapi import APIRouter

from moorage_registry.access import ANY_KEY, anyone, require
from moorage_registry.deps import RegistryDep
from moorage_registry.keys.models import (
    CreatedKey,
    KeyChange,
    KeyInfo,
    KeyList,
    LeakReport,
    LeakTaken,
    NewKey,
    Rotation,
    WhoAmI,
)
from moorage_registry.keys.repository import KeyRepository
from moorage_registry.keys.service import KeyService, Principal, info, no_key

router = APIRouter()

KeysAdmin = Annotated[Principal, require("keys:admin")]


@router.get("/whoami")
async def whoami(principal: Annotated[Principal, require(ANY_KEY)]) -> WhoAmI:
    return WhoAmI(tenant=principal.tenant, kid=principal.kid, scopes=list(principal.scopes), subject=principal.subject)


@router.post("/keys", status_code=201)
async def create_key(body: NewKey, principal: KeysAdmin, registry: RegistryDep) -> CreatedKey:
    async with registry.work(principal) as work:
        return await KeyService(work, registry.pepper).create(principal, body)


@router.get("/keys")
async def list_keys(principal: KeysAdmin, registry: RegistryDep) -> KeyList:
    async with registry.db.read() as session:
        return KeyList(keys=[info(row) for row in await KeyRepository(session).all(principal.tenant)])


@router.post("/keys/leaked", status_code=202)
async def report_leaked_key(body: LeakReport, address: Annotated[str, anyone()], registry: RegistryDep) -> LeakTaken:
    """Report a key that was seen where it should not be. If there is such a key, it is revoked at once."""
    await registry.leaks.report(body.key, address)
    return LeakTaken()


@router.get("/keys/{kid}")
async def get_key(kid: str, principal: KeysAdmin, registry: RegistryDep) -> KeyInfo:
    async with registry.db.read() as session:
        row = await KeyRepository(session).get(principal.tenant, kid)
    if row is None:
        raise no_key(kid)
    return info(row)


@router.patch("/keys/{kid}")
async def change_key(kid: str, body: KeyChange, principal: KeysAdmin, registry: RegistryDep) -> KeyInfo:
    async with registry.work(principal) as work:
        return await KeyService(work, registry.pepper).change(principal, kid, body)


@router.post("/keys/{kid}/rotate", status_code=201)
async def rotate_key(kid: str, principal: KeysAdmin, registry: RegistryDep, body: Rotation | None = None) -> CreatedKey:
    async with registry.work(principal) as work:
        return await KeyService(work, registry.pepper).rotate(principal, kid, body or Rotation())


@router.delete("/keys/{kid}", status_code=204)
async def revoke_key(kid: str, principal: KeysAdmin, registry: RegistryDep) -> None:
    async with registry.work(principal) as work:
        await KeyService(work, registry.pepper).revoke(kid)
