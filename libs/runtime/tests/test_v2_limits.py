"""The codec's promise: whatever comes, what decoding takes is bounded, and so is its time."""

import time
import tracemalloc
from collections.abc import Callable

import numpy as np
import orjson
import pytest

from moorage_common.errors import BadRequest, MoorageError, TooLarge
from moorage_runtime import v2

MIB = 1024 * 1024
SLACK = 4 * MIB
"""What decoding may take beside the body and the decoded tensors, however large they are."""


def _data(datatype: str, shape: list[int], data: bytes, more: bytes = b"") -> bytes:
    head = b'{"name":"x","datatype":"%s","shape":%s,"data":' % (datatype.encode(), orjson.dumps(shape))
    return b'{"inputs":[' + head + data + b"}]" + more + b"}"


def _of(size: int, start: bytes, unit: bytes, end: bytes) -> bytes:
    return start + unit * (size // len(unit)) + end


def _head(name: bytes = b'"x"', datatype: bytes = b'"FP32"', shape: bytes = b"[1]") -> bytes:
    return b'{"inputs":[{"name":%s,"datatype":%s,"shape":%s,"data":[1]}]}' % (name, datatype, shape)


WIDE = "😀".encode()
"""One of these makes Python hold a text in four bytes a character."""

HOSTILE: dict[str, Callable[[int], bytes]] = {
    "empty lists": lambda n: _data("FP32", [n // 3], _of(n, b"[", b"[],", b"[]]")),
    "empty objects": lambda n: _data("FP32", [n // 3], _of(n, b"[", b"{},", b"{}]")),
    "lists of one": lambda n: _data("FP32", [n // 4 + 1, 1], _of(n, b"[", b"[1],", b"[1]]")),
    "ones": lambda n: _data("FP64", [n // 2 + 1], _of(n, b"[", b"1,", b"1]")),
    "small ones": lambda n: _data("INT8", [n // 2 + 1], _of(n, b"[", b"1,", b"1]")),
    "ones that BYTES promises": lambda n: _data("BYTES", [n // 2 + 1], _of(n, b"[", b"1,", b"1]")),
    "empty strings": lambda n: _data("BYTES", [n // 3 + 1], _of(n, b"[", b'"",', b'""]')),
    "escaped strings": lambda n: _data("BYTES", [n // 9 + 1], _of(n, b"[", b'"\\u0041",', b'"\\n"]')),
    "deep lists": lambda n: _data("FP32", [1], b"[" * n),
    "deep unknown lists": lambda n: _data("FP32", [1], b"[1]", b',"u":' + b"[" * (n // 2) + b"]" * (n // 2)),
    "wide unknown lists": lambda n: _data("FP32", [1], b"[1]", b',"u":' + _of(n, b"[", b"[[]],", b"0]")),
    "unknown fields": lambda n: _data("FP32", [1], b"[1]", _of(n, b"", b',"kkkkkkk":{}', b"")),
    "a long unknown name": lambda n: _data("FP32", [1], b"[1]", b',"' + b"k" * n + b'":1'),
    "a long escaped unknown name": lambda n: _data("FP32", [1], b"[1]", b',"\\n' + b"k" * n + b'":1'),
    "a long number": lambda n: _data("FP64", [1], b"[" + b"1" * n + b"]"),
    "a long fraction": lambda n: _data("FP64", [1], b"[0." + b"1" * n + b"]"),
    "a long string": lambda n: _data("BYTES", [1], b'["' + b"s" * n + b'"]'),
    "a long wide string": lambda n: _data("BYTES", [1], '["😀'.encode() + b"s" * n + b'"]'),
    "a long string of escapes": lambda n: _data("BYTES", [1], _of(n, b'["', b"\\ud83d\\ude00", b'"]')),
    "a long string of backslashes": lambda n: _data("BYTES", [1], _of(n, b'["', b"\\\\", b'"]')),
    "a long string of quotes": lambda n: _data("BYTES", [1], _of(n, b'["', b'\\"', b'"]')),
    "a string among numbers": lambda n: _data("FP32", [n // 4], _of(n, b'["' + b"a" * 10**6 + b'"', b",1", b"]")),
    "a long name": lambda n: _head(name=b'"' + WIDE + b"n" * n + b'"'),
    "a long datatype": lambda n: _head(datatype=b'"' + WIDE + b"n" * n + b'"'),
    "a long shape": lambda n: _head(shape=_of(n, b"[", b"1,", b"1]")),
    "a long id": lambda n: _data("FP32", [1], b"[1]", b',"id":"' + b"i" * n + b'"'),
    "long parameters": lambda n: _data("FP32", [1], b"[1]", b',"parameters":' + _of(n, b'{"a":[', b"[],", b"0]}")),
    "many tensors": lambda n: _of(n, b'{"inputs":[', b'{"name":"x","datatype":"FP32","shape":[0],"data":[]},', b"{}]}"),
    "empty tensors": lambda n: _of(n, b'{"inputs":[', b"{},", b"{}]}"),
    "many outputs": lambda n: _data("FP32", [1], b"[1]", b',"outputs":' + _of(n, b"[", b'{"name":"y"},', b"{}]")),
    "white space": lambda n: _data("FP32", [2], b"[1," + b" " * n + b"2]"),
    "nothing": lambda n: b" " * n,
    "many dimensions of one": lambda n: _data("INT8", [1, 1, n // 6 + 1, 1, 1], _of(n, b"[[[", b"[[1]],", b"[[1]]]]]")),
}  # fmt: skip


def _refused(body: bytes, limit: int = 64 * MIB) -> bool:
    try:
        v2.decode_request(body, limit_bytes=limit)
    except MoorageError as error:
        return 400 <= error.status < 500
    return False


@pytest.mark.parametrize("name", HOSTILE)
def test_decoding_takes_no_more_than_the_limit_beside_the_body(name: str) -> None:
    limit = 4 * MIB
    body = HOSTILE[name](limit - 200)
    tracemalloc.start()
    try:
        _refused(body, limit)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak <= limit + SLACK


@pytest.mark.parametrize("name", HOSTILE)
def test_64_kib_take_no_tenth_of_a_second(name: str) -> None:
    body = HOSTILE[name](64 * 1024 - 200)

    def seconds() -> float:
        began = time.perf_counter()
        _refused(body)
        return time.perf_counter() - began

    assert min(seconds() for _ in range(3)) < 0.1


@pytest.mark.parametrize(
    ("datatype", "shape", "data"),
    [
        ("FP64", [126], [1] * 126),
        ("FP32", [251], [1] * 251),
        ("BYTES", [16], ["a"] * 16),
        ("BYTES", [12], ["a" * 20] * 12),
    ],
)
def test_tensors_larger_than_the_limit_are_refused(datatype: str, shape: list[int], data: list[object]) -> None:
    body = _data(datatype, shape, orjson.dumps(data))
    with pytest.raises(TooLarge, match="more than 1000 bytes decoded"):
        v2.decode_request(body, limit_bytes=1000)
    v2.decode_request(body, limit_bytes=1100)


def test_bodies_larger_than_the_limit_are_refused() -> None:
    body = _data("FP32", [1], b"[1]")
    with pytest.raises(TooLarge, match="the body is"):
        v2.decode_request(body, limit_bytes=len(body) - 1)
    v2.decode_request(body, limit_bytes=len(body))


def test_binary_tensors_are_views_of_the_body_and_read_only() -> None:
    sent = v2.encode_request({"x": np.arange(131072.0)}, binary=True)
    request = v2.decode_request(sent.body, sent.headers[v2.HEADER_LENGTH])
    assert np.shares_memory(request.inputs["x"], np.frombuffer(sent.body, dtype=np.uint8))
    assert not request.inputs["x"].flags.writeable


@pytest.mark.parametrize("unit", ['"', "\\", "\n", "é", "😀", "a", ",", "]", "\\u", "[1]"])
@pytest.mark.parametrize("count", [1, 70_000])
def test_long_strings_come_whole_wherever_windows_end(unit: str, count: int) -> None:
    for offset in range(3):
        text = "x" * offset + unit * count
        for body in (orjson.dumps([text, "y", text]), b'["' + _escaped(text) + b'","y","' + _escaped(text) + b'"]'):
            found = v2.decode_request(_data("BYTES", [3], body)).inputs["x"]
            assert found.tolist() == [text.encode(), b"y", text.encode()]


def _escaped(text: str) -> bytes:
    units = text.encode("utf-16-be")
    return b"".join(b"\\u%02x%02x" % (units[i], units[i + 1]) for i in range(0, len(units), 2))


@pytest.mark.parametrize("shape", [[40_000, 3], [2, 60_000, 1], [1, 1, 120_000], [3, 1, 40_000], [120_000, 1]])
def test_large_nested_data_is_held_against_its_shape(shape: list[int]) -> None:
    array = np.arange(120_000, dtype=np.int64).reshape(shape)
    text = orjson.dumps(array.tolist())
    np.testing.assert_array_equal(v2.decode_request(_data("INT64", shape, text)).inputs["x"], array)
    middle = text.index(b"]", len(text) // 2) if len(shape) < 3 or shape[-1] == 1 else text.index(b",", len(text) // 2)
    for wrong in (shape[::-1], [shape[0] * 2, *shape[1:]]):
        if wrong != shape:
            with pytest.raises(BadRequest):
                v2.decode_request(_data("INT64", wrong, text))
    with pytest.raises(BadRequest):
        v2.decode_request(_data("INT64", shape, text[:middle] + b",7" + text[middle:]))
    if shape[-1] > 1:
        ragged = text[:middle].rsplit(b",", 1)[0] + text[middle:]
        with pytest.raises(BadRequest):
            v2.decode_request(_data("INT64", shape, ragged))


def test_large_strings_nest_as_their_shape_says() -> None:
    array = np.array([f"w{i}" for i in range(60_000)], dtype=object).reshape(20_000, 3)
    text = orjson.dumps(array.tolist())
    found = v2.decode_request(_data("BYTES", [20_000, 3], text)).inputs["x"]
    assert found.tolist() == v2.canonical(array).tolist()
    with pytest.raises(BadRequest, match="nested otherwise"):
        v2.decode_request(_data("BYTES", [30_000, 2], text))
