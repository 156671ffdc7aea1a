"""What a host's answer says to the router, and what of it goes on to the caller. Pure."""

from dataclasses import dataclass

from moorage_common.contracts import host_calls
from moorage_router.upstream import Headers

_OUT_PREFIX = host_calls.OUT_PREFIX.encode()
_OUT_ROWS = host_calls.OUT_ROWS.encode()
_OUT_SERVICE_US = host_calls.OUT_SERVICE_US.encode()
_NOT_PASSED_ON = frozenset({b"date", b"server", b"content-length", host_calls.REQUEST_ID.encode()})
"""The router writes its own."""


@dataclass(slots=True)
class Outcome:
    """One request as metering sees it. `status` 499: the caller went away."""

    status: int = 499
    rows: int = 0
    busy_us: int = 0
    bytes_in: int = 0
    bytes_out: int = 0


def outcome_of(headers: Headers, outcome: Outcome) -> list[bytes]:
    """Take the host's `moorage-out-*` headers into `outcome`; the others are the caller's, as parts of header lines."""
    passed: list[bytes] = []
    for name, value in headers:
        if name.startswith(_OUT_PREFIX):
            if name == _OUT_ROWS:
                outcome.rows = _number(value)
            elif name == _OUT_SERVICE_US:
                outcome.busy_us = _number(value)
        elif name not in _NOT_PASSED_ON:
            passed += (name, b": ", value, b"\r\n")
    return passed


def _number(text: bytes) -> int:
    return int(text) if text.isdigit() else 0
