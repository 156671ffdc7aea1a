"""What the registry may ask: each decision told, and nothing of others to a tenant."""

import asyncio
import secrets
from collections.abc import AsyncIterator
from typing import Any, cast

import pytest
from asked_of_two import SIZES, ask, cluster_of, resources
from hypothesis import given
from hypothesis import strategies as st

from moorage_common.bus import Bus
from moorage_common.contracts.answers import Defragmented, Explanation, Nodes
from moorage_common.contracts.answers import Shares as SharesView
from moorage_common.contracts.cluster import SchedulerAnswer, SchedulerAsk, packed_parts, unpacked
from moorage_common.contracts.desired import ArtifactRef, Desired, DesiredVersion, LoadSpec
from moorage_common.contracts.keys import GpuShare, TenantLimits
from moorage_common.contracts.names import scheduler_subject
from moorage_common.contracts.tensors import Signature
from moorage_common.contracts.versioned import Versioned
from moorage_scheduler import deps as wiring
from moorage_scheduler.cluster import Placed, RayNode
from moorage_scheduler.explaining import sentence
from moorage_scheduler.hosts import Host
from moorage_scheduler.journal import why
from moorage_scheduler.metrics import SchedulerMetrics
from moorage_scheduler.placement.decisions import Place
from moorage_scheduler.placement.filters import FILTERS
from moorage_scheduler.placement.state import Held, NodeSize
from moorage_scheduler.questions import TAKEN_S, Packed
from moorage_scheduler.replay import replay
from moorage_scheduler.settings import Settings
from moorage_scheduler.views import Snapshot, nodes_view, seen_by
from moorage_sdk.pictures.moves import moved

SECRET = "rival"


# what tenants see


def test_a_tenant_sees_its_own_replicas_and_one_sum_of_all_others() -> None:
    state = cluster_of(
        mine=Held(ask(300), "a", (0,)),
        theirs=Held(ask(200, "secret", SECRET), "a", (0,)),
        more=Held(ask(100, "secret2", SECRET), "a", (0,)),
        plain=Held(ask(0, "secret3", SECRET), "a", ()),
    )
    whole = nodes_view(Snapshot.of(state), {"mine": "ready"}, [])
    (device, _) = whole.nodes[0].devices
    assert [(seat.host_id, seat.gpu_milli, seat.state) for seat in device.seats] == [
        ("mine", 300, "ready"),
        ("theirs", 200, None),
        ("more", 100, None),
    ]
    assert (device.free_milli, device.mem_mib, whole.nodes[0].replicas()) == (400, 16384, 4)
    seen = seen_by(whole, "acme")
    assert SECRET not in seen.model_dump_json()
    assert "secret" not in seen.model_dump_json()
    assert [(seat.model, seat.gpu_milli) for seat in seen.nodes[0].devices[0].seats] == [("m", 300), ("", 300)]
    assert seen.nodes[0].seats == []
    assert [device.free_milli for device in seen.nodes[0].devices] == [400, 1000]


@pytest.mark.parametrize("name", [one.name for one in FILTERS])
def test_every_filter_has_a_sentence_that_needs_no_word_on_how_full_nodes_are(name: str) -> None:
    asked = resources(500, gpu_models=["T4"], node_labels={"zone": "x"}, gpu_mem_mib=77)
    assert sentence(name, asked)


# long answers


@given(st.dictionaries(st.text(), st.integers() | st.text()), st.integers(1, 50))
def test_a_packed_answer_comes_back_whole(answer: dict[str, Any], size: int) -> None:
    parts = packed_parts(answer, size)
    assert unpacked(parts, 1 << 20) == answer
    if len(parts) > 1:
        with pytest.raises(ValueError, match="cut off"):
            unpacked(parts[:-1], 1 << 20)


def test_a_packed_answer_longer_than_allowed_is_refused() -> None:
    with pytest.raises(ValueError, match="longer than 1000"):
        unpacked(packed_parts({"zeros": "0" * 100_000}, 1 << 20), 1000)


def test_parts_are_kept_for_a_minute_and_not_more_than_a_few_answers() -> None:
    now = [0.0]
    packed = Packed(clock=lambda: now[0])
    first = packed.keep(["a", "b"])
    assert (first.packed, first.parts, packed.part(first.take, 1).packed) == ("a", 2, "b")
    now[0] = TAKEN_S + 1
    packed.keep(["c"])
    assert "ask anew" in packed.part(first.take, 1).error
    takes = [packed.keep(["d"]).take for _ in range(20)]
    assert packed.part(takes[0], 0).error
    assert not packed.part(takes[-1], 0).error


# over the bus, without Ray: the scheduler's own wiring around an account made by hand


class Unused:
    """No host is started here."""


def desired(milli: int, *, least: int = 1, **more: Any) -> DesiredVersion:
    load = LoadSpec(
        tenant="acme",
        model="m",
        version=1,
        format="onnx",
        artifact=ArtifactRef(digest="sha256:" + "0" * 64, size_bytes=1),
        signature=Signature(inputs=[], outputs=[]),
    )
    return DesiredVersion(load=load, resources=resources(milli, **more), min_replicas=least)


def host(name: str, tenant: str, model: str, milli: int, *devices: int) -> Host:
    placed = Placed(
        host_id=name,
        tenant=tenant,
        model=model,
        version=1,
        purpose="replica",
        node="a",
        devices=list(devices),
        asked=resources(milli).model_dump(mode="json"),
        started_at=0.0,
    )
    return Host(placed, state="ready")


@pytest.fixture
def built(nats_url: str) -> wiring.Deps:
    deps = wiring.build(Settings(nats_url=nats_url), SchedulerMetrics(), Unused)
    deps.reconciler.nodes.live = [RayNode(size, size.name) for size in SIZES]
    deps.fleet.account.set_nodes(SIZES)
    return deps


def seat(deps: wiring.Deps, one: Host) -> None:
    deps.fleet.hosts[one.placed.host_id] = one
    deps.fleet.account.add(one.placed.host_id, one.held())


def want(deps: wiring.Deps, *versions: DesiredVersion) -> None:
    value = Desired(cluster="default", tenant="acme", model="m", versions=list(versions)).model_dump(mode="json")
    deps.reconciler.desire("default.acme.m", Versioned(epoch=1, version=1, value=value))


async def explained(deps: wiring.Deps) -> Explanation:
    answer = await deps.questions.answer(SchedulerAsk(what="explain", tenant="acme", model="m"))
    return Explanation.model_validate(answer.answer)


async def test_a_replica_that_waits_is_told_each_filter_and_what_would_help_but_nothing_of_others(
    built: wiring.Deps,
) -> None:
    for device in (0, 1):
        seat(built, host(f"{SECRET}{device}", SECRET, "x", 637, device))
    want(built, desired(500, gpu_models=["T4"]))
    built.reconciler.queued = {("acme", "m", 1): ["the freest has 363 milli"]}
    (version,) = (await explained(built)).versions
    assert (version.waiting, version.nodes, version.reason) == (1, 2, "no node can take it now")
    assert [(one.filter, one.nodes) for one in version.removed] == [("gpu_model", 1), ("gpu_room", 1)]
    assert version.would_fit == ["any GPU model, not only those in gpu_models", "half the GPU: gpu 0.25"]
    for secret in (SECRET, "637", "363"):
        assert secret not in version.model_dump_json()
    answer = await built.questions.answer(SchedulerAsk(what="nodes", tenant="acme"))
    assert SECRET not in answer.model_dump_json()


async def test_an_operator_is_told_of_anybodys_replicas_what_would_help(built: wiring.Deps) -> None:
    seat(built, host(f"{SECRET}0", SECRET, "x", 637, 0))
    seat(built, host(f"{SECRET}1", SECRET, "y", 300, 1))
    want(built, desired(800, gpu_models=["T4"], gpu_mem_mib=100))
    built.reconciler.queued = {("acme", "m", 1): [f"after {SECRET}"]}
    question = SchedulerAsk(what="explain", tenant="acme", model="m", everything=True)
    (version,) = Explanation.model_validate((await built.questions.answer(question)).answer).versions
    assert version.reason == f"after {SECRET}"
    assert "the freest has 700 milli" in version.removed[1].reason
    assert version.would_fit[0] == "with 0.1 GPU less: gpu 0.7"


async def test_a_dry_run_gathers_nothing_and_an_order_is_taken_once(built: wiring.Deps) -> None:
    built.fleet.account.set_nodes(NodeSize(name, 1, 4000, 8192, "T4") for name in "abcd")
    for name in "abcd":
        one = host(f"h{name}", "acme", f"m{name}", 250, 0)
        one.placed = one.placed.model_copy(update={"node": name})
        seat(built, one)
    built.reconciler.gathering.movable = lambda _now: frozenset(built.fleet.hosts)  # type: ignore[method-assign]
    dry = Defragmented.model_validate((await built.questions.answer(SchedulerAsk(what="defragment"))).answer)
    assert (len(dry.moves), dry.ordered, built.reconciler.gathering.left) == (3, False, 0)
    assert (dry.before.free_devices, dry.after.free_devices) == (0, 3)
    assert len(dry.nodes) == 4
    assert sum(node.replicas() for node in moved(dry.nodes, dry.moves)) == 4
    order = SchedulerAsk(what="defragment", dry_run=False)
    assert (await built.questions.answer(order)).answer["ordered"]
    assert "3 moves are left" in (await built.questions.answer(order)).error


async def test_what_is_left_on_a_drained_node_is_told_operators_alone(built: wiring.Deps) -> None:
    seat(built, host("h", "acme", "m", 500, 0))
    built.fleet.account.close(["a"])
    built.reconciler.draining.left = {"a": {"h": "no room elsewhere"}}
    wanted: list[tuple[str, dict[str, str]]] = [("", {"h": "no room elsewhere"}), ("acme", {})]
    for tenant, left in wanted:
        found = (await built.questions.answer(SchedulerAsk(what="nodes", tenant=tenant))).answer
        node = Nodes.model_validate(found).nodes[0]
        assert (node.drained, node.left) == (True, left)


async def test_a_replica_with_a_place_is_told_where_and_why(built: wiring.Deps) -> None:
    want(built, desired(500, least=0))
    (version,) = (await explained(built)).versions
    assert "nobody asked for it within 300 s" in version.reason
    seat(built, host("h", "acme", "m", 500, 0))
    (version,) = (await explained(built)).versions
    (placement,) = version.placed
    assert (placement.node, placement.devices, placement.gpu_milli) == ("a", [0], 500)
    assert "before this scheduler took over" in placement.why
    wanted = ask(500)
    built.reconciler.journal.keep("h", why(cluster_of(), wanted, Place("a", (0,), 500)))
    (version,) = (await explained(built)).versions
    assert version.placed[0].why.startswith("of 2 nodes 2 could take it")
    assert (await explained(built)).model == "m"


async def test_shares_are_held_as_guaranteed_then_borrowed(built: wiring.Deps) -> None:
    limits = TenantLimits(
        tenant="acme", gpu_milli=2000, gpu_shares=[GpuShare(gpu_model="T4", guaranteed_milli=5000, borrow_milli=400)]
    )
    built.questions.limits.take("acme", Versioned(epoch=1, version=1, value=limits.model_dump(mode="json")))
    for number in (0, 1):
        seat(built, host(f"h{number}", "acme", "m", 600, number))
    seat(built, host("other", SECRET, "x", 300, 0))
    want(built, desired(500))
    built.reconciler.queued = {("acme", "m", 1): ["full", "full"]}
    answer = await built.questions.answer(SchedulerAsk(what="shares", tenant="acme"))
    own = SharesView.model_validate(answer.answer)
    (tenant,) = own.tenants
    assert (tenant.held_milli, tenant.waiting, tenant.waiting_milli, own.overcommitted) == (1200, 2, 1000, [])
    assert [(s.gpu_model, s.guaranteed_milli, s.held_guaranteed_milli) for s in tenant.shares] == [
        ("T4", 5000, 1200),
        ("", 0, 0),
    ]
    everyone = SharesView.model_validate((await built.questions.answer(SchedulerAsk(what="shares"))).answer)
    assert [(one.tenant, one.held_milli) for one in everyone.tenants] == [("acme", 1200), (SECRET, 300)]
    assert everyone.tenants[1].shares[0].held_borrowed_milli == 300
    assert everyone.overcommitted[0].startswith("5 GPUs of the model T4 are guaranteed and the cluster has 2")


@pytest.fixture
async def asking(built: wiring.Deps) -> AsyncIterator[wiring.Deps]:
    """The scheduler listens, and leads."""
    await built.bus.start()
    built.leading.set()
    built.questions.leads = built.leading.is_set
    await built.questions.listen()
    await built.bus.client.flush()
    yield built
    await built.bus.close()


async def request(bus: Bus, question: SchedulerAsk, timeout_s: float = 60.0) -> SchedulerAnswer:
    message = await bus.client.request(scheduler_subject("default"), question.model_dump_json().encode(), timeout_s)
    return SchedulerAnswer.model_validate_json(message.data)


async def test_only_the_leader_answers(asking: wiring.Deps) -> None:
    answer = await request(asking.bus, SchedulerAsk(what="nodes"))
    assert [node.name for node in Nodes.model_validate(answer.answer).nodes] == ["a", "b"]
    asking.leading.clear()
    with pytest.raises((TimeoutError, asyncio.TimeoutError)):
        await request(asking.bus, SchedulerAsk(what="nodes"), 0.3)


async def test_a_cluster_larger_than_a_message_is_answered_in_parts(asking: wiring.Deps) -> None:
    names = [f"{number}-{secrets.token_hex(300)}" for number in range(4000)]  # which no packing makes shorter
    asking.fleet.account.set_nodes(NodeSize(name, 8, 64_000, 1 << 18) for name in names)
    question = SchedulerAsk(what="nodes")
    first = await request(asking.bus, question, 60.0)
    assert first.parts > 1
    parts = [first.packed]
    others = (question.model_copy(update={"take": first.take, "part": part}) for part in range(1, first.parts))
    parts += [(await request(asking.bus, other)).packed for other in others]
    assert len(Nodes.model_validate(unpacked(parts, 1 << 30)).nodes) == 4000


async def test_what_cannot_be_read_or_answered_is_said_and_the_next_question_answered(asking: wiring.Deps) -> None:
    message = await asking.bus.client.request(scheduler_subject("default"), b"{", 5.0)
    assert "cannot be read" in SchedulerAnswer.model_validate_json(message.data).error
    asking.fleet.account.held["bad"] = cast("Held", None)
    assert "its log says why" in (await request(asking.bus, SchedulerAsk(what="nodes"))).error
    del asking.fleet.account.held["bad"]
    state = await request(asking.bus, SchedulerAsk(what="state"))
    assert replay(state.answer)["decisions"] == []
