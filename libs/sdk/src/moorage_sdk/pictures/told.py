"""Explanations, shares and defragmentations, as lines for people."""

from collections.abc import Iterable

from moorage_common.contracts.answers import (
    Defragmented,
    Explanation,
    Figures,
    Moved,
    Shares,
    TenantShares,
    VersionExplanation,
)
from moorage_sdk.pictures.moves import counted, fraction, plain
from moorage_sdk.quantities import format_memory

_WIDE = 400


def explained(found: Explanation) -> str:
    """Each version: where its replicas are and why, and what stands against those that wait."""
    return "\n".join(line for version in found.versions for line in _version(found.model, version)) + "\n"


def _version(model: str, found: VersionExplanation) -> Iterable[str]:
    has, waits = len(found.placed), f", {found.waiting} without a place" if found.waiting else ""
    yield f"{plain(model)} version {found.version}: {found.wanted} wanted, {has} placed{waits}"
    for one in found.placed:
        devices = f" GPU {','.join(map(str, one.devices))} ({fraction(one.gpu_milli)})" if one.devices else ""
        yield f"  {plain(one.host_id)}  {one.state}  {plain(one.node)}{devices}{_because(one.why)}"
    if found.reason:
        yield f"  {plain(found.reason, _WIDE)}"
    if found.removed:
        yield f"  of {counted(found.nodes, 'node')}:"
        widest = max(len(plain(step.filter)) for step in found.removed)
        for step in found.removed:
            yield f"    {plain(step.filter):<{widest}}  {step.nodes:>6,} out{_because(step.reason)}"
    if found.would_fit:
        yield "  it would fit with:"
        for way in found.would_fit:
            yield f"    - {plain(way, _WIDE)}"


def _because(why: str) -> str:
    return f"  {plain(why, _WIDE)}" if why else ""


def share_rows(found: Shares) -> list[dict[str, object]]:
    """A row a tenant and GPU model, in devices."""
    return [row for tenant in found.tenants for row in _share_rows(tenant)]


def _share_rows(tenant: TenantShares) -> Iterable[dict[str, object]]:
    for number, share in enumerate(tenant.shares):
        yield {
            "tenant": tenant.tenant,
            "gpu_model": share.gpu_model or "any",
            "guaranteed": share.guaranteed_milli / 1000,
            "may_borrow": "any" if share.borrow_milli is None else share.borrow_milli / 1000,
            "weight": share.weight,
            "held_guaranteed": share.held_guaranteed_milli / 1000,
            "held_borrowed": share.held_borrowed_milli / 1000,
            "held_scavenger": share.held_scavenger_milli / 1000,
            "limit": tenant.gpu_milli / 1000 if number == 0 else None,
            "cpu_limit": tenant.cpu_milli / 1000 if number == 0 else None,
            "memory_limit": format_memory(tenant.mem_mib) if number == 0 else None,
            "waiting": tenant.waiting if number == 0 else None,
        }


SHARE_COLUMNS = (
    "tenant", "gpu_model", "guaranteed", "may_borrow", "weight", "held_guaranteed", "held_borrowed", "held_scavenger",
    "limit", "cpu_limit", "memory_limit", "waiting",
)  # fmt: skip


def defragmented(found: Defragmented) -> str:
    """The figures before and after, and the moves."""
    if not found.moves:
        return "nothing to gather: no move would leave larger free room\n"
    lines = [f"{'':<18}{'before':>10}{'after':>10}"]
    lines += [f"{name:<18}{was:>10}{then:>10}" for name, was, then in _figures(found.before, found.after)]
    lines.append(f"{counted(len(found.moves), 'move')}{' ordered' if found.ordered else ' (dry run)'}:")
    return "\n".join([*lines, *map(_move, found.moves)]) + "\n"


def _figures(before: Figures, after: Figures) -> list[tuple[str, str, str]]:
    return [
        ("free GPU", fraction(before.free_milli), fraction(after.free_milli)),
        ("fragmented GPU", f"{before.fragmented_milli / 1000:.3g}", f"{after.fragmented_milli / 1000:.3g}"),
        ("wholly free GPUs", str(before.free_devices), str(after.free_devices)),
        ("largest free run", str(before.largest_run), str(after.largest_run)),
    ]


def _move(move: Moved) -> str:
    source = _place(move.from_node, move.from_devices)
    return f"  {plain(move.host_id)} ({fraction(move.gpu_milli)}): {source} -> {_place(move.to_node, move.to_devices)}"


def _place(node: str, devices: list[int]) -> str:
    return f"{plain(node)} GPU {','.join(map(str, devices))}" if devices else plain(node)
