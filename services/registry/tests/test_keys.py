"""API keys: shown once, never stored in clear, minting a subset of themselves."""

import pytest
from sqlalchemy import text

from moorage_common import api_keys
from moorage_registry.keys.scopes import covers, fault_of
from moorage_registry.migrations import metadata
from moorage_registry.testing import Caller, Platform, platform_of


async def test_a_key_is_shown_once_and_never_stored_in_clear(platform: Platform, demo: Caller) -> None:
    created = await demo.ok("POST", "/v1/keys", json={"scopes": ["infer:fraud-*"], "environment": "test"})
    key = api_keys.parse(created["key"])
    assert key is not None
    assert created["key"].startswith("mrg_test_")
    listed = (await demo.call("GET", "/v1/keys")).text
    assert key.kid in listed
    assert key.secret not in listed
    async with platform.registry.db.read() as session:
        for table in metadata().tables:
            stored = str((await session.execute(text(f'SELECT * FROM "{table}"'))).all())
            assert key.secret not in stored


@pytest.mark.parametrize(
    ("held", "asked", "allowed"),
    [
        (["infer:*"], "infer:fraud-*", True),
        (["infer:fraud-*"], "infer:fraud-eu", True),
        (["infer:fraud-*"], "infer:fraud-*-eu", True),
        (["infer:fraud-*"], "infer:*", False),
        (["infer:fraud-*"], "infer:f*", False),
        (["infer:fraud"], "infer:fraud", True),
        (["infer:*"], "feedback:x", False),
        (["keys:admin"], "models:write", False),
        (["keys:admin", "models:write"], "models:write", True),
        (["keys:admin"], "platform:admin", False),
        (["platform:admin"], "models:write", True),
    ],
)
def test_a_key_mints_only_a_subset_of_itself(held: list[str], asked: str, *, allowed: bool) -> None:
    assert covers(held, asked) is allowed


@pytest.mark.parametrize("scope", ["infer", "infer:", "infer:Fraud", "infer:fra[u]d", "infer:fra?d", "everything", ""])
def test_scopes_that_do_not_exist_are_named(scope: str) -> None:
    assert fault_of(scope) is not None


async def test_minting_more_than_one_has_is_refused(demo: Caller) -> None:
    minter = await demo.with_key("keys:admin", "infer:fraud-*")
    for scope, code in (("models:write", "scope_not_held"), ("infer:*", "scope_not_held"), ("nope", "unknown_scope")):
        answer = await minter.call("POST", "/v1/keys", json={"scopes": [scope]})
        assert (answer.status_code, answer.json()["code"]) == ({"nope": 422}.get(scope, 403), code)
    await minter.ok("POST", "/v1/keys", json={"scopes": ["infer:fraud-eu"]})


async def test_an_operators_key_is_never_a_tenants(platform: Platform, demo: Caller) -> None:
    answer = await platform.operator.call(
        "POST", "/v1/keys", json={"scopes": ["platform:admin"]}, headers={"moorage-tenant": str(demo.tenant)}
    )
    assert answer.json()["code"] == "admin_key_of_tenant"


async def test_a_revoked_key_is_refused_at_once_and_revoking_again_is_harmless(demo: Caller) -> None:
    other = await demo.with_key("infer:*")
    kid = (await other.ok("GET", "/v1/whoami"))["kid"]
    for _ in range(2):
        assert (await demo.call("DELETE", f"/v1/keys/{kid}")).status_code == 204
    answer = await other.call("GET", "/v1/whoami")
    assert (answer.status_code, answer.json()["code"]) == (401, "key_revoked")


async def test_wrong_keys_say_what_to_do(platform: Platform, demo: Caller) -> None:
    http = platform.operator.http
    changed = demo.key[:-7] + ("a" if demo.key[-7] != "a" else "b") + demo.key[-6:]
    for header, code in (
        (None, "key_missing"),
        ("Basic abc", "key_missing"),
        (f"Bearer {changed}", "key_malformed"),
        (f"Bearer {api_keys.mint().text}", "key_unknown"),
    ):
        answer = await http.get("/v1/whoami", headers={"authorization": header} if header else {})
        assert (answer.status_code, answer.json()["code"]) == (401, code)


async def test_the_bootstrap_key_exists_once_over_restarts(platform: Platform) -> None:
    async with platform_of(platform.settings) as again:
        keys = (await again.operator.ok("GET", "/v1/keys"))["keys"]
    assert [key["scopes"] for key in keys] == [["platform:admin"]]
