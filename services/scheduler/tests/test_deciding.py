from dataclasses import replace

from moorage_common.contracts.desired import Resources
from moorage_common.contracts.keys import GpuShare, TenantLimits
from moorage_scheduler.placement.deciding import Grounds, decide
from moorage_scheduler.placement.decisions import Place, Queue, Repair
from moorage_scheduler.placement.shares import Shares
from moorage_scheduler.placement.state import Ask, ClusterState, Held, NodeSize

H100S = NodeSize(name="h", devices=4, cpu_milli=64_000, mem_mib=65_536, gpu_model="H100", device_mem_mib=80_000)


def ask(tenant: str, milli: int, model: str = "m", scheduling_class: str = "standard", **more: int) -> Ask:
    return Ask(tenant, model, 1, Resources.model_validate({"gpu_milli": milli, **more}), scheduling_class)


def test_a_tenant_gets_no_more_gpu_memory_than_its_cap_however_little_time_it_asks_for() -> None:
    limits = TenantLimits(tenant="acme", gpu_milli=2000, gpu_shares=[GpuShare(guaranteed_milli=4)])
    grounds = Grounds(Shares.of_limits([limits]))
    state = ClusterState.of([H100S], {})
    decisions = []
    for number in range(4):
        wanted = ask("acme", 1, f"m{number}", gpu_mem_mib=80_000)
        decision = decide(state, wanted, grounds)
        decisions.append(type(decision))
        if isinstance(decision, Place):
            state.add(f"r{number}", Held(wanted, decision.node, decision.devices, decision.gpu_milli))
    assert decisions == [Place, Place, Queue, Queue]
    refused = decide(state, ask("acme", 1, gpu_mem_mib=80_000), grounds)
    assert isinstance(refused, Queue)
    assert "may hold 2000 GPU milli and would pass that by 1000; lower gpu_mem_mib" in refused.reason


def test_others_are_moved_for_a_replica_and_for_no_scavenger() -> None:
    sizes = [replace(H100S, name=name, devices=1) for name in ("a", "b")]
    running = {name: Held(ask("acme", 400, name), name, (0,), 400) for name in ("a", "b")}
    grounds = Grounds(Shares.of({}), movable=frozenset(running))
    state = ClusterState.of(sizes, running)
    assert isinstance(decide(state, ask("blue", 1000), grounds), Repair)
    assert isinstance(decide(state, ask("blue", 1000, "s", "scavenger"), grounds), Queue)
