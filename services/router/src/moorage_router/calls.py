"""From a request's head to what is asked: which path, which model, which headers go on. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal
from urllib.parse import unquote

from moorage_common.http1 import Head
from moorage_common.http1.head import Fields
from moorage_router import operations
from moorage_router.auth import Credentials
from moorage_router.operations import method_not_allowed, no_such_path

PASSED_ON = frozenset(
    {
        b"accept", b"accept-encoding", b"tracestate", b"baggage", b"x-request-id", b"user-agent",
    }
)  # fmt: skip
"""Client headers that reach a host. Everything else stays here: hop-by-hop ones, keys, `moorage-*`."""

OF_BODY = frozenset({b"content-type", b"content-encoding", b"inference-header-content-length"})
"""These reach a host as long as the body does as it came."""


_DOCUMENT = operations.OPERATIONS[0].parts[0]


@dataclass(frozen=True, slots=True)
class Call:
    """What a head asks for.

    Attributes:
        kind: `infer`, or `read` for everything else.
        tenant: from the base path `/t/<tenant>`, None without one.
        parts: the path from `v2` on.
        version: from the path, None to let the split choose.
        passed_on: headers for the host, encoded as they go out.
        body_fields: those that describe the body, encoded just so.
        head: all headers, in their order.
        idempotency: the `Idempotency-Key`: requests of one key of the platform that bear the same are one, retried.
    """

    kind: Literal["infer", "read"]
    tenant: str | None
    parts: tuple[str, ...]
    credentials: Credentials
    model: str = ""
    version: str | None = None
    passed_on: bytes = b""
    body_fields: bytes = b""
    traceparent: str | None = None
    head: Fields = field(default_factory=list, repr=False)
    idempotency: bytes | None = None

    @property
    def fields(self) -> Mapping[bytes, bytes]:
        """The first header of each name, in lower case: for routes that look at one."""
        return dict(reversed(self.head))


def call_of(head: Head) -> Call:
    """Read a head. Raises NotFound or a refusal of the method."""
    tenant, parts = _split(head.path)
    if parts[-1] != "infer" or len(parts) not in (4, 6) or parts[1] != "models":
        return Call("read", tenant, parts, Credentials(head.field(b"authorization")))
    if head.method != b"POST":
        raise method_not_allowed("POST")
    if len(parts) == 6 and parts[3] != "versions":
        raise no_such_path()
    authorization: bytes | None = None
    traceparent: str | None = None
    idempotency: bytes | None = None
    passed_on: list[bytes] = []
    body_fields: list[bytes] = []
    for name, value in head.fields:
        if name in PASSED_ON:
            passed_on += (name, b": ", value, b"\r\n")
        elif name in OF_BODY:
            body_fields += (name, b": ", value, b"\r\n")
        elif name == b"authorization":
            authorization = value
        elif name == b"traceparent":
            traceparent = value.decode("latin-1")
        elif name == b"idempotency-key":
            idempotency = value
    return Call(
        "infer", tenant, parts, Credentials(authorization),
        model=parts[2], version=parts[4] if len(parts) == 6 else None,
        passed_on=b"".join(passed_on), body_fields=b"".join(body_fields), traceparent=traceparent,
        head=head.fields, idempotency=idempotency,
    )  # fmt: skip


def _split(path: bytes) -> tuple[str | None, tuple[str, ...]]:
    """Tenant of the base path, and the path's parts from `v2` on. Raises NotFound."""
    parts = [unquote(part) for part in path.decode("latin-1").strip("/").split("/")]
    tenant = None
    if parts[0] == "t" and len(parts) > 2:
        tenant, parts = parts[1], parts[2:]
    if parts[0] != "v2" and (tenant is not None or parts != [_DOCUMENT]):
        raise no_such_path()
    return tenant, tuple(parts)
