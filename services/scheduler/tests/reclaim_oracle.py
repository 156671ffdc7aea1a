"""Who has to go, found by trying every set; what counts towards shares is counted anew, in exact fractions."""

import itertools
import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from fractions import Fraction

from moorage_common.contracts.desired import Resources
from moorage_common.contracts.keys import GpuShare
from moorage_scheduler.placement.charges import got_milli
from moorage_scheduler.placement.decisions import Place
from moorage_scheduler.placement.plan import place
from moorage_scheduler.placement.shares import Shares
from moorage_scheduler.placement.state import Ask, ClusterState
from moorage_scheduler.placement.victims import Candidate, Cost, Key, cost_of, key_of

DEVICE_MIB = {"T4": 16_000, "H100": 80_000}


def charged(resources: Resources, model: str, milli: int) -> int:
    """What a replica is charged, by exact fractions: of a device its time or its memory, whichever is more."""
    if not resources.gpu_milli:
        return 0
    memory = Fraction(resources.gpu_mem_mib, DEVICE_MIB[model])
    return int(1000 * max(Fraction(milli, 1000), memory)) * resources.devices


def room_within(
    state: ClusterState, shares: Shares, wanted: Ask, model: str, gone: frozenset[str] = frozenset()
) -> tuple[float, float, float]:
    """What the tenant's guarantee, that with its borrowing, and its cap leave beyond `wanted` on GPUs of `model`."""
    entries = shares.tenants.get(wanted.tenant, {})
    alike = {model} if model in entries else {one for one in DEVICE_MIB if one not in entries}
    share = entries.get(model) or entries.get("") or GpuShare()
    counted, everything = 0, 0
    for name, one in state.held.items():
        if one.ask.tenant == wanted.tenant and name not in gone:
            where = state.sizes[state.index[one.node]].gpu_model
            its = charged(one.ask.resources, where, one.gpu_milli or 0)
            everything += its
            counted += its if where in alike and one.ask.scheduling_class == "standard" else 0
    milli = 1000 if wanted.resources.devices > 1 else wanted.resources.gpu_milli
    mine = charged(wanted.resources, model, milli)
    owed = share.guaranteed_milli - counted - mine
    if wanted.scheduling_class == "scavenger" or not mine:
        owed = -1
    most = math.inf if share.borrow_milli is None else share.guaranteed_milli + share.borrow_milli - counted - mine
    return owed, most, shares.caps.get(wanted.tenant, math.inf) - everything - mine


def candidate(state: ClusterState, name: str, rank: int) -> Candidate:
    one = state.held[name]
    return Candidate(name, one, (), got_milli(one, state.sizes[state.index[one.node]]), priority=rank)


def cheapest_by_trying_all(
    state: ClusterState,
    wanted: Ask,
    may_go: Mapping[str, int],
    least: Mapping[Key, int],
    allowed: Callable[[str, frozenset[str]], bool],
    *,
    binding: bool = True,
) -> Cost | None:
    """The cost of the cheapest of all sets of `may_go` whose going makes `wanted` fit on an allowed node.

    With `binding`, of those only that leave every version its minimum.
    """
    everyone = [candidate(state, name, rank) for name, rank in may_go.items()]
    standing = Counter(key_of(one) for one in state.held.values() if one.ask.scheduling_class != "scavenger")
    best: Cost | None = None
    for size in range(1, len(everyone) + 1):
        for gone in itertools.combinations(everyone, size):
            under = under_minimum(gone, standing, least)
            cost = cost_of(gone, under)
            if (best is not None and cost >= best) or (binding and under):
                continue
            names = frozenset(one.replica for one in gone)
            rest = {name: one for name, one in state.held.items() if name not in names}
            for node_size in state.sizes:
                if allowed(node_size.name, names):
                    here = {name: one for name, one in rest.items() if one.node == node_size.name}
                    if isinstance(place(ClusterState.of([node_size], here), wanted), Place):
                        best = cost
    return best


def under_minimum(gone: Iterable[Candidate], standing: Mapping[Key, int], least: Mapping[Key, int]) -> int:
    """How many of `gone` are missing in what their versions keep at least."""
    going = Counter(one.key for one in gone if not one.scavenger)
    missing = {key: max(0, least.get(key, 0) - (standing[key] - count)) for key, count in going.items()}
    return sum(min(missing[key], count) for key, count in going.items())


def cost_of_names(
    state: ClusterState, names: Iterable[str], ranks: Mapping[str, int], least: Mapping[Key, int]
) -> Cost:
    gone = [candidate(state, name, ranks[name]) for name in names]
    standing = Counter(key_of(one) for one in state.held.values() if one.ask.scheduling_class != "scavenger")
    return cost_of(gone, under_minimum(gone, standing, least))
