import json
import math
import random
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moorage_common.contracts.desired import Resources
from moorage_common.contracts.keys import GpuShare
from moorage_common.errors import BadRequest
from moorage_scheduler.placement.shares import Shares
from moorage_scheduler.placement.state import Ask, ClusterState, Held, NodeSize
from moorage_scheduler.simulate import command, fleet, openb, plots, synthetic
from moorage_scheduler.simulate.audit import Unsound, audit
from moorage_scheduler.simulate.clock import Clock
from moorage_scheduler.simulate.policies import POLICIES
from moorage_scheduler.simulate.record import Sample, Summary
from moorage_scheduler.simulate.run import Outcome, Setup, simulate
from moorage_scheduler.simulate.sizing import least
from moorage_scheduler.simulate.trace import Fault, Job, Trace, gpu_milli, read, read_faults

ONE_NODE = fleet.nodes([fleet.Group(2)], fleet.Host(gpus=2))
NODE = ONE_NODE[0].name


def job(name: str, at_s: float, milli: int = 1000, *, tenant: str = "a", lasts_s: float = 100.0, **rest: float) -> Job:
    ask = Ask(tenant, name, 1, Resources(gpu_milli=milli))
    return Job(name, at_s, ask, lasts_s, rest.get("patience_s", math.inf))


def ran(jobs: list[Job], policy: str = "moorage", *, shares: Shares | None = None, **rest: object) -> Outcome:
    trace = Trace(tuple(jobs), rest.pop("faults", ()), rest.pop("least", {}))  # type: ignore[arg-type]
    fields: dict[str, object] = {"sizes": ONE_NODE, "until_s": 1000.0, **rest}
    return simulate(Setup(trace=trace, policy=POLICIES[policy], shares=shares or Shares.of({}), **fields))  # type: ignore[arg-type]


def test_events_happen_in_the_order_of_their_moments_and_then_as_they_were_put() -> None:
    clock: Clock[str] = Clock()
    for at_s, name in ((2.0, "late"), (1.0, "first"), (1.0, "second")):
        clock.put(at_s, name)
    assert [clock.take(), clock.take()] == ["first", "second"]
    clock.put(0.0, "past")
    assert (clock.take(), clock.now) == ("past", 1.0)
    assert (clock.take(), clock.now, clock.take()) == ("late", 2.0, None)


def test_one_that_finds_no_place_gets_it_when_another_leaves() -> None:
    found = ran([job("x", 0), job("y", 0), job("z", 10)])
    assert found.summary.waits["a"].longest_s == 90.0
    assert (found.summary.lost, found.summary.still_waiting) == (0, 0)


def test_what_its_patience_does_not_outlast_is_lost_and_counted_in_gpu_demand() -> None:
    found = ran([job("x", 0, lasts_s=500), job("y", 0, lasts_s=500), job("z", 10, 500, patience_s=20)])
    assert found.summary.lost == 1
    assert found.summary.lost_pct == 20.0
    assert found.summary.waits["a"].longest_s == 20.0


def test_a_node_that_is_lost_gives_its_replicas_back_to_the_queue_with_what_is_left_of_their_lives() -> None:
    found = ran([job("x", 0, lasts_s=100)], faults=(Fault(60.0, NODE, 50.0),))
    assert found.summary.failed_over == 1
    assert found.summary.waits["a"].replicas == 2
    assert found.summary.waits["a"].longest_s == 50.0
    allocated = [sample.allocated_milli for sample in found.record.samples if sample.at_s in (0.0, 60.0, 120.0, 180.0)]
    assert allocated == [0, 1000, 1000, 0], "back from second 110 to 150"


def test_a_guaranteed_tenant_waits_no_longer_than_the_grace_of_those_who_borrowed() -> None:
    shares = Shares.of({"mine": [GpuShare(guaranteed_milli=1000)]}, grace_s=30.0)
    flood = [job(f"f{i}", 0, tenant="flood", lasts_s=900) for i in range(6)]
    found = ran([*flood, job("x", 10, tenant="mine")], shares=shares)
    assert found.summary.waits["mine"].longest_owed_s == 20.0
    assert found.summary.reclaimed == 1
    plain = ran([*flood, job("x", 10, tenant="mine")], "fgd", shares=shares)
    assert plain.summary.waits["mine"].longest_s > 800


def test_what_is_guaranteed_is_reclaimed_from_a_minimum_too_and_that_of_the_guaranteed_stays() -> None:
    shares = Shares.of({"mine": [GpuShare(guaranteed_milli=1000)]}, grace_s=30.0)
    flood = [job(f"f{i}", 0, tenant="flood", lasts_s=900) for i in range(2)]
    least = {("flood", "f0", 1): 1, ("flood", "f1", 1): 1}
    found = ran([*flood, job("x", 10, tenant="mine")], shares=shares, least=least)
    assert found.summary.reclaimed == 1
    assert found.summary.waits["mine"].longest_owed_s == 20.0
    owned = [GpuShare(guaranteed_milli=2000)]
    kept = Shares.of({"mine": [GpuShare(guaranteed_milli=1000)], "flood": owned}, grace_s=30.0)
    found = ran([*flood, job("x", 10, tenant="mine")], shares=kept, least=least)
    assert found.summary.reclaimed == 0


def test_moves_make_room_without_a_lost_replica_and_are_counted() -> None:
    jobs = [job("a", 0, 600), job("b", 0, 600), job("c", 1, 300), job("d", 2, 100)]
    jobs += [job("e", 3, 1000), job("f", 4, 400)]
    sizes = fleet.nodes([fleet.Group(3)], fleet.Host(gpus=1))
    moved = ran([*jobs, job("g", 5, 400, patience_s=0)], sizes=sizes)
    assert moved.summary.lost <= ran([*jobs, job("g", 5, 400, patience_s=0)], "fgd", sizes=sizes).summary.lost
    audit(moved.state)


def test_an_audit_finds_what_is_oversold() -> None:
    size = NodeSize("n", 1, 4000, 8192)
    ask = Ask("a", "m", 1, Resources(gpu_milli=600))
    other = Ask("a", "o", 1, Resources(gpu_milli=600))
    audit(ClusterState.of([size], {"x": Held(ask, "n", (0,), 600)}))
    for second in (Held(ask, "n", (0,), 100), Held(other, "n", (0,), 600)):
        with pytest.raises(Unsound):
            audit(ClusterState.of([size], {"x": Held(ask, "n", (0,), 600), "y": second}))


@given(st.integers(0, 1000), st.sampled_from(["firstfit", "fgd", "moorage"]), st.booleans())
@settings(max_examples=10, deadline=None)
def test_a_run_is_the_same_for_the_same_seed_oversells_nothing_and_loses_nobody(
    seed: int, policy: str, faulty: bool
) -> None:
    sizes = fleet.nodes([fleet.Group(16, "T4"), fleet.Group(8, "A10")], fleet.Host(gpus=4))
    rng = random.Random(seed)
    jobs = synthetic.arrivals(synthetic.mixed(["a", "b"], rng, 60), synthetic.Stream(30_000, 100.0, 120, 50.0), rng)
    faults = synthetic.faults([size.name for size in sizes], jobs[-1].at_s, 300.0, 50.0, rng) if faulty else ()
    shares = Shares.of({"a": [GpuShare(guaranteed_milli=8000)], "b": []}, {"b": 20_000}, grace_s=10.0)
    setup = Setup(sizes, Trace(jobs, faults), POLICIES[policy], shares, sample_s=10.0)
    first, second = simulate(setup), simulate(setup)
    assert first.summary == second.summary
    assert first.record.samples == second.record.samples
    audit(first.state)
    assert first.summary.arrivals == len(jobs)
    assert first.summary.lost + first.summary.still_waiting + len(first.state.held) <= len(jobs)


def test_arrivals_offer_the_demand_that_was_asked_for() -> None:
    rng = random.Random(1)
    jobs = synthetic.arrivals(synthetic.mixed(["a"], rng), synthetic.Stream(100_000, 50.0, 20_000), rng)
    offered = sum(gpu_milli(one.ask) * one.lasts_s for one in jobs) / jobs[-1].at_s
    assert offered == pytest.approx(100_000, rel=0.05)


def test_a_trace_is_read_with_its_defaults_and_a_wrong_line_is_named(tmp_path: Path) -> None:
    path = tmp_path / "trace.csv"
    path.write_text(
        "at_s,lasts_s,tenant,gpu_milli,gpu_models,class,min_replicas,patience_s\n"
        "5,,acme,250,T4|A10,scavenger,,\n1,60,blue,1000,,,2,0\n"
    )
    first, second = read(path, patience_s=9.0).jobs
    assert (first.ask.tenant, first.at_s, first.lasts_s, first.patience_s) == ("blue", 1.0, 60.0, 0.0)
    assert (second.lasts_s, second.patience_s, second.ask.scheduling_class) == (math.inf, 9.0, "scavenger")
    assert second.ask.resources.gpu_models == ["T4", "A10"]
    assert read(path).least == {("blue", "m", 1): 2}
    for text, reason in (
        ("at_s,lasts_s,tenant\n1,1,a\n", "no column"),
        ("at_s,lasts_s,tenant,gpu_milli\n1,1,a,x\n", "line 2"),
    ):
        path.write_text(text)
        with pytest.raises(BadRequest, match=reason):
            read(path)
    path.write_text("at_s,node,lasts_s\n3,n,\n")
    assert read_faults(path) == (Fault(3.0, "n", math.inf),)


def test_openbs_layout_is_read_as_pods_and_nodes(tmp_path: Path) -> None:
    pods, nodes = tmp_path / "pods.csv", tmp_path / "nodes.csv"
    pods.write_text(
        "name,cpu_milli,memory_mib,num_gpu,gpu_milli,gpu_spec\np0,4000,1024,1,460,T4|P100\np1,8000,2048,2,1000,\np2,10,64,0,0,\n"
    )
    nodes.write_text("sn,cpu_milli,memory_mib,gpu,model\nn1,64000,1000,2,P100\nn0,32000,1000,0,\n")
    shared, several, plain = openb.read_pods(pods, ["a", "b"])
    assert openb.is_pods(pods)
    assert not openb.is_pods(nodes)
    assert (shared.resources.gpu_milli, shared.resources.gpu_models, shared.tenant) == (460, ["T4", "P100"], "a")
    assert (several.resources.devices, several.device_milli(), several.tenant) == (2, 1000, "b")
    assert plain.device_milli() == 0
    assert [(size.name, size.devices, size.gpu_model) for size in openb.read_nodes(nodes)] == [
        ("n1", 2, "P100"),
        ("n0", 0, ""),
    ]


def test_groups_of_gpus_are_read_laid_out_and_scaled_in_proportion() -> None:
    group = fleet.Group.parse("10xT4:16000")
    assert group == fleet.Group(10, "T4", 16_000)
    assert [(size.devices, size.device_mem_mib) for size in fleet.nodes([group], fleet.Host(gpus=4))] == [
        (4, 16_000)
    ] * 2 + [(2, 16_000)]
    assert [one.gpus for one in fleet.scaled([group, fleet.Group(30, "A10")], 80)] == [20, 60]
    with pytest.raises(BadRequest, match="64xT4"):
        fleet.Group.parse("T4x64")


@given(st.integers(1, 300), st.integers(1, 200))
@settings(max_examples=100, deadline=None)
def test_a_sweep_finds_the_least_number_of_gpus_that_is_enough(needed: int, begin: int) -> None:
    def run(gpus: int) -> Summary:
        lost = 0.5 if gpus >= needed else 5.0
        return Summary("moorage", gpus, 1, 1, 0, lost, 50.0, 0, 0.0, 0, 0, 0, 0, 0, {})

    found = least(run, begin, 8, 1.0)
    smallest = -(-needed // 8) * 8
    if found.enough is None:
        assert smallest > max(found.tried)
    else:
        assert found.enough == smallest


def test_the_same_run_draws_the_same_bytes_without_dates_or_paths(tmp_path: Path) -> None:
    samples = [Sample(float(at), 8000, 100 * at, at, at, at, 10 + at, at) for at in range(30)]
    for name in ("one.svg", "two.svg", "one.png"):
        plots.series({"moorage": samples, "fgd": samples}, tmp_path / name)
    drawn = (tmp_path / "one.svg").read_text()
    assert drawn == (tmp_path / "two.svg").read_text()
    assert "<dc:date>" not in drawn
    assert str(tmp_path) not in drawn
    assert ">moorage<" in drawn


def test_the_command_writes_tables_series_and_plots_and_says_what_waited(tmp_path: Path) -> None:
    limits = tmp_path / "limits.json"
    limits.write_text(
        json.dumps([{"tenant": "tenant-1", "gpu_milli": 9000, "gpu_shares": [{"guaranteed_milli": 2000}]}])
    )
    options = command.Options(
        tmp_path / "out", gpus=["8xT4"], policies=["firstfit", "moorage"], arrivals=150, limits=limits, mtbf_s=20_000.0
    )
    answer = command.run(options)
    assert [row["policy"] for row in answer.rows] == ["firstfit", "moorage"]
    assert {path.name for path in answer.files} == {
        "summary.json",
        "firstfit.csv",
        "moorage.csv",
        "series.svg",
        "series.png",
    }
    assert all(path.stat().st_size for path in answer.files)
    assert any("tenant-1" in line and "guaranteed" in line for line in answer.said)


def test_the_command_says_how_many_gpus_are_enough(tmp_path: Path) -> None:
    answer = command.run(command.Options(tmp_path, gpus=["16"], arrivals=200, patience_s=0.0, lost_under_pct=3.0))
    (said,) = answer.said
    lost = {row["gpus"]: row["lost_pct"] for row in answer.rows}
    enough = int(said.split()[1])
    assert lost[enough] < 3.0 <= lost[enough - 8]
    assert (tmp_path / "sizing.svg").exists()


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"policies": ["best"]}, "no policy"),
        ({"gpus": ["many"]}, "no group of GPUs"),
        ({"trace": "nowhere.csv"}, "cannot be read"),
        ({"limits": Path("nowhere.json")}, "JSON list"),
    ],
)
def test_what_the_command_cannot_use_it_names(options: dict[str, object], reason: str, tmp_path: Path) -> None:
    with pytest.raises(BadRequest, match=reason):
        command.run(command.Options(tmp_path, plots=False, **options))  # type: ignore[arg-type]
