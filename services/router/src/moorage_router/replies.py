"""What a host's answer says to the router, and what of it goes on to the caller. Pure."""

from collections.abc import AsyncIterator
from dataclasses import dataclass
from functools import lru_cache
from urllib.parse import unquote_to_bytes

from moorage_common.contracts import host_calls, host_frames
from moorage_common.contracts.feedback import Output, decode_output
from moorage_router.upstream import AnswerLost, Reply

_OUT_PREFIX = host_calls.OUT_PREFIX.encode()
_OUT_ROWS = host_calls.OUT_ROWS.encode()
_OUT_SERVICE_US = host_calls.OUT_SERVICE_US.encode()
_OUT_COMPACT = host_calls.OUT_COMPACT.encode()
_OUT_STATE = host_calls.OUT_STATE.encode()
_STATES = {state.encode(): state for state in host_frames.STATES}
_ERROR_CODE = host_calls.ERROR_CODE.encode()
_NOT_PASSED_ON = frozenset({b"date", b"server", b"content-length", host_calls.REQUEST_ID.encode()})
"""The router writes its own."""


@dataclass(slots=True)
class HostReply:
    """A host's answer.

    Attributes:
        fields: header lines for the caller, encoded, without those of framing.
        body: the whole of it unless `rest` is set.
        rest: a long answer, which `parts` reads.
        state: of the outputs, one of `host_frames.STATES`.
        output: the compact one, where it was asked for and the host gave one.
    """

    status: int
    fields: bytes
    body: bytes
    rows: int = 0
    busy_us: int = 0
    error_code: bytes = b""
    rest: Reply | None = None
    output: Output | None = None
    state: str = "ok"

    def parts(self) -> AsyncIterator[bytes] | None:
        """The whole of a long answer, part by part. Raises AnswerLost or Overdue."""
        return None if self.rest is None else self.rest.chunks()

    @property
    def length(self) -> int | None:
        """Bytes of a long answer, where the host said so."""
        return None if self.rest is None else self.rest.length

    def discard(self) -> None:
        if self.rest is not None:
            self.rest.discard()


def of_http(reply: Reply) -> HostReply:
    """An answer over HTTP."""
    fields: list[bytes] = []
    found = HostReply(reply.status, b"", reply.body, rest=None if reply.rest is None else reply)
    for name, value in reply.headers:
        if name.startswith(_OUT_PREFIX):
            if name == _OUT_ROWS:
                found.rows = _number(value)
            elif name == _OUT_SERVICE_US:
                found.busy_us = _number(value)
            elif name == _OUT_STATE:
                found.state = _STATES.get(value, "ok")
            elif name == _OUT_COMPACT:
                found.output = decode_output(unquote_to_bytes(value))
        elif name not in _NOT_PASSED_ON:
            fields += (name, b": ", value, b"\r\n")
            if name == _ERROR_CODE:
                found.error_code = value
    found.fields = b"".join(fields)
    return found


def of_frame(answer: host_frames.Answer) -> HostReply:
    """An answer in a frame. Raises AnswerLost for fields that are not header lines, or a status that no answer has."""
    if not _are_fields(answer.fields):
        raise AnswerLost("the answer's header lines are malformed")
    code = b""
    if answer.status != 200:
        if not 400 <= answer.status < 600:
            raise AnswerLost(f"no answer has the status {answer.status}")
        code = _error_code(answer.fields)
    reply = HostReply(answer.status, answer.fields, answer.body, answer.rows, answer.service_us, code)
    reply.state = host_frames.STATES[answer.state]
    if answer.output:
        reply.output = decode_output(answer.output)
    return reply


_are_fields = lru_cache(maxsize=256)(host_frames.are_fields)


def answer_at(reply: HostReply) -> bytes | None:
    """Where a long answer is to be read from, if this frame does not hold it."""
    if reply.body or not reply.fields.startswith(_ANSWER_AT):
        return None
    return reply.fields[len(_ANSWER_AT) :].partition(b"\r\n")[0]


_ANSWER_AT = f"{host_frames.ANSWER_AT}: ".encode()


def _error_code(fields: bytes) -> bytes:
    return next(
        (line[len(_ERROR_CODE) + 2 :] for line in fields.split(b"\r\n") if line.startswith(_ERROR_CODE + b": ")), b""
    )


def _number(text: bytes) -> int:
    return int(text) if text.isdigit() else 0
