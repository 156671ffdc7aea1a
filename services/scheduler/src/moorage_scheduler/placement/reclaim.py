"""Who has to go so that an ask gets its place: borrowers for what a guarantee owes, scavengers for everybody else,
and inside a tenant the lower priorities for the higher.

A set of victims is returned only if the ask then fits on one node, tried with the placement itself; of all such sets it
is the cheapest (`victims.Cost`), so nobody goes whom the ask does not need.
"""

import functools
import itertools
from collections import Counter, defaultdict
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from moorage_scheduler.placement.charges import Usage, charge_of, got_milli, usage_of
from moorage_scheduler.placement.decisions import Place, Preempt, Reclaim
from moorage_scheduler.placement.plan import place
from moorage_scheduler.placement.shares import Shares
from moorage_scheduler.placement.staging import NOBODY
from moorage_scheduler.placement.state import DEVICE_MILLI, Ask, ClusterState, Held, NodeSize
from moorage_scheduler.placement.victims import Amounts, Candidate, Key, Search, Slack, key_of

Ready = Callable[[str], bool]
Least = Callable[[Key], int]
_NOTHING: Container[str] = frozenset()


def everyone(_: str) -> bool:
    return True


def no_minimum(_: Key) -> int:
    return 0


def reclaim(
    state: ClusterState,
    ask: Ask,
    shares: Shares,
    now: float,
    *,
    ready: Ready = everyone,
    least: Least = no_minimum,
    usage: Usage | None = None,
    spare: Container[str] = _NOTHING,
) -> Reclaim | None:
    """Whom to stop for `ask`, to whom its tenant's guarantee is owed: scavengers, and replicas that others borrowed
    at least the grace ago. None where no guarantee is owed or nothing that may go would make it fit.

    A version keeps its minimum as long as others can go. Where that is not enough, what it borrowed of its minimum goes
    too: a guarantee holds whatever borrowers wish for.

    Args:
        now: the moment, in the clock of `Held.since`.
        ready: whether a replica answers, so that it counts for its version's minimum.
        least: a version's minimum of replicas; scavengers have none.
        usage: of `state`, where the caller keeps it.
        spare: replicas that are not to go: those that move or leave already.
    """
    usage = usage_of(state, spare) if usage is None else usage
    models = {size.gpu_model for size in state.sizes if shares.within_guarantee(usage, ask, size.gpu_model)}
    if not models:
        return None
    classes = shares.classes(state)

    def may_go(replica: str, held: Held) -> int | None:
        its_class = classes.get(replica)
        if its_class == "scavenger":
            return 0
        borrowed_long = its_class == "borrowed" and now - held.since >= shares.grace_s
        return 0 if borrowed_long else None

    ground = _Ground(state, ask, shares, usage, spare, may_go, ready)
    slack = _slack(state, ready, least)
    found = ground.cheapest(models, slack)
    if found is None and slack.all:
        found = ground.cheapest(models, replace(slack, binding=False))
    return None if found is None else Reclaim(*found)


def preempt(
    state: ClusterState,
    ask: Ask,
    shares: Shares,
    now: float,
    *,
    ready: Ready = everyone,
    least: Least = no_minimum,
    usage: Usage | None = None,
    spare: Container[str] = _NOTHING,
) -> Preempt | None:
    """Whom to stop for `ask` where nothing is owed: scavengers, then lower priorities of its own tenant, which may also
    stand anywhere else if it is the tenant's cap or borrowing that is short. None goes under its version's minimum.
    Arguments as for `reclaim`.
    """
    if ask.scheduling_class == "scavenger":
        return None
    usage = usage_of(state, spare) if usage is None else usage

    def may_go(_: str, held: Held) -> int | None:
        if held.ask.scheduling_class == "scavenger":
            return 0
        lower = held.ask.tenant == ask.tenant and held.ask.priority < ask.priority
        return held.ask.priority if lower else None

    models = {size.gpu_model for size in state.sizes}
    ground = _Ground(state, ask, shares, usage, spare, may_go, ready)
    found = ground.cheapest(models, _slack(state, ready, least))
    return None if found is None else Preempt(*found)


def _slack(state: ClusterState, ready: Ready, least: Least) -> Slack:
    standard = {replica: held for replica, held in state.held.items() if held.ask.scheduling_class != "scavenger"}
    running = Counter(key_of(held) for held in standard.values())
    answering = Counter(key_of(held) for replica, held in standard.items() if ready(replica))
    minimum = {key: least(key) for key in running}
    return Slack(
        {key: max(0, running[key] - kept) for key, kept in minimum.items() if kept},
        {key: max(0, answering[key] - kept) for key, kept in minimum.items() if kept},
    )


@dataclass(frozen=True)
class _Ground:
    """What one search looks at. `may_go` gives a replica's rank among victims, or None for one that stays."""

    state: ClusterState
    ask: Ask
    shares: Shares
    usage: Usage
    spare: Container[str]
    may_go: Callable[[str, Held], int | None]
    ready: Ready

    def cheapest(self, models: Container[str], slack: Slack) -> tuple[tuple[str, ...], Place] | None:
        """The cheapest victims over the nodes of these GPU models, and the place they make."""
        ranks = {
            replica: rank
            for replica, held in self.state.held.items()
            if (rank := self.may_go(replica, held)) is not None
            and replica not in self.spare
            and held.ask.tenant != NOBODY
            and held.ask.deployment != self.ask.deployment
            and held.node in self.state.index
        }
        if not ranks:
            return None
        local: dict[str, list[tuple[str, Held]]] = defaultdict(list)
        for replica, held in self.state.held.items():
            local[held.node].append((replica, held))
        best: tuple[tuple[str, ...], Place] | None = None
        search = Search(lambda _: False, slack)
        for size in self.state.sizes:
            if size.gpu_model not in models or size.name in self.state.closed_names:
                continue
            before = search.cost
            search.fits = functools.partial(self._fits, size, local[size.name])
            self._on_node(search, size, local[size.name], ranks)
            if search.best is not None and search.cost != before:
                placed = self._placed(size, local[size.name], search.best)
                if placed is not None:
                    youngest_first = sorted(search.best, key=lambda one: (-one.held.since, one.replica))
                    best = (tuple(one.replica for one in youngest_first), placed)
        return best if best is not None and best[0] else None

    def _fits(self, size: NodeSize, held: Sequence[tuple[str, Held]], gone: Sequence[Candidate]) -> bool:
        return self._placed(size, held, gone) is not None

    def _placed(self, size: NodeSize, held: Sequence[tuple[str, Held]], gone: Sequence[Candidate]) -> Place | None:
        """Where the ask goes on the node of `size` once `gone` are gone."""
        names = {one.replica for one in gone}
        left = {replica: one for replica, one in held if replica not in names}
        found = place(ClusterState.of([size], left), self.ask)
        return found if isinstance(found, Place) else None

    def _on_node(
        self, search: Search, size: NodeSize, held: Sequence[tuple[str, Held]], ranks: Mapping[str, int]
    ) -> None:
        model = size.gpu_model
        host = (
            self.ask.resources.cpu_milli - size.cpu_milli + sum(one.ask.resources.cpu_milli for _, one in held),
            self.ask.resources.host_mem_mib - size.mem_mib + sum(one.ask.resources.host_mem_mib for _, one in held),
        )
        quota = (0, 0)
        if self.ask.device_milli(size):
            quota = (
                self.shares.over_cap(self.usage, self.ask, model),
                self.shares.over_share(self.usage, self.ask, model),
            )
        near = [(replica, one) for replica, one in held if replica in ranks]
        far: list[tuple[str, Held]] = []
        if any(quota):
            here = {replica for replica, _ in near}
            mine = ((replica, self.state.held[replica]) for replica in ranks if replica not in here)
            far = [(replica, one) for replica, one in mine if one.ask.tenant == self.ask.tenant]
        elsewhere = any(need > 0 for need in (*host, *quota))
        for short, devices in self._shortages(size, held, near):
            forced = [self._candidate(r, one, size, (), ranks) for r, one in near if devices.whole & set(one.devices)]
            names = {one.replica for one in forced}
            wanted = (
                (*near, *far) if elsewhere else [(r, one) for r, one in near if set(devices.shared) & {*one.devices}]
            )
            rest = [self._candidate(r, one, size, devices.shared, ranks) for r, one in wanted if r not in names]
            search.cover((*short, *host, *quota), rest, forced)

    def _shortages(
        self, size: NodeSize, held: Sequence[tuple[str, Held]], near: Sequence[tuple[str, Held]]
    ) -> Iterator[tuple[tuple[int, int], "_Devices"]]:
        """For each choice of devices of the node: what is short on them, in milli and MiB."""
        milli, mib, count = self.ask.device_milli(size), self.ask.device_mib(size), self.ask.resources.devices
        if milli == 0:
            yield (0, 0), _Devices()
            return
        going = {replica for replica, _ in near}
        stays = {device for replica, one in held if replica not in going for device in one.devices}
        if milli == DEVICE_MILLI:
            empty = [device for device in range(size.devices) if device not in stays]
            for chosen in itertools.combinations(empty, count):
                yield (0, 0), _Devices(whole=frozenset(chosen))
            return
        least = milli - milli * self.ask.resources.elastic_pct // 100
        taken = {
            replica: (got_milli(one, size) // max(1, len(one.devices)), one.ask.device_mib(size))
            for replica, one in held
        }
        for device in range(size.devices):
            here = [taken[replica] for replica, one in held if device in one.devices]
            free = DEVICE_MILLI - sum(milli for milli, _ in here)
            free_mib = size.device_mem_mib - sum(mib for _, mib in here)
            short_mib = mib - free_mib if size.device_mem_mib else 0
            yield (least - free, short_mib), _Devices(shared=(device,))

    def _candidate(
        self, replica: str, held: Held, size: NodeSize, shared: Sequence[int], ranks: Mapping[str, int]
    ) -> Candidate:
        near = held.node == size.name
        on_device = near and any(device in held.devices for device in shared)
        where = self.state.sizes[self.state.index[held.node]]
        milli, charged = got_milli(held, where), charge_of(held, where).gpu_milli
        own = held.ask.tenant == self.ask.tenant
        bucket = self.shares.bucket
        counted = held.ask.scheduling_class != "scavenger" and bucket(self.ask.tenant, where.gpu_model) == bucket(
            self.ask.tenant, size.gpu_model
        )
        gives: Amounts = (
            milli // len(held.devices) if on_device else 0,
            held.ask.device_mib(size) if on_device else 0,
            held.ask.resources.cpu_milli if near else 0,
            held.ask.resources.host_mem_mib if near else 0,
            charged if own else 0,
            charged if own and counted else 0,
        )
        return Candidate(replica, held, gives, milli, self.ready(replica), ranks[replica])


@dataclass(frozen=True)
class _Devices:
    """The devices an ask would take: whole ones, which all must leave, or one that it shares."""

    whole: frozenset[int] = frozenset()
    shared: tuple[int, ...] = ()
