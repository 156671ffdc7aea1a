"""The HTTP call from router to replica host: `POST /v2/models/{model}/versions/{version}/infer`.

Requests carry the headers below; a host answers only those that bear the token of its generation (else 401 with
`HOST_STALE`, upon which the router drops the endpoint). The answer's `OUT_*` headers are for the router, which strips
them.
"""

TOKEN = "moorage-host-token"  # noqa: S105 - a header's name
TENANT = "moorage-tenant"
ARM = "moorage-arm"
DEADLINE_MS = "moorage-deadline-ms"
"""Milliseconds left, an integer; the host drops what it cannot answer in time with 504."""
COMPACT = "moorage-compact"
"""Asks for the compact output of the answer: an output's name, percent-encoded, or FIRST."""
FIRST = "1"

OUT_PREFIX = "moorage-out-"
OUT_SERVICE_US = "moorage-out-service-us"
"""Microseconds in the model, queueing in the host excluded."""
OUT_ROWS = "moorage-out-rows"
OUT_STATE = "moorage-out-state"
"""`ok`, `nan` (a float output holds NaN or Inf), `constant`."""
OUT_COMPACT = "moorage-out-compact"
"""Only where it was asked for: the compact output as contracts/feedback.py encodes it, percent-encoded."""

HOST_STALE = "host_stale"
ERROR_CODE = "moorage-error"
"""Response header with the stable code of a refusal, on /v2 where the body is the protocol's own."""
REQUEST_ID = "moorage-request-id"
