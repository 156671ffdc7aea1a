"""The codec: what goes in comes out, and what is wrong is refused before it costs anything."""

import struct
from typing import Any

import numpy as np
import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from moorage_common.errors import BadRequest, Internal
from moorage_runtime import v2

_SHAPES = hnp.array_shapes(min_dims=0, max_dims=8, min_side=0, max_side=3)
_NUMBERS = st.sampled_from(["?", "u1", "<u2", "<u4", "<u8", "i1", "<i2", "<i4", "<i8", "<f2", "<f4", "<f8"])
_ANY = _NUMBERS.flatmap(lambda d: hnp.arrays(np.dtype(d), _SHAPES))
_FINITE = _NUMBERS.flatmap(
    lambda d: hnp.arrays(
        np.dtype(d), _SHAPES, elements={"allow_nan": False, "allow_infinity": False} if "f" in d else None
    )
)
_TEXTS = hnp.arrays(np.dtype(object), _SHAPES, elements=st.text(st.characters(codec="utf-8"), max_size=6))
_BYTES = hnp.arrays(np.dtype(object), _SHAPES, elements=st.binary(max_size=6))


def _same(one: v2.Array, other: v2.Array) -> None:
    assert one.dtype == v2.canonical(other).dtype
    np.testing.assert_array_equal(one, v2.canonical(other))


def _decode(encoded: v2.Encoded) -> v2.InferRequest:
    return v2.decode_request(encoded.body, encoded.headers.get(v2.HEADER_LENGTH))


@given(array=st.one_of(_FINITE, _TEXTS))
@settings(deadline=None)
def test_json_requests_carry_every_datatype_exactly(array: v2.Array) -> None:
    encoded = v2.encode_request({"x": array}, binary=False)
    assert encoded.headers == {"content-type": "application/json"}
    _same(_decode(encoded).inputs["x"], array)


@given(one=st.one_of(_ANY, _TEXTS, _BYTES), two=_ANY)
@settings(deadline=None)
def test_binary_requests_carry_every_datatype_exactly(one: v2.Array, two: v2.Array) -> None:
    request = _decode(v2.encode_request({"x": one, "y": two}, binary=True))
    _same(request.inputs["x"], one)
    _same(request.inputs["y"], two)


@given(array=st.one_of(_ANY, _TEXTS))
@settings(deadline=None)
def test_responses_come_back_as_they_were_given(array: v2.Array) -> None:
    request = v2.InferRequest(inputs={}, id="é 1", binary_default=True)
    encoded = v2.encode_response(request, model_name="m", model_version="3", outputs={"y": array})
    response = v2.decode_response(encoded.body, encoded.headers.get(v2.HEADER_LENGTH))
    assert (response.model_name, response.model_version, response.id) == ("m", "3", "é 1")
    _same(response.outputs["y"], array)


@given(body=st.binary(max_size=200), length=st.none() | st.text("0123456789-x", max_size=20))
def test_any_body_is_decoded_or_refused_with_a_text(body: bytes, length: str | None) -> None:
    with pytest.raises(BadRequest):
        v2.decode_request(body, length)


def _json(*tensors: dict[str, Any], **more: Any) -> bytes:
    return orjson.dumps({"inputs": list(tensors), **more})


def _nested(depth: int) -> Any:
    return [] if depth == 1 else [_nested(depth - 1)]


def _tensor(datatype: str, shape: Any, data: Any, **more: Any) -> dict[str, Any]:
    return {"name": "x", "datatype": datatype, "shape": shape, "data": data, **more}


def test_nested_and_flat_data_are_the_same() -> None:
    flat = v2.decode_request(_json(_tensor("FP32", [2, 3], [1, 2, 3, 4, 5, 6]))).inputs["x"]
    nested = v2.decode_request(_json(_tensor("FP32", [2, 3], [[1, 2, 3], [4, 5, 6]]))).inputs["x"]
    np.testing.assert_array_equal(flat, nested)


def test_64_bit_integers_stay_exact() -> None:
    signed = [2**63 - 1, -(2**63), 2**53 + 1]
    assert v2.decode_request(_json(_tensor("INT64", [3], signed))).inputs["x"].tolist() == signed
    unsigned = [1, 2**64 - 1, 2**63]
    assert v2.decode_request(_json(_tensor("UINT64", [3], unsigned))).inputs["x"].tolist() == unsigned


@pytest.mark.parametrize(
    ("tensor", "says"),
    [
        (_tensor("FP32", [2], [1]), "promises 2 elements, data holds 1"),
        (_tensor("FP32", [10**18, 10**18], [1]), "promises"),
        (_tensor("FP32", [1] * 9, [1]), "length <= 8"),
        (_tensor("FP32", [-1], []), "int >= 0 - at .*shape"),
        (_tensor("FP32", [True], [1]), "Expected int, got bool - at .*shape"),
        (_tensor("FP32", None, [1]), "shape"),
        (_tensor("FP32", [2, 1], [[1], [2, 3]]), "ragged"),
        (_tensor("FP32", [2], [1, [2]]), "found array"),
        (_tensor("FP32", [2, 3], [[1, 2], [3, 4], [5, 6]]), "nested otherwise"),
        (_tensor("FP32", [1], [[[[[[[[[1]]]]]]]]]), "nested otherwise"),
        (_tensor("FP32", [2, 0], [[1]]), "nested otherwise"),
        (_tensor("FP32", [2, 0], [[1], []]), "promises 0 elements|nested otherwise"),
        (_tensor("FP32", [2, 0], [[]]), "nested otherwise"),
        (_tensor("FP32", [0, 2], [[]]), "nested otherwise"),
        (_tensor("FP32", [1, 2], [[1, 2], []]), "nested otherwise"),
        (_tensor("FP32", [1], [None]), "binary data only"),
        (_tensor("FP32", [1], ["nan"]), "must be numbers"),
        (_tensor("FP32", [1], [1e300]), "does not fit"),
        (_tensor("FP32", [2], [1, True]), "found bool"),
        (_tensor("FP32", [1], 1), "must be a list"),
        (_tensor("INT8", [1], [128]), "does not fit"),
        (_tensor("UINT64", [1], [-1]), "does not fit"),
        (_tensor("INT64", [1], [1.5]), "whole numbers"),
        (_tensor("INT64", [2], [1, 0.1]), "must be whole numbers, found a fraction"),
        (_tensor("INT64", [1], [2.0**53 + 2]), "floats beyond 2.53"),
        (_tensor("UINT64", [2], [2**64 - 1, 2.0**60]), "floats beyond 2.53"),
        (_tensor("INT8", [1], [128.0]), "does not fit"),
        (_tensor("UINT16", [1], [-1.0]), "does not fit"),
        (_tensor("INT64", [2], [2**63, 1.0]), "does not fit"),
        (_tensor("INT32", [2], [1.0, True]), "whole numbers, found bool"),
        (_tensor("INT32", [2], [1.0, None]), "whole numbers, found null"),
        (_tensor("INT32", [2], [1.0, "1"]), "whole numbers, found str"),
        (_tensor("BOOL", [1], [2]), "true or false"),
        (_tensor("BOOL", [2], [1, 0.5]), "true or false"),
        (_tensor("BOOL", [2], [1, None]), "true or false .*found null"),
        (_tensor("BOOL", [1], ["true"]), "true or false .*found str"),
        (_tensor("BYTES", [1], [1]), "strings"),
        (_tensor("BF16", [1], [1.0]), "no JSON form"),
        (_tensor("STRING", [1], ["a"]), "datatype must be one of"),
        (_tensor(["FP32"], [1], [1]), "Expected str, got array - at .*datatype"),  # type: ignore[arg-type]
        ({"name": "x", "datatype": "FP32", "shape": [1]}, "neither data nor"),
        ({"datatype": "FP32", "shape": [1], "data": [1]}, "missing required field name"),
    ],
)
def test_bad_tensors_are_refused_with_what_is_wrong(tensor: dict[str, Any], says: str) -> None:
    with pytest.raises(BadRequest, match=says):
        v2.decode_request(_json(tensor))


@pytest.mark.parametrize("datatype", [name for name in v2.DTYPES if name.startswith(("INT", "UINT"))])
@pytest.mark.parametrize("count", [1, 70_000])
def test_whole_numbers_may_be_written_as_floats_and_integers_among_them_stay_exact(datatype: str, count: int) -> None:
    bounds = np.iinfo(v2.DTYPES[datatype])
    few = [int(bounds.min), int(bounds.max), int(bounds.max) - 1, 0, 1, min(2**53, int(bounds.max))]
    written = [float(v) if abs(v) <= 2**53 else v for v in few]
    for data in (written, few + written, written[::-1] + few):
        values = [int(v) for v in data] * count
        body = _json(_tensor(datatype, [len(values)], data * count))
        found = v2.decode_request(body, limit_bytes=2**27).inputs["x"]
        assert found.dtype == v2.DTYPES[datatype]
        assert found.tolist() == values


@pytest.mark.parametrize("data", [b"[1.0,-0.0,1e0,0]", b"[1,0,true,0.0]", b"[[true,0.0],[1.0,false]]"])
def test_booleans_may_be_written_as_numbers(data: bytes) -> None:
    shape = b"[2,2]" if data.startswith(b"[[") else b"[4]"
    body = b'{"inputs":[{"name":"x","datatype":"BOOL","shape":%s,"data":%s}]}' % (shape, data)
    found = v2.decode_request(body).inputs["x"]
    assert found.dtype == np.bool_
    assert found.ravel().tolist() == [True, False, True, False]


@pytest.mark.parametrize("number", [b"1e400", b"-1e400", b"1e300", b"NaN", b"Infinity"])
@pytest.mark.parametrize("datatype", [b"INT64", b"UINT8", b"BOOL"])
def test_numbers_beyond_all_bounds_are_refused_as_integers_and_booleans(datatype: bytes, number: bytes) -> None:
    body = b'{"inputs":[{"name":"x","datatype":"%s","shape":[2],"data":[1.0,%s]}]}' % (datatype, number)
    with pytest.raises(BadRequest, match=r"tensor 'x'|not JSON"):
        v2.decode_request(body)


@pytest.mark.parametrize(
    ("body", "says"),
    [
        (b"", "not JSON"),
        (b"[]", "Expected object"),
        (b'{"inputs": []}', "at least one tensor"),
        (b'{"inputs": {}}', "Expected array, got object"),
        (b'{"inputs": [{"name":"x","datatype":"FP32","shape":[1],"data":[NaN]}]}', "not JSON"),
        (b"[" * 1000, "Expected object"),
        (b'{"a":' + b"[" * 50_000, "nested too deep"),
        (b'{"a":' + b"[" * 100_000, "nested too deep"),
        (_json(_tensor("FP32", [1], [1]), id=5), "got int - at .*id"),
        (_json(_tensor("FP32", [1], [1]), parameters=[]), "parameters"),
        (_json(_tensor("FP32", [1], [1]), _tensor("FP32", [1], [1])), "twice"),
        (_json(*[{**_tensor("FP32", [1], [1]), "name": str(i)} for i in range(65)]), "length <= 64"),
        (_json(_tensor("FP32", [1], [1]), outputs=["y"]), "got str - at .*outputs"),
        (_json(_tensor("FP32", [1], [1]), parameters={"a": _nested(15)}), "nested deeper than 16"),
        (_json(_tensor("FP32", [1], [1]), unknown=_nested(16)), "nested deeper than 16"),
        (_json(_tensor("FP32", [50, 2], [1] * 100), unknown=_nested(16)), "nested deeper than 16"),
        (_json(_tensor("FP32", [50, 2], [[1, 2]] * 50), unknown=_nested(16)), "nested deeper than 16"),
        (_json(_tensor("FP32", [1], [1], unknown={"a": _nested(13)})), "nested deeper than 16"),
        (_json(_tensor("FP32", [1], [1]), parameters={"binary_data_output": 1}), "must be true or false"),
        (_json(_tensor("FP32", [1], [1]), outputs=[{"name": "y"}, {"name": "y"}]), "twice"),
    ],
)
def test_bad_bodies_are_refused_with_what_is_wrong(body: bytes, says: str) -> None:
    with pytest.raises(BadRequest, match=says):
        v2.decode_request(body)


def test_a_long_string_among_many_numbers_costs_no_memory() -> None:
    body = _json(_tensor("FP32", [200_001], ["a" * 1_000_000] + [1] * 200_000))
    with pytest.raises(BadRequest, match="must be numbers"):
        v2.decode_request(body)


def _binary(head: dict[str, Any], raw: bytes) -> tuple[bytes, str]:
    text = orjson.dumps(head)
    return text + raw, str(len(text))


@pytest.mark.parametrize(
    ("tensor", "raw", "says"),
    [
        ({"datatype": "FP32", "shape": [2], "parameters": {"binary_data_size": 4}}, b"abcd", "is 8 bytes"),
        ({"datatype": "FP32", "shape": [10**15], "parameters": {"binary_data_size": 4}}, b"abcd", "bytes"),
        ({"datatype": "FP32", "shape": [1], "parameters": {"binary_data_size": 10**12}}, b"abcd", "past the body"),
        ({"datatype": "FP32", "shape": [1], "parameters": {"binary_data_size": -4}}, b"abcd", "past the body"),
        ({"datatype": "FP32", "shape": [1], "parameters": {"binary_data_size": 4}}, b"abcdef", "belong to no tensor"),
        ({"datatype": "BYTES", "shape": [10**12], "parameters": {"binary_data_size": 4}}, b"\0\0\0\0", "cannot hold"),
        ({"datatype": "BYTES", "shape": [1], "parameters": {"binary_data_size": 4}}, b"\xff\0\0\0", "past the tensor"),
        ({"datatype": "BYTES", "shape": [1], "parameters": {"binary_data_size": 6}}, b"\1\0\0\0ab", "left over"),
    ],
)
def test_bad_binary_data_is_refused_before_it_is_allocated(tensor: dict[str, Any], raw: bytes, says: str) -> None:
    body, length = _binary({"inputs": [{"name": "x", **tensor}]}, raw)
    with pytest.raises(BadRequest, match=says):
        v2.decode_request(body, length)


def test_json_and_binary_inputs_mix_as_tritonclient_sends_them() -> None:
    head = {
        "inputs": [
            {"name": "a", "datatype": "FP32", "shape": [2], "parameters": {"binary_data_size": 8}},
            {"name": "b", "datatype": "INT64", "shape": [1], "data": [7]},
            {"name": "c", "datatype": "BYTES", "shape": [1], "parameters": {"binary_data_size": 6}},
        ],
        "outputs": [{"name": "y", "parameters": {"binary_data": True}}, {"name": "z"}],
    }
    body, length = _binary(head, struct.pack("<2f", 1.5, -2) + b"\2\0\0\0\xff\0")
    request = v2.decode_request(body, length)
    assert request.inputs["a"].tolist() == [1.5, -2]
    assert request.inputs["b"].tolist() == [7]
    assert request.inputs["c"].tolist() == [b"\xff\0"]
    assert request.outputs == ("y", "z")
    assert (request.wants_binary("y"), request.wants_binary("z")) == (True, False)


def test_bf16_travels_as_binary_and_is_float32_in_memory() -> None:
    head = {"inputs": [{"name": "x", "datatype": "BF16", "shape": [3], "parameters": {"binary_data_size": 6}}]}
    body, length = _binary(head, bytes.fromhex("803f00c0c07f"))
    request = v2.decode_request(body, length)
    np.testing.assert_array_equal(request.inputs["x"], np.array([1.0, -2.0, np.nan], dtype=np.float32))
    assert request.datatypes == {"x": "BF16"}
    sent = v2.encode_request({"x": request.inputs["x"]}, datatypes={"x": "BF16"})
    assert v2.decode_request(sent.body, sent.headers[v2.HEADER_LENGTH]).datatypes == {"x": "BF16"}
    assert sent.body.endswith(bytes.fromhex("803f00c0c07f"))


def _answer(outputs: dict[str, v2.Array], datatypes: dict[str, Any], *, binary: bool = False) -> v2.InferResponse:
    encoded = v2.encode_response(
        v2.InferRequest(inputs={}, binary_default=binary),
        model_name="m",
        model_version="1",
        outputs=outputs,
        datatypes=datatypes,
    )
    return v2.decode_response(encoded.body, encoded.headers.get(v2.HEADER_LENGTH))


def test_a_bf16_output_leaves_as_binary_only_and_as_bf16() -> None:
    outputs = {"y": np.array([1.0, 3.1415927], dtype=np.float32)}
    found = _answer(outputs, {"y": "BF16"}, binary=True)
    assert found.datatypes == {"y": "BF16"}
    assert found.outputs["y"].tolist() == [1.0, 3.140625]
    with pytest.raises(BadRequest, match="BF16, which has no JSON form; ask for it with binary_data"):
        _answer(outputs, {"y": "BF16"})


def test_a_bf16_scalar_stays_one() -> None:
    found = _answer({"y": np.array(2.0, dtype=np.float32)}, {"y": "BF16"}, binary=True)
    assert (found.outputs["y"].shape, float(found.outputs["y"])) == ((), 2.0)


def test_outputs_leave_as_the_signature_says_or_not_at_all() -> None:
    assert _answer({"y": np.array([1], dtype=np.int32)}, {"y": "INT64"}).datatypes == {"y": "INT64"}
    assert _answer({"y": np.array([1.5])}, {"y": "FP32"}).datatypes == {"y": "FP32"}
    assert _answer({"y": np.array(["a"])}, {"y": "BYTES"}).outputs["y"].tolist() == [b"a"]
    with pytest.raises(Internal, match="declared as INT64") as caught:
        _answer({"y": np.array([1.5])}, {"y": "INT64"})
    assert caught.value.code == "wrong_datatype"


def test_fp16_is_numbers_in_json_both_ways() -> None:
    half = np.array([0.1, -65504, 6e-8], dtype=np.float16)
    sent = v2.encode_request({"x": half}, binary=False)
    found = v2.decode_request(sent.body)
    assert found.datatypes == {"x": "FP16"}
    np.testing.assert_array_equal(found.inputs["x"], half)
    with pytest.raises(BadRequest, match="does not fit FP16"):
        v2.decode_request(_json(_tensor("FP16", [1], [65520])))


def test_asking_for_no_outputs_is_asking_for_all() -> None:
    assert v2.decode_request(_json(_tensor("FP32", [1], [1]), outputs=[])).outputs is None
    assert v2.decode_request(_json(_tensor("FP32", [1], [1]), outputs=None)).outputs is None


def test_the_binary_choice_of_an_output_overrides_that_of_the_request() -> None:
    request = v2.decode_request(
        _json(
            _tensor("FP32", [1], [1]),
            parameters={"binary_data_output": True},
            outputs=[{"name": "a", "parameters": {"binary_data": False}}, {"name": "b"}],
        )
    )
    assert (request.wants_binary("a"), request.wants_binary("b")) == (False, True)


def test_what_the_codec_does_not_know_is_tolerated() -> None:
    tensor = _tensor("FP32", [], [1], parameters={"content_type": "np"}, unknown=[{}])
    request = v2.decode_request(_json(tensor, model_name="m", parameters={"a": [1]}, id="é", raw_input_contents=[]))
    assert (request.id, request.parameters, request.inputs["x"].shape) == ("é", {"a": [1]}, ())
    assert v2.decode_request(_json(_tensor("FP32", [1], [1]), id=None, parameters=None)).id is None


def test_large_heads_are_read_as_small_ones_are() -> None:
    small = _json(
        _tensor("FP32", [1], [1], parameters={"a": 1}),
        {"name": "n", "datatype": "BOOL", "shape": [2, 0], "data": [[], []]},
        id="7",
        parameters={"binary_data_output": True},
        outputs=[{"name": "y", "parameters": {"binary_data": False}}],
    )
    one, other = v2.decode_request(small), v2.decode_request(small + b" " * 70_000)
    for name in ("id", "parameters", "outputs", "binary", "binary_default", "datatypes"):
        assert getattr(one, name) == getattr(other, name)
    np.testing.assert_equal(one.inputs, other.inputs)


def test_nan_never_leaves_as_json() -> None:
    outputs = {"y": np.array([1.0, np.nan])}
    with pytest.raises(Internal, match="NaN or Inf") as caught:
        v2.encode_response(v2.InferRequest(inputs={}), model_name="m", model_version="1", outputs=outputs)
    assert caught.value.code == "nan_output"
    assert v2.encode_request(outputs).headers["content-type"] == "application/octet-stream"
    with pytest.raises(Internal, match="NaN or Inf"):  # finite as FP64 only
        v2.encode_response(
            v2.InferRequest(inputs={}),
            model_name="m",
            model_version="1",
            outputs={"y": np.array([1e300])},
            datatypes={"y": "FP32"},
            finite=True,
        )


def test_ids_and_versions_are_echoed_and_absent_ids_stay_absent() -> None:
    answer = {"model_name": "m", "model_version": "2", "outputs": {"y": np.array([1], dtype=np.int32)}}
    with_id = v2.encode_response(v2.InferRequest(inputs={}, id="7"), **answer)
    assert orjson.loads(with_id.body) == {
        "model_name": "m",
        "model_version": "2",
        "id": "7",
        "outputs": [{"name": "y", "datatype": "INT32", "shape": [1], "data": [1]}],
    }
    assert "id" not in orjson.loads(v2.encode_response(v2.InferRequest(inputs={}), **answer).body)


def test_a_request_encoded_again_is_binary_and_asks_the_same_of_the_answer() -> None:
    body = orjson.dumps(
        {
            "id": "a", "parameters": {"binary_data_output": True, "p": 1},
            "outputs": [{"name": "y", "parameters": {"binary_data": False}}, {"name": "z"}],
            "inputs": [
                {"name": "x", "datatype": "INT64", "shape": [2], "data": [2**53 + 1, -1]},
                {"name": "t", "datatype": "BYTES", "shape": [1], "data": ["é"]},
            ],
        }
    )  # fmt: skip
    first = v2.decode_request(body)
    encoded = v2.recode_request(first)
    again = _decode(encoded)
    assert encoded.headers["content-type"] == "application/octet-stream"
    for field in ("id", "parameters", "outputs", "binary", "binary_default", "datatypes"):
        assert getattr(again, field) == getattr(first, field)
    for name, array in first.inputs.items():
        _same(again.inputs[name], array)
