"""Looking at JSON text in windows: where strings end, how deep it nests, in memory that does not grow with it.

Texts are looked at beside the parser, not instead of it: on text that is not JSON the answers mean nothing, and it
is refused anyway.
"""

from collections.abc import Iterator

import numpy as np

from moorage_common.errors import BadRequest
from moorage_runtime.v2.datatypes import MAX_DEPTH, WINDOW_BYTES

_STEPS = bytes.maketrans(b"[{]}", b"\x01\x01\xff\xff")
_NOT_BRACKETS = bytes(set(range(256)) - set(b"[{]}"))
_OPENINGS_IN_A_MESSAGE = 3
"""A message's object, its list of tensors, a tensor: what is unknown to us begins within these."""


def mask(text: bytes) -> bytes:
    """`text` (from outside an escape) with escaped quotes and backslashes overwritten: as long, and a quote is one."""
    return text.replace(b"\\\\", b"__").replace(b'\\"', b"__") if b"\\" in text else text


def pieces(view: memoryview) -> Iterator[tuple[int, int, bytes | None]]:
    """Consecutive spans of JSON that end outside strings, with their masked text.

    A string that does not fit a window is a span of its own, without text.
    """
    at = 0
    while at < len(view):
        text = mask(bytes(view[at : at + WINDOW_BYTES]))
        end = len(text) if text.count(b'"') % 2 == 0 else text.rfind(b'"')
        if end:
            yield at, at + end, text[:end]
        else:
            end = string_end(view, at) - at
            yield at, at + end, None
        at += end


def string_end(view: memoryview, start: int) -> int:
    """Where the string that begins at `start` has ended, its quotes included."""
    at = start + 1
    while at < len(view):
        text = mask(bytes(view[at : at + WINDOW_BYTES]))
        quote = text.find(b'"')
        if quote >= 0:
            return at + quote + 1
        # A backslash at the window's end belongs to what follows it.
        at += len(text) - 1 if text.endswith(b"\\") and len(text) > 1 else len(text)
    return len(view)


def refuse_deep(body: bytes | bytearray, end: int, known: int) -> None:
    """Refuse JSON, `body` up to `end`, that nests deeper than MAX_DEPTH.

    Args:
        known: brackets that the caller knows to open where they may; few others cannot nest deep.

    Raises:
        BadRequest: it nests deeper.
    """
    opened = body.count(b"[", 0, end) + body.count(b"{", 0, end)
    if opened - known > MAX_DEPTH - _OPENINGS_IN_A_MESSAGE:
        refuse_unusual(memoryview(body)[:end])


def refuse_unusual(view: memoryview) -> None:
    """Refuse nesting deeper than MAX_DEPTH, and names of fields that do not fit a window.

    Raises:
        BadRequest: one of them.
    """
    depth = 0
    for start, end, text in pieces(view):
        if text is None:
            if bytes(view[end : end + WINDOW_BYTES]).lstrip(b" \t\r\n").startswith(b":"):
                raise BadRequest(f"a field's name is {end - start} bytes long; at most {WINDOW_BYTES} are allowed")
            continue
        outside = b"".join(text.split(b'"')[::2])
        steps = np.frombuffer(outside.translate(_STEPS, _NOT_BRACKETS), dtype=np.int8)
        if len(steps):
            depths = np.cumsum(steps, dtype=np.int64) + depth
            depth = int(depths[-1])
            if int(depths.max()) > MAX_DEPTH:
                raise BadRequest(f"the JSON is nested deeper than {MAX_DEPTH}")
