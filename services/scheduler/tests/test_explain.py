from moorage_common.contracts.desired import Resources
from moorage_scheduler.placement.decisions import Place, Queue
from moorage_scheduler.placement.defrag import plan
from moorage_scheduler.placement.explain import explain
from moorage_scheduler.placement.plan import place
from moorage_scheduler.placement.state import Ask, ClusterState, Held, NodeSize


def node(name: str, devices: int = 1, *, cpu: int = 4000, model: str = "") -> NodeSize:
    return NodeSize(name, devices, cpu, 8192, gpu_model=model)


def ask(milli: int, model: str = "new", *, cpu: int = 100, **rest: object) -> Ask:
    return Ask("acme", model, 1, Resources.model_validate({"gpu_milli": milli, "cpu_milli": cpu, **rest}))


def anyone(_: str) -> bool:
    return True


def nobody(_: str) -> bool:
    return False


def test_what_waits_is_told_how_much_less_gpu_would_fit_and_which_node_would_take_it() -> None:
    held = {"x": Held(ask(600, "x"), "a", (0,)), "y": Held(ask(700, "y"), "b", (0,))}
    told = explain(ClusterState.of([node("a"), node("b")], held), ask(600), nobody)
    assert [(one.filter, one.nodes) for one in told.filters] == [("gpu_room", 2)]
    assert told.would_fit == "with 0.2 GPU less: gpu 0.4; or with one more node like a (1 x GPU, 4000 CPU milli)"


def test_what_waits_for_cpu_is_told_how_much_less_would_fit() -> None:
    held = {"x": Held(ask(100, "x", cpu=3000), "a", (0,))}
    told = explain(ClusterState.of([node("a")], held), ask(500, cpu=1500), nobody)
    assert "with 500 CPU milli less" in told.would_fit


def test_what_a_move_would_give_a_place_is_told_whose() -> None:
    held = {"x": Held(ask(300, "x"), "a", (0,)), "y": Held(ask(400, "y"), "b", (0,))}
    told = explain(ClusterState.of([node("a"), node("b")], held), ask(700), anyone)
    assert "if x to b moved, on a" in told.would_fit


def test_what_no_node_could_take_even_empty_is_told_of_no_more_nodes() -> None:
    told = explain(ClusterState.of([node("a", model="T4")], {}), ask(500, gpu_models=["H100"]), anyone)
    assert told.would_fit == ""


def test_defragmentation_gathers_halves_into_whole_devices_move_by_move() -> None:
    sizes = [node("a"), node("b"), node("c"), node("d")]
    held = {name: Held(ask(250, name), name, (0,)) for name in "abcd"}
    state = ClusterState.of(sizes, held)
    for _ in range(200):
        state.observe(ask(1000, "typical"))
    found = plan(state, movable=anyone, most_moves=10)
    assert found.before.idle_devices == 0
    assert found.after.idle_devices == 3
    assert found.after.unusable_milli < found.before.unusable_milli
    assert len({move.replica for move in found.moves}) == len(found.moves) == 3
    for move in found.moves:
        one = state.held[move.replica]
        state.add("second", Held(one.ask, move.target.node, move.target.devices, move.target.gpu_milli))
        assert all(device.free_milli >= 0 for at in state.nodes for device in at.devices)
        state.remove("second")
        state.move(move.replica, Held(one.ask, move.target.node, move.target.devices, move.target.gpu_milli))


def test_defragmentation_keeps_to_its_budget_and_leaves_what_may_not_move() -> None:
    sizes = [node("a"), node("b"), node("c"), node("d")]
    state = ClusterState.of(sizes, {name: Held(ask(250, name), name, (0,)) for name in "abcd"})
    assert len(plan(state, movable=anyone, most_moves=1).moves) == 1
    assert plan(state, movable=nobody, most_moves=9).moves == ()
    assert {move.replica for move in plan(state, movable=lambda name: name == "b", most_moves=9).moves} == {"b"}


def test_defragmentation_moves_nobody_for_nothing() -> None:
    state = ClusterState.of([node("a"), node("b")], {"x": Held(ask(1000, "x"), "a", (0,))})
    assert plan(state, movable=anyone, most_moves=9).moves == ()


def test_defragmentation_keeps_replicas_of_a_version_on_two_nodes_and_apart() -> None:
    sizes = [node("a", 2), node("b", 2)]
    held = {"x": Held(ask(250, "x"), "a", (0,)), "x2": Held(ask(250, "x"), "b", (0,))}
    assert plan(ClusterState.of(sizes, held), movable=anyone, most_moves=9).moves == ()


def test_what_asks_less_gpu_asks_less_of_its_memory_unless_it_says_how_much() -> None:
    sizes = [NodeSize("a", 1, 4000, 8192, device_mem_mib=16000)]
    held = {"x": Held(ask(100, "x", gpu_mem_mib=12000), "a", (0,))}
    state = ClusterState.of(sizes, held)
    told = explain(state, ask(500), nobody)
    assert told.would_fit.startswith("with 0.25 GPU less: gpu 0.25;")
    assert isinstance(place(state, ask(250)), Place)
    assert isinstance(place(state, ask(251)), Queue)
    assert "GPU less" not in explain(state, ask(500, gpu_mem_mib=8000), nobody).would_fit
