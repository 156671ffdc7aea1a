"""Who is started and who stops for others, decided by a scheduler that is wired but reaches neither NATS nor Ray."""

from dataclasses import replace

import pytest

from moorage_common.contracts.desired import ArtifactRef, DesiredVersion, LoadSpec, Resources
from moorage_common.contracts.endpoints import HeldVersion
from moorage_common.contracts.keys import GpuShare, TenantLimits
from moorage_common.contracts.tensors import Signature
from moorage_common.contracts.versioned import Versioned
from moorage_scheduler import deps as wiring
from moorage_scheduler.admission import Pending
from moorage_scheduler.cluster import Placed, RayNode
from moorage_scheduler.hosts import Host, Identity
from moorage_scheduler.metrics import SchedulerMetrics
from moorage_scheduler.placement.state import NodeSize
from moorage_scheduler.pools import POOL_MODEL
from moorage_scheduler.reports import replica_status
from moorage_scheduler.settings import Settings
from moorage_scheduler.validations import PURPOSE_MODEL

NOW = 1000.0
SIZE = NodeSize("a", 1, 1000, 8192)


class Unused:
    """No host is started here."""


@pytest.fixture
def built() -> wiring.Deps:
    deps = wiring.build(Settings(nats_url="nats://127.0.0.1:1"), SchedulerMetrics(), Unused)
    deps.reconciler.nodes.live = [RayNode(SIZE, "id-a")]
    deps.fleet.account.set_nodes([SIZE])
    return deps


def version(model: str, milli: int = 500, priority: int = 50) -> DesiredVersion:
    return DesiredVersion(
        load=LoadSpec(
            tenant="acme",
            model=model,
            version=1,
            format="onnx",
            artifact=ArtifactRef(digest="sha256:" + "0" * 64, size_bytes=1),
            signature=Signature(inputs=[], outputs=[]),
        ),
        resources=Resources(gpu_milli=milli, cpu_milli=100, host_mem_mib=64),
        priority=priority,
    )


def pending(model: str, milli: int = 500, priority: int = 50) -> Pending:
    return Pending(("acme", model, 1), version(model, milli, priority))


def placed(purpose: str, model: str, **more: object) -> Placed:
    what = {"host_id": f"{purpose}-host", "tenant": "acme", "model": model, "version": 1, "purpose": purpose}
    asked = Resources(cpu_milli=950, host_mem_mib=64).model_dump(mode="json")
    where = {"node": "a", "node_id": "id-a", "devices": [], "asked": asked, "started_at": 0.0}
    return Placed.model_validate({**what, **where, **more})


def seat(deps: wiring.Deps, one: Placed) -> Host:
    host = deps.fleet.hosts[one.host_id] = Host(one)
    deps.fleet.account.add(one.host_id, host.held())
    return host


def guarantee(deps: wiring.Deps, milli: int) -> None:
    limits = TenantLimits(tenant="acme", gpu_milli=8000, gpu_shares=[GpuShare(guaranteed_milli=milli)])
    deps.questions.limits.take("acme", Versioned(epoch=1, version=1, value=limits.model_dump(mode="json")))


@pytest.mark.parametrize("guaranteed_milli", [1000, 0], ids=["reclaim", "preempt"])
async def test_neither_validation_hosts_nor_pools_stop_for_what_is_owed_or_of_a_higher_priority(
    built: wiring.Deps, guaranteed_milli: int
) -> None:
    guarantee(built, guaranteed_milli)
    built.validations.adopt(placed("validation", PURPOSE_MODEL))
    queued = built.reconciler.admission.admit([pending("m", priority=90)], NOW)
    assert "CPU milli" in queued["acme", "m", 1][0]
    built.fleet.account.remove("validation-host")
    pool = seat(built, placed("pool", POOL_MODEL))
    queued = built.reconciler.admission.admit([pending("m", priority=90)], NOW)
    assert "CPU milli" in queued["acme", "m", 1][0]
    assert not pool.leaving


async def test_each_replica_that_waits_is_told_why_and_decided_on_once_while_nothing_changes(
    built: wiring.Deps,
) -> None:
    guarantee(built, 0)
    seat(built, placed("replica", "full"))
    for _round in range(3):
        queued = built.reconciler.admission.admit([pending("m")] * 5 + [pending("k")] * 2, NOW)
        assert {key[1]: len(set(reasons)) for key, reasons in queued.items()} == {"m": 1, "k": 1}
        assert {key[1]: len(reasons) for key, reasons in queued.items()} == {"m": 5, "k": 2}
    assert len(built.reconciler.journal.entries) == 2


async def test_what_is_placed_counts_against_its_tenant_for_those_after_it_in_the_same_round(
    built: wiring.Deps,
) -> None:
    limits = TenantLimits(tenant="acme", gpu_milli=500).model_dump(mode="json")
    built.questions.limits.take("acme", Versioned(epoch=1, version=1, value=limits))
    queued = built.reconciler.admission.admit([pending("m"), pending("k")], NOW)
    await built.fleet.close()
    assert len(built.fleet.hosts) == 1
    assert ["would pass that by 500" in reason for (reason,) in queued.values()] == [True]


async def test_a_failed_host_speaks_against_its_version_from_the_moment_it_says_so(built: wiring.Deps) -> None:
    host = seat(built, placed("replica", "m"))
    held = HeldVersion(model="m", version=1, state="failed", reason="broken")
    told = Identity(generation="g", token="t", address="127.0.0.1:1", pid=1, devices=[], versions=[held])
    built.fleet._observe(host, told)
    assert built.fleet.failures["acme", "m", 1].reason == "broken"
    await built.reports.endpoints.writer.bus.close()


async def test_a_replica_that_got_less_or_a_profile_is_reported_with_what_it_got(built: wiring.Deps) -> None:
    asked = Resources(gpu_milli=500, elastic_pct=50).model_dump(mode="json")
    host = seat(built, placed("replica", "m", asked=asked, devices=[0], gpu_milli=300))
    assert replica_status(host).gpu_milli == 300


async def test_of_replicas_on_a_drained_node_that_fit_nowhere_each_is_searched_for_in_turn(built: wiring.Deps) -> None:
    asked = Resources(gpu_milli=1000, cpu_milli=100, host_mem_mib=64).model_dump(mode="json")
    for number in range(3):
        seat(built, placed("replica", f"m{number}", host_id=f"h{number}", asked=asked, started_at=float(number)))
    draining, searches = built.reconciler.draining, built.fleet.account.failures
    built.reconciler.nodes.drained = frozenset({"a"})
    built.fleet.account.close(["a"])
    for step in range(1, 4):
        draining.step(NOW + step)
        assert searches.searches == step
        assert draining.left["a"].keys() == {"h0", "h1", "h2"}
        assert all("no room elsewhere" in why for why in draining.left["a"].values())
    assert {deployment[1] for _shape, deployment in searches.failed_at} == {"m0", "m1", "m2"}


@pytest.mark.parametrize(("moves_an_hour", "may_move"), [(1, True), (0, False)])
async def test_no_more_replicas_of_a_tenant_are_movable_than_its_hourly_moves_allow(
    moves_an_hour: int, may_move: bool
) -> None:
    settings = Settings(nats_url="nats://127.0.0.1:1", moves_an_hour=moves_an_hour)
    mover = wiring.build(settings, SchedulerMetrics(), Unused).reconciler.mover
    asked = version("m").resources.model_dump(mode="json")
    host = Host(placed("replica", "m", asked=asked), state="ready")
    host.identity = Identity(generation="g", token="t", address="127.0.0.1:1", pid=1, devices=[], versions=[])
    mover.fleet.hosts["replica-host"] = host
    mover.wanted = {host.key: version("m")}
    assert mover.movable(NOW)("replica-host") == may_move
    host.placed = host.placed.model_copy(update={"moved_from": "before", "started_at": NOW - 1})
    assert not mover.movable(NOW)("replica-host"), "it moved a second ago"


async def test_moves_for_a_tenant_count_as_its_own_and_past_its_hourly_moves_nobody_moves_for_it() -> None:
    deps = wiring.build(Settings(nats_url="nats://127.0.0.1:1", moves_an_hour=1), SchedulerMetrics(), Unused)
    sizes = [replace(SIZE, name=name) for name in ("a", "b")]
    deps.reconciler.nodes.live = [RayNode(size, f"id-{size.name}") for size in sizes]
    deps.fleet.account.set_nodes(sizes)
    mover, admission = deps.reconciler.mover, deps.reconciler.admission
    asked = version("m", 400).resources.model_dump(mode="json")
    for name in ("a", "b"):
        where = {"node": name, "node_id": f"id-{name}", "devices": [0], "gpu_milli": 400, "asked": asked}
        host = seat(deps, placed("replica", name, host_id=name, tenant=f"of-{name}", **where))
        host.state = "ready"
        host.identity = Identity(generation="g", token="t", address="127.0.0.1:1", pid=1, devices=[0], versions=[])
        mover.wanted = {**mover.wanted, host.key: version("m", 400)}
    mover._begun["acme"].append(NOW)
    queued = admission.admit([pending("large", 1000)], NOW)
    assert ["moves" in reason for reasons in queued.values() for reason in reasons] == [False]
    mover._begun["acme"].clear()
    queued = admission.admit([pending("large", 1000)], NOW)
    assert ["to make room" in reason for reasons in queued.values() for reason in reasons] == [True]
    moved = next(mover.pairs())[1].placed.tenant
    assert [mover.in_budget(tenant, NOW) for tenant in ("acme", moved)] == [False, False]
    await deps.fleet.close()
