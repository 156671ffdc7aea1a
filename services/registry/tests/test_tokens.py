"""Tokens of the identity provider: which are taken, and whose keys count for how long."""

import base64
import hashlib
import hmac
import json
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from typing import Any

import httpx
import pytest
from joserfc import jwk, jwt
from joserfc.jwk import ECKey, RSAKey

from moorage_common.errors import MoorageError, Unauthenticated, Unavailable
from moorage_registry.people.issuer import AGAIN_S, FRESH_S, KEPT_S, Issuer
from moorage_registry.people.testing import AUDIENCE, CLIENT, Provider, provider
from moorage_registry.people.tokens import Expected, Person, usable_keys


@pytest.fixture(scope="module")
def rsa() -> jwk.Key:
    return RSAKey.generate_key(2048, auto_kid=False)


@pytest.fixture
def idp() -> Iterator[Provider]:
    with provider() as found:
        yield found


class Hand:
    """A clock that stands still until it is moved."""

    def __init__(self) -> None:
        self.now = time.time()

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Hand:
    return Hand()


@pytest.fixture
async def issuer(idp: Provider, clock: Hand) -> AsyncIterator[Issuer]:
    async with httpx.AsyncClient(trust_env=False) as http:
        yield Issuer(http, clock, Expected(idp.issuer, AUDIENCE, CLIENT))


async def refusal(issuer: Issuer, token: str) -> MoorageError:
    with pytest.raises(Unauthenticated) as caught:
        await issuer.person(token)
    assert caught.value.code == "token_refused"
    return caught.value


def part(value: dict[str, Any]) -> str:
    return base64.urlsafe_b64encode(json.dumps(value).encode()).rstrip(b"=").decode()


async def test_a_good_token_says_who_signs_in_by_rs256_and_es256(issuer: Issuer, idp: Provider, rsa: jwk.Key) -> None:
    idp.keys["rsa"] = rsa
    for kid in ("first", "rsa"):
        token = idp.token(idp.claims("ada"), kid)
        assert await issuer.person(token) == Person("ada", "ada@example.com")


async def test_unsigned_and_symmetrically_signed_tokens_are_refused(
    issuer: Issuer, idp: Provider, rsa: jwk.Key
) -> None:
    """With the public key as the secret too: the classic confusion of algorithms."""
    idp.keys["rsa"] = rsa
    claims = idp.claims("ada")
    public = rsa.as_pem(private=False)
    forged = [f"{part({'alg': 'none', 'kid': 'rsa'})}.{part(claims)}.", f"{part({'alg': 'none'})}.{part(claims)}."]
    for secret in (public, b"secret"):
        body = f"{part({'alg': 'HS256', 'kid': 'rsa'})}.{part(claims)}"
        signature = hmac.new(secret, body.encode(), hashlib.sha256).digest()
        forged.append(f"{body}.{base64.urlsafe_b64encode(signature).rstrip(b'=').decode()}")
    for token in forged:
        assert "RS256 or ES256" in (await refusal(issuer, token)).message


async def test_a_token_of_another_key_or_one_that_was_changed_is_refused(issuer: Issuer, idp: Provider) -> None:
    good = idp.token(idp.claims("ada"))
    assert (await issuer.person(good)).subject == "ada"
    stranger = ECKey.generate_key("P-256", auto_kid=False)
    for kid in ("first", "second", "", None):
        header = {"alg": "ES256", **({"kid": kid} if kid is not None else {})}
        await refusal(issuer, jwt.encode(header, idp.claims("ada"), stranger))
    head, body, signature = good.split(".")
    await refusal(issuer, f"{head}.{part(idp.claims('eve'))}.{signature}")
    await refusal(issuer, f"{head}.{body}.")


@pytest.mark.parametrize(
    "wrong",
    [
        {"iss": "https://elsewhere.example"},
        {"iss": None},
        {"aud": "account"},
        {"aud": ["account", "other"]},
        {"aud": None},
        {"azp": "other-client"},
        {"azp": None},
        {"azp": None, "client_id": "other-client"},
        {"exp": None},
        {"exp": True},
        {"exp": "9999999999"},
        {"typ": "Refresh"},
        {"typ": "Logout"},
        {"events": {}},
        {"sub": None},
        {"sub": ""},
        {"sub": 7},
        {"sub": "a\nb"},
        {"sub": "x" * 256},
    ],
    ids=str,
)
async def test_a_token_for_another_purpose_is_refused(issuer: Issuer, idp: Provider, wrong: dict[str, Any]) -> None:
    assert (await refusal(issuer, idp.token(idp.claims("ada", **wrong)))).status == 401


async def test_times_count_with_half_a_minute_of_leeway(issuer: Issuer, idp: Provider, clock: Hand) -> None:
    now = int(clock.now)
    for good in ({"exp": now - 28}, {"nbf": now + 28}, {"iat": now + 28}, {"aud": ["account", AUDIENCE]}):
        assert (await issuer.person(idp.token(idp.claims("ada", **good)))).subject == "ada"
    for bad in ({"exp": now - 31}, {"nbf": now + 32}, {"iat": now + 32}):
        await refusal(issuer, idp.token(idp.claims("ada", **bad)))


async def test_headers_that_ask_for_more_than_a_plain_token_are_refused(issuer: Issuer, idp: Provider) -> None:
    key, claims = idp.keys["first"], idp.claims("ada")
    good = jwt.encode({"alg": "ES256", "kid": "first", "typ": "at+jwt"}, claims, key)
    assert (await issuer.person(good)).subject == "ada"
    signature = good.rsplit(".", 1)[1]
    for header in (
        {"alg": "ES256", "kid": "first", "crit": ["exp"]},
        {"alg": "ES256", "kid": "first", "typ": "logout+jwt"},
        {"alg": "ES256", "kid": ["first"]},
        {"alg": "ES384", "kid": "first"},
        {"kid": "first"},
    ):
        await refusal(issuer, f"{part(header)}.{part(claims)}.{signature}")


@pytest.mark.parametrize("text", ["", "a", "a.b", "a.b.c", "mrg_live_x", "..", "é.é.é", "\x00", "e30.e30.e30"])
async def test_what_is_no_token_is_refused(issuer: Issuer, text: str) -> None:
    assert (await refusal(issuer, text)).status == 401


async def test_an_id_token_is_taken_only_where_the_client_is_the_audience(issuer: Issuer, idp: Provider) -> None:
    id_token = idp.token(idp.claims("ada", aud=CLIENT, azp=None, typ="ID"))
    await refusal(issuer, id_token)
    issuer.expected = replace(issuer.expected, audience=CLIENT)
    assert issuer.expected.taken == "id_token"
    assert (await issuer.person(id_token)).subject == "ada"
    await refusal(issuer, idp.token(idp.claims("ada", aud=[CLIENT, "other"], azp=None, typ="ID")))


async def test_keys_are_read_once_and_again_after_five_minutes(issuer: Issuer, idp: Provider, clock: Hand) -> None:
    for _ in range(3):
        await issuer.person(idp.token(idp.claims("ada")))
    assert idp.reads == 1
    clock.now += FRESH_S + 1
    await issuer.person(idp.token(idp.claims("ada", exp=int(clock.now) + 60)))
    assert idp.reads == 2


async def test_unknown_keys_are_looked_for_at_most_every_ten_seconds(
    issuer: Issuer, idp: Provider, clock: Hand
) -> None:
    await issuer.person(idp.token(idp.claims("ada")))
    clock.now += AGAIN_S
    idp.rotate("second")
    assert (await issuer.person(idp.token(idp.claims("ada")))).subject == "ada"
    assert idp.reads == 2
    idp.rotate("third")
    for _ in range(20):
        await refusal(issuer, idp.token(idp.claims("ada")))
    assert idp.reads == 2
    clock.now += AGAIN_S
    assert (await issuer.person(idp.token(idp.claims("ada")))).subject == "ada"


async def test_keys_that_were_read_serve_for_a_day_while_the_provider_is_away(
    issuer: Issuer, idp: Provider, clock: Hand
) -> None:
    await issuer.person(idp.token(idp.claims("ada")))
    idp.is_away = True
    started = clock.now
    for after in (FRESH_S + 1, KEPT_S - 1):
        clock.now = started + after
        token = idp.token(idp.claims("ada", exp=int(clock.now) + 60))
        assert (await issuer.person(token)).subject == "ada"
    clock.now = started + KEPT_S + 1
    with pytest.raises(Unavailable) as caught:
        await issuer.person(idp.token(idp.claims("ada", exp=int(clock.now) + 60)))
    assert (caught.value.code, caught.value.headers) == ("identity_unavailable", {"retry-after": "10"})
    idp.is_away = False
    clock.now += AGAIN_S
    assert (await issuer.person(idp.token(idp.claims("ada", exp=int(clock.now) + 60)))).subject == "ada"


async def test_a_discovery_document_of_another_issuer_is_not_believed(idp: Provider, clock: Hand) -> None:
    wrong = idp.issuer.replace("127.0.0.1", "localhost")
    async with httpx.AsyncClient(trust_env=False) as http:
        with pytest.raises(Unavailable):
            await Issuer(http, clock, Expected(wrong, AUDIENCE, CLIENT)).person(idp.token(idp.claims("ada")))
        read = Issuer(http, clock, Expected(wrong, AUDIENCE, CLIENT), f"{idp.issuer}/certs")
        assert (await read.person(idp.token(idp.claims("ada", iss=wrong)))).subject == "ada"


def test_keys_that_may_not_sign_are_left_out(rsa: jwk.Key) -> None:
    def described(key: jwk.Key, **more: str) -> dict[str, Any]:
        return {**key.as_dict(private=False), **more}

    point = ECKey.generate_key("P-256", auto_kid=False)
    keys = usable_keys(
        {
            "keys": [
                described(rsa, kid="rsa", alg="RS256"),
                described(point, kid="point"),
                described(rsa, kid="encrypts", use="enc"),
                described(rsa, kid="pss", alg="PS256"),
                described(ECKey.generate_key("P-384", auto_kid=False), kid="p384"),
                {"kty": "oct", "k": "c2VjcmV0c2VjcmV0c2VjcmV0", "kid": "secret"},
                {"kty": "RSA", "n": "AQAB", "e": "AQAB", "kid": "short"},
                {"kty": "EC", "crv": "P-256", "x": "AA", "y": "AA", "kid": "off"},
                {"kty": "new", "kid": "new"},
                "nonsense",
            ]
        }
    )
    assert set(keys) == {"rsa", "point"}
