"""Fairness between tenants: a queue tree of guarantees, borrowing and weights, by tenant and GPU model.

A tenant's replicas are *guaranteed* up to its guarantee on a GPU model, *borrowed* beyond it, or *scavengers* by their
own wish. Guarantees hold unconditionally; what is beyond them goes by weighted dominant resource fairness (Ghodsi et
al., NSDI 2011) over GPU milli and device memory of each model, CPU and memory. `charges` says what a replica counts.
"""

import heapq
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from moorage_common.contracts.keys import GpuShare, TenantLimits
from moorage_scheduler.placement.charges import Capacity, Charge, Usage, charge_of
from moorage_scheduler.placement.state import Ask, ClusterState, NodeSize

GRACE_S = 30.0
Class = Literal["guaranteed", "borrowed", "scavenger"]
NO_SHARE = GpuShare()
"""Of a tenant that no limits are known of: it borrows alone."""


@dataclass(frozen=True)
class Admitted:
    """The tenant may take it, as a replica of this class."""

    scheduling_class: Class


@dataclass(frozen=True)
class Refused:
    """The tenant may not take it now, whatever is free. `reason` says what would change that."""

    reason: str


@dataclass(frozen=True)
class Shares:
    """The queue tree: each tenant's share by GPU model ("" for models without an entry), and its hard cap."""

    tenants: Mapping[str, Mapping[str, GpuShare]]
    caps: Mapping[str, int] = field(default_factory=dict)
    grace_s: float = GRACE_S
    """Seconds that a replica runs at least before it may be reclaimed or preempted for somebody else."""

    @classmethod
    def of(
        cls, limits: Mapping[str, Sequence[GpuShare]], caps: Mapping[str, int] | None = None, grace_s: float = GRACE_S
    ) -> "Shares":
        by_model = {tenant: {share.gpu_model: share for share in shares} for tenant, shares in limits.items()}
        return cls(by_model, dict(caps or {}), grace_s)

    @classmethod
    def of_limits(cls, limits: Iterable[TenantLimits], grace_s: float = GRACE_S) -> "Shares":
        known = tuple(limits)
        return cls.of(
            {one.tenant: one.gpu_shares for one in known}, {one.tenant: one.gpu_milli for one in known}, grace_s
        )

    def bucket(self, tenant: str, model: str) -> str:
        """The entry that counts for `model`: its own, else ""."""
        return model if model in self.tenants.get(tenant, {}) else ""

    def share(self, tenant: str, model: str) -> GpuShare:
        return self.tenants.get(tenant, {}).get(self.bucket(tenant, model), NO_SHARE)

    def used(self, usage: Usage, tenant: str, model: str) -> int:
        """Standard GPU milli of `tenant` that count against its share of `model`."""
        wanted = self.bucket(tenant, model)
        mine = usage.standard(tenant).items()
        return sum(c.gpu_milli for held, c in mine if held is not None and self.bucket(tenant, held) == wanted)

    def over_cap(self, usage: Usage, ask: Ask, model: str) -> int:
        """GPU milli by which `ask` would pass its tenant's hard cap."""
        cap = self.caps.get(ask.tenant)
        return 0 if cap is None else max(0, usage.gpu_milli(ask.tenant) + usage.asked(ask, model).gpu_milli - cap)

    def over_share(self, usage: Usage, ask: Ask, model: str) -> int:
        """GPU milli by which `ask` would pass guarantee and borrowing together."""
        share = self.share(ask.tenant, model)
        if share.borrow_milli is None or ask.scheduling_class == "scavenger":
            return 0
        after = self.used(usage, ask.tenant, model) + usage.asked(ask, model).gpu_milli
        return max(0, after - share.guaranteed_milli - share.borrow_milli)

    def within_guarantee(self, usage: Usage, ask: Ask, model: str) -> bool:
        """Whether the tenant's guarantee is owed to `ask` on `model`. Nothing is guaranteed without a GPU."""
        milli = usage.asked(ask, model).gpu_milli
        if ask.scheduling_class == "scavenger" or milli == 0:
            return False
        return self.used(usage, ask.tenant, model) + milli <= self.share(ask.tenant, model).guaranteed_milli

    def admits(self, usage: Usage, ask: Ask, model: str) -> Admitted | Refused:
        """Whether the tenant may have `ask` on a node of GPU `model`, and as what."""
        if usage.asked(ask, model).gpu_milli and (over := self.over_cap(usage, ask, model)):
            return Refused(
                f"tenant {ask.tenant} may hold {self.caps[ask.tenant]} GPU milli and would pass that by {over}; "
                f"lower {_lower(usage, ask, model)}, stop a replica, or have the operator raise the tenant's gpu_milli"
            )
        if ask.scheduling_class == "scavenger":
            return Admitted("scavenger")
        if self.within_guarantee(usage, ask, model):
            return Admitted("guaranteed")
        if usage.asked(ask, model).gpu_milli and (over := self.over_share(usage, ask, model)):
            share = self.share(ask.tenant, model)
            return Refused(
                f"tenant {ask.tenant} may hold {share.guaranteed_milli} GPU milli of {model or 'GPUs'} and borrow "
                f"{share.borrow_milli}, and would pass that by {over}; lower {_lower(usage, ask, model)}, stop a "
                "replica, or have the operator raise the tenant's borrow_milli"
            )
        return Admitted("borrowed")

    def narrowed(self, usage: Usage, ask: Ask, models: Iterable[str]) -> list[Ask] | Refused:
        """`ask` as its tenant may have it: first kept to the GPU models where it is guaranteed, then to all that admit
        it. One ask where there is no difference; refused where no model admits it.
        """
        if ask.tenant not in self.tenants and ask.tenant not in self.caps:
            return [ask]
        wanted = [model for model in models if ask.shape.demand.takes_model(model)]
        answers = {model: self.admits(usage, ask, model) for model in wanted}
        admitted = {model: answer for model, answer in answers.items() if isinstance(answer, Admitted)}
        if not admitted or not ask.shape.demand.milli:
            refused = next((answer for answer in answers.values() if isinstance(answer, Refused)), None)
            return [ask] if refused is None or admitted else refused
        owed = [model for model, answer in admitted.items() if answer.scheduling_class == "guaranteed"]
        kept = [owed, list(admitted)] if owed and len(owed) < len(admitted) else [list(admitted)]
        return [ask if len(names) == len(wanted) else _kept_to(ask, names) for names in kept]

    def classes(self, state: ClusterState) -> dict[str, Class]:
        """The class of every replica on a node that is there.

        A guarantee covers a tenant's highest priorities first, then its oldest; a replica that would pass it is
        borrowed in whole.
        """
        found: dict[str, Class] = {}
        left: dict[tuple[str, str], int] = {}
        ranked = sorted(state.held.items(), key=lambda item: (-item[1].ask.priority, item[1].since, item[0]))
        for replica, one in ranked:
            at = state.index.get(one.node)
            if at is None:
                continue
            if one.ask.scheduling_class == "scavenger":
                found[replica] = "scavenger"
                continue
            model, milli = state.sizes[at].gpu_model, charge_of(one, state.sizes[at]).gpu_milli
            key = (one.ask.tenant, self.bucket(one.ask.tenant, model))
            rest = left.setdefault(key, self.share(one.ask.tenant, model).guaranteed_milli)
            covered = 0 < milli <= rest
            found[replica] = "guaranteed" if covered else "borrowed"
            left[key] = rest - milli if covered else rest
        return found

    def dominant(self, usage: Usage, tenant: str, capacity: Capacity, *, scavenger: bool = False) -> float:
        """The weighted dominant share of the cluster that `tenant` holds beyond its guarantees (0..1 / weight).

        Device memory, CPU and memory of a share count in the proportion in which its milli are beyond the guarantee.
        """
        buckets: dict[str, Charge] = {}
        plain = Charge()
        for model, charge in (usage.scavenger(tenant) if scavenger else usage.standard(tenant)).items():
            if model is None:
                plain = plain.plus(charge)
            else:
                key = self.bucket(tenant, model)
                buckets[key] = buckets.get(key, Charge()).plus(charge)
        dominant, cpu, mem = 0.0, float(plain.cpu_milli), float(plain.mem_mib)
        for bucket, charge in buckets.items():
            share = self.share(tenant, bucket)
            free = 0 if scavenger else share.guaranteed_milli
            beyond = max(0, charge.gpu_milli - free) / charge.gpu_milli if charge.gpu_milli else 0.0
            milli, mib = self._whole(tenant, bucket, capacity)
            of_gpus = max(_part(beyond * charge.gpu_milli, milli), _part(beyond * charge.gpu_mib, mib))
            dominant = max(dominant, of_gpus / share.weight)
            cpu, mem = cpu + beyond * charge.cpu_milli, mem + beyond * charge.mem_mib
        of_host = max(_part(cpu, capacity.cpu_milli), _part(mem, capacity.mem_mib))
        return max(dominant, of_host / self.share(tenant, "").weight)

    def _whole(self, tenant: str, bucket: str, capacity: Capacity) -> tuple[int, int]:
        pools = [pool for model, pool in capacity.gpus.items() if self.bucket(tenant, model) == bucket]
        return sum(milli for milli, _ in pools), sum(mib for _, mib in pools)

    def order(self, asks: Sequence[Ask], usage: Usage, capacity: Capacity) -> list[Ask]:
        """`asks` (in the order they came) in the order they are served: what guarantees are owed, then by weighted
        dominant share as if each were placed in turn, then scavengers. Inside a tenant by priority, then as they came.
        """
        return [asks[index] for index in self.order_of(asks, usage, capacity)]

    def order_of(self, asks: Sequence[Ask], usage: Usage, capacity: Capacity) -> list[int]:
        """As `order`, by the asks' positions."""
        account = usage.copy()
        owed, rest, scavengers = _Lines(), _Lines(), _Lines()
        expected = usage.copy()
        for index in sorted(range(len(asks)), key=lambda i: (-asks[i].priority, i)):
            ask = asks[index]
            if ask.scheduling_class == "scavenger":
                scavengers[ask.tenant].append((index, None))
                continue
            models = [model for model in _models(ask, capacity) if self.within_guarantee(expected, ask, model)]
            if models:
                expected.add(ask, models[0], expected.asked(ask, models[0]))
                owed[ask.tenant].append((index, models[0]))
            else:
                rest[ask.tenant].append((index, None))
        return [
            *self._filled(owed, asks, account, capacity),
            *self._filled(rest, asks, account, capacity),
            *self._filled(scavengers, asks, account, capacity, scavenger=True),
        ]

    def _filled(
        self, lines: "_Lines", asks: Sequence[Ask], account: Usage, capacity: Capacity, *, scavenger: bool = False
    ) -> Iterable[int]:
        """Progressive filling: the head of the tenant with the least share, again and again."""
        heads = [(self.dominant(account, t, capacity, scavenger=scavenger), lines[t][0][0], t, 0) for t in lines]
        heapq.heapify(heads)
        while heads:
            _, index, tenant, position = heapq.heappop(heads)
            yield index
            model = lines[tenant][position][1]
            if model is None:
                model = self._cheapest(asks[index], account, capacity)
            account.add(asks[index], model, account.asked(asks[index], model))
            if position + 1 < len(lines[tenant]):
                share = self.dominant(account, tenant, capacity, scavenger=scavenger)
                heapq.heappush(heads, (share, lines[tenant][position + 1][0], tenant, position + 1))

    def _cheapest(self, ask: Ask, account: Usage, capacity: Capacity) -> str:
        """The GPU model of those allowed of which `ask` would take the least part."""
        models = _models(ask, capacity)
        if not models:
            return ""
        return min(models, key=lambda model: _part(account.asked(ask, model).gpu_milli, capacity.gpus[model][0]))


class _Lines(defaultdict[str, list[tuple[int, str | None]]]):
    """By tenant, asks in their order inside it: position, and the model whose guarantee is owed."""

    def __init__(self) -> None:
        super().__init__(list)


def _lower(usage: Usage, ask: Ask, model: str) -> str:
    """The field of `ask` that decides what it is charged."""
    by_time = ask.shape.demand.on(NodeSize("", 0, 0, 0, model))[0] * ask.shape.demand.devices
    if usage.asked(ask, model).gpu_milli > by_time:
        return "gpu_mem_mib (it counts as its part of a device's memory)"
    return "gpu_milli"


def _kept_to(ask: Ask, models: list[str]) -> Ask:
    return replace(ask, resources=ask.resources.model_copy(update={"gpu_models": models}))


def _models(ask: Ask, capacity: Capacity) -> list[str]:
    wanted = ask.resources.gpu_models
    return [model for model in capacity.gpus if not wanted or model in wanted]


def _part(amount: float, whole: float) -> float:
    """What part of `whole` it is; of nothing, infinitely much."""
    if amount <= 0:
        return 0.0
    return amount / whole if whole else float("inf")


@dataclass(frozen=True)
class Overcommitted:
    """Guarantees on GPUs of `gpu_model` ("" for all together) that are more than the cluster has."""

    gpu_model: str
    guaranteed_milli: int
    capacity_milli: int


def overcommitted(shares: Shares, capacity: Capacity) -> list[Overcommitted]:
    """Which guarantees cannot all be kept at once, whatever is reclaimed: model by model, then all together."""
    by_model: dict[str, int] = defaultdict(int)
    for mine in shares.tenants.values():
        for model, share in mine.items():
            by_model[model] += share.guaranteed_milli
    found = [
        Overcommitted(model, milli, capacity.gpus.get(model, (0, 0))[0])
        for model, milli in sorted(by_model.items())
        if model and milli > capacity.gpus.get(model, (0, 0))[0]
    ]
    total, whole = sum(by_model.values()), sum(milli for milli, _ in capacity.gpus.values())
    if total > whole:
        found.append(Overcommitted("", total, whole))
    return found
