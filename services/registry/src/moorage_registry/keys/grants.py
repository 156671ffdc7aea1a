"""What a key lets its bearer do, and that a key hands on no more than it has. Pure."""

from dataclasses import dataclass, replace

from moorage_common.contracts.keys import Rate
from moorage_common.errors import Forbidden, Unprocessable
from moorage_common.networks import within
from moorage_registry.keys.scopes import covers, fault_of


@dataclass(frozen=True)
class Grant:
    """Scopes; networks (none: anywhere); a rate (None: the tenant's alone); an end, seconds since 1970 (None: none)."""

    scopes: tuple[str, ...]
    cidrs: tuple[str, ...] = ()
    rate: Rate | None = None
    expires_at: float | None = None


def inherited(asked: Grant, held: Grant) -> Grant:
    """`asked`, with what it leaves open as the minter's own key has it."""
    return replace(
        asked,
        cidrs=asked.cidrs or held.cidrs,
        rate=asked.rate or held.rate,
        expires_at=asked.expires_at if asked.expires_at is not None else held.expires_at,
    )


def check_within(asked: Grant, held: Grant) -> None:
    """Raises Unprocessable for a scope that there is none of, Forbidden for what `held` does not allow itself."""
    for scope in asked.scopes:
        fault = fault_of(scope)
        if fault is not None:
            raise Unprocessable(fault, code="unknown_scope")
        if not covers(held.scopes, scope):
            message = f"a key mints only what it may do itself, and yours lacks {scope}; ask for less"
            raise Forbidden(message, code="scope_not_held")
    if not within(asked.cidrs, held.cidrs):
        message = f"your key may be used from {', '.join(held.cidrs)} alone, and so may what it makes; ask for less"
        raise Forbidden(message, code="network_not_held")
    if not rate_within(asked.rate, held.rate):
        raise Forbidden("a key's rate is at most that of the key that makes it; ask for less", code="rate_not_held")
    if held.expires_at is not None and (asked.expires_at is None or asked.expires_at > held.expires_at):
        message = "a key ends no later than the key that makes it; let it expire sooner"
        raise Forbidden(message, code="expiry_not_held")


def rate_within(asked: Rate | None, held: Rate | None) -> bool:
    """Whether the one is no more than the other, over time and at once. None: no bound."""
    if held is None:
        return True
    return asked is not None and asked.requests_per_s <= held.requests_per_s and asked.burst <= held.burst
