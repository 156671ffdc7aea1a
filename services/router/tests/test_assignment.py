"""Which version answers: by weights, by a sticky key, by ring, by path."""

import asyncio
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from router_harness import BODY, SIGNATURE, Desired, FakeHost, RunningRouter

from moorage_common.contracts.features import ROWS_MAX
from moorage_common.contracts.routes import Arm, Route, RouteRing, RouteVersion, Sticky
from moorage_common.contracts.versioned import Versioned
from moorage_common.errors import NotFound, Unavailable
from moorage_router.assignment import Assigned, choose, entity_of, hash_of, point_of
from moorage_router.auth import Credentials
from moorage_router.calls import Call
from moorage_router.metrics import RouterMetrics
from moorage_router.replicas import EndpointTable
from moorage_router.routes import RouteTable, ServedRoute
from moorage_router.signals.book import Book

WEIGHT = st.integers(0, 10_000)
USER = b"x-user"
BY_USER = Sticky(by="header", name="X-User", salt="s1")


def route_of(*arms: Arm, **fields: Any) -> ServedRoute:
    numbers = {arm.version for arm in arms} | {ring.version for ring in fields.get("rings", [])}
    versions = [RouteVersion(version=n, format="onnx", signature=SIGNATURE) for n in sorted(numbers)]
    route = Route(tenant="demo", model="m", revision=1, arms=list(arms), versions=versions, **fields)
    table = RouteTable(EndpointTable(1), RouterMetrics().version, b"secret", Book("r", "boot", lambda _batch: None))
    table.apply("demo.m", Versioned(epoch=1, version=1, value=route.model_dump(mode="json")))
    return table.find("demo", "m")


def split(candidate_bp: int) -> tuple[Arm, Arm]:
    """As a rollout has it: the stable arm first in the list."""
    return (
        Arm(arm="v1", version=1, weight_bp=10_000 - candidate_bp),
        Arm(arm="v2", version=2, weight_bp=candidate_bp, role="candidate"),
    )


def call(*head: tuple[bytes, bytes], version: str | None = None) -> Call:
    return Call("infer", None, (), Credentials(None), version=version, head=list(head))


def chosen(route: ServedRoute, user: bytes, draw: float = 0.5) -> int:
    return choose(route, call((USER, user)), "kid", draw).served.number


def ring(weight_bp: int, version: int = 2, **fields: Any) -> RouteRing:
    return RouteRing(**{"name": "beta", "kids": ["kid"], "version": version, "weight_bp": weight_bp, **fields})


@given(st.tuples(WEIGHT, WEIGHT), st.tuples(WEIGHT, WEIGHT), st.binary(min_size=1, max_size=40), st.booleans())
def test_raising_the_weight_of_the_candidate_or_of_its_ring_never_moves_a_key_off_it(
    weights: tuple[int, int], of_ring: tuple[int, int], user: bytes, has_ring: bool
) -> None:
    low, high = sorted(weights)
    ring_low, ring_high = sorted(of_ring)
    before = route_of(*split(low), sticky=BY_USER, rings=[ring(ring_low)] if has_ring else [])
    after = route_of(*split(high), sticky=BY_USER, rings=[ring(ring_high)] if has_ring else [])
    if user.strip() and chosen(before, user) == 2:
        assert chosen(after, user) == 2


@given(WEIGHT, WEIGHT, st.binary(min_size=1, max_size=40))
def test_of_two_arms_a_key_leaves_neither_while_its_share_does_not_shrink(low: int, high: int, user: bytes) -> None:
    if not user.strip():
        return
    before = chosen(route_of(*split(low), sticky=BY_USER), user)
    after = chosen(route_of(*split(high), sticky=BY_USER), user)
    grew = high >= low if before == 2 else high <= low
    assert not grew or after == before


@given(st.floats(0, 1, exclude_max=True), WEIGHT, st.lists(st.integers(0, 10_000), min_size=1, max_size=4))
def test_every_draw_finds_a_version_with_weight_or_its_ring(draw: float, ring_bp: int, weights: list[int]) -> None:
    arms = [Arm(arm=f"v{n}", version=n, weight_bp=bp) for n, bp in enumerate(weights, 1)]
    route = route_of(*arms, rings=[ring(ring_bp, version=9)])
    if draw < ring_bp / 10_000:
        assert choose(route, call(), "kid", draw).served.number == 9
    elif not any(weights):
        with pytest.raises(Unavailable, match="takes traffic"):
            choose(route, call(), "kid", draw)
    else:
        number = choose(route, call(), "kid", draw).served.number
        assert weights[number - 1] > 0


@given(st.integers(0, 2**64 - 1))
def test_a_hash_is_a_point_below_one(hashed: int) -> None:
    assert 0.0 <= point_of(hashed) < 1.0


def test_the_last_point_of_the_line_stays_on_it_whatever_the_rings_share() -> None:
    for bp in range(1, 10_000, 7):
        route = route_of(*split(5000), rings=[ring(bp)])
        assert choose(route, call(), "kid", math.nextafter(1.0, 0.0)).served in route.versions.values()


def within(count: int, of: int, share: float, sigmas: float = 4.0) -> bool:
    return abs(count - of * share) <= sigmas * math.sqrt(of * share * (1 - share))


def test_keys_are_shared_out_by_the_weights_and_anew_under_another_salt() -> None:
    users = [f"user-{n}".encode() for n in range(20_000)]
    one = route_of(*split(2500), sticky=BY_USER)
    two = route_of(*split(2500), sticky=BY_USER.model_copy(update={"salt": "s2"}))
    first, second = ([chosen(route, user) == 2 for user in users] for route in (one, two))
    both = sum(a and b for a, b in zip(first, second, strict=True))
    assert within(sum(first), len(users), 0.25)
    assert within(sum(second), len(users), 0.25)
    assert within(both, len(users), 0.0625), "shares under two salts are independent"
    assert [chosen(one, user, draw=0.99) == 2 for user in users] == first, "the draw decides nothing"


def test_a_rings_callers_get_its_share_and_the_rest_of_them_what_everybody_gets() -> None:
    route = route_of(*split(1000), sticky=BY_USER, rings=[ring(5000)])
    taken = [choose(route, call((USER, f"{n}".encode())), "kid", 0.5) for n in range(20_000)]
    assert within(sum(one.served.number == 2 for one in taken), len(taken), 0.5 + 0.5 * 0.1)
    assert {one.stratum for one in taken} == {"ring:beta"}, "by who they are, not by what they were given"


def test_strata_and_keys_tell_what_decided() -> None:
    plain, sticky = route_of(*split(5000)), route_of(*split(5000), sticky=BY_USER)
    assert choose(plain, call((USER, b"ann")), "kid", 0.1)[1:] == ("", None)
    key = choose(sticky, call((USER, b" ann ")), "kid", 0.1).key
    assert key == choose(sticky, call((USER, b"ann"), (USER, b"bob")), "kid", 0.9).key, "the first header counts"
    assert key is not None
    assert 0 <= key < 2**63
    assert choose(sticky, call(), "kid", 0.1)[1:] == ("unkeyed", None)
    assert choose(sticky, call((USER, b"  ")), "kid", 0.1)[1:] == ("unkeyed", None)
    ringed = route_of(*split(5000), sticky=BY_USER, rings=[ring(5000)])
    assert choose(ringed, call(), "kid", 0.1)[1:] == ("ring:beta/unkeyed", None)
    assert choose(ringed, call(), "another", 0.1).stratum == "unkeyed"


def test_a_version_in_the_path_is_pinned_and_not_judged() -> None:
    route = route_of(*split(0), sticky=BY_USER, rings=[ring(10_000)])
    assert choose(route, call((USER, b"ann"), version="1"), "kid", 0.5) == Assigned(route.versions[1], None, None)
    with pytest.raises(NotFound):
        choose(route, call(version="7"), "kid", 0.5)


def test_the_first_ring_that_holds_a_caller_counts_and_one_without_its_version_is_nobodys() -> None:
    rings = [
        ring(10_000, version=3, kids=[], header="x-tier", values=["gold"], name="gold"),
        ring(10_000, version=2),
    ]
    route = route_of(*split(0), rings=rings)
    assert choose(route, call((b"x-tier", b"gold")), "kid", 0.5).served.number == 3
    assert choose(route, call((b"x-tier", b"Gold")), "kid", 0.5).served.number == 2
    assert choose(route, call((b"x-tier", b"Gold")), "another", 0.5).served.number == 1
    gone = route_of(*split(0))
    assert gone.keying is None


@pytest.mark.parametrize(
    ("array", "key"),
    [
        (np.array([[7.0, 1.0]]), b"7"), (np.array([7], np.int64), b"7"), (np.array([b"ann"], object), b"ann"),
        (np.array([0.5], np.float32), b"0.5"), (np.array([True]), b"True"), (np.array([]), None), (None, None),
        (np.array([b""], object), None), (np.array([math.inf]), b"inf"), (np.array([math.nan]), b"nan"),
    ],
)  # fmt: skip
def test_an_entity_is_the_first_element_and_a_whole_float_is_its_integer(array: Any, key: bytes | None) -> None:
    assert entity_of(array) == key


def test_a_hash_depends_on_salt_and_key_alone_and_takes_any_length() -> None:
    assert hash_of(b"s", b"a" * 65_536) == hash_of(b"s", b"a" * 65_536) != hash_of(b"t", b"a" * 65_536)


# -- the same through a router


async def deployed(router: RunningRouter, desired: Desired, host: FakeHost, **fields: Any) -> Any:
    key = await desired.key()
    await desired.route({1: 5000, 2: 5000}, **fields)
    await desired.host(host, 1, 2)
    await router.knows(key, 1, 2)
    return key


async def version(router: RunningRouter, key: Any, **fields: Any) -> str:
    answer = await router.infer(key, **fields)
    assert answer.status_code == 200, answer.text
    return str(answer.json()["model_version"])


async def test_callers_with_one_header_stay_on_one_version_and_others_are_spread(
    router: RunningRouter, desired: Desired, host: FakeHost
) -> None:
    key = await deployed(router, desired, host, sticky=BY_USER)
    by_user = {n: {await version(router, key, headers={"X-USER": f"u{n}"}) for _ in range(3)} for n in range(40)}
    assert all(len(found) == 1 for found in by_user.values())
    assert {number for found in by_user.values() for number in found} == {"1", "2"}
    assert {await version(router, key) for _ in range(40)} == {"1", "2"}, "without the key by draw"


ENTITY = b'{"inputs":[{"name":"account","shape":[1],"datatype":"INT64","data":[%d]}]}'


async def test_an_entity_stays_on_one_version_and_the_host_gets_the_body_as_it_came(
    router: RunningRouter, desired: Desired, host: FakeHost
) -> None:
    key = await deployed(router, desired, host, sticky=Sticky(by="entity", name="account", salt="s"))
    for account in range(30):
        body = ENTITY % account
        assert len({await version(router, key, content=body) for _ in range(3)}) == 1
        assert host.seen[-1].body == body
    assert {seen.path.split("/")[5] for seen in host.seen} == {"1", "2"}


@pytest.mark.parametrize("body", [BODY, b"not JSON", b"", b'{"inputs": 7}', ENTITY.replace(b"%d", b'"x"')])
async def test_a_body_without_the_entity_goes_to_a_host_as_on_any_route(
    router: RunningRouter, desired: Desired, host: FakeHost, body: bytes
) -> None:
    key = await deployed(router, desired, host, sticky=Sticky(by="entity", name="account", salt="s"))
    assert (await router.infer(key, content=body)).status_code == 200
    assert host.seen[-1].body == body


async def test_a_long_body_is_read_for_its_entity_within_the_tenants_limit(
    router: RunningRouter, desired: Desired, host: FakeHost
) -> None:
    key = await deployed(router, desired, host, sticky=Sticky(by="entity", name="account", salt="s"))
    rows = ROWS_MAX * 12
    long = (
        (b'{"inputs":[{"name":"account","shape":[%d],"datatype":"INT64","data":[' % rows)
        + b"7," * (rows - 1)
        + b"7]}]}"
    )
    short = await version(router, key, content=ENTITY % 7)
    assert {await version(router, key, content=long) for _ in range(3)} == {short}
    assert host.seen[-1].body == long
    await desired.limits(max_body_bytes=1000)
    async with asyncio.timeout(10):
        while (answer := await router.infer(key, content=long)).status_code == 200:  # noqa: ASYNC110 - polls
            await asyncio.sleep(0.01)
    assert answer.status_code == 413
    deps = router.app.deps
    assert deps is not None
    assert deps.limits.tenants["demo"].in_flight == 0


async def test_a_ring_gets_its_version_first_by_key_and_by_header(
    router: RunningRouter, desired: Desired, host: FakeHost
) -> None:
    ours = await desired.key()
    rings = [
        RouteRing(name="us", kids=[ours.kid], version=2, weight_bp=10_000),
        RouteRing(name="beta", header="x-beta", values=["yes"], version=2, weight_bp=10_000),
    ]
    key = await desired.key()
    await desired.route({1: 10_000, 2: 0}, rings=rings)
    await desired.host(host, 1, 2)
    await router.knows(ours, 1, 2)
    await router.knows(key, 1, 2)
    assert await version(router, ours) == "2"
    assert await version(router, key) == "1"
    assert await version(router, key, headers={"X-Beta": "yes"}) == "2"
    assert await version(router, key, headers={"X-Beta": "no"}) == "1"
    assert await version(router, ours, path="/v2/models/m/versions/1/infer") == "1"


@pytest.mark.parametrize("value", ["x" * 60_000, "\u00e9", "a\tb", "ring:beta", "0", "' or 1=1 --", "\u00ff" * 100])
async def test_no_header_value_does_more_than_choose_a_version(
    router: RunningRouter, desired: Desired, host: FakeHost, value: str
) -> None:
    rings = [RouteRing(name="beta", header="x-user", values=["yes"], version=2, weight_bp=10_000)]
    key = await deployed(router, desired, host, sticky=BY_USER, rings=rings)
    found = {await version(router, key, headers={"x-user": value.encode("latin-1")}) for _ in range(3)}
    assert len(found) == 1
    assert "x-user" not in host.seen[-1].headers
