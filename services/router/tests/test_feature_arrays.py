"""The feature join's pure parts: entities out of arrays, features into arrays, and what is refused on the way."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from moorage_common.contracts.features import ROWS_MAX, FeatureColumn, OnlineResponse
from moorage_common.contracts.routes import FeatureJoin, RouteVersion
from moorage_common.contracts.tensors import Datatype, Signature, TensorSpec
from moorage_common.errors import BadRequest, Unavailable, Unprocessable
from moorage_router.features import lookup
from moorage_router.features.columns import cast
from moorage_router.features.join import entities_of, joined
from moorage_runtime import v2

JOIN = FeatureJoin(entities={"sensor_id": "sensor"})
FEATURES = ["stats__mean", "stats__peak"]
COLUMNS = {"stats__mean": [1.0, 2.0], "stats__peak": [10.0, 20.0]}


def version(*inputs: TensorSpec) -> RouteVersion:
    outputs = [TensorSpec(name="y", datatype="FP32", shape=[-1])]
    signature = Signature(inputs=list(inputs), outputs=outputs)
    return RouteVersion(version=1, format="onnx", signature=signature, feature_service="s", features=FEATURES)


def request(**more: v2.Array) -> v2.InferRequest:
    sent = v2.encode_request({"sensor": np.array([7, 8]), **more}, id="abc", binary=None)
    return v2.decode_request(sent.body, sent.headers.get(v2.HEADER_LENGTH))


def same(array: v2.Array, values: object, datatype: Datatype) -> None:
    assert array.dtype == v2.DTYPES[datatype]
    assert array.tolist() == values


def test_features_join_as_named_inputs_with_entities_dropped() -> None:
    spec = version(
        TensorSpec(name="mean", datatype="FP32", shape=[-1]),
        TensorSpec(name="stats__peak", datatype="INT64", shape=[-1, 1]),
    )
    made = joined(request(), JOIN, spec, COLUMNS)
    assert (made.id, list(made.inputs)) == ("abc", ["mean", "stats__peak"])
    assert made.datatypes == {"mean": "FP32", "stats__peak": "INT64"}
    same(made.inputs["mean"], [1.0, 2.0], "FP32")
    same(made.inputs["stats__peak"], [[10], [20]], "INT64")


def test_features_join_into_one_tensor_in_signature_order() -> None:
    plain = version(TensorSpec(name="x", datatype="FP32", shape=[-1, 2]))
    same(joined(request(), JOIN, plain, COLUMNS).inputs["x"], [[1.0, 10.0], [2.0, 20.0]], "FP32")
    named = version(TensorSpec(name="x", datatype="FP32", shape=[-1, 3], columns=["peak", "hour", "stats__mean"]))
    made = joined(request(hour=np.array([[5], [6]])), JOIN, named, COLUMNS)
    assert list(made.inputs) == ["x"]
    same(made.inputs["x"], [[10.0, 5.0, 1.0], [20.0, 6.0, 2.0]], "FP32")
    for wrong in (request(), request(hour=np.array([5, 6, 7]))):
        with pytest.raises(Unprocessable, match="hour") as refused:
            joined(wrong, JOIN, named, COLUMNS)
        assert refused.value.code == "column_missing"


def test_a_signature_without_inputs_is_refused_rather_than_guessed() -> None:
    with pytest.raises(Unprocessable) as refused:
        joined(request(), JOIN, version(), COLUMNS)
    assert refused.value.code == "column_missing"


def test_an_entity_that_the_signature_knows_is_kept_and_so_is_every_other_input_as_it_came() -> None:
    spec = version(
        TensorSpec(name="mean", datatype="FP32", shape=[-1]), TensorSpec(name="peak", datatype="FP32", shape=[-1]),
        TensorSpec(name="sensor", datatype="INT64", shape=[-1]),
    )  # fmt: skip
    noise = np.array([[np.nan, 1.0]], np.float32)
    made = joined(request(noise=noise), JOIN, spec, COLUMNS)
    assert list(made.inputs) == ["sensor", "noise", "mean", "peak"]
    np.testing.assert_array_equal(made.inputs["noise"], noise)


NUMBERS: list[Datatype] = ["INT8", "INT16", "INT32", "INT64", "UINT8", "UINT16", "UINT32", "UINT64"]


@given(st.sampled_from(NUMBERS), st.lists(st.integers(-(2**64), 2**65), min_size=1, max_size=5))
def test_integers_come_through_exactly_or_are_refused(datatype: Datatype, values: list[int]) -> None:
    bounds = np.iinfo(v2.DTYPES[datatype])
    if all(int(bounds.min) <= value <= int(bounds.max) for value in values):
        same(cast("f", values, datatype), values, datatype)
        return
    with pytest.raises(Unprocessable) as refused:
        cast("f", values, datatype)
    assert refused.value.code == "features_cast"


def test_whole_floats_become_integers_beside_integers_beyond_2_to_53() -> None:
    same(cast("f", [2**53 + 1, 0.0, -(2.0**60)], "INT64"), [2**53 + 1, 0, -(2**60)], "INT64")


@pytest.mark.parametrize("datatype", ["FP16", "FP32", "FP64"])
def test_numbers_become_floats_by_rounding(datatype: Datatype) -> None:
    values = [0.1, 7, True]
    np.testing.assert_array_equal(cast("f", values, datatype), np.array([0.1, 7, 1], v2.DTYPES[datatype]))


def test_text_and_truth_values_keep_to_their_datatypes() -> None:
    same(cast("f", ["é", b"\xff", ""], "BYTES"), ["é".encode(), b"\xff", b""], "BYTES")
    same(cast("f", [True, False], "BOOL"), [True, False], "BOOL")


@pytest.mark.parametrize(
    ("datatype", "value"),
    [
        ("INT64", 1.5), ("INT64", float("inf")), ("INT64", float("nan")), ("INT64", "5"), ("INT64", None),
        ("INT64", [1]), ("UINT8", -1.0), ("INT8", 128.0), ("FP16", 1e6), ("FP32", 1e300), ("FP64", 10**400),
        ("FP32", "5"), ("FP32", [1.0]), ("BF16", None), ("BOOL", 1), ("BYTES", 5), ("BYTES", None),
    ],
)  # fmt: skip
def test_a_value_that_does_not_fit_is_named_by_its_feature(datatype: Datatype, value: object) -> None:
    with pytest.raises(Unprocessable, match="stats__mean") as refused:
        cast("stats__mean", [value], datatype)
    assert refused.value.code == "features_cast"


@pytest.mark.parametrize(
    ("array", "values"),
    [
        (np.array([2**53 + 1, -1]), [2**53 + 1, -1]),
        (np.array([2**64 - 1], np.uint64), [2**64 - 1]),
        (np.array([[7], [8]], np.int16), [7, 8]),
        (np.array([7.0, -(2.0**53)]), [7, -(2**53)]),
        (np.array([7], np.float16), [7]),
        (np.array(["a", "é"], object), ["a", "é"]),
    ],
)
def test_entities_are_integers_and_text_whatever_array_they_come_in(array: v2.Array, values: list[object]) -> None:
    found = entities_of({"sensor": v2.canonical(array)}, JOIN)["sensor_id"]
    assert (found, list(map(type, found))) == (values, list(map(type, values)))


@pytest.mark.parametrize(
    ("array", "code"),
    [
        (np.zeros(0, np.int64), "entity_missing"),
        (np.array([1.5]), "entity_type_mismatch"),
        (np.array([np.nan]), "entity_type_mismatch"),
        (np.array([2.0**53 + 2]), "entity_type_mismatch"),
        (np.array([True]), "entity_type_mismatch"),
        (np.array([b"\xff"], object), "entity_type_mismatch"),
        (np.zeros(ROWS_MAX + 1, np.int64), "too_many_rows"),
    ],
)
def test_entities_that_no_lookup_could_find_are_refused_before_any_work(array: v2.Array, code: str) -> None:
    with pytest.raises(BadRequest) as refused:
        entities_of({"sensor": array}, JOIN)
    assert refused.value.code == code


def test_entities_must_agree_on_the_rows() -> None:
    two = FeatureJoin(entities={"sensor_id": "sensor", "site_id": "site"})
    with pytest.raises(BadRequest, match="sensor: 2, site: 1") as refused:
        entities_of({"sensor": np.array([1, 2]), "site": np.array([1])}, two)
    assert refused.value.code == "entity_rows_differ"


def online(*statuses: str) -> lookup.Online:
    column = {
        "name": "stats__mean", "datatype": "FP32", "values": [1.0, None], "statuses": statuses,
        "event_timestamps": [1.0, None],
    }  # fmt: skip
    said = OnlineResponse(service="s", fingerprint="f", rows=2, columns=[FeatureColumn.model_validate(column)])
    return lookup.parse(said.model_dump_json().encode(), 2)


def test_missing_features_fail_by_name_or_take_the_default() -> None:
    entities = {"sensor_id": [7, 8]}
    with pytest.raises(Unprocessable, match=r"stats__mean of sensor_id=8 \(missing\)"):
        lookup.filled(online("present", "missing"), JOIN, ["stats__mean"], entities)
    lenient = FeatureJoin(entities=JOIN.entities, on_miss="default", default=-1.0)
    for status in ("missing", "present"):
        filled = lookup.filled(online("present", status), lenient, ["stats__mean"], entities)
        assert filled == {"stats__mean": [1.0, -1.0]}
    with pytest.raises(Unprocessable, match="stats__gone"):
        lookup.filled(online("present", "present"), JOIN, ["stats__gone"], entities)


@pytest.mark.parametrize("body", [b"", b"[]", b"{}", b'{"columns": [{"name": "a", "values": [1], "statuses": []}]}'])
def test_an_answer_that_is_none_counts_as_the_feature_proxy_away(body: bytes) -> None:
    with pytest.raises(Unavailable) as refused:
        lookup.parse(body, 1)
    assert refused.value.code == "features_unavailable"
