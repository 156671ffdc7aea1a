"""JSON data of numbers and booleans to numpy: parsed, type-checked and range-checked in C, in windows.

`struct` writes the parsed values where they belong: it refuses what does not fit, and is twice as fast as `np.array`.
Integers and booleans that are not written as such are looked at again, by `tolerance`.
"""

import struct
from collections.abc import Callable, Iterator
from itertools import chain
from types import GenericAlias
from typing import Any, NamedTuple

import msgspec
import numpy as np

from moorage_common.errors import BadRequest, MoorageError
from moorage_runtime.v2.datatypes import DTYPES, MAX_RANK, WINDOW_BYTES, Array, Budget, Promise
from moorage_runtime.v2.nesting import NOT_NESTING, WHITESPACE, Nesting, leading_lists, nesting_dims
from moorage_runtime.v2.tolerance import written_otherwise

_Decode = Callable[[Any], list[Any]]


def _decoders(leaf: type) -> tuple[_Decode, ...]:
    """Parsers of lists of `leaf`, by how deep the lists nest; none parses what is no list."""
    kinds: list[Any] = [GenericAlias(list, leaf)]
    for _ in range(MAX_RANK - 1):
        kinds.append(GenericAlias(list, kinds[-1]))
    return tuple(msgspec.json.Decoder(kind).decode for kind in [kinds[0], *kinds])


class _Form(NamedTuple):
    code: str
    decode: tuple[_Decode, ...]
    dtype: np.dtype[Any]
    expected: str


_FORMS = {
    name: _Form(code, decoders, DTYPES[name], expected)
    for names, decoders, expected in (
        ({"BOOL": "?"}, _decoders(bool), "true or false (or 1 or 0)"),
        ({"UINT8": "B", "UINT16": "H", "UINT32": "I", "UINT64": "Q"}, _decoders(int), "whole numbers"),
        ({"INT8": "b", "INT16": "h", "INT32": "i", "INT64": "q"}, _decoders(int), "whole numbers"),
        ({"FP16": "e", "FP32": "f", "FP64": "d"}, _decoders(float), "numbers"),
    )
    for name, code in names.items()
}
_OPENING = ord("[")


def numbers(promise: Promise, raw: Any, budget: Budget) -> Array:
    """Decode one tensor's `data`; 64-bit integers stay exact.

    Args:
        raw: the data as JSON text that was parsed once.
        budget: what the tensor costs is taken from it before it is allocated.

    Raises:
        BadRequest: another number of elements than the shape promises, another nesting, another kind of value.
        TooLarge: the budget is used up.
    """
    code, decoders, dtype, _expected = _FORMS[promise.datatype]
    count = promise.count
    view = memoryview(raw)
    if len(view) > WINDOW_BYTES:
        return _in_windows(promise, view, budget)
    rank = len(promise.shape) if len(view) > 1 and view[1] == _OPENING else 1
    try:
        values = decoders[rank](raw)
    except msgspec.DecodeError:
        return _in_windows(promise, view, budget)
    if rank > 1:
        leaves = _leaves(values, promise.shape)
        if leaves is None:
            return _in_windows(promise, view, budget)
        values = leaves
    if len(values) != count:
        raise _miscounted(promise, str(len(values)))
    budget.take_elements(promise)
    room = bytearray(count * dtype.itemsize)
    try:
        struct.pack_into(f"<{count}{code}", room, 0, *values)
    except (struct.error, OverflowError):
        raise _too_big(promise) from None
    return np.ndarray(promise.shape, dtype, room)


def _leaves(level: list[Any], shape: list[int]) -> list[Any] | None:
    """The elements of nested lists, looked at level by level in C; None where they do not nest as `shape`."""
    if len(level) != shape[0]:
        return None
    for dimension in shape[1:]:
        if set(map(len, level)) != {dimension}:
            return None
        level = list(chain.from_iterable(level))
    return level


def _in_windows(promise: Promise, view: memoryview, budget: Budget) -> Array:
    dtype = _FORMS[promise.datatype].dtype
    count = promise.count
    if view[0] != _OPENING:
        raise BadRequest(f"tensor '{promise.name}': data must be a list")
    if len(view) < 2 * count + 1:
        raise _miscounted(promise, "fewer")
    nesting = _nesting_of(promise, view)
    budget.take_elements(promise)
    array = np.empty(count, dtype=dtype)
    at, plain = 0, True
    for text, comma in _windows(view if nesting else view[1:-1]):
        if nesting is not None:
            text = _flattened(promise, nesting, text, comma)  # noqa: PLW2901 - the same values
        values, plain = _window(promise, b"[" + text + b"]", plain)
        end = at + len(values)
        if end > count:
            raise _miscounted(promise, "more")
        array[at:end] = values
        at = end
    if nesting is not None and not nesting.ended():
        raise misnested(promise)
    if at != count:
        raise _miscounted(promise, str(at))
    return array.reshape(promise.shape)


def _window(promise: Promise, text: bytes, plain: bool) -> tuple[Array, bool]:
    """The values of a flat list, and whether they are written as their datatype is.

    Args:
        plain: the windows before were; else this one is not tried as such.
    """
    code, (decode, *_), dtype, _expected = _FORMS[promise.datatype]
    if plain:
        try:
            values = decode(text)
            return np.frombuffer(struct.pack(f"<{len(values)}{code}", *values), dtype), True
        except msgspec.DecodeError as error:
            if dtype.kind == "f" or b'"' in text:
                raise _wrong_values(promise, "got `str`" if b'"' in text else error) from None
        except (struct.error, OverflowError):
            raise _too_big(promise) from None
    try:
        return written_otherwise(promise.name, promise.datatype, text), False
    except msgspec.DecodeError as error:
        raise _wrong_values(promise, "got `str`" if b'"' in text else error) from None


def _windows(view: memoryview) -> Iterator[tuple[bytes, bytes]]:
    """The text in parts that end before a comma, and that comma."""
    at = 0
    while len(view) - at > WINDOW_BYTES:
        text = bytes(view[at : at + WINDOW_BYTES])
        cut = text.rfind(b",")
        if cut < 0:  # the parser says what is wrong with a value that long
            break
        yield text[:cut], b","
        at += cut + 1
    yield bytes(view[at : at + 2 * WINDOW_BYTES]), b""


def _nesting_of(promise: Promise, view: memoryview) -> Nesting | None:
    """What nested data has to look like; None where the data is one flat list."""
    depth = leading_lists(bytes(view[:WINDOW_BYTES]).translate(None, WHITESPACE))
    if depth == 1:
        return None
    dims = nesting_dims(promise.shape)
    if depth != len(dims):
        raise misnested(promise)
    return Nesting(dims)


def _flattened(promise: Promise, nesting: Nesting, text: bytes, comma: bytes) -> bytes:
    if b'"' in text:
        raise _wrong_values(promise, "got `str`")
    if not nesting.goes_on(text.translate(None, NOT_NESTING) + comma):
        raise misnested(promise)
    return text.translate(None, b"[]" if promise.count else b"[],")  # empty lists leave commas alone


def _wrong_values(promise: Promise, error: object) -> MoorageError:
    name, datatype = promise.name, promise.datatype
    found = str(error).partition("got `")[2].partition("`")[0]
    if not found:
        return _too_big(promise) if "range" in str(error) else BadRequest(f"tensor '{name}': {error}")
    hint = "; NaN and missing values travel as binary data only" if found == "null" and datatype[0] == "F" else ""
    return BadRequest(f"tensor '{name}': {datatype} data must be {_FORMS[datatype].expected}, found {found}{hint}")


def _too_big(promise: Promise) -> MoorageError:
    return BadRequest(f"tensor '{promise.name}': a value does not fit {promise.datatype}")


def _miscounted(promise: Promise, found: str) -> MoorageError:
    return BadRequest(
        f"tensor '{promise.name}': shape {promise.shape} promises {promise.count} elements, data holds {found}"
    )


def misnested(promise: Promise) -> MoorageError:
    """Data that is neither flat nor as the shape says."""
    return BadRequest(
        f"tensor '{promise.name}': data is ragged or nested otherwise than shape {promise.shape} says; nest it so, "
        "or send one flat list"
    )
