"""Inference requests that try to cost more than they weigh, of any size, for tests and benchmarks of parsers."""

import json
from collections.abc import Callable


def request(datatype: str, shape: list[int], data: bytes, more: bytes = b"") -> bytes:
    """A request of one tensor with `data` as it is given, and `more` fields."""
    head = b'{"name":"x","datatype":"%s","shape":%s,"data":' % (datatype.encode(), json.dumps(shape).encode())
    return b'{"inputs":[' + head + data + b"}]" + more + b"}"


def _fill(size: int, start: bytes, unit: bytes, end: bytes) -> bytes:
    return start + unit * (size // len(unit)) + end


def _head(name: bytes = b'"x"', datatype: bytes = b'"FP32"', shape: bytes = b"[1]") -> bytes:
    return b'{"inputs":[{"name":%s,"datatype":%s,"shape":%s,"data":[1]}]}' % (name, datatype, shape)


WIDE = "😀".encode()
"""One of these makes Python hold a text in four bytes a character."""

HOSTILE: dict[str, Callable[[int], bytes]] = {
    "empty lists": lambda n: request("FP32", [n // 3], _fill(n, b"[", b"[],", b"[]]")),
    "empty objects": lambda n: request("FP32", [n // 3], _fill(n, b"[", b"{},", b"{}]")),
    "lists of one": lambda n: request("FP32", [n // 4 + 1, 1], _fill(n, b"[", b"[1],", b"[1]]")),
    "ones": lambda n: request("FP64", [n // 2 + 1], _fill(n, b"[", b"1,", b"1]")),
    "small ones": lambda n: request("INT8", [n // 2 + 1], _fill(n, b"[", b"1,", b"1]")),
    "ones written as floats": lambda n: request("INT8", [n // 4 + 1], _fill(n, b"[", b"1.0,", b"1.0]")),
    "a float among ones": lambda n: request("INT8", [n // 2 - 2], _fill(n - 6, b"[", b"1,", b"1.0]")),
    "large integers before a float": lambda n: request(
        "INT64", [n // 60_017 * 7_501 + 1],
        _fill(n // 60_017 * 60_017, b"[", b"1000000," * 7_500 + b"9007199254740993,", b"1.0]")),
    "numbers that BOOL promises": lambda n: request("BOOL", [n // 2 + 1], _fill(n, b"[", b"1,", b"0]")),
    "ones that BYTES promises": lambda n: request("BYTES", [n // 2 + 1], _fill(n, b"[", b"1,", b"1]")),
    "empty strings": lambda n: request("BYTES", [n // 3 + 1], _fill(n, b"[", b'"",', b'""]')),
    "as many strings as fit": lambda n: request("BYTES", [n // 66], _fill(n // 66 * 5 - 5, b"[", b'"ab",', b'"ab"]')),
    "escaped strings": lambda n: request("BYTES", [n // 9 + 1], _fill(n, b"[", b'"\\u0041",', b'"\\n"]')),
    "deep lists": lambda n: request("FP32", [1], b"[" * n),
    "deep unknown lists": lambda n: request("FP32", [1], b"[1]", b',"u":' + b"[" * (n // 2) + b"]" * (n // 2)),
    "wide unknown lists": lambda n: request("FP32", [1], b"[1]", b',"u":' + _fill(n, b"[", b"[[]],", b"0]")),
    "unknown fields": lambda n: request("FP32", [1], b"[1]", _fill(n, b"", b',"kkkkkkk":{}', b"")),
    "a long unknown name": lambda n: request("FP32", [1], b"[1]", b',"' + b"k" * n + b'":1'),
    "a long escaped unknown name": lambda n: request("FP32", [1], b"[1]", b',"\\n' + b"k" * n + b'":1'),
    "a long number": lambda n: request("FP64", [1], b"[" + b"1" * n + b"]"),
    "a long fraction": lambda n: request("FP64", [1], b"[0." + b"1" * n + b"]"),
    "a long string": lambda n: request("BYTES", [1], b'["' + b"s" * n + b'"]'),
    "a long wide string": lambda n: request("BYTES", [1], '["😀'.encode() + b"s" * n + b'"]'),
    "a long string of escapes": lambda n: request("BYTES", [1], _fill(n, b'["', b"\\ud83d\\ude00", b'"]')),
    "a long string of backslashes": lambda n: request("BYTES", [1], _fill(n, b'["', b"\\\\", b'"]')),
    "a long string of quotes": lambda n: request("BYTES", [1], _fill(n, b'["', b'\\"', b'"]')),
    "a string among numbers": lambda n: request(
        "FP32", [n // 4], _fill(n, b'["' + b"a" * 10**6 + b'"', b",1", b"]")),
    "a long name": lambda n: _head(name=b'"' + WIDE + b"n" * n + b'"'),
    "a long datatype": lambda n: _head(datatype=b'"' + WIDE + b"n" * n + b'"'),
    "a long shape": lambda n: _head(shape=_fill(n, b"[", b"1,", b"1]")),
    "a long id": lambda n: request("FP32", [1], b"[1]", b',"id":"' + b"i" * n + b'"'),
    "long parameters": lambda n: request("FP32", [1], b"[1]", b',"parameters":' + _fill(n, b'{"a":[', b"[],", b"0]}")),
    "many tensors": lambda n: _fill(n, b'{"inputs":[', _head()[11:-2] + b",", b"{}]}"),
    "empty tensors": lambda n: _fill(n, b'{"inputs":[', b"{},", b"{}]}"),
    "many outputs": lambda n: request("FP32", [1], b"[1]", b',"outputs":' + _fill(n, b"[", b'{"name":"y"},', b"{}]")),
    "white space": lambda n: request("FP32", [2], b"[1," + b" " * n + b"2]"),
    "nothing": lambda n: b" " * n,
    "many dimensions of one": lambda n: request("INT8", [1, n // 6 + 1, 1, 1], _fill(n, b"[[", b"[[1]],", b"[[1]]]]")),
}  # fmt: skip
