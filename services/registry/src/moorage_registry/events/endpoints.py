"""/v1/events."""

from typing import Annotated

from fastapi import APIRouter, Header
from fastapi.responses import StreamingResponse

from moorage_registry.access import bearer, require
from moorage_registry.deps import RegistryDep
from moorage_registry.events.service import EventStream
from moorage_registry.keys.service import Principal

router = APIRouter(prefix="/events")


@router.get("")
async def follow_events(
    principal: Annotated[Principal, require("events:read")],
    registry: RegistryDep,
    authorization: Annotated[str | None, Header()] = None,
    last_event_id: Annotated[str | None, Header()] = None,
    follow: bool = True,
) -> StreamingResponse:
    async def still_allowed() -> None:
        await bearer(registry, authorization, principal.tenant)

    stream = EventStream(registry.db, registry.commits, principal.tenant, still_allowed)
    cursor = await stream.start(last_event_id)
    headers = {"cache-control": "no-store", "x-accel-buffering": "no"}
    lines = stream.lines(cursor, follow=follow)
    return StreamingResponse(lines, media_type="text/event-stream", headers=headers)
