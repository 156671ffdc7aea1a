"""Properties of the codec over requests as clients make them and as they get broken on the way."""

from typing import Any

import numpy as np
import orjson
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from moorage_common.errors import MoorageError
from moorage_runtime import v2

_TYPES = [name for name in v2.DTYPES if name != "BF16"]
_SHAPES = hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=4)


def _arrays(datatype: str) -> st.SearchStrategy[v2.Array]:
    if datatype == "BYTES":
        return hnp.arrays(np.dtype(object), _SHAPES, elements=st.text(st.characters(codec="utf-8"), max_size=6))
    finite = {"allow_nan": False, "allow_infinity": False} if datatype.startswith("FP") else None
    return hnp.arrays(v2.DTYPES[datatype], _SHAPES, elements=finite)


@st.composite
def _tensors(draw: st.DrawFn) -> dict[str, v2.Array]:
    names = draw(st.lists(st.text(max_size=5), min_size=1, max_size=4, unique=True))
    return {name: draw(st.sampled_from(_TYPES).flatmap(_arrays)) for name in names}


def _same(one: dict[str, v2.Array], other: dict[str, v2.Array]) -> None:
    assert list(one) == list(other)
    for name, array in one.items():
        assert array.dtype == other[name].dtype
        np.testing.assert_array_equal(array, other[name])


@given(tensors=_tensors())
@settings(deadline=None)
def test_json_nested_or_flat_and_binary_decode_to_the_same(tensors: dict[str, v2.Array]) -> None:
    binary = v2.encode_request(tensors, binary=True)
    wanted = v2.decode_request(binary.body, binary.headers.get(v2.HEADER_LENGTH))
    flat = v2.decode_request(v2.encode_request(tensors, binary=False).body)
    _same(flat.inputs, wanted.inputs)
    assert flat.datatypes == wanted.datatypes
    if all(array.ndim for array in tensors.values()):
        nested = [
            {"name": name, "datatype": flat.datatypes[name], "shape": array.shape, "data": array.tolist()}
            for name, array in tensors.items()
        ]
        for option in (0, orjson.OPT_INDENT_2):
            _same(v2.decode_request(orjson.dumps({"inputs": nested}, option=option)).inputs, wanted.inputs)


_VALUES: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False) | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=8,
)
_BROKEN_TENSORS = st.fixed_dictionaries(
    {"name": st.just("x") | _VALUES, "datatype": st.sampled_from([*v2.DTYPES, "FP8"])},
    optional={
        "shape": st.lists(st.integers(-1, 3), max_size=9) | _VALUES,
        "data": _VALUES,
        "parameters": _VALUES | st.fixed_dictionaries({"binary_data_size": st.integers(-1, 40)}),
    },
)
_BROKEN = st.fixed_dictionaries(
    {"inputs": st.lists(_BROKEN_TENSORS, max_size=3) | _VALUES},
    optional={"id": _VALUES, "parameters": _VALUES, "outputs": _VALUES, "model_name": _VALUES},
)


def _decoded_or_refused(body: bytes, length: str | None) -> None:
    for decode in (v2.decode_request, v2.decode_response):
        try:
            found = decode(body, length)
        except MoorageError as error:
            assert 400 <= error.status < 500, error  # noqa: PT017 - a property of every refusal
        else:
            assert isinstance(found, v2.InferRequest | v2.InferResponse)


@given(document=_BROKEN, raw=st.binary(max_size=40), told=st.booleans())
@settings(deadline=None, max_examples=300)
def test_messages_of_any_values_are_decoded_or_refused(document: dict[str, Any], raw: bytes, told: bool) -> None:
    head = orjson.dumps(document)
    _decoded_or_refused(head + raw, str(len(head)) if told else None)


@given(tensors=_tensors(), binary=st.booleans(), data=st.data())
@settings(deadline=None, max_examples=300)
def test_messages_with_changed_bytes_are_decoded_or_refused(
    tensors: dict[str, v2.Array], binary: bool, data: st.DataObject
) -> None:
    sent = v2.encode_request(tensors, binary=binary)
    body = bytearray(sent.body)
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(body)))
        body[at : at + data.draw(st.integers(0, 3))] = data.draw(
            st.sampled_from([b"", b"[", b"]", b"{", b"}", b",", b'"', b"\\", b"0", b"-", b"e9", b"null", b"\xff"])
        )
    _decoded_or_refused(bytes(body), sent.headers.get(v2.HEADER_LENGTH))
