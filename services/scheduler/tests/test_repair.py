import json

from hypothesis import example, given, settings
from hypothesis import strategies as st

from moorage_common.contracts.desired import Resources
from moorage_scheduler.placement.decisions import Move, Place, Repair
from moorage_scheduler.placement.plan import place
from moorage_scheduler.placement.repair import RETRIED_AFTER, carry_out, repair
from moorage_scheduler.placement.staging import set_aside, staging_places
from moorage_scheduler.placement.state import Ask, ClusterState, Held, NodeSize


def node(name: str, devices: int = 1, *, cpu: int = 4000, mem: int = 0) -> NodeSize:
    return NodeSize(name, devices, cpu, 8192, device_mem_mib=mem)


def ask(milli: int, model: str = "new", *, cpu: int = 100, **rest: object) -> Ask:
    return Ask("acme", model, 1, Resources.model_validate({"gpu_milli": milli, "cpu_milli": cpu, **rest}))


def cluster(sizes: list[NodeSize], held: dict[str, tuple[str, int, int]], *, cpu: int = 100) -> ClusterState:
    """Replicas by name: node, device, milli; each of a deployment of its own."""
    return ClusterState.of(
        sizes, {name: Held(ask(milli, name, cpu=cpu), at, (device,)) for name, (at, device, milli) in held.items()}
    )


def anyone(_: str) -> bool:
    return True


def executed(state: ClusterState, plan: Repair, wanted: Ask) -> None:
    """Carry out `plan` with every replica holding two places while it moves; nothing may be oversold at any time."""
    staged = {stage.replica: state.held[stage.replica] for stage in staging_places(state)}
    for replica in staged:
        state.remove(replica)
    for move in plan.moves:
        held = state.held[move.replica]
        assert (held.node, held.devices) == (move.source.node, move.source.devices)
        state.add("second", Held(held.ask, move.target.node, move.target.devices, move.target.gpu_milli))
        sound(state)
        state.remove("second")
        state.move(move.replica, Held(held.ask, move.target.node, move.target.devices, move.target.gpu_milli))
    for replica, held in staged.items():
        state.add(replica, held)
    state.add("placed", Held(wanted, plan.place.node, plan.place.devices, plan.place.gpu_milli))
    sound(state)


def sound(state: ClusterState) -> None:
    for one in state.nodes:
        assert one.free_cpu_milli >= 0
        assert one.free_mem_mib >= 0
        for device in one.devices:
            assert device.free_milli >= 0
            assert device.free_mib >= 0 or not one.size.device_mem_mib


def test_one_replica_moves_where_that_makes_room() -> None:
    state = cluster([node("a"), node("b")], {"x": ("a", 0, 300), "y": ("b", 0, 400)})
    plan = repair(state, ask(700), anyone)
    assert plan == Repair((Move("x", Place("a", (0,), 300), Place("b", (0,), 300)),), Place("a", (0,), 700))


def test_the_move_of_the_least_gpu_is_chosen() -> None:
    held = {"x": ("a", 0, 500), "y": ("b", 0, 400), "z": ("c", 0, 450)}
    plan = repair(cluster([node("a"), node("b"), node("c")], held), ask(700), anyone)
    assert plan is not None
    assert [move.replica for move in plan.moves] == ["y"]


def test_a_chain_moves_the_second_out_of_the_way_first() -> None:
    sizes = [node("a"), node("b"), node("c")]
    state = cluster(sizes, {"x": ("a", 0, 500), "y": ("b", 0, 300), "y2": ("b", 0, 450), "z": ("c", 0, 700)})
    plan = repair(state, ask(1000), anyone)
    assert plan is not None
    assert [(move.replica, move.target.node) for move in plan.moves] == [("y", "c"), ("x", "b")]
    executed(state, plan, ask(1000))


def test_a_swap_goes_without_staging_where_the_smaller_fits_beside_the_larger() -> None:
    state = cluster([node("a"), node("b")], {"x": ("a", 0, 700), "y": ("b", 0, 200)})
    state.add("stays", Held(ask(300, "stays"), "b", (0,), pinned=True))
    plan = repair(state, ask(800), anyone)
    assert plan is not None
    assert [(move.replica, move.target.node) for move in plan.moves] == [("y", "a"), ("x", "b")]
    executed(state, plan, ask(800))


def test_a_swap_in_a_full_cluster_goes_through_a_place_set_aside_and_not_without_one() -> None:
    stays = Held(ask(190, "stays"), "b", (0,), pinned=True)
    full = {"x": ("a", 0, 810), "y": ("b", 0, 530)}
    without = cluster([node("a"), node("b")], full)
    without.add("stays", stays)
    assert repair(without, ask(470), anyone) is None

    state = cluster([node("a"), node("b"), node("c", cpu=8000)], {})
    set_aside(state, 1)
    for name, (at, device, milli) in full.items():
        state.add(name, Held(ask(milli, name), at, (device,)))
    state.add("stays", stays)
    plan = repair(state, ask(470), anyone)
    assert plan is not None
    assert [(move.replica, move.target.node) for move in plan.moves] == [("y", "c"), ("x", "b"), ("y", "a")]
    assert plan.place == Place("a", (0,), 470)
    executed(state, plan, ask(470))
    assert len(staging_places(state)) == 1, "the place is free for the next swap"


def test_pinned_replicas_and_those_that_may_not_move_stay() -> None:
    held = {"x": Held(ask(300, "x"), "a", (0,), pinned=True), "y": Held(ask(400, "y"), "b", (0,))}
    plan = repair(ClusterState.of([node("a"), node("b")], held), ask(700), anyone)
    assert plan is not None
    assert [move.replica for move in plan.moves] == ["y"]
    assert repair(ClusterState.of([node("a"), node("b")], held), ask(700), lambda replica: replica != "y") is None


def test_a_move_never_brings_two_replicas_of_a_version_onto_one_device_or_all_onto_one_node() -> None:
    sizes = [node("a"), node("b")]
    state = ClusterState.of(sizes, {"x": Held(ask(300, "x"), "a", (0,)), "x2": Held(ask(300, "x"), "b", (0,))})
    assert repair(state, ask(800), anyone) is None


def test_a_shape_without_a_plan_is_searched_again_only_after_repairs_or_departures() -> None:
    state = cluster([node("a"), node("b")], {"x": ("a", 0, 600), "y": ("b", 0, 600)})
    assert repair(state, ask(700), anyone) is None
    state.move("x", Held(ask(350, "x"), "a", (0,)))
    assert repair(state, ask(700), anyone) is None, "not sought"
    state.failures.turnover += RETRIED_AFTER
    plan = repair(state, ask(700), anyone)
    assert plan is not None
    assert [move.replica for move in plan.moves] == ["x"]


shapes = st.builds(
    ask,
    st.sampled_from([0, 100, 200, 300, 500, 700, 1000]),
    st.sampled_from(["m", "n", "o", "p", "q", "r", "s"]),
    cpu=st.sampled_from([10, 500, 1000, 2000]),
    devices=st.sampled_from([1, 1, 1, 2]),
    gpu_mem_mib=st.sampled_from([0, 0, 4000]),
)
nodes = st.lists(
    st.builds(node, st.sampled_from("abcde"), st.integers(0, 3), mem=st.sampled_from([0, 16000])),
    unique_by=lambda size: size.name,
    min_size=2,
    max_size=5,
)


LAST_ON_A_STAGE = [ask(0, "m", cpu=10), ask(100, "m", cpu=10), *[ask(0, "m", cpu=10)] * 5, ask(0, "m", cpu=1000)]
LAST_ON_A_STAGE += [ask(100, "m", cpu=10, devices=2), ask(100, "m", cpu=1000)]
"""Once made room for by a replica that stayed on the device that is set aside."""


@given(nodes, st.lists(shapes, min_size=5, max_size=30), st.integers(0, 1))
@example([node("a", 2), node("b", 3)], LAST_ON_A_STAGE, 1)
@settings(max_examples=150, deadline=None)
def test_every_plan_can_be_executed_with_both_places_held_and_is_the_same_from_the_recorded_state(
    sizes: list[NodeSize], wanted: list[Ask], stages: int
) -> None:
    state = ClusterState.of(sizes, {})
    set_aside(state, stages)
    for number, one in enumerate(wanted):
        found = place(state, one)
        if isinstance(found, Place):
            state.add(str(number), Held(one, found.node, found.devices, found.gpu_milli))
            continue
        again = ClusterState.of_recorded(json.loads(json.dumps(state.recorded())))
        plan = repair(state, one, anyone)
        assert repair(again, one, anyone) == plan
        if plan is not None:
            assert len({move.replica for move in plan.moves}) <= 2
            executed(again, plan, one)
            carry_out(state, plan)
            state.add(str(number), Held(one, plan.place.node, plan.place.devices, plan.place.gpu_milli))
            sound(state)
