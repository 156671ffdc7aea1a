"""Roles: what each may do, and who may give which."""

import pytest

from moorage_common.contracts.keys import MODEL_SCOPES, PLAIN_SCOPES
from moorage_common.contracts.roles import ROLES, Role, key_may_grant, may_grant, scopes_of


def test_nobody_grants_a_role_that_may_do_more_than_their_own() -> None:
    for role in ROLES:
        for wanted in ROLES:
            if may_grant(role, wanted):
                assert set(scopes_of(wanted)) <= set(scopes_of(role)), (role, wanted)
    assert [role for role in ROLES if may_grant(role, "owner")] == ["owner"]


def test_only_owners_and_admins_grant_at_all() -> None:
    assert {role for role in ROLES if any(may_grant(role, wanted) for wanted in ROLES)} == {"owner", "admin"}


def test_every_scope_of_a_role_is_one_that_keys_have_and_none_is_the_operators() -> None:
    for role in ROLES:
        for scope in scopes_of(role):
            assert scope in PLAIN_SCOPES or scope.partition(":")[0] in MODEL_SCOPES
            assert scope != "platform:admin"


def test_owners_of_the_operators_tenant_alone_run_the_platform() -> None:
    assert [role for role in ROLES if "platform:admin" in scopes_of(role, operators=True)] == ["owner"]


@pytest.mark.parametrize(("role", "may"), [("viewer", False), ("deployer", True), ("admin", True), ("billing", False)])
def test_who_only_looks_changes_nothing(role: Role, may: bool) -> None:
    writes = {"models:write", "deploy:write", "features:write", "infer:*", "feedback:*"}
    assert bool(writes & set(scopes_of(role))) is may


def test_a_key_lets_in_only_who_may_do_no_more_than_itself_and_never_an_owner() -> None:
    admin = scopes_of("admin")
    assert [role for role in ROLES if key_may_grant(admin, role)] == ["admin", "deployer", "viewer", "billing"]
    assert [role for role in ROLES if key_may_grant(["keys:admin", "usage:read"], role)] == ["billing"]
    for role in ROLES:
        assert not key_may_grant(["usage:read"], role)
        for left_out in scopes_of(role):
            assert not key_may_grant([scope for scope in admin if scope != left_out], role)
