"""One join, told once: what the caller sent, its entities, their features, what the host gets."""

import time
from dataclasses import dataclass
from typing import Any

import structlog

from moorage_common.contracts.features import OnlineRequest
from moorage_common.contracts.routes import FeatureJoin, RouteVersion
from moorage_common.errors import MoorageError, Unavailable
from moorage_router.features.join import Columns, entities_of, joined
from moorage_router.features.lookup import FeatureLookup, filled
from moorage_router.features.offload import offload
from moorage_router.routes import ServedVersion
from moorage_runtime.v2 import HEADER_LENGTH, Array, Encoded, InferRequest, decode_request, recode_request
from moorage_runtime.v2.compression import is_packed, unpack

log = structlog.get_logger()

_VALUE_BYTES = 16
"""About what a feature's value takes while it is joined."""


@dataclass(slots=True)
class Received:
    """A request as the caller sent it, decoded once at most.

    Attributes:
        fields: the header lines that describe the body.
        limit_bytes: most bytes of the body, of the body unpacked, and of its tensors decoded.
    """

    body: bytes
    fields: bytes
    limit_bytes: int
    _request: InferRequest | None = None

    def field(self, name: str) -> str | None:
        """The value of a header (of the last, where it is there twice), None without it."""
        values = dict(line.partition(": ")[::2] for line in self.fields.decode("latin-1").split("\r\n"))
        return values.get(name)

    def decoded(self) -> InferRequest:
        """The request. Raises BadRequest or TooLarge."""
        if self._request is None:
            body = unpack(self.body, self.field("content-encoding") or "identity", limit_bytes=self.limit_bytes)
            self._request = decode_request(body, self.field(HEADER_LENGTH), limit_bytes=self.limit_bytes)
        return self._request

    async def input_of(self, name: str) -> Array | None:
        """An input; None where it was not sent, or the body is one that no host will take either."""
        try:
            request = await offload(self.most_bytes(), self.decoded)
        except MoorageError:
            return None
        return request.inputs.get(name)

    def most_bytes(self) -> int:
        """What the body may be once it is unpacked. Raises BadRequest for an unknown encoding."""
        packed = is_packed(self.field("content-encoding") or "identity")
        return max(len(self.body), self.limit_bytes) if packed else len(self.body)


class FeatureJoiner:
    """Requests in, requests with features out."""

    def __init__(self, lookup: FeatureLookup) -> None:
        self._lookup = lookup

    async def join(self, served: ServedVersion, join: FeatureJoin, received: Received, deadline: float) -> Encoded:
        """The request with features, as binary tensors. Raises BadRequest, TooLarge, Unprocessable or Unavailable."""
        request, entities = await offload(received.most_bytes(), _asked, received, join)
        columns = await self._columns(served, join, entities, deadline)
        size = sum(array.nbytes for array in request.inputs.values())
        size += sum(len(values) for values in columns.values()) * _VALUE_BYTES
        return await offload(size, _made, request, join, served.spec, columns)

    async def _columns(
        self, served: ServedVersion, join: FeatureJoin, entities: dict[str, list[Any]], deadline: float
    ) -> Columns:
        rows = len(next(iter(entities.values()), []))
        online = OnlineRequest(service=served.spec.feature_service or "", entities=entities)
        ends = min(deadline, time.monotonic() + join.deadline_ms / 1000)
        try:
            found = await self._lookup.find(served.tenant, online, rows, ends)
        except Unavailable as error:
            if join.on_miss == "fail":
                raise
            log.warning("features defaulted", model=served.model, detail=error.detail)
            return {name: [join.default] * rows for name in served.spec.features}
        wanted = served.spec.features
        return await offload(rows * len(wanted) * _VALUE_BYTES, filled, found, join, wanted, entities)


def _asked(received: Received, join: FeatureJoin) -> tuple[InferRequest, dict[str, list[Any]]]:
    request = received.decoded()
    return request, entities_of(request.inputs, join)


def _made(request: InferRequest, join: FeatureJoin, spec: RouteVersion, columns: Columns) -> Encoded:
    return recode_request(joined(request, join, spec, columns))
