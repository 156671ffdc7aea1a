"""The head of a request, and what makes one unacceptable. Pure."""

import asyncio
from http import HTTPStatus
from typing import Any

from moorage_common.http1.refusals import Refusal

Fields = list[tuple[bytes, bytes]]
"""Header fields in their order, names in lower case."""

_STATUS_LINES = {status.value: f"HTTP/1.1 {status.value} {status.phrase}\r\n".encode() for status in HTTPStatus}


_CLOSE = b"connection: close\r\n"


def status_line(status: int) -> bytes:
    return _STATUS_LINES.get(status) or b"HTTP/1.1 %d \r\n" % status


def answer_head(status: int, date: bytes, fields: bytes, length: int | None, *, close: bool) -> bytes:
    """The head of an answer of `length` bytes, chunked where that is None."""
    framing = b"transfer-encoding: chunked" if length is None else b"content-length: %d" % length
    return b"%b%b%b%b%b\r\n\r\n" % (
        _STATUS_LINES.get(status) or status_line(status), date, fields, _CLOSE if close else b"", framing,
    )  # fmt: skip


class Head:
    """One request's head. Equal heads of a connection share one object.

    Attributes:
        path: as it was sent, undecoded, without the query.
        content_length: bytes; None for a chunked body.
        memo: for the handler to keep what it made of this head.
    """

    __slots__ = ("content_length", "expects_continue", "fields", "keep_alive", "memo", "method", "path")

    def __init__(
        self, method: bytes, path: bytes, fields: Fields, *, content_length: int | None, keep_alive: bool,
        expects_continue: bool,
    ) -> None:  # fmt: skip
        self.method = method
        self.path = path
        self.fields = fields
        self.content_length = content_length
        self.keep_alive = keep_alive
        self.expects_continue = expects_continue
        self.memo: Any = None

    def field(self, name: bytes) -> bytes | None:
        """The first field of that name."""
        return next((value for key, value in self.fields if key == name), None)


def read_head(method: bytes, target: bytes, fields: Fields, version: str, *, keep_alive: bool) -> Head | Refusal:
    """A head that only one reading is possible of, or the refusal.

    The parser has refused already: Content-Length with Transfer-Encoding, two of either, folded fields, bare line
    feeds, white space before a colon, control characters (RFC 9112, sections 2.2, 5 and 6).
    """
    length, hosts, chunked, expects = 0, 0, False, False
    for name, value in fields:
        if name == b"content-length":
            length = int(value)
        elif name == b"host":
            hosts += 1
        elif name == b"transfer-encoding":
            if value.lower() != b"chunked" or version != "1.1":
                return Refusal(400, "bad_framing", "the only Transfer-Encoding taken is chunked, in HTTP/1.1")
            chunked = True
        elif name == b"expect":
            if value.lower() != b"100-continue":
                return Refusal(417, "bad_http", "the only Expect taken is 100-continue")
            expects = version == "1.1"
    if method == b"CONNECT":
        return Refusal(405, "method_not_allowed", "this is not a proxy")
    if version not in ("1.0", "1.1"):
        return Refusal(505, "bad_http", "speak HTTP/1.1")
    if hosts > 1 or (hosts == 0 and version == "1.1"):
        return Refusal(400, "bad_http", "send one Host header")
    path = target.partition(b"?")[0]
    if not path.startswith(b"/"):
        _, _, rest = path.partition(b"://")
        path = b"/" + rest.partition(b"/")[2]
    return Head(
        method, path, fields, content_length=None if chunked else length, keep_alive=keep_alive,
        expects_continue=expects,
    )  # fmt: skip


def peer_of(transport: asyncio.BaseTransport) -> str:
    """Address of the other end; empty where it has none."""
    name = transport.get_extra_info("peername")
    return name[0] if isinstance(name, tuple) else ""
