"""/v1/deployments/{model}/feedback."""

from typing import Annotated

from fastapi import APIRouter, Path

from moorage_common.contracts.names import Name
from moorage_registry.access import ANY_KEY, require
from moorage_registry.deps import RegistryDep
from moorage_registry.feedback.models import FeedbackStatus
from moorage_registry.feedback.service import FeedbackReader
from moorage_registry.keys.service import Principal

router = APIRouter(prefix="/deployments")


@router.get("/{model}/feedback")
async def get_feedback(
    model: Annotated[Name, Path()], principal: Annotated[Principal, require(ANY_KEY)], registry: RegistryDep
) -> FeedbackStatus:
    async with registry.db.read() as session:
        return await FeedbackReader(session, principal.tenant).status(model, registry.clock())
