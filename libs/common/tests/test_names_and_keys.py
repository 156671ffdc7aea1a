"""Names, API keys, request ids and trace context: the texts that come from outside."""

import pytest

from moorage_common import api_keys
from moorage_common.contracts.names import is_name, model_glob_matches
from moorage_common.contracts.request_id import RequestId, format_request_id, new_ulid, parse_request_id
from moorage_common.secrets import derive
from moorage_common.trace import child_of, trace_id

KNOWN = "mrg_live_0123456789ABabcdefghijklmnopqrstuvwxyzABCDEF1m01Cc"


def test_the_format_of_a_key_never_changes() -> None:
    key = api_keys.parse(KNOWN)
    assert key is not None
    assert (key.kid, key.secret) == ("0123456789AB", "abcdefghijklmnopqrstuvwxyzABCDEF")
    assert api_keys.digest("pepper", key.secret) == "09536c717caadae74c5c9959f91ec4085f0d827a3a74a98a7c88284770aa9c32"


def test_a_minted_key_is_parsed_again_and_matches_its_own_digest_alone() -> None:
    key, other = api_keys.mint("test"), api_keys.mint("test")
    assert api_keys.parse(key.text) == key
    stored = api_keys.digest("pepper", key.secret)
    assert api_keys.matches("pepper", key, stored)
    assert not api_keys.matches("pepper", other, stored)
    assert not api_keys.matches("another pepper", key, stored)
    assert not api_keys.matches("pepper", key, None)


def test_one_wrong_character_is_seen_without_asking_anybody() -> None:
    text = api_keys.mint().text
    for place in range(len(text)):
        wrong = "a" if text[place] != "a" else "b"
        assert api_keys.parse(text[:place] + wrong + text[place + 1 :]) is None


@pytest.mark.parametrize("text", ["", "mrg_live_", KNOWN + "\n", KNOWN + "x", KNOWN[:-1] + "é", "Bearer " + KNOWN])
def test_what_is_no_key_is_refused(text: str) -> None:
    assert api_keys.parse(text) is None


def test_a_key_does_not_show_its_secret_when_printed() -> None:
    key = api_keys.mint()
    assert key.secret not in repr(key)


@pytest.mark.parametrize("name", ["a", "a-b", "0", "a" * 63])
def test_names_that_are(name: str) -> None:
    assert is_name(name)


@pytest.mark.parametrize("name", ["", "A", "a_b", "-a", "a-", "a--b", "a.b", "a/b", "a*", "a\n", "a" * 64, "ä"])
def test_names_that_are_not(name: str) -> None:
    assert not is_name(name)


def test_a_scopes_glob_covers_what_it_says() -> None:
    assert model_glob_matches("*", "fraud")
    assert model_glob_matches("fraud-*", "fraud-eu")
    assert not model_glob_matches("fraud-*", "fraud")
    assert not model_glob_matches("fraud", "fraud-eu")


def test_a_request_id_tells_what_answered_and_belongs_to_one_tenant() -> None:
    secret = derive("pepper", "request-id")
    rid = RequestId(ulid=new_ulid(), model="digits", version=3, arm="candidate", revision=12)
    text = format_request_id(secret, "acme", rid)
    assert parse_request_id(secret, "acme", text) == rid
    assert parse_request_id(secret, "other", text) is None
    assert parse_request_id(secret, "acme", text.replace(".3.", ".4.")) is None


@pytest.mark.parametrize("text", ["", "a.b", "a.b.c.d.e.f", "a.b.c.d.e.é", "....."])
def test_what_is_no_request_id_is_refused(text: str) -> None:
    assert parse_request_id(b"secret", "acme", text) is None


def test_ulids_sort_by_time() -> None:
    early, late = new_ulid(1_700_000_000_000), new_ulid(1_700_000_000_001)
    assert early < late
    assert len(early) == 26


def test_a_trace_keeps_its_id_and_flags_with_a_new_parent() -> None:
    given = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
    child = child_of(given)
    assert trace_id(child) == trace_id(given)
    assert child.endswith("-01")
    assert child != given


@pytest.mark.parametrize("given", [None, "", "00-" + "0" * 32 + "-00f067aa0ba902b7-01", "garbage\n"])
def test_without_a_usable_trace_a_new_unsampled_one_begins(given: str | None) -> None:
    child = child_of(given)
    assert child.endswith("-00")
    assert child_of(child)[:35] == child[:35]
