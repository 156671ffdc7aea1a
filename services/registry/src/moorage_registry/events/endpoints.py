"""/v1/events."""

from typing import Annotated

from fastapi import APIRouter, Header, Request
from fastapi.responses import StreamingResponse

from moorage_common.openapi import answered_as
from moorage_registry.access import bearer, caller_of, require
from moorage_registry.deps import RegistryDep
from moorage_registry.events.service import EventStream
from moorage_registry.keys.service import Principal

router = APIRouter(prefix="/events")


@router.get("", response_class=StreamingResponse, responses=answered_as("text/event-stream"))
async def follow_events(
    principal: Annotated[Principal, require("events:read")],
    registry: RegistryDep,
    request: Request,
    last_event_id: Annotated[str | None, Header()] = None,
    follow: bool = True,
) -> StreamingResponse:
    address, authorization = caller_of(registry, request), request.headers.get("authorization")

    async def still_allowed() -> None:
        await bearer(registry, authorization, principal.tenant, address)

    stream = EventStream(registry.db, registry.commits, principal.tenant, still_allowed)
    cursor = await stream.start(last_event_id)
    headers = {"cache-control": "no-store", "x-accel-buffering": "no"}
    lines = stream.lines(cursor, follow=follow)
    return StreamingResponse(lines, media_type="text/event-stream", headers=headers)
