"""Keys that are bound to networks, and keys read from the registry while the bus is silent."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator

import pytest
from router_harness import PEPPER, Desired, RunningRouter, serving, until

from moorage_common import api_keys
from moorage_common.contracts import names
from moorage_common.contracts.keys import KeyTables
from moorage_common.contracts.versioned import Versioned
from moorage_common.secrets import internal_token
from moorage_common.testing.servers import Server
from moorage_router.settings import RouterSettings


async def told(router: RunningRouter, key: api_keys.ApiKey, **headers: str) -> str:
    """The code of the answer to a read; empty for a good one."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    answer = await router.client.get("/v2/models", headers={"authorization": f"Bearer {key.text}", **named})
    return "" if answer.status_code == 200 else str(answer.headers["moorage-error"])


async def becomes(router: RunningRouter, key: api_keys.ApiKey, code: str, timeout_s: float = 15.0) -> None:
    deadline = time.monotonic() + timeout_s
    while (found := await told(router, key)) != code:
        assert time.monotonic() < deadline, f"{found!r}, not {code!r}"
        await asyncio.sleep(0.02)


async def test_a_key_is_refused_outside_its_networks_whatever_the_caller_says_of_itself(
    router: RunningRouter, desired: Desired
) -> None:
    inside, outside = await desired.key(cidrs=["127.0.0.0/8"]), await desired.key(cidrs=["198.51.100.0/24"])
    await becomes(router, inside, "")
    await becomes(router, outside, "key_network")
    assert await told(router, outside, x_forwarded_for="198.51.100.7") == "key_network"
    assert await told(router, inside, x_forwarded_for="198.51.100.7") == ""


async def test_a_trusted_proxy_says_where_each_call_came_from_on_one_connection(
    settings: RouterSettings, desired: Desired
) -> None:
    settings = settings.model_copy(update={"trusted_proxies": ["127.0.0.0/8", "10.0.0.0/8"]})
    async with serving(settings) as router:
        bound = await desired.key(cidrs=["198.51.100.0/24"])
        await becomes(router, bound, "key_network")
        for forwarded, code in (
            ("198.51.100.7", ""),
            ("198.51.100.7, 10.0.0.2", ""),
            ("198.51.100.7, 192.0.2.1", "key_network"),
            ("192.0.2.1, 198.51.100.8", ""),
            ("garbage", "key_network"),
            ("198.51.100.7", ""),
        ):
            assert await told(router, bound, x_forwarded_for=forwarded) == code, forwarded


async def test_changed_networks_hold_at_once_for_a_key_in_use(router: RunningRouter, desired: Desired) -> None:
    key = await desired.key()
    await becomes(router, key, "")
    await desired.record(key, tenant="demo", scopes=["infer:*"], cidrs=["198.51.100.0/24"])
    await becomes(router, key, "key_network")
    await desired.record(key, tenant="demo", scopes=["infer:*"], cidrs=["127.0.0.1/32"])
    await becomes(router, key, "")
    assert await told(router, key) == ""


@contextlib.asynccontextmanager
async def asked_over_http(desired: Desired) -> AsyncIterator[str]:
    """The registry's answer for those whose bus is silent: its URL."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
                assert head.startswith("get /v1/internal/keys ")
                assert f"authorization: bearer {internal_token(PEPPER)}" in head
                entries = desired.entries
                tables = KeyTables(keys=entries[names.BUCKET_KEYS], limits=entries[names.BUCKET_LIMITS])
                body = tables.model_dump_json().encode()
                writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body))
                await writer.drain()
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    async with server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"


async def test_with_the_bus_cut_off_a_revocation_and_a_suspension_are_heard_from_the_registry_within_5_s(
    settings: RouterSettings, desired: Desired, own_nats: Server
) -> None:
    async with asked_over_http(desired) as url:
        settings = settings.model_copy(update={"registry_url": url, "stale_keys_s": 5.0, "serve_stale_keys": False})
        async with serving(settings) as router:
            revoked, forgotten, suspended = await desired.key(), await desired.key(), await desired.key(tenant="acme")
            for key in (revoked, forgotten, suspended):
                await becomes(router, key, "")
            own_nats.kill()
            started = time.monotonic()
            await desired.record(revoked, tenant="demo", scopes=["infer:*"], revoked=True)
            del desired.entries[names.BUCKET_KEYS][forgotten.kid]
            await desired.limits("acme", status="suspended")
            await becomes(router, revoked, "key_revoked", 5)
            await becomes(router, forgotten, "key_unknown", 5)
            await becomes(router, suspended, "tenant_suspended", 5)
            assert time.monotonic() - started < 5
            made = await desired.key()
            await becomes(router, made, "", 5)
            refresh = router.app.deps.refresh
            reads = refresh.reads
            await until(lambda: refresh.reads >= reads + 5, "further reads")
            assert await told(router, made) == "", "what the registry says is not stale"
            own_nats.start()
            await until(lambda: refresh._keys.silence_s() < 1, "the bus")
            assert await told(router, revoked) == "key_revoked"


async def test_a_key_made_while_the_registry_was_asked_is_not_lost_for_lacking_in_its_answer(
    router: RunningRouter, desired: Desired
) -> None:
    key = await desired.key()
    await becomes(router, key, "")
    reader = router.app.deps.tables.readers[names.BUCKET_KEYS]
    asked = dict(reader.entries)
    made = await desired.key()
    await becomes(router, made, "")
    reader.take_whole({}, asked)
    assert await told(router, made) == ""
    assert await told(router, key) == "key_unknown"


@pytest.mark.parametrize("late", [1, 2])
async def test_after_a_restart_from_the_snapshot_a_revoked_key_stays_revoked_whatever_older_record_comes(
    late: int, settings: RouterSettings, desired: Desired, own_nats: Server
) -> None:
    async with serving(settings) as router:
        key = await desired.key()
        await becomes(router, key, "")
        first = desired.entries[names.BUCKET_KEYS][key.kid]
        await desired.record(key, tenant="demo", scopes=["infer:*"], revoked=True)
        await becomes(router, key, "key_revoked")
    own_nats.kill()
    async with serving(settings) as router:
        assert await told(router, key) == "key_revoked"
        reader = router.app.deps.tables.readers[names.BUCKET_KEYS]
        older = Versioned(epoch=1, version=late, value=first.value)
        assert not reader.accept(key.kid, older)
        reader.take_whole({key.kid: older}, dict(reader.entries))
        assert await told(router, key) == "key_revoked"
