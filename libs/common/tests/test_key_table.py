"""The key table: who is let in, and that a revocation wins over anything remembered."""

import pytest

from moorage_common import api_keys
from moorage_common.bus import Bus
from moorage_common.contracts.keys import KeyRecord, TenantLimits
from moorage_common.contracts.names import TenantId
from moorage_common.contracts.versioned import Versioned
from moorage_common.errors import Forbidden, Unauthenticated
from moorage_common.key_table import KeyTable, bearer, require_scope
from moorage_common.kv import BucketReader

PEPPER = "pepper"
NOW = 1_700_000_000.0


def entry(key: api_keys.ApiKey, version: int = 1, **changes: object) -> Versioned:
    record = KeyRecord(
        kid=key.kid,
        tenant="acme",
        digest=api_keys.digest(PEPPER, key.secret),
        scopes=["features:read", "infer:fraud-*"],
    )
    return Versioned(epoch=1, version=version, value=record.model_dump(mode="json") | changes)


@pytest.fixture
def key() -> api_keys.ApiKey:
    return api_keys.mint()


@pytest.fixture
def table(key: api_keys.ApiKey) -> KeyTable:
    table = KeyTable(pepper=PEPPER)
    table.on_key(key.kid, entry(key))
    return table


def code_of(table: KeyTable, text: str, now: float = NOW) -> str:
    with pytest.raises(Unauthenticated) as caught:
        table.check(text, now)
    return caught.value.code


def test_a_valid_key_is_let_in_and_keeps_being(table: KeyTable, key: api_keys.ApiKey) -> None:
    assert table.check(key.text, NOW) is table.check(key.text, NOW)
    assert table.check(key.text, NOW).tenant == "acme"


def test_a_wrong_secret_an_unknown_key_and_a_typing_error_are_refused(table: KeyTable, key: api_keys.ApiKey) -> None:
    other = api_keys.mint()
    forged = f"mrg_live_{key.kid}{other.secret}"
    forged += api_keys._crc(forged)
    assert code_of(table, forged) == "key_unknown"
    assert code_of(table, other.text) == "key_unknown"
    assert code_of(table, key.text[:-1] + ("a" if key.text[-1] != "a" else "b")) == "key_malformed"
    assert code_of(table, "") == "key_malformed"


def test_a_revocation_wins_over_a_remembered_key(table: KeyTable, key: api_keys.ApiKey) -> None:
    table.check(key.text, NOW)
    table.on_key(key.kid, entry(key, 2, revoked=True))
    assert code_of(table, key.text) == "key_revoked"


def test_a_tombstone_and_an_unreadable_record_end_a_remembered_key(table: KeyTable, key: api_keys.ApiKey) -> None:
    for ending in (None, {"kid": key.kid}):
        table.on_key(key.kid, entry(key))
        table.check(key.text, NOW)
        table.on_key(key.kid, Versioned(epoch=1, version=3, value=ending))
        assert code_of(table, key.text) == "key_unknown"


def test_a_late_older_record_does_not_bring_a_revoked_key_back(key: api_keys.ApiKey) -> None:
    table = KeyTable(pepper=PEPPER)
    reader = BucketReader(Bus("nats://127.0.0.1:1", "test"), "keys", table.on_key)
    reader.accept(key.kid, entry(key, 2, revoked=True))
    reader.restore({key.kid: entry(key, 1)})
    assert code_of(table, key.text) == "key_revoked"


def test_a_key_holds_between_its_dates_alone(table: KeyTable, key: api_keys.ApiKey) -> None:
    table.on_key(key.kid, entry(key, 2, not_before=NOW, expires_at=NOW + 10))
    assert code_of(table, key.text, NOW - 0.1) == "key_not_yet_valid"
    assert table.check(key.text, NOW + 9.9).kid == key.kid
    assert code_of(table, key.text, NOW + 10) == "key_expired"


def test_keys_of_a_suspended_tenant_are_refused_until_it_is_active_again(table: KeyTable, key: api_keys.ApiKey) -> None:
    limits = TenantLimits(tenant="acme", status="suspended", max_concurrent=7)
    table.on_limits("acme", Versioned(epoch=1, version=1, value=limits.model_dump(mode="json")))
    with pytest.raises(Forbidden, match="suspended"):
        table.check(key.text, NOW)
    active = limits.model_copy(update={"status": "active"})
    table.on_limits("acme", Versioned(epoch=1, version=2, value=active.model_dump(mode="json")))
    assert table.check(key.text, NOW).tenant == "acme"
    assert table.limits(TenantId("acme")).max_concurrent == 7
    assert table.limits(TenantId("nobody")) == TenantLimits(tenant="nobody")


def test_what_is_remembered_is_bounded() -> None:
    table = KeyTable(pepper=PEPPER, verified_max=3)
    keys = [api_keys.mint() for _ in range(9)]
    for one in keys:
        table.on_key(one.kid, entry(one))
    for _ in range(2):
        assert [table.check(one.text, NOW).kid for one in keys] == [one.kid for one in keys]
    assert len(table._verified) == 3


def test_a_scope_is_asked_for_by_name_and_model(table: KeyTable, key: api_keys.ApiKey) -> None:
    record = table.check(key.text, NOW)
    require_scope(record, "features:read")
    require_scope(record, "infer", "fraud-eu")
    for scope, model in (("features:write", None), ("infer", "churn")):
        with pytest.raises(Forbidden, match=scope):
            require_scope(record, scope, model)


def test_the_bearer_is_read_from_the_header_alone() -> None:
    assert bearer("Bearer abc") == bearer("bearer  abc ") == "abc"
    for header in (None, "", "Basic abc", "Bearer", "Bearer "):
        with pytest.raises(Unauthenticated):
            bearer(header)


def test_neither_the_pepper_nor_a_key_shows_in_the_tables_repr(table: KeyTable, key: api_keys.ApiKey) -> None:
    table.check(key.text, NOW)
    assert PEPPER not in repr(table).replace("KeyTable", "")
    assert key.secret not in repr(table)
