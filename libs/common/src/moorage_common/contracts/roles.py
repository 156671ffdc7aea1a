"""What people may do in a tenant: five roles, the scopes of each, and who may give or take which. Pure."""

from collections.abc import Iterable
from typing import Literal, get_args

Role = Literal["owner", "admin", "deployer", "viewer", "billing"]
ROLES: tuple[Role, ...] = get_args(Role)

_VIEWER = frozenset({"features:read", "events:read", "logs:read", "metrics:read"})
_DEPLOYER = _VIEWER | {"infer:*", "feedback:*", "models:write", "deploy:write", "features:write"}
_BILLING = frozenset({"usage:read"})
_ADMIN = _DEPLOYER | _BILLING | {"keys:admin"}

_SCOPES: dict[Role, frozenset[str]] = {
    "owner": _ADMIN,
    "admin": _ADMIN,
    "deployer": _DEPLOYER,
    "viewer": _VIEWER,
    "billing": _BILLING,
}
_GRANTS: dict[Role, frozenset[Role]] = {
    "owner": frozenset(ROLES),
    "admin": frozenset(ROLES) - {"owner"},
    "deployer": frozenset(),
    "viewer": frozenset(),
    "billing": frozenset(),
}


def scopes_of(role: Role, *, operators: bool = False) -> list[str]:
    """The scopes of a person's session key, sorted.

    Args:
        operators: whether the tenant is the operators' own, whose owners run the platform.
    """
    scopes = _SCOPES[role]
    if operators and role == "owner":
        scopes |= {"platform:admin"}
    return sorted(scopes)


def may_grant(role: Role, wanted: Role) -> bool:
    """Whether a person of `role` may give, change or take the role `wanted`: nobody above their own."""
    return wanted in _GRANTS[role]


def key_may_grant(scopes: Iterable[str], wanted: Role) -> bool:
    """Whether an API key with `keys:admin` may give, change or take the role: one that may do no more than the key.

    None makes or unmakes an owner.
    """
    held = set(scopes)
    return wanted != "owner" and "keys:admin" in held and held >= _SCOPES[wanted]
