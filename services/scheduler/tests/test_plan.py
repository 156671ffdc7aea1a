import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from moorage_common.contracts.desired import MOST_CPU_MILLI, MOST_MIB, Resources
from moorage_scheduler.placement.decisions import Place, Queue
from moorage_scheduler.placement.explain import explain
from moorage_scheduler.placement.plan import place
from moorage_scheduler.placement.state import Ask, ClusterState, Held, NodeSize


def node(name: str, devices: int = 2, *, model: str = "", mem: int = 0, cpu: int = 4000) -> NodeSize:
    return NodeSize(name=name, devices=devices, cpu_milli=cpu, mem_mib=8192, gpu_model=model, device_mem_mib=mem)


def ask(milli: int = 0, *, model: str = "m", devices: int = 1, **rest: object) -> Ask:
    fields = {"gpu_milli": milli, "devices": devices, **rest}
    return Ask("acme", model, 1, Resources.model_validate(fields))


def account(sizes: list[NodeSize], held: list[Held]) -> ClusterState:
    return ClusterState.of(sizes, {str(number): one for number, one in enumerate(held)})


sizes = st.lists(
    st.builds(
        NodeSize,
        name=st.sampled_from(["a", "b", "c", "d"]),
        devices=st.integers(0, 4),
        cpu_milli=st.integers(0, 8000),
        mem_mib=st.integers(0, 16384),
        gpu_model=st.sampled_from(["", "T4", "H100"]),
        device_mem_mib=st.sampled_from([0, 16000, 80000]),
    ),
    unique_by=lambda size: size.name,
    max_size=4,
)
asks = st.lists(
    st.builds(
        Ask,
        tenant=st.sampled_from(["acme", "blue"]),
        model=st.sampled_from(["m", "n"]),
        version=st.just(1),
        resources=st.builds(
            Resources,
            gpu_milli=st.sampled_from([0, 1, 250, 333, 500, 1000]),
            devices=st.sampled_from([1, 1, 1, 2, 3]),
            gpu_mem_mib=st.sampled_from([0, 1000, 40000]),
            cpu_milli=st.integers(10, 2000),
            host_mem_mib=st.integers(64, 4096),
            gpu_models=st.sampled_from([[], ["T4"], ["T4", "H100"]]),
        ),
    ),
    max_size=25,
)


@given(sizes, asks)
@settings(max_examples=200, deadline=None)
def test_whatever_is_asked_nothing_is_oversold_and_nobody_placed_is_lost(
    nodes: list[NodeSize], wanted: list[Ask]
) -> None:
    held: list[Held] = []
    for one in wanted:
        state = account(nodes, held)
        match place(state, one):
            case Place(node=name, devices=devices, gpu_milli=milli):
                assert len(set(devices)) == (one.resources.devices if one.device_milli() else 0)
                held.append(Held(one, name, devices, milli))
            case Queue(reason=reason):
                assert reason
    state = account(nodes, held)
    for n in state.nodes:
        assert n.free_cpu_milli >= 0
        assert n.free_mem_mib >= 0
        for device in n.devices:
            assert device.free_milli >= 0
            assert device.free_mib >= 0 or n.size.device_mem_mib == 0
    taken = sum(1000 - device.free_milli for n in state.nodes for device in n.devices)
    assert taken == sum(place.ask.device_milli() * len(place.devices) for place in held)


@given(sizes, asks)
@settings(max_examples=100, deadline=None)
def test_the_same_state_always_gives_the_same_decision_whatever_the_order_nodes_are_listed_in(
    nodes: list[NodeSize], wanted: list[Ask]
) -> None:
    for one in wanted[:3]:
        assert place(account(nodes, []), one) == place(account(nodes[::-1], []), one)


def test_without_statistics_the_fullest_device_of_the_first_node_that_fits_is_taken() -> None:
    held = [Held(ask(300, model="x"), "a", (1,)), Held(ask(600, model="y"), "b", (0,))]
    assert place(account([node("a"), node("b")], held), ask(400)) == Place("a", (1,), 400)


def test_ties_go_to_the_first_node_and_device() -> None:
    assert place(account([node("b"), node("a")], []), ask(500)) == Place("a", (0,), 500)


def test_two_replicas_of_one_version_never_share_a_device() -> None:
    held = [Held(ask(250), "a", (0,))]
    assert place(account([node("a")], held), ask(250)) == Place("a", (1,), 250)
    held.append(Held(ask(1000, model="big"), "a", (1,)))
    queued = place(account([node("a")], held), ask(250))
    assert isinstance(queued, Queue)
    assert [(one.filter, one.nodes) for one in queued.filters] == [("anti_affinity", 1)]


def test_versions_of_one_deployment_share_a_device_only_when_nothing_else_fits() -> None:
    held = [Held(ask(250), "a", (0,))]
    second = Ask("acme", "m", 2, ask(250).resources)
    assert place(account([node("a")], held), second) == Place("a", (1,), 250)
    held.append(Held(ask(1000, model="big"), "a", (1,)))
    assert place(account([node("a")], held), second) == Place("a", (0,), 250)


def test_the_second_replica_goes_to_another_node_unless_none_fits() -> None:
    held = [Held(ask(250), "a", (0,))]
    assert place(account([node("a"), node("b")], held), ask(250)) == Place("b", (0,), 250)
    held += [Held(ask(1000, model="big", devices=2), "b", (0, 1))]
    assert place(account([node("a"), node("b")], held), ask(250)) == Place("a", (1,), 250)


def test_a_sibling_on_its_way_out_is_no_second_node() -> None:
    sizes = [node("a"), node("b"), node("c")]
    held = [Held(ask(500), "a", (0,)), Held(ask(500), "b", (0,), leaving=True)]
    decision = place(account(sizes, held), ask(500))
    assert isinstance(decision, Place)
    assert decision.node != "a"


def test_an_elastic_replica_is_trimmed_only_when_it_fits_nowhere_whole() -> None:
    held = [Held(ask(550, model="x"), "a", (0,)), Held(ask(520, model="y"), "a", (1,))]
    assert place(account([node("a"), node("b")], held), ask(500, elastic_pct=10)) == Place("b", (0,), 500)
    sizes = [node("a")]
    assert place(account(sizes, held), ask(500, elastic_pct=10)) == Place("a", (1,), 480)
    assert isinstance(place(account(sizes, held), ask(500, elastic_pct=3)), Queue)


def test_a_drained_node_takes_nothing() -> None:
    state = account([node("a"), node("b")], [])
    state.close(["a"])
    assert place(state, ask(250)) == Place("b", (0,), 250)
    state.close(["a", "b"])
    queued = place(state, ask(250))
    assert isinstance(queued, Queue)
    assert queued.reason == "on 2 of 2 node(s): it is drained and takes no more replicas"


def test_a_replica_runs_only_where_the_labels_are_those_it_names() -> None:
    sizes = [node("a"), NodeSize("b", 2, 4000, 8192, labels={"zone": "x"})]
    assert place(account(sizes, []), ask(100, node_labels={"zone": "x"})) == Place("b", (0,), 100)


def test_a_replica_takes_of_each_gpu_model_what_its_profile_says() -> None:
    wanted = ask(800, gpu_profiles={"H100": {"gpu_milli": 200, "gpu_mem_mib": 4000}})
    held = [Held(ask(300, model="x"), "a", (0,)), Held(ask(700, model="y"), "b", (0,))]
    sizes = [node("a", 1, model="T4"), node("b", 1, model="H100", mem=80000)]
    state = account(sizes, held)
    assert place(state, wanted) == Place("b", (0,), 200)
    state.add("new", Held(wanted, "b", (0,), 200))
    assert [(d.free_milli, d.free_mib) for d in state.nodes[1].devices] == [(100, 20000)]


def test_several_devices_are_whole_ones_of_one_node() -> None:
    held = [Held(ask(1, model="x"), "a", (0,))]
    nodes = [node("a", 2), node("b", 3)]
    assert place(account(nodes, held), ask(500, devices=2)) == Place("b", (0, 1), 1000)
    assert isinstance(place(account([node("a", 2)], held), ask(500, devices=2)), Queue)


def test_a_replica_without_gpu_takes_no_device_and_any_node_with_room() -> None:
    assert place(account([node("a", 2, cpu=100), node("b", 0)], []), ask(0)) == Place("b", ())


def test_device_memory_is_enforced_where_it_is_known() -> None:
    held = [Held(ask(100, model="x", gpu_mem_mib=12000), "a", (0,)), Held(ask(1000, model="y"), "a", (1,))]
    queued = place(account([node("a", mem=16000)], held), ask(100, gpu_mem_mib=8000))
    assert isinstance(queued, Queue)
    assert "8000 MiB" in queued.reason
    assert place(account([node("a", mem=0)], held), ask(100, gpu_mem_mib=8000)) == Place("a", (0,), 100)


def test_a_queued_replica_is_told_what_stands_against_each_node() -> None:
    nodes = [node("a", 1, model="T4"), node("b", 1, model="T4"), node("c", 0)]
    queued = place(account(nodes, []), ask(500, gpu_models=["H100"]))
    assert isinstance(queued, Queue)
    assert queued.reason.startswith("on 2 of 3 node(s): its GPU is T4, not H100")


def test_an_empty_cluster_queues_everything() -> None:
    assert place(account([], []), ask(0)) == Queue("the cluster has no node yet")


@pytest.mark.parametrize(
    ("name", "most"), [("cpu_milli", MOST_CPU_MILLI), ("host_mem_mib", MOST_MIB), ("gpu_mem_mib", MOST_MIB)]
)
def test_the_largest_amounts_that_may_be_asked_for_wait_and_larger_ones_cannot_be_said(name: str, most: int) -> None:
    state = account([node("a", 2, mem=16000)], [])
    assert isinstance(place(state, ask(100, **{name: most})), Queue)
    assert explain(state, ask(100, **{name: most}), lambda _: True).reason
    with pytest.raises(ValidationError):
        ask(100, **{name: most + 1})
