"""Who gets copies of what, and when there is room for them: pure."""

from typing import Any

import pytest
from test_shadow import SHADOW, STABLE, route_of

from moorage_common.contracts.feedback import Output
from moorage_common.contracts.keys import TenantLimits
from moorage_common.contracts.routes import Route, RouteFeedback, RouteRollout, RouteVersion
from moorage_router.limits.calls import StoreState
from moorage_router.limits.limiter import Tenant
from moorage_router.limits.store import LimitStore
from moorage_router.mirrors import agree, mirrors_of
from moorage_router.shadow import AT_ONCE, CALM_S, COPIED_BYTES, HELD_BYTES, LATE_S, Room


def test_code_gets_copies_only_where_its_arm_accepts_it_and_never_in_a_pair() -> None:
    def copied(route: Route) -> list[int]:
        class Served:
            def __init__(self, spec: RouteVersion) -> None:
                self.number, self.data_format = spec.version, spec.format == "onnx"

        versions: Any = {spec.version: Served(spec) for spec in route.versions}
        return [mirror.served.number for mirror in mirrors_of(route, versions)]

    code = {1: "ray-serve", 2: "ray-serve"}
    assert copied(route_of(STABLE, SHADOW)) == [2]
    assert copied(route_of(STABLE, SHADOW, formats=code)) == []
    assert copied(route_of(STABLE, SHADOW.model_copy(update={"copies_to_code": True}), formats=code)) == [2]
    assert copied(route_of(STABLE, SHADOW.model_copy(update={"weight_bp": 0}))) == []
    rollout = RouteRollout(id="r", stable=1, candidate=2, paired_bp=100)
    assert copied(route_of(STABLE, rollout=rollout, feedback=RouteFeedback())) == [1]
    assert copied(route_of(STABLE, rollout=rollout, feedback=RouteFeedback(), formats=code)) == []
    assert copied(route_of(STABLE, rollout=rollout)) == [], "without labels nobody would read it"


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [("1.0", "1.009", True), ("1.0", "1.02", False), ("0.0", "0.0", True), ("nan", "nan", False), ("-1", "1", False)],
)
def test_numbers_agree_within_a_hundredth(one: str, other: str, same: bool) -> None:
    assert agree(Output(kind="number", value=one), Output(kind="number", value=other)) is same
    assert not agree(Output(kind="number", value=one), Output(kind="class", value=one))


class Target:
    def __init__(self) -> None:
        self.replicas = self
        self.parked = 0
        self.ready: tuple[Any, ...] = ("host",)


@pytest.fixture
def tenant(redis_url: str) -> Tenant:
    return Tenant(TenantLimits(tenant="demo", max_concurrent=10), StoreState(LimitStore(redis_url)))


def test_copies_are_left_out_before_anything_of_the_tenants_own_is(tenant: Tenant) -> None:
    now, parked = [100.0], [0]
    room = Room(lambda _name: parked[0], 0.05, lambda: now[0])
    target: Any = Target()

    def lacks(size: int = 10) -> str | None:
        return room.lacks(tenant, target, size)

    assert lacks() is None
    assert lacks(COPIED_BYTES + 1) == "size"
    parked[0] = 1
    assert lacks() == "parked"
    parked[0], target.parked = 0, 1
    assert lacks() == "parked"
    target.parked = 0
    tenant.in_flight = 8
    assert lacks() == "limit"
    tenant.in_flight = 7
    target.ready = ()
    assert lacks() == "no_replica"
    target.ready = ("host",)
    now[0] += 0.05 + LATE_S * 1.1
    assert lacks() == "lag", "before the loop's own work has noticed"
    room.tick()
    assert lacks() == "lag"
    for _ in range(int(CALM_S / 0.05) + 1):
        now[0] += 0.05
        room.tick()
    assert lacks() is None


def test_no_tenant_takes_all_the_room_and_all_of_them_no_more_than_there_is(tenant: Tenant) -> None:
    room = Room(lambda _name: 0, 0.05, lambda: 100.0)
    target: Any = Target()
    others = [Tenant(TenantLimits(tenant=f"t{n}"), tenant.gate.state) for n in range(AT_ONCE + 1)]

    def fill(one: Tenant, size: int) -> int:
        """Copies that never end, until no more are made."""
        taken = 0
        while room.lacks(one, target, size) is None:
            room.take(one, size)
            taken += 1
        return taken

    assert [fill(one, 10) for one in (tenant, *others[:3])] == [16, 8, 4, 2]
    for one, copies in zip((tenant, *others[:3]), (16, 8, 4, 2), strict=True):
        for _ in range(copies):
            room.give_back(one, 10)
    assert (room.copies, room.size, room._tenants, room._sizes) == (0, 0, {}, {})
    taken = 0
    while room.lacks(others[taken], target, 10) is None:
        room.take(others[taken], 10)
        taken += 1
    assert taken == AT_ONCE


def test_one_tenants_long_bodies_leave_room_for_those_of_others(tenant: Tenant) -> None:
    room = Room(lambda _name: 0, 0.05, lambda: 100.0)
    target: Any = Target()
    while room.lacks(tenant, target, COPIED_BYTES) is None:
        room.take(tenant, COPIED_BYTES)
    assert room.size <= HELD_BYTES // 2
    other = Tenant(TenantLimits(tenant="other"), tenant.gate.state)
    assert room.lacks(other, target, COPIED_BYTES) is None
