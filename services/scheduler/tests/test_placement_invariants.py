"""What holds whatever happens to a cluster, counted apart from the account that placement keeps."""

import json
from collections import defaultdict

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from moorage_common.contracts.desired import Resources
from moorage_scheduler.placement.decisions import Place, Queue, Repair
from moorage_scheduler.placement.defrag import plan
from moorage_scheduler.placement.moves import moved
from moorage_scheduler.placement.plan import place
from moorage_scheduler.placement.repair import carry_out, repair
from moorage_scheduler.placement.staging import set_aside
from moorage_scheduler.placement.state import Ask, ClusterState, Held, NodeSize

SIZES = st.builds(
    NodeSize,
    name=st.sampled_from([f"n{number}" for number in range(6)]),
    devices=st.integers(0, 3),
    cpu_milli=st.sampled_from([2000, 8000]),
    mem_mib=st.just(8192),
    gpu_model=st.sampled_from(["T4", "H100"]),
    device_mem_mib=st.sampled_from([0, 16_000]),
    labels=st.sampled_from([{}, {"zone": "a"}]),
)
RESOURCES = st.builds(
    Resources,
    gpu_milli=st.sampled_from([0, 100, 250, 300, 500, 700, 810, 1000]),
    devices=st.sampled_from([1, 1, 1, 1, 2]),
    gpu_mem_mib=st.sampled_from([0, 0, 3000, 9000]),
    cpu_milli=st.sampled_from([10, 250, 1000, 2000]),
    host_mem_mib=st.sampled_from([64, 1024]),
    gpu_models=st.sampled_from([[], [], ["T4"], ["H100"]]),
    elastic_pct=st.sampled_from([0, 0, 20]),
    gpu_profiles=st.sampled_from([{}, {}, {"H100": {"gpu_milli": 100, "gpu_mem_mib": 2000}}]),
    node_labels=st.sampled_from([{}, {}, {}, {"zone": "a"}]),
)
ASKS = st.builds(
    Ask,
    tenant=st.sampled_from(["acme", "blue"]),
    model=st.sampled_from(["m", "n", "o"]),
    version=st.sampled_from([1, 2]),
    resources=RESOURCES,
)


class Cluster(RuleBasedStateMachine):
    """A cluster to which anything happens. `placed` is who has a place, counted by the test."""

    def __init__(self) -> None:
        super().__init__()
        self.sizes = {name: NodeSize(name, 2, 8000, 8192, "T4") for name in ("n0", "n1")}
        self.state = ClusterState.of(self.sizes.values(), {})
        self.placed: dict[str, Held] = {}
        self.number = 0
        set_aside(self.state, 1)
        self.staged = set(self.state.held)

    @rule(ask=ASKS, pinned=st.booleans())
    def ask(self, ask: Ask, pinned: bool) -> None:
        self.state.observe(ask)
        again = ClusterState.of_recorded(json.loads(json.dumps(self.state.recorded())))
        found: Place | Repair | Queue | None = place(self.state, ask)
        assert place(again, ask) == found
        if isinstance(found, Queue):
            assert found.reason
            found = repair(self.state, ask, lambda _: True)
            assert repair(again, ask, lambda _: True) == found
        if isinstance(found, Repair):
            assert len({move.replica for move in found.moves}) <= 2
            for move in found.moves:
                self.placed[move.replica] = moved(self.placed[move.replica], move.target)
            carry_out(self.state, found)
            found = found.place
        if isinstance(found, Place):
            self.number += 1
            held = Held(ask, found.node, found.devices, found.gpu_milli, pinned)
            self.state.add(str(self.number), held)
            self.placed[str(self.number)] = held

    @precondition(lambda self: self.placed)
    @rule(data=st.data())
    def leave(self, data: st.DataObject) -> None:
        replica = data.draw(st.sampled_from(sorted(self.placed)))
        del self.placed[replica]
        self.state.remove(replica)

    @rule(size=SIZES)
    def node_comes(self, size: NodeSize) -> None:
        if size.name not in self.sizes:
            self.sizes[size.name] = size
            self.state.set_nodes(self.sizes.values())

    @precondition(lambda self: self.sizes)
    @rule(data=st.data())
    def node_is_lost(self, data: st.DataObject) -> None:
        name = data.draw(st.sampled_from(sorted(self.sizes)))
        del self.sizes[name]
        self.state.set_nodes(self.sizes.values())
        for replica in [one for one, held in self.placed.items() if held.node == name]:
            del self.placed[replica]
            self.state.remove(replica)
        for replica in [one for one, held in self.state.held.items() if one in self.staged and held.node == name]:
            self.state.remove(replica)

    @rule(names=st.sets(st.sampled_from([f"n{number}" for number in range(6)]), max_size=2))
    def drained(self, names: set[str]) -> None:
        self.state.close(names)

    @rule(most=st.integers(1, 4))
    def defragmented(self, most: int) -> None:
        found = plan(self.state, movable=lambda _: True, most_moves=most)
        assert found.after.unusable_milli <= found.before.unusable_milli
        for move in found.moves:
            held = moved(self.placed[move.replica], move.target)
            assert move.target.node not in self.state.closed_names
            self.state.add("second", held)
            self.nothing_is_oversold()
            self.state.remove("second")
            self.state.move(move.replica, held)
            self.placed[move.replica] = held

    @invariant()
    def nobody_placed_is_lost(self) -> None:
        held = {replica: one for replica, one in self.state.held.items() if replica not in self.staged}
        assert held == self.placed

    @invariant()
    def nothing_is_oversold(self) -> None:
        milli: dict[tuple[str, int], int] = defaultdict(int)
        mib: dict[tuple[str, int], int] = defaultdict(int)
        cpu: dict[str, int] = defaultdict(int)
        mem: dict[str, int] = defaultdict(int)
        for held in self.state.held.values():
            size = self.sizes[held.node]
            for device in held.devices:
                assert device < size.devices
                milli[held.node, device] += held.gpu_milli or 0
                mib[held.node, device] += held.ask.device_mib(size)
            cpu[held.node] += held.ask.resources.cpu_milli
            mem[held.node] += held.ask.resources.host_mem_mib
        assert all(taken <= 1000 for taken in milli.values())
        assert all(
            taken <= self.sizes[at].device_mem_mib or not self.sizes[at].device_mem_mib
            for (at, _), taken in mib.items()
        )
        assert all(taken <= self.sizes[at].cpu_milli for at, taken in cpu.items())
        assert all(taken <= self.sizes[at].mem_mib for at, taken in mem.items())
        for node in self.state.nodes:
            assert node.free_cpu_milli == node.size.cpu_milli - cpu[node.name]
            assert [d.free_milli for d in node.devices] == [1000 - milli[node.name, d.index] for d in node.devices]

    @invariant()
    def replicas_of_a_version_are_apart(self) -> None:
        seen: set[tuple[object, ...]] = set()
        for held in self.placed.values():
            for device in held.devices:
                key = (held.ask.deployment, held.ask.version, held.node, device)
                assert key not in seen
                seen.add(key)


Cluster.TestCase.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
TestWhateverHappens = Cluster.TestCase
