"""The codec's promise: whatever comes, what decoding takes is bounded, and so is its time."""

import time
import tracemalloc

import numpy as np
import orjson
import pytest

from moorage_common.errors import BadRequest, MoorageError, TooLarge
from moorage_common.testing.hostile_requests import HOSTILE, request
from moorage_runtime import v2

MIB = 1024 * 1024
SLACK = 4 * MIB
"""What decoding may take beside the body and the decoded tensors, however large they are."""


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
    body = request(datatype, shape, orjson.dumps(data))
    with pytest.raises(TooLarge, match="more than 1000 bytes decoded"):
        v2.decode_request(body, limit_bytes=1000)
    v2.decode_request(body, limit_bytes=1100)


def test_bodies_larger_than_the_limit_are_refused() -> None:
    body = request("FP32", [1], b"[1]")
    with pytest.raises(TooLarge, match="the body is"):
        v2.decode_request(body, limit_bytes=len(body) - 1)
    v2.decode_request(body, limit_bytes=len(body))


def test_binary_strings_take_no_more_than_the_limit() -> None:
    count = 4 * MIB // 66
    sent = v2.encode_request({"x": np.full(count, b"ab", dtype=object)}, binary=True)
    tracemalloc.start()
    try:
        found = v2.decode_request(sent.body, sent.headers[v2.HEADER_LENGTH], limit_bytes=4 * MIB)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert found.inputs["x"].size == count
    assert peak <= 4 * MIB + SLACK
    with pytest.raises(TooLarge):
        v2.decode_request(sent.body, sent.headers[v2.HEADER_LENGTH], limit_bytes=count * 66 - 1)


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
            found = v2.decode_request(request("BYTES", [3], body)).inputs["x"]
            assert found.tolist() == [text.encode(), b"y", text.encode()]


def _escaped(text: str) -> bytes:
    units = text.encode("utf-16-be")
    return b"".join(b"\\u%02x%02x" % (units[i], units[i + 1]) for i in range(0, len(units), 2))


@pytest.mark.parametrize("shape", [[40_000, 3], [2, 60_000, 1], [1, 1, 120_000], [3, 1, 40_000], [120_000, 1]])
def test_large_nested_data_is_held_against_its_shape(shape: list[int]) -> None:
    array = np.arange(120_000, dtype=np.int64).reshape(shape)
    text = orjson.dumps(array.tolist())
    np.testing.assert_array_equal(v2.decode_request(request("INT64", shape, text)).inputs["x"], array)
    middle = text.index(b"]", len(text) // 2) if len(shape) < 3 or shape[-1] == 1 else text.index(b",", len(text) // 2)
    for wrong in (shape[::-1], [shape[0] * 2, *shape[1:]]):
        if wrong != shape:
            with pytest.raises(BadRequest):
                v2.decode_request(request("INT64", wrong, text))
    with pytest.raises(BadRequest):
        v2.decode_request(request("INT64", shape, text[:middle] + b",7" + text[middle:]))
    if shape[-1] > 1:
        ragged = text[:middle].rsplit(b",", 1)[0] + text[middle:]
        with pytest.raises(BadRequest):
            v2.decode_request(request("INT64", shape, ragged))


def test_large_strings_nest_as_their_shape_says() -> None:
    array = np.array([f"w{i}" for i in range(60_000)], dtype=object).reshape(20_000, 3)
    text = orjson.dumps(array.tolist())
    found = v2.decode_request(request("BYTES", [20_000, 3], text)).inputs["x"]
    assert found.tolist() == v2.canonical(array).tolist()
    with pytest.raises(BadRequest, match="nested otherwise"):
        v2.decode_request(request("BYTES", [30_000, 2], text))
