"""What comes in on one connection: from bytes to exchanges."""

from typing import TYPE_CHECKING, Any

import httptools

from moorage_common.http1.exchange import Exchange
from moorage_common.http1.head import Fields, Head, read_head
from moorage_common.http1.refusals import BAD_HTTP, TINY_CHUNKS, Refusal, head_too_long, target_too_long

if TYPE_CHECKING:
    from moorage_common.http1.connection import Connection

_SLICE = 16 * 1024
"""Parsed at once, so that few requests are parsed that must wait for others."""
_TINY_FACTOR = 16
_TINY_SLACK = 64 * 1024


class Incoming:
    """Parses for one connection, and hands over to it what is whole or long.

    Attributes:
        begun: a request has begun to come in and is not whole: what comes belongs to it.
        reading: the exchange whose body comes in.
        refusal: why nothing that comes is taken any more.
        last: the last head that was read whole.
        heads: how many were; reset by the connection.
        held: what is to be parsed once the requests before it are answered.
        kept_bytes: of a head or a trailer that comes in, without those of the segment that it began in.
    """

    __slots__ = (
        "_connection", "_fields", "_fields_bytes", "_limits", "_parser", "_raw_bytes", "_received", "_size", "_target",
        "_upgrading", "begun", "heads", "held", "kept_bytes", "last", "reading", "refusal",
    )  # fmt: skip

    def __init__(self, connection: "Connection") -> None:
        self._connection = connection
        self._limits = connection.limits
        self._parser: Any = httptools.HttpRequestParser(self)
        self._target = b""
        self._fields: Fields = []
        self._fields_bytes = self._raw_bytes = self._received = self._size = 0
        self._upgrading = False
        self.held = b""
        self.kept_bytes = self.heads = 0
        self.begun = False
        self.last: Head | None = None
        self.reading: Exchange | None = None
        self.refusal: Refusal | None = None

    def close(self) -> None:
        """The connection is no more."""
        self._parser = None
        if self.reading is not None:
            self.reading.lose()

    def feed(self, data: bytes) -> None:
        """Take what came in. While requests wait their turn the rest is held, as the bytes that it is."""
        if self.refusal is not None:
            return
        if self.held:
            self.held += data
            return
        if len(data) <= _SLICE and (self.reading is None or not self.reading.streamed):
            at = self._parse(data)
            if at == len(data):
                return
            rest = memoryview(data)[at:]
        else:
            rest = memoryview(data)
        while rest and self.refusal is None:
            if (reading := self.reading) is not None and reading.streamed and reading.head.content_length is not None:
                rest = rest[self._pass_by(reading, rest, reading.head.content_length) :]
                continue
            if self._connection.behind:
                self.held = bytes(rest)
                return
            rest = rest[self._parse(rest[: self._slice()]) :]

    def _pass_by(self, reading: Exchange, data: memoryview, length: int) -> int:
        """The bytes of a long body of known length, which the parser would only copy."""
        taken = min(len(data), length - reading.received)
        reading.feed(bytes(data[:taken]))
        if reading.received == length:
            self.finish_elsewhere()
            reading.finish()
        return taken

    def feed_held(self) -> None:
        """Go on with what was held."""
        held, self.held = self.held, b""
        self.feed(held)

    def finish_elsewhere(self) -> None:
        """The rest of the body came in past the parser: what comes next is another request."""
        self._parser = httptools.HttpRequestParser(self)
        self.reading = None
        self.begun = False

    def _slice(self) -> int:
        """How much to parse at once: few requests, but all that is known to be of one body."""
        reading = self.reading
        length = reading.head.content_length if reading is not None else None
        return _SLICE if reading is None or length is None else max(_SLICE, length - reading.received)

    def _parse(self, data: bytes | memoryview) -> int:
        """The bytes taken: all but what is behind an offer of another protocol."""
        self._size = taken = len(data)
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            self._decline_upgrade()
            taken = upgrade.args[0]
        except httptools.HttpParserError:
            self.refusal = self.refusal or BAD_HTTP
        self._check(taken)
        return taken

    def _decline_upgrade(self) -> None:
        """Another protocol was offered and is not taken, so the request goes on as what it is.

        The parser stops at its body, if it has one: another is told of the framing and reads on.
        """
        self._upgrading = False
        self._parser = httptools.HttpRequestParser(self)
        if self.reading is not None:
            length = self.reading.head.content_length
            framing = b"Transfer-Encoding: chunked" if length is None else b"Content-Length: %d" % length
            self._parser.feed_data(b"POST / HTTP/1.1\r\n%b\r\n\r\n" % framing)

    def _check(self, size: int) -> None:
        """Hold what came against the limits."""
        limits, reading = self._limits, self.reading
        if reading is not None:
            self._raw_bytes += size
            if self._raw_bytes > _TINY_FACTOR * reading.received + limits.kept_body + _TINY_SLACK:
                self.refusal = self.refusal or TINY_CHUNKS
            self.kept_bytes = self.kept_bytes + size if reading.received == self._received else 0
            self._received = reading.received
        elif self.begun:
            self.kept_bytes += size
        if self.kept_bytes > limits.head:
            self.refusal = self.refusal or head_too_long(limits.head)

    # -- httptools

    def on_message_begin(self) -> None:
        self.begun = True
        self.kept_bytes = -self._size

    def on_url(self, part: bytes) -> None:
        if self.reading is not None or self.refusal is not None:
            return
        self._target += part
        most = self._limits.target
        if len(self._target) > most:
            self.refusal = target_too_long(most)

    def on_header(self, name: bytes, value: bytes) -> None:
        if self.reading is not None or self.refusal is not None:
            return  # a trailer, that nobody asked for, or too much already
        self._fields.append((name.lower(), value))
        self._fields_bytes += len(name) + len(value) + 4
        limits = self._limits
        if self._fields_bytes > limits.head or len(self._fields) > limits.fields:
            self.refusal = head_too_long(limits.head)

    def on_headers_complete(self) -> None:
        if self.refusal is not None or self.reading is not None:
            return
        parser = self._parser
        self._upgrading = parser.should_upgrade()
        head = read_head(
            parser.get_method(), self._target, self._fields, parser.get_http_version(),
            keep_alive=parser.should_keep_alive(),
        )  # fmt: skip
        if isinstance(head, Refusal):
            self.refusal = head
            return
        self._target, self._fields, self._fields_bytes = b"", [], 0
        self.last = head
        self.heads += 1
        self._raw_bytes = self._received = self.kept_bytes = 0
        exchange = self.reading = Exchange(self._connection, head)
        if head.content_length is not None and head.content_length > self._limits.kept_body:
            exchange.streamed = True
            self._connection.hand_over(exchange)
        elif head.expects_continue:
            self._connection.expected(exchange)

    def on_body(self, part: bytes) -> None:
        exchange = self.reading
        if exchange is None or self.refusal is not None:
            return
        exchange.feed(part)
        if not exchange.streamed and exchange.received > self._limits.kept_body:
            exchange.streamed = True
            self._connection.hand_over(exchange)

    def on_message_complete(self) -> None:
        if self._upgrading:
            return
        exchange, self.reading = self.reading, None
        self.begun = False
        if exchange is None or self.refusal is not None:
            return
        exchange.finish()
        if not exchange.streamed:
            self._connection.hand_over(exchange)
