from collections import Counter
from fractions import Fraction

from hypothesis import given, settings
from hypothesis import strategies as st

from moorage_common.contracts.desired import GpuProfile, Resources
from moorage_common.contracts.keys import GpuShare, TenantLimits
from moorage_scheduler.placement.charges import Capacity, Charge, Usage, capacity_of, memories_of, usage_of
from moorage_scheduler.placement.shares import Admitted, Refused, Shares, overcommitted
from moorage_scheduler.placement.state import Ask, ClusterState, Held, NodeSize

T4S = NodeSize(name="t4", devices=4, cpu_milli=64_000, mem_mib=65_536, gpu_model="T4", device_mem_mib=16_000)
H100S = NodeSize(name="h100", devices=2, cpu_milli=64_000, mem_mib=65_536, gpu_model="H100", device_mem_mib=80_000)
CAPACITY = capacity_of([T4S, H100S])


def ask(tenant: str, milli: int = 500, *, priority: int = 50, scavenger: bool = False, **rest: object) -> Ask:
    resources = Resources.model_validate({"gpu_milli": milli, **rest})
    return Ask(tenant, "m", 1, resources, "scavenger" if scavenger else "standard", priority)


def holding(*charges: tuple[Ask, str, int]) -> Usage:
    usage = Usage()
    for one, model, milli in charges:
        usage.add(one, model, Charge(milli, 0, 0, 0))
    return usage


def test_a_tenant_is_guaranteed_up_to_its_guarantee_borrows_beyond_and_is_refused_past_its_bound() -> None:
    shares = Shares.of({"acme": [GpuShare(guaranteed_milli=1000, borrow_milli=500)]})
    one = ask("acme")
    seen = []
    usage = Usage()
    for _ in range(4):
        seen.append(shares.admits(usage, one, "T4"))
        usage.add(one, "T4", usage.asked(one, "T4"))
    assert seen[:3] == [Admitted("guaranteed"), Admitted("guaranteed"), Admitted("borrowed")]
    assert isinstance(seen[3], Refused)
    assert "borrow" in seen[3].reason


def test_the_tenants_gpu_milli_is_a_hard_cap_over_all_models_and_scavengers_too() -> None:
    shares = Shares.of_limits(
        [TenantLimits(tenant="acme", gpu_milli=1000, gpu_shares=[GpuShare(guaranteed_milli=5000)])]
    )
    usage = holding((ask("acme"), "T4", 500), (ask("acme", scavenger=True), "H100", 300))
    for wanted in (ask("acme"), ask("acme", scavenger=True)):
        refused = shares.admits(usage, wanted, "T4")
        assert isinstance(refused, Refused)
        assert "1000 GPU milli" in refused.reason
    assert shares.admits(usage, ask("acme", 200), "T4") == Admitted("guaranteed")
    assert isinstance(shares.admits(usage, ask("acme", 0), "T4"), Admitted), "what takes no GPU has no cap on GPUs"


def test_a_model_with_an_entry_of_its_own_has_its_own_account() -> None:
    shares = Shares.of({"acme": [GpuShare(gpu_model="H100", guaranteed_milli=500), GpuShare(guaranteed_milli=500)]})
    usage = holding((ask("acme"), "H100", 500))
    assert shares.admits(usage, ask("acme"), "H100") == Admitted("borrowed")
    assert shares.admits(usage, ask("acme"), "T4") == Admitted("guaranteed")
    usage.add(ask("acme"), "A10", Charge(500))
    assert shares.admits(usage, ask("acme"), "T4") == Admitted("borrowed"), "models without an entry share one account"


def test_an_ask_is_tried_where_it_is_guaranteed_before_where_it_would_borrow() -> None:
    shares = Shares.of(
        {"acme": [GpuShare(gpu_model="H100", guaranteed_milli=500), GpuShare(guaranteed_milli=0, borrow_milli=500)]}
    )
    models = ("A10", "H100", "T4")
    one = ask("acme")
    kept = shares.narrowed(Usage(), one, models)
    assert isinstance(kept, list)
    assert [tried.resources.gpu_models for tried in kept] == [["H100"], []]
    kept = shares.narrowed(holding((one, "T4", 500)), one, models)
    assert isinstance(kept, list)
    assert [tried.resources.gpu_models for tried in kept] == [["H100"]]
    full = holding((one, "T4", 500), (one, "H100", 500))
    assert [type(shares.narrowed(full, ask("acme", m), models)) for m in (500, 0)] == [list, list]
    bounded = Shares.of({"acme": [GpuShare(borrow_milli=500)]})
    assert isinstance(bounded.narrowed(full, one, models), Refused)
    assert bounded.narrowed(full, ask("acme", 0), models) == [ask("acme", 0)]


def test_scavengers_take_nothing_of_the_guarantee_and_tenants_without_shares_borrow() -> None:
    shares = Shares.of({"acme": [GpuShare(guaranteed_milli=500)]})
    usage = holding((ask("acme", scavenger=True), "T4", 3000))
    assert shares.admits(usage, ask("acme", scavenger=True), "T4") == Admitted("scavenger")
    assert shares.admits(usage, ask("acme"), "T4") == Admitted("guaranteed")
    assert shares.admits(usage, ask("blue"), "T4") == Admitted("borrowed")


def test_a_replica_is_charged_for_what_it_got_and_a_move_for_nothing() -> None:
    trimmed = Held(ask("acme", 500, elastic_pct=10, cpu_milli=300, gpu_mem_mib=4000), "t4", (0,), 450)
    profiled = ask("acme", 500, gpu_profiles={"H100": GpuProfile(gpu_milli=100, gpu_mem_mib=900)})
    held = {
        "a": trimmed,
        "b": Held(profiled, "h100", (1,), 100),
        "b-moving": Held(profiled, "t4", (1,), 500),
        "c": Held(ask("acme", 0), "t4", ()),
    }
    usage = usage_of(ClusterState.of([T4S, H100S], held), uncharged={"b-moving"})
    assert usage.standard("acme")["T4"] == Charge(450, 4000, 300, 512)
    assert usage.standard("acme")["H100"] == Charge(100, 900, 250, 512)
    assert usage.standard("acme")[None].gpu_milli == 0
    assert usage.gpu_milli("acme") == 550


def test_a_device_whose_memory_is_taken_is_charged_though_little_of_its_time_is() -> None:
    greedy = ask("acme", 1, gpu_mem_mib=80_000)
    half = ask("acme", 1, gpu_mem_mib=40_000)
    held = {"a": Held(greedy, "h100", (0,), 1), "b": Held(half, "h100", (1,), 1)}
    usage = usage_of(ClusterState.of([T4S, H100S], held))
    assert usage.standard("acme")["H100"] == Charge(1500, 120_000, 500, 1024)
    assert usage.gpu_milli("acme") == 1500
    unknown = NodeSize(name="h100", devices=2, cpu_milli=64_000, mem_mib=65_536, gpu_model="H100")
    assert usage_of(ClusterState.of([unknown], held)).gpu_milli("acme") == 2, "only time, where memory is not known"


def test_what_has_no_place_yet_is_charged_as_where_it_may_go_and_cost_most() -> None:
    small = NodeSize(name="small", devices=1, cpu_milli=0, mem_mib=0, gpu_model="H100", device_mem_mib=40_000)
    usage = Usage(memories_of([T4S, H100S, small]))
    asked = {mib: usage.asked(ask("acme", 100, gpu_mem_mib=mib), "H100").gpu_milli for mib in (0, 20_000, 60_000)}
    assert asked == {0: 100, 20_000: 500, 60_000: 750}
    assert usage.asked(ask("acme", 1, gpu_mem_mib=15_000, gpu_models=["T4"]), "T4").gpu_milli == 937


def test_neither_cap_nor_guarantee_is_passed_by_asking_for_memory_and_no_time() -> None:
    limits = [TenantLimits(tenant="acme", gpu_milli=1999, gpu_shares=[GpuShare(guaranteed_milli=4, borrow_milli=1500)])]
    shares = Shares.of_limits(limits)
    usage = Usage(memories_of([H100S]))
    greedy = ask("acme", 1, gpu_mem_mib=80_000)
    assert shares.admits(usage, greedy, "H100") == Admitted("borrowed")
    usage.add(greedy, "H100", usage.asked(greedy, "H100"))
    refused = shares.admits(usage, greedy, "H100")
    assert isinstance(refused, Refused)
    assert "lower gpu_mem_mib" in refused.reason
    bounded = shares.admits(usage, ask("acme", 1, gpu_mem_mib=48_000), "H100")
    assert isinstance(bounded, Refused)
    assert "borrow 1500" in bounded.reason
    held = {"r": Held(greedy, "h100", (0,), 1)}
    assert shares.classes(ClusterState.of([H100S], held)) == {"r": "borrowed"}


def test_the_guarantee_covers_higher_priorities_first_and_then_the_oldest() -> None:
    shares = Shares.of({"acme": [GpuShare(guaranteed_milli=1000)]})
    held = {
        "old": Held(ask("acme"), "t4", (0,), 500, since=1.0),
        "young": Held(ask("acme"), "t4", (1,), 500, since=9.0),
        "urgent": Held(ask("acme", priority=90), "t4", (2,), 500, since=10.0),
        "free": Held(ask("acme", scavenger=True), "t4", (3,), 500),
        "no-gpu": Held(ask("acme", 0), "t4", ()),
    }
    found = shares.classes(ClusterState.of([T4S], held))
    assert found == {
        "urgent": "guaranteed", "old": "guaranteed", "young": "borrowed", "free": "scavenger", "no-gpu": "borrowed",
    }  # fmt: skip


def test_what_is_owed_comes_first_then_the_least_weighted_share_then_scavengers() -> None:
    shares = Shares.of(
        {"owed": [GpuShare(guaranteed_milli=1000)], "heavy": [GpuShare(weight=3)], "light": [GpuShare(weight=1)]}
    )
    asks = [ask("light", scavenger=True), *[ask("light")] * 4, *[ask("heavy")] * 6, ask("owed")]
    order = [(one.tenant, one.scheduling_class) for one in shares.order(asks, Usage(), CAPACITY)]
    assert order[0] == ("owed", "standard")
    assert order[-1] == ("light", "scavenger")
    assert Counter(tenant for tenant, _ in order[1:9]) == {"heavy": 6, "light": 2}


def test_inside_a_tenant_higher_priorities_come_first_and_equal_ones_as_they_came() -> None:
    asks = [ask("acme", 100), ask("acme", 200, priority=80), ask("acme", 300), ask("acme", 400, priority=80)]
    order = Shares.of({}).order(asks, Usage(), CAPACITY)
    assert [one.resources.gpu_milli for one in order] == [200, 400, 100, 300]


def test_the_dominant_share_is_the_scarcest_resource_beyond_the_guarantee() -> None:
    shares = Shares.of({"acme": [GpuShare(guaranteed_milli=1000)]})
    usage = Usage()
    usage.add(ask("acme"), "T4", Charge(2000, 16_000, 32_000, 0))
    assert shares.dominant(usage, "acme", CAPACITY) == 1000 / 6000, "half of it counts, of all models of the entry"
    usage.add(ask("acme", 0), None, Charge(0, 0, 64_000, 0))
    assert shares.dominant(usage, "acme", CAPACITY) == 80_000 / 128_000


def test_guarantees_beyond_what_the_cluster_has_are_named() -> None:
    shares = Shares.of(
        {
            "a": [GpuShare(gpu_model="H100", guaranteed_milli=1500)],
            "b": [GpuShare(gpu_model="H100", guaranteed_milli=600)],
        }
    )
    (found,) = overcommitted(shares, CAPACITY)
    assert (found.gpu_model, found.guaranteed_milli, found.capacity_milli) == ("H100", 2100, 2000)
    assert overcommitted(Shares.of({}), CAPACITY) == []


tenants = st.sampled_from(["a", "b", "c"])
shares_of = st.dictionaries(
    tenants,
    st.lists(
        st.builds(
            GpuShare,
            gpu_model=st.sampled_from(["", "T4"]),
            guaranteed_milli=st.sampled_from([0, 500, 1000, 2000]),
            borrow_milli=st.sampled_from([None, 0, 1000]),
            weight=st.sampled_from([0.5, 1.0, 3.0]),
        ),
        unique_by=lambda share: share.gpu_model,
        max_size=2,
    ),
)
some_asks = st.lists(
    st.builds(
        ask,
        tenants,
        st.sampled_from([0, 250, 500, 1000]),
        priority=st.sampled_from([10, 50, 90]),
        scavenger=st.booleans(),
        devices=st.sampled_from([1, 1, 2]),
        gpu_mem_mib=st.sampled_from([0, 0, 1000, 5000, 16_000]),
    ),
    max_size=20,
)


def counted_anew(held: Held) -> int:
    """What a replica on T4S is charged: by exact fractions, of its time or its memory, whichever is more."""
    resources = held.ask.resources
    if not held.devices:
        return 0
    milli = 1000 if resources.devices > 1 else resources.gpu_milli
    time = Fraction(milli, 1000)
    memory = Fraction(resources.gpu_mem_mib, 16_000) if resources.gpu_mem_mib else time
    return int(1000 * max(time, memory)) * len(held.devices)


@given(shares_of, some_asks, some_asks)
@settings(max_examples=200, deadline=None)
def test_every_ask_is_in_the_order_once_and_nothing_owed_stands_behind_what_is_not(
    limits: dict[str, list[GpuShare]], running: list[Ask], waiting: list[Ask]
) -> None:
    shares = Shares.of(limits)
    usage = Usage()
    for one in running:
        usage.add(one, "T4", usage.asked(one, "T4"))
    positions = shares.order_of(waiting, usage, CAPACITY)
    assert sorted(positions) == list(range(len(waiting)))
    granted = usage.copy()
    served_as = []
    for i in positions:
        models = [model for model in CAPACITY.gpus if shares.within_guarantee(granted, waiting[i], model)]
        served_as.append(bool(models))
        if models:
            granted.add(waiting[i], models[0], granted.asked(waiting[i], models[0]))
    assert served_as == sorted(served_as, reverse=True)


@given(st.integers(1, 5), st.integers(1, 5), st.integers(0, 30), st.integers(1, 10))
@settings(max_examples=100, deadline=None)
def test_a_flood_starves_nobody_of_w_places_that_come_free_each_tenant_gets_its_weight(
    mine: int, flood: int, already: int, asks: int
) -> None:
    shares = Shares.of({"me": [GpuShare(weight=mine)], "flood": [GpuShare(weight=flood)]})
    usage = holding(*[(ask("flood", 100), "T4", 100)] * already)
    waiting = [ask("flood", 100)] * 40 + [ask("me", 100)] * asks
    order = [one.tenant for one in shares.order(waiting, usage, CAPACITY)]
    for place in range(1, asks + 1):
        position = [at for at, tenant in enumerate(order) if tenant == "me"][place - 1]
        assert position <= place - 1 + -(-place * flood // mine), (
            "at most the flood's weight of others before each of mine"
        )


@given(shares_of, some_asks)
@settings(max_examples=200, deadline=None)
def test_what_is_guaranteed_of_what_runs_is_never_more_than_the_guarantee_and_all_of_it_where_that_is_enough(
    limits: dict[str, list[GpuShare]], running: list[Ask]
) -> None:
    shares = Shares.of(limits)
    held = {
        str(i): Held(
            one, "t4", tuple(range(one.resources.devices if one.device_milli(T4S) else 0)), one.device_milli(T4S)
        )
        for i, one in enumerate(running)
    }
    found = shares.classes(ClusterState.of([T4S], held))
    for tenant in ("a", "b", "c"):
        mine = {i: h for i, h in held.items() if h.ask.tenant == tenant and found[i] != "scavenger" and h.gpu_milli}
        guaranteed = shares.share(tenant, "T4").guaranteed_milli
        covered = sum(counted_anew(h) for i, h in mine.items() if found[i] == "guaranteed")
        assert covered <= guaranteed
        if sum(map(counted_anew, mine.values())) <= guaranteed:
            assert all(found[i] == "guaranteed" for i in mine)


def test_a_capacity_counts_devices_by_model_and_hosts_together() -> None:
    assert Capacity({"T4": (4000, 64_000), "H100": (2000, 160_000)}, 128_000, 131_072) == CAPACITY
