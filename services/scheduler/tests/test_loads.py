"""What routers report and ask, and how long starts take."""

from dataclasses import dataclass

import pytest

from moorage_common.contracts.desired import DesiredVersion, LoadSpec, Resources
from moorage_common.contracts.load import LoadReport, VersionLoad, Wake
from moorage_common.contracts.tensors import Signature
from moorage_scheduler.cluster import Placed
from moorage_scheduler.hosts import Host, VersionKey
from moorage_scheduler.loads import SILENT_S, LoadBoard
from moorage_scheduler.metrics import SchedulerMetrics
from moorage_scheduler.starts import StartTimes
from moorage_scheduler.targets import Targets

KEY: VersionKey = ("acme", "m", 1)


def report(router: str, in_flight: int = 0, queued: int = 0, requests: int = 0, key: VersionKey = KEY) -> bytes:
    tenant, model, version = key
    load = VersionLoad(
        tenant=tenant, model=model, version=version, in_flight=in_flight, queued=queued, requests=requests
    )
    return LoadReport(router=router, boot="b", at=0.0, loads=[load]).model_dump_json().encode()


def quiet(router: str) -> bytes:
    return LoadReport(router=router, boot="b", at=0.0, loads=[]).model_dump_json().encode()


def wanted(least: int = 0, most: int = 2, idle_s: int = 5) -> DesiredVersion:
    artifact = {"digest": "sha256:" + "0" * 64, "size_bytes": 1}
    load = LoadSpec.model_validate(
        {
            "tenant": "acme", "model": "m", "version": 1, "format": "onnx", "artifact": artifact,
            "signature": Signature(inputs=[], outputs=[]),
        }
    )  # fmt: skip
    return DesiredVersion(
        load=load, resources=Resources(), min_replicas=least, max_replicas=most, target_in_flight=4, idle_s=idle_s
    )


@dataclass
class Times:
    """A clock that is set by hand."""

    now: float = 1_000_000.0

    def board(self) -> LoadBoard:
        return LoadBoard(clock=lambda: self.now)


@pytest.fixture
def times() -> Times:
    return Times()


def test_the_load_of_several_routers_adds_up_and_a_silent_one_counts_no_more(times: Times) -> None:
    board = times.board()
    targets = Targets(board)
    board.report(report("one", in_flight=5))
    board.report(report("two", in_flight=4, queued=2))
    board.sample(times.now)
    assert [sample.in_flight for sample in board.samples(KEY)] == [11]
    assert targets.of(KEY, wanted(most=8), 1, times.now) == 3
    times.now += SILENT_S + 0.1
    board.report(report("two", in_flight=4))
    board.sample(times.now)
    assert board.samples(KEY)[-1].in_flight == 4


def test_steps_between_two_seconds_add_no_samples(times: Times) -> None:
    board = times.board()
    board.report(report("one", in_flight=5))
    for _step in range(20):
        board.sample(times.now)
        times.now += 0.01
    assert len(board.samples(KEY)) == 1


def test_a_wake_is_a_replica_at_once_and_comes_before_what_nobody_waits_for(times: Times) -> None:
    board = times.board()
    targets = Targets(board)
    board.report(quiet("one"))
    assert targets.of(KEY, wanted(), 0, times.now) == 0
    assert board.wake(Wake(tenant="acme", model="m", version=1).model_dump_json().encode()) == KEY
    assert board.is_waited_for(KEY, times.now)
    assert not board.is_waited_for(("acme", "other", 1), times.now)
    assert targets.of(KEY, wanted(), 0, times.now) == 1
    assert board.wake(b"{") is None


def test_requests_too_short_to_be_seen_in_flight_keep_a_version_awake(times: Times) -> None:
    board = times.board()
    targets = Targets(board)
    board.wake(Wake(tenant="acme", model="m", version=1).model_dump_json().encode())
    for _second in range(60):
        times.now += 1.0
        board.report(report("one", requests=1))
        board.sample(times.now)
        assert targets.of(KEY, wanted(), 1, times.now) == 1
    for second in range(8):
        times.now += 1.0
        board.report(quiet("one"))
        board.sample(times.now)
        assert targets.of(KEY, wanted(), 1, times.now) == (1 if second < 5 else 0)


def test_time_in_which_no_router_was_heard_is_not_idle_time(times: Times) -> None:
    board = times.board()
    targets = Targets(board)
    board.report(report("one", requests=1))
    assert targets.of(KEY, wanted(), 1, times.now) == 1
    times.now += 3600.0
    assert targets.of(KEY, wanted(), 1, times.now) == 1, "nobody is heard: what runs stays"
    board.report(quiet("two"))
    assert targets.of(KEY, wanted(), 1, times.now) == 1, "the router that serves it may report a moment later"
    times.now += 3.0
    board.report(quiet("two"))
    times.now += 3.0
    board.report(quiet("two"))
    assert targets.of(KEY, wanted(), 1, times.now) == 0


def host(number: int, took_s: float | None, key: VersionKey = KEY, name: str = "", now: float = 1000.0) -> Host:
    tenant, model, version = key
    placed = Placed(
        host_id=name or f"{tenant}.{model}.{version}.{number}", tenant=tenant, model=model, version=version,
        purpose="replica", node="n", devices=[], asked={}, started_at=now,
    )  # fmt: skip
    return Host(placed, "loading" if took_s is None else "ready", ready_at=None if took_s is None else now + took_s)


def test_a_start_is_expected_to_take_what_the_versions_last_ones_took_else_those_of_its_format() -> None:
    metrics = SchedulerMetrics()
    starts = StartTimes(metrics, lambda _key: "onnx")
    assert starts.ready_in_s(KEY, []) is None
    other: VersionKey = ("acme", "other", 1)
    for number, took_s in enumerate((2.0, 4.0, 90.0)):
        starts.changed(host(number, took_s, other), present=True)
    assert starts.ready_in_s(KEY, []) == 4.0
    starts.changed(host(1, 7.0, name="_warm.1"), present=True)
    assert starts.ready_in_s(KEY, []) == 7.0
    starting = host(2, None, now=1000.0)
    assert starts.ready_in_s(KEY, [starting], 1003.0) == 4.0, "less what has passed"
    assert starts.ready_in_s(KEY, [starting], 1060.0) == 0.5, "it should be there any moment"
    name = "moorage_scheduler_start_seconds_count"
    assert metrics.registry.get_sample_value(name, {"kind": "cold", "format": "onnx"}) == 3
    assert metrics.registry.get_sample_value(name, {"kind": "warm", "format": "onnx"}) == 1


def test_a_host_counts_once_and_one_that_was_adopted_not_at_all() -> None:
    starts = StartTimes(SchedulerMetrics(), lambda _key: None)
    one, adopted = host(1, 5.0), host(2, 500.0)
    starts.adopted([adopted.placed.host_id])
    for _change in range(3):
        starts.changed(one, present=True)
        starts.changed(adopted, present=True)
        one.ready_at = 1100.0  # restarted by Ray
    assert starts.expected_s(KEY) == 5.0
