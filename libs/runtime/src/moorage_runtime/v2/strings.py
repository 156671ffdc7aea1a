"""JSON data of strings to BYTES tensors, in windows; a string without escapes is its bytes as they lie there."""

import io
import re

import msgspec
import numpy as np

from moorage_common.errors import BadRequest, MoorageError
from moorage_runtime.v2.datatypes import WINDOW_BYTES, Array, Budget, Promise
from moorage_runtime.v2.nesting import WHITESPACE, Nesting, leading_lists, nesting_dims
from moorage_runtime.v2.numbers import misnested
from moorage_runtime.v2.scan import mask, pieces

_STRING = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"', re.DOTALL)
_decode_strings = msgspec.json.Decoder(list[str]).decode
_decode_string = msgspec.json.Decoder(str).decode
_HIGH_SURROGATE = re.compile(rb"\\u[dD][89abAB]..", re.DOTALL)
_LONGEST_ESCAPE = 12
_OPENING = ord("[")


def strings(promise: Promise, view: memoryview, budget: Budget) -> Array:
    """Decode one tensor's `data`.

    Args:
        view: the data as JSON text that was parsed once.
        budget: what the tensor costs is taken from it before it is allocated.

    Raises:
        BadRequest: another number of elements than the shape promises, another nesting, another kind of value.
        TooLarge: the budget is used up.
    """
    name, shape, count = promise.name, promise.shape, promise.count
    if view[0] != _OPENING:
        raise BadRequest(f"tensor '{name}': data must be a list")
    if len(view) < 3 * count + 1:
        raise _miscounted(promise)
    depth = leading_lists(bytes(view[:WINDOW_BYTES]).partition(b'"')[0].translate(None, WHITESPACE))
    dims = nesting_dims(shape)
    if depth not in {1, len(dims)}:
        raise misnested(promise)
    budget.take_elements(promise)
    nesting = Nesting((count,) if depth == 1 else dims)
    array = np.empty(count, dtype=object)
    at = 0
    try:
        for start, end, text in pieces(view):
            if text is None:
                budget.take(end - start - 2)
                outside, values = b"", [_long(view[start + 1 : end - 1])]
            else:
                outside, values = _parted(bytes(view[start:end]), text)
                budget.take(sum(map(len, values)))
            _go_on(promise, nesting, outside.translate(None, WHITESPACE))
            if at + len(values) > count:
                raise _miscounted(promise)
            array[at : at + len(values)] = values
            at += len(values)
    except UnicodeDecodeError:
        raise BadRequest(f"tensor '{name}': a string is not UTF-8; send such bytes as binary data") from None
    except msgspec.DecodeError as error:
        raise BadRequest(f"tensor '{name}': {error}") from None
    if at != count:
        raise _miscounted(promise)
    if not nesting.ended():
        raise misnested(promise)
    return array.reshape(shape)


def _go_on(promise: Promise, nesting: Nesting, outside: bytes) -> None:
    other = outside.translate(None, b"[],")
    if other:
        raise BadRequest(f"tensor '{promise.name}': BYTES data must be strings, found {other[:20].decode('latin-1')}")
    if not nesting.goes_on(outside):
        raise misnested(promise)


def _parted(text: bytes, masked: bytes) -> tuple[bytes, list[bytes]]:
    """What lies outside the strings of `text`, and the strings."""
    if not text.isascii():
        text.decode()
    if b"\\" not in text:
        parts = text.split(b'"')
        return b"".join(parts[::2]), parts[1::2]
    found = _decode_strings(b"[" + b",".join(_STRING.findall(text)) + b"]")
    return b"".join(masked.split(b'"')[::2]), [value.encode() for value in found]


def _long(view: memoryview) -> bytes:
    """The bytes of one string longer than a window, without its quotes."""
    out = io.BytesIO()
    out.seek(len(view))  # room for all of it at once
    out.write(b"\0")
    out.seek(0)
    at = 0
    while at < len(view):
        text = bytes(view[at : at + WINDOW_BYTES])
        if at + len(text) < len(view):
            text = text[: _safe_cut(text)]
        out.write(_decode_string(b'"' + text + b'"').encode())
        at += len(text)
    out.truncate()
    return out.getvalue()


def _safe_cut(text: bytes) -> int:
    """Where `text` may end without cutting an escape, a pair of escapes or a character in two."""
    cut = len(text)
    masked = mask(text)
    escape = masked.rfind(b"\\", cut - _LONGEST_ESCAPE)
    if escape >= 0:
        pair = _HIGH_SURROGATE.fullmatch(masked[max(0, escape - 6) : escape])
        return escape - 6 if pair else escape
    lead = cut - 1
    while lead > cut - 4 and text[lead] & 0xC0 == 0x80:
        lead -= 1
    return lead if text[lead] >= 0xC0 else cut


def _miscounted(promise: Promise) -> MoorageError:
    return BadRequest(
        f"tensor '{promise.name}': shape {promise.shape} promises {promise.count} elements, data holds another number "
        "of strings"
    )
