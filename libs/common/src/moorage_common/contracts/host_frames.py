"""Many small inference calls over one connection between a router and a replica host: frames, by id.

A router asks for it with `GET /frames` and `Upgrade: moorage-frames/1`, bearing the headers of contracts/host_calls.py;
a host that does not know it answers with another status than 101, and is called over HTTP. Integers are big-endian.

    call     length u32 | 1 u8 | id u32 | milliseconds left u32 | head bytes u16 | traceparent 55 | head | body
    cancel   length u32 | 2 u8 | id u32                                     the caller has gone: no answer is needed
    answer   length u32 | 3 u8 | id u32 | status u16 | in the model us u32 | waited us u32 | rows u32 | state u8
             | field bytes u16 | fields | body
    compact  as an answer with kind 4, and | output bytes u16 | after the field bytes, | output | after the fields

`length` counts what follows it. Kind 4 is sent only to who asked for it (host_calls.COMPACT), so that a peer that does
not know it never sees one; its output is as contracts/feedback.py encodes it. A call's head is an HTTP request line and
header lines, the same for all calls of one caller to one version, so that a host reads each but once. An answer's
status is 200 or a refusal's, its fields are header lines for the caller. An answer longer than FRAMED_BYTES has the
header ANSWER_AT instead of its body: it is read over HTTP from that path, once.
"""

import re
import struct
from typing import NamedTuple

PATH = "/frames"
PROTOCOL = "moorage-frames/1"
ANSWER_AT = "moorage-answer-at"
FRAMED_BYTES = 256 * 1024
"""A body up to this size travels in a frame."""
MOST_BYTES = FRAMED_BYTES + 128 * 1024
"""No frame is longer."""

CALL, CANCEL, ANSWER, COMPACT = 1, 2, 3, 4
STATES = ("ok", "nan", "constant")

_LENGTH = struct.Struct("!I")
_CALL = struct.Struct("!IBIIH55s")
_CANCEL = struct.Struct("!IBI")
_ANSWER = struct.Struct("!IBIHIIIBH")
_COMPACT = struct.Struct("!IBIHIIIBHH")
_NOT_AN_ANSWERS = (
    rb"connection|content-length|date|keep-alive|moorage-out-[^:]*|moorage-request-id|proxy-connection|server|te"
    rb"|trailer|transfer-encoding|upgrade"
)
_FIELDS = re.compile(rb"(?:(?!(?:%b): )[!#$%%&'*+\-.^_`|~0-9a-z]+: [^\x00-\x1f\x7f]*\r\n)*" % _NOT_AN_ANSWERS)
_U32 = 0xFFFFFFFF


class BadFrame(Exception):
    """The other side does not speak frames: the connection ends."""


class Call(NamedTuple):
    id: int
    left_ms: int
    traceparent: bytes
    head: bytes
    body: bytes


class Answer(NamedTuple):
    """`service_us`: in the model; `queue_us`: waited for it; `state`: index into STATES; `output`: the compact one."""

    id: int
    status: int
    service_us: int
    queue_us: int
    rows: int
    state: int
    fields: bytes
    body: bytes
    output: bytes = b""


def encode_call(call: Call) -> bytes:
    call_id, left_ms, traceparent, head, body = call
    length = _CALL.size - _LENGTH.size + len(head) + len(body)
    return _CALL.pack(length, CALL, call_id, min(left_ms, _U32), len(head), traceparent) + head + body


def encode_cancel(call_id: int) -> bytes:
    return _CANCEL.pack(_CANCEL.size - _LENGTH.size, CANCEL, call_id)


def encode_answer(answer: Answer) -> bytes:
    call_id, status, service_us, queue_us, rows, state, fields, body, output = answer
    numbers = call_id, status, min(service_us, _U32), min(queue_us, _U32), min(rows, _U32), state, len(fields)
    if output:
        length = _COMPACT.size - _LENGTH.size + len(fields) + len(output) + len(body)
        return _COMPACT.pack(length, COMPACT, *numbers, len(output)) + fields + output + body
    length = _ANSWER.size - _LENGTH.size + len(fields) + len(body)
    return _ANSWER.pack(length, ANSWER, *numbers) + fields + body


def are_fields(text: bytes) -> bool:
    """Whether `text` is whole header lines that a router may send on: none of them ends a head, frames a body or is the
    router's own to write, so that it cannot begin another answer."""
    return _FIELDS.fullmatch(text) is not None


class Frames:
    """Splits a stream into frames. One a connection."""

    __slots__ = ("_rest", "_wanted")

    def __init__(self) -> None:
        self._rest = bytearray()
        self._wanted = 0

    def feed(self, data: bytes) -> list[Call | Answer | int]:
        """The frames that are whole now; a cancel is its id. Raises BadFrame."""
        rest = self._rest
        if rest:
            rest += data
            if len(rest) < self._wanted:
                return []
            data = bytes(rest)
            rest.clear()
        found: list[Call | Answer | int] = []
        at, size = 0, len(data)
        while size - at >= _LENGTH.size:
            end = at + _LENGTH.size + _LENGTH.unpack_from(data, at)[0]
            if end - at > MOST_BYTES:
                raise BadFrame("a frame is too long")
            if end > size:
                self._wanted = end - at
                break
            found.append(_frame(data, at, end))
            at = end
        else:
            self._wanted = _LENGTH.size
        if at < size:
            rest += data[at:]
        return found


def _frame(data: bytes, at: int, end: int) -> Call | Answer | int:
    try:
        kind = data[at + _LENGTH.size]
        if kind == CALL:
            _, _, call_id, left_ms, head_size, traceparent = _CALL.unpack_from(data, at)
            body = at + _CALL.size + head_size
            if body <= end:
                return Call(call_id, left_ms, traceparent, data[at + _CALL.size : body], data[body:end])
        elif kind == ANSWER:
            _, _, call_id, status, service_us, queue_us, rows, state, size = _ANSWER.unpack_from(data, at)
            body = at + _ANSWER.size + size
            if body <= end and state < len(STATES):
                fields = data[at + _ANSWER.size : body]
                return Answer(call_id, status, service_us, queue_us, rows, state, fields, data[body:end])
        elif kind == COMPACT:
            _, _, call_id, status, service_us, queue_us, rows, state, size, more = _COMPACT.unpack_from(data, at)
            output = at + _COMPACT.size + size
            body = output + more
            if body <= end and state < len(STATES) and more:
                fields = data[at + _COMPACT.size : output]
                return Answer(
                    call_id, status, service_us, queue_us, rows, state, fields, data[body:end], data[output:body]
                )
        elif kind == CANCEL and end - at == _CANCEL.size:
            return int(_CANCEL.unpack_from(data, at)[2])
    except (struct.error, IndexError):
        pass
    raise BadFrame("a frame is not what it says")
