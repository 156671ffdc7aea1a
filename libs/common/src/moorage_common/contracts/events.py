"""CloudEvents 1.0 (structured JSON) on subjects `evt.<tenant>.<domain>.<entity>.<verb>.v1`."""

from typing import Any, Literal

from moorage_common.contracts.model import Contract

EventType = Literal[
    "tenant.created",
    "tenant.changed",
    "tenant.deleted",
    "key.created",
    "key.changed",
    "key.rotated",
    "key.revoked",
    "key.leaked",
    "membership.changed",
    "membership.removed",
    "version.uploaded",
    "version.ready",
    "version.rejected",
    "deployment.changed",
    "deployment.deleted",
    "traffic.changed",
    "rollout.started",
    "rollout.advanced",
    "rollout.held",
    "rollout.resumed",
    "rollout.paused",
    "rollout.alerted",
    "rollout.promoted",
    "rollout.rolled-back",
    "rollout.aborted",
    "rollout.done",
    "ring.changed",
    "replica.started",
    "replica.lost",
]


class CloudEvent(Contract):
    """`id` is UUIDv5(aggregate, version), so a second publication is the same event; `time` is RFC 3339 UTC."""

    specversion: Literal["1.0"] = "1.0"
    id: str
    source: str
    type: EventType
    subject: str
    time: str
    tenant: str
    datacontenttype: Literal["application/json"] = "application/json"
    data: dict[str, Any]


def event_subject(event: CloudEvent) -> str:
    """`version.ready` about `models/digits` of tenant demo -> `evt.demo.version.digits.ready.v1`."""
    domain, verb = event.type.split(".")
    entity = event.subject.rsplit("/", 1)[-1].replace(".", "-")
    return f"evt.{event.tenant}.{domain}.{entity}.{verb}.v1"
