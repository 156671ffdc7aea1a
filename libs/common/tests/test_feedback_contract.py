"""Compact outputs on the wire: what was encoded comes back, and nothing else is an output."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moorage_common.contracts.feedback import OUTPUT_BYTES, Output, decode_output, encode_output

TEXTS = st.text(st.characters(codec="utf-8"), max_size=OUTPUT_BYTES // 4)
NUMBERS = st.floats(allow_nan=False, allow_infinity=False)


@given(
    st.one_of(
        TEXTS.map(lambda text: Output(kind="class", value=text)),
        NUMBERS.map(lambda number: Output(kind="number", value=repr(number))),
    )
)
def test_an_output_comes_back_as_it_was(output: Output) -> None:
    assert decode_output(encode_output(output)) == output


@given(st.binary(max_size=OUTPUT_BYTES + 8))
def test_any_bytes_are_an_output_or_none_and_a_number_is_finite(data: bytes) -> None:
    output = decode_output(data)
    assert output is None or (output.kind == "class" or math.isfinite(float(output.value)))


@pytest.mark.parametrize(
    "data", [b"", b"x1", b"nnan", b"ninf", b"n", b"nten", b"n1e999", b"c\xff", b"c" + b"a" * (OUTPUT_BYTES + 1)]
)
def test_what_is_no_output_is_none(data: bytes) -> None:
    assert decode_output(data) is None
