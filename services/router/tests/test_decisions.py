"""The pure parts: split, balance, buckets, retries, the feature join."""

import json
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moorage_common.contracts.features import ROWS_MAX, FeatureColumn, OnlineResponse
from moorage_common.contracts.routes import Arm, FeatureJoin, RouteVersion
from moorage_common.contracts.tensors import Signature, TensorSpec
from moorage_common.errors import BadRequest, Unprocessable
from moorage_router import balancer, features, splits
from moorage_router.forwarding import Failure, may_retry
from moorage_router.limits import gcra


@given(st.lists(st.integers(0, 10_000), min_size=1, max_size=6), st.floats(0, 1, exclude_max=True))
def test_a_split_gives_each_arm_the_part_of_the_line_that_is_its_weight(weights: list[int], draw: float) -> None:
    arms = [Arm(arm=f"v{n}", version=n, weight_bp=w) for n, w in enumerate(weights)]
    arm = splits.choose(splits.split_of(arms), draw)
    if not any(weights):
        assert arm is None
        return
    point, reached = draw * sum(weights), 0
    expected = next(a for a in arms if a.weight_bp and (reached := reached + a.weight_bp) > point)
    assert arm == expected


def test_shadows_take_no_traffic() -> None:
    arms = [Arm(arm="a", version=1, weight_bp=0), Arm(arm="s", version=2, weight_bp=10_000, role="shadow")]
    assert splits.choose(splits.split_of(arms), 0.5) is None


class Loaded:
    def __init__(self, in_flight: int) -> None:
        self.in_flight = in_flight


def test_the_busiest_of_several_hosts_is_never_chosen_and_avoidance_holds_while_there_is_another() -> None:
    hosts = [Loaded(9), Loaded(1), Loaded(1)]
    chosen = [balancer.choose(hosts, random.random) for _ in range(500)]
    assert hosts[0] not in chosen
    assert {id(h) for h in chosen} == {id(hosts[1]), id(hosts[2])}
    assert all(balancer.choose(hosts[1:], random.random, avoid=hosts[1]) is hosts[2] for _ in range(50))
    assert balancer.choose(hosts[:1], random.random, avoid=hosts[0]) is hosts[0]
    assert balancer.choose([], random.random) is None


@given(st.lists(st.floats(0, 0.5), max_size=300), st.floats(1, 1000), st.integers(1, 200))
def test_a_bucket_never_admits_more_than_burst_plus_rate_times_time(gaps: list[float], rate: float, burst: int) -> None:
    now = tat = 100.0
    admitted = 0
    for gap in gaps:
        now += gap
        taken = gcra.take(tat, now, rate=rate, burst=burst)
        if isinstance(taken, gcra.Taken):
            admitted, tat = admitted + 1, taken.tat
        else:
            later = gcra.take(tat, now + taken.retry_after_s + 1e-6, rate=rate, burst=burst)
            assert isinstance(later, gcra.Taken)
    assert admitted <= burst + rate * (now - 100.0) + 1e-3


@given(st.floats(0, 1e6), st.integers(1, 100_000), st.integers(1, 20))
def test_a_chunk_is_100_ms_of_traffic_and_at_most_half_the_burst_over_all_routers(
    rate: float, burst: int, routers: int
) -> None:
    chunk = gcra.chunk(rate, burst, routers)
    assert 1 <= chunk <= max(1, rate * 0.1 + 1)
    assert chunk == 1 or chunk * 2 * routers <= burst


@pytest.mark.parametrize(
    ("failure", "kept", "data", "retried", "again"),
    [
        (Failure.NOT_SENT, True, False, True, True),
        (Failure.NOT_SENT, False, True, False, False),
        (Failure.LOST, True, True, False, True),
        (Failure.LOST, True, True, True, False),
        (Failure.LOST, True, False, False, False),
        (Failure.LOST, False, True, False, False),
        (Failure.NOT_HELD, True, True, False, True),
    ],
)
def test_calls_are_made_again_as_architecture_says(
    failure: Failure, kept: bool, data: bool, retried: bool, again: bool
) -> None:
    assert may_retry(failure, body_kept=kept, data_format=data, retried=retried) is again


JOIN = FeatureJoin(entities={"sensor_id": "sensor"})
FEATURES = ["stats__mean", "stats__peak"]


def version(*inputs: TensorSpec) -> RouteVersion:
    outputs = [TensorSpec(name="y", datatype="FP32", shape=[-1])]
    signature = Signature(inputs=list(inputs), outputs=outputs)
    return RouteVersion(version=1, format="onnx", signature=signature, feature_service="s", features=FEATURES)


def request(*more: dict[str, object]) -> bytes:
    sensor = {"name": "sensor", "shape": [2], "datatype": "INT64", "data": [7, 8]}
    return json.dumps({"id": "abc", "inputs": [sensor, *more]}).encode()


def columns() -> dict[str, features.Column]:
    return {"stats__mean": features.Column([1.0, 2.0]), "stats__peak": features.Column([10.0, 20.0])}


def test_features_join_as_named_inputs_with_entities_dropped() -> None:
    spec = version(
        TensorSpec(name="mean", datatype="FP32", shape=[-1]),
        TensorSpec(name="stats__peak", datatype="INT64", shape=[-1, 1]),
    )
    joined = json.loads(features.joined(features.parse(request()), JOIN, spec, columns()))
    assert joined == {
        "id": "abc",
        "inputs": [
            {"name": "mean", "datatype": "FP32", "shape": [2], "data": [1.0, 2.0]},
            {"name": "stats__peak", "datatype": "INT64", "shape": [2, 1], "data": [10, 20]},
        ],
    }


def test_features_join_into_one_tensor_in_signature_order() -> None:
    plain = version(TensorSpec(name="x", datatype="FP32", shape=[-1, 2]))
    joined = json.loads(features.joined(features.parse(request()), JOIN, plain, columns()))
    assert joined["inputs"] == [{"name": "x", "datatype": "FP32", "shape": [2, 2], "data": [1.0, 10.0, 2.0, 20.0]}]
    hour = {"name": "hour", "shape": [2, 1], "datatype": "FP32", "data": [[5], [6]]}
    named = version(TensorSpec(name="x", datatype="FP32", shape=[-1, 3], columns=["peak", "hour", "stats__mean"]))
    joined = json.loads(features.joined(features.parse(request(hour)), JOIN, named, columns()))
    assert joined["inputs"] == [
        {"name": "x", "datatype": "FP32", "shape": [2, 3], "data": [10.0, 5, 1.0, 20.0, 6, 2.0]}
    ]
    with pytest.raises(Unprocessable, match="hour"):
        features.joined(features.parse(request()), JOIN, named, columns())


def test_an_entity_that_the_signature_knows_is_kept() -> None:
    spec = version(
        TensorSpec(name="mean", datatype="FP32", shape=[-1]), TensorSpec(name="peak", datatype="FP32", shape=[-1]),
        TensorSpec(name="sensor", datatype="INT64", shape=[-1]),
    )  # fmt: skip
    joined = json.loads(features.joined(features.parse(request()), JOIN, spec, columns()))
    assert [tensor["name"] for tensor in joined["inputs"]] == ["sensor", "mean", "peak"]


def online(*statuses: str) -> OnlineResponse:
    column = {
        "name": "stats__mean", "datatype": "FP32", "values": [1.0, None], "statuses": statuses,
        "event_timestamps": [1.0, None],
    }  # fmt: skip
    return OnlineResponse(service="s", fingerprint="f", rows=2, columns=[FeatureColumn.model_validate(column)])


def test_missing_features_fail_by_name_or_take_the_default() -> None:
    entities = {"sensor_id": [7, 8]}
    with pytest.raises(Unprocessable, match=r"stats__mean of sensor_id=8 \(missing\)"):
        features.filled(online("present", "missing"), JOIN, ["stats__mean"], entities)
    lenient = FeatureJoin(entities=JOIN.entities, on_miss="default", default=-1.0)
    filled = features.filled(online("present", "missing"), lenient, ["stats__mean"], entities)
    assert filled["stats__mean"].values == [1.0, -1.0]
    with pytest.raises(Unprocessable, match="stats__gone"):
        features.filled(online("present", "present"), JOIN, ["stats__gone"], entities)


@pytest.mark.parametrize(
    "body",
    [b"", b"[]", b"{}", b'{"inputs": 3}', b'{"inputs": [3]}', b'{"inputs": [{"data": [1]}]}', b'{"inputs": []}'],
)
def test_a_body_without_the_entities_is_a_bad_request(body: bytes) -> None:
    with pytest.raises(BadRequest):
        features.entities_of({t["name"]: t for t in features.parse(body)["inputs"]}, JOIN)


@pytest.mark.parametrize(
    ("data", "code"),
    [([[1], 2], "bad_inputs"), ([[[[[[[[[[1]]]]]]]]]], "bad_inputs"), ([0] * (ROWS_MAX + 1), "too_many_rows")],
)
def test_entities_that_would_cost_the_router_are_refused_before_any_work(data: list[object], code: str) -> None:
    with pytest.raises(BadRequest) as refused:
        features.entities_of({"sensor_id": {"data": data}}, FeatureJoin(entities={"sensor": "sensor_id"}))
    assert refused.value.code == code
