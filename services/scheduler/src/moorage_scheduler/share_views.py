"""What tenants are guaranteed, may borrow, hold and wait for, as operators and tenants see it. Pure."""

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping

from moorage_common.contracts.answers import Shares as SharesView
from moorage_common.contracts.answers import ShareView, TenantShares
from moorage_common.contracts.keys import GpuShare, TenantLimits
from moorage_scheduler.placement.charges import capacity_of, charge_of
from moorage_scheduler.placement.shares import Overcommitted, Shares, overcommitted
from moorage_scheduler.placement.state import Ask, ClusterState

Held = Mapping[tuple[str, str, str], int]
"""GPU milli charged, by tenant, entry of its queue tree ("" for models without one) and class."""


def shares_view(
    state: ClusterState, limits: Mapping[str, TenantLimits], waiting: Iterable[Ask], tenants: Collection[str] | None
) -> SharesView:
    """The queue tree with what is held in it.

    Args:
        waiting: an ask for each replica without a place.
        tenants: only these, and nothing of the others; None: everyone, and which guarantees cannot all be kept.
    """
    shares = Shares.of_limits(limits.values())
    held = _held(state, shares)
    waits: defaultdict[str, list[Ask]] = defaultdict(list)
    for ask in waiting:
        waits[ask.tenant].append(ask)
    told = sorted({*limits, *(tenant for tenant, _, _ in held), *waits}) if tenants is None else sorted(tenants)
    return SharesView(
        tenants=[_tenant(limits.get(one) or TenantLimits(tenant=one), held, waits[one]) for one in told],
        overcommitted=_overcommitted(shares, state) if tenants is None else [],
    )


def _held(state: ClusterState, shares: Shares) -> dict[tuple[str, str, str], int]:
    held: defaultdict[tuple[str, str, str], int] = defaultdict(int)
    for replica, kind in shares.classes(state).items():
        one = state.held[replica]
        at = state.index.get(one.node)
        if at is not None and one.devices:
            size = state.sizes[at]
            entry = shares.bucket(one.ask.tenant, size.gpu_model)
            held[one.ask.tenant, entry, kind] += charge_of(one, size).gpu_milli
    return dict(held)


def _tenant(limits: TenantLimits, held: Held, waiting: list[Ask]) -> TenantShares:
    tenant = limits.tenant
    entries = {share.gpu_model: share for share in limits.gpu_shares}
    entries.setdefault("", GpuShare())
    return TenantShares(
        tenant=tenant,
        gpu_milli=limits.gpu_milli,
        cpu_milli=limits.cpu_milli,
        mem_mib=limits.mem_mib,
        held_milli=sum(milli for (whose, _, _), milli in held.items() if whose == tenant),
        waiting=len(waiting),
        waiting_milli=sum(ask.device_milli() * ask.resources.devices for ask in waiting),
        shares=[
            ShareView(
                **share.model_dump(),
                held_guaranteed_milli=held.get((tenant, model, "guaranteed"), 0),
                held_borrowed_milli=held.get((tenant, model, "borrowed"), 0),
                held_scavenger_milli=held.get((tenant, model, "scavenger"), 0),
            )
            for model, share in sorted(entries.items(), reverse=True)
        ],
    )


def _overcommitted(shares: Shares, state: ClusterState) -> list[str]:
    return [_sentence(one) for one in overcommitted(shares, capacity_of(state.sizes))]


def _sentence(one: Overcommitted) -> str:
    what = f"GPUs of the model {one.gpu_model}" if one.gpu_model else "GPUs"
    return (
        f"{one.guaranteed_milli / 1000:g} {what} are guaranteed and the cluster has {one.capacity_milli / 1000:g}: "
        "not every guarantee can be kept at once; lower some, or add nodes"
    )
