"""A tenant's life: made, suspended, resumed, deleted with all it has, never to be made again."""

import asyncio
import secrets
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr
from sqlalchemy import func, select, text

from moorage_common.bus import Bus
from moorage_common.contracts.feedback import AnsweredOutput, Feedback, Output
from moorage_common.contracts.names import (
    BUCKET_DESIRED,
    BUCKET_KEYS,
    BUCKET_LIMITS,
    BUCKET_ROUTES,
    STREAM_FEEDBACK,
    desired_key,
    route_key,
)
from moorage_common.contracts.request_id import new_ulid
from moorage_common.contracts.versioned import Versioned
from moorage_common.kv import BucketReader
from moorage_common.streams import ensure_feedback
from moorage_registry.audit.tables import AuditRow
from moorage_registry.deployments.tables import ReplicaRow
from moorage_registry.feedback.intake import FeedbackIntake
from moorage_registry.keys.tables import KeyRow
from moorage_registry.people.tables import MembershipRow
from moorage_registry.settings import Settings
from moorage_registry.tenants import removal
from moorage_registry.testing import Caller, Platform, eventually, platform_of
from moorage_registry.usage.tables import UsageSumRow


def path(caller: Caller) -> str:
    return f"/v1/tenants/{caller.tenant}"


async def furnish(platform: Platform, caller: Caller) -> None:
    """Have the tenant own something of each kind."""
    kid = (await caller.ok("GET", "/v1/whoami"))["kid"]
    for model in ("digits", "letters"):
        await caller.push(model, model.encode())
        await caller.ok("PUT", f"/v1/deployments/{model}", json={"versions": [{"version": 1}]})
    await caller.ok("PUT", "/v1/rings/beta", json={"kids": [kid]})
    now = platform.registry.clock()
    async with platform.registry.db.write() as session:
        session.add(
            MembershipRow(
                tenant=caller.tenant, subject="ada", role="owner", name="Ada", version=1, created_at=now, created_by=kid
            )
        )
        session.add(
            UsageSumRow(
                tenant=caller.tenant, model="digits", version=1, kid=kid, hour=int(now) // 3600 * 3600, requests=7,
                errors=0, rows=7, bytes_in=1, bytes_out=1, busy_us=1,
            )
        )  # fmt: skip
    await take_feedback(platform, caller, 1200)


async def take_feedback(platform: Platform, caller: Caller, count: int) -> None:
    intake = FeedbackIntake(platform.registry.db, Bus("nats://none", "test"), platform.registry.clock, 10**6, _ignore)
    now = platform.registry.clock()
    outputs = [
        AnsweredOutput(
            tenant=caller.tenant, ulid=new_ulid(), model="digits", version=1, at=now,
            output=Output(kind="class", value="1"),
        )
        for _ in range(count)
    ]  # fmt: skip
    await intake.take_outputs(outputs)
    await intake.take_labels(
        [
            Feedback(tenant=caller.tenant, ulid=one.ulid, model="digits", version=1, at=now, label="1")
            for one in outputs[: count // 2]
        ]
    )


def _ignore(_what: str, _count: int) -> None:
    return


async def delete(platform: Platform, caller: Caller) -> Any:
    return await platform.operator.ok("DELETE", f"{path(caller)}?confirm={caller.tenant}")


async def until_deleted(platform: Platform, caller: Caller) -> Any:
    async def told() -> Any:
        found = await platform.operator.ok("GET", path(caller))
        return found if found["status"] == "deleted" else None

    return await eventually(told, 30)


async def rows_of(platform: Platform, tenant: str) -> dict[str, int]:
    """Tables that name the tenant, with how often."""
    found = {}
    async with platform.registry.db.read() as session:
        for table in _tables():
            name = "name" if table == "tenants" else "tenant"
            count = await session.scalar(text(f"SELECT count(*) FROM {table} WHERE {name} = :t"), {"t": tenant})
            if count:
                found[table] = count
    return found


def _tables() -> list[str]:
    from moorage_registry import migrations

    tables = migrations.metadata().tables.values()
    return [table.name for table in tables if "tenant" in table.c or table.name == "tenants"]


async def test_a_suspended_tenant_is_refused_until_it_is_resumed_and_loses_nothing(
    platform: Platform, demo: Caller
) -> None:
    await demo.push("digits", b"weights")
    told = await platform.operator.ok("POST", f"{path(demo)}/suspend")
    assert (told["status"], told["limits"]["status"], told["deletion"]) == ("suspended", "suspended", None)
    answer = await demo.call("GET", "/v1/whoami")
    assert (answer.status_code, answer.json()["code"]) == (403, "tenant_suspended")
    again = await platform.operator.ok("POST", f"{path(demo)}/suspend")
    assert again["status"] == "suspended"
    assert (await platform.operator.ok("POST", f"{path(demo)}/resume"))["status"] == "active"
    assert [model["model"] for model in (await demo.ok("GET", "/v1/models"))["models"]] == ["digits"]


async def test_a_tenants_own_key_neither_suspends_nor_deletes(platform: Platform, demo: Caller) -> None:
    for method, part in (("POST", "/suspend"), ("POST", "/resume"), ("DELETE", f"?confirm={demo.tenant}")):
        answer = await demo.call(method, f"{path(demo)}{part}")
        assert (answer.status_code, answer.json()["code"]) == (403, "scope_missing")
    stranger = f"/v1/tenants/none{secrets.token_hex(4)}"
    for method, part in (("POST", "/suspend"), ("POST", "/resume"), ("DELETE", "?confirm=x")):
        answer = await platform.operator.call(method, f"{stranger}{part}")
        assert (answer.status_code, answer.json()["code"]) == (404, "tenant_not_found")


async def test_a_deletion_wants_the_name_and_never_the_operators_own(platform: Platform, demo: Caller) -> None:
    for confirm in ("", "?confirm=", "?confirm=platform"):
        answer = await platform.operator.call("DELETE", f"{path(demo)}{confirm}")
        assert (answer.status_code, answer.json()["code"]) == (422, "deletion_not_confirmed")
    answer = await platform.operator.call("DELETE", "/v1/tenants/platform?confirm=platform")
    assert (answer.status_code, answer.json()["code"]) == (409, "platform_tenant")
    answer = await platform.operator.call("POST", "/v1/tenants/platform/suspend")
    assert (answer.status_code, answer.json()["code"]) == (409, "platform_tenant")
    assert (await demo.ok("GET", "/v1/whoami"))["tenant"] == demo.tenant


async def test_a_deleted_tenant_has_nothing_but_its_ledger_its_audit_and_its_name(
    platform: Platform, demo: Caller, settings: Settings
) -> None:
    other = await platform.tenant()
    for tenant in (demo, other):
        await furnish(platform, tenant)
    kept = await rows_of(platform, other.tenant)
    told = await delete(platform, demo)
    assert told["status"] == "deleting"
    assert told["deletion"]["remaining"]["models"] == 2
    assert told["deletion"]["asked_at"].endswith("Z")
    told = await until_deleted(platform, demo)
    assert told["deletion"]["remaining"] == {}
    left = await rows_of(platform, demo.tenant)
    assert set(left) == {"tenants", "audit", "outbox", "usage", "api_keys"}
    assert left["usage"] == 1
    assert not (settings.artifact_dir / demo.tenant).exists()
    async with platform.registry.db.read() as session:
        keys = list(await session.scalars(select(KeyRow).where(KeyRow.tenant == demo.tenant)))
        assert all(key.revoked_at is not None for key in keys)
        actions = set(await session.scalars(select(AuditRow.action).where(AuditRow.tenant == demo.tenant)))
    assert {"tenant.created", "version.uploaded", "key.revoked", "deployment.deleted", "tenant.deleted"} <= actions
    assert await rows_of(platform, other.tenant) == kept
    assert (settings.artifact_dir / other.tenant).exists()


async def test_a_deleted_name_is_never_given_again_and_takes_no_change(platform: Platform, demo: Caller) -> None:
    await delete(platform, demo)
    await until_deleted(platform, demo)
    refused = [
        await platform.operator.call("POST", "/v1/tenants", json={"name": demo.tenant}),
        await platform.operator.call("POST", f"{path(demo)}/resume"),
        await platform.operator.call("POST", f"{path(demo)}/suspend"),
        await platform.operator.call("PUT", f"{path(demo)}/limits", json={"burst": 7}),
        await platform.operator.call("GET", "/v1/models", headers={"moorage-tenant": demo.tenant}),
    ]
    assert [answer.status_code for answer in refused] == [409] * 5
    assert [answer.json()["code"] for answer in refused] == ["tenant_exists", *["tenant_closed"] * 4]
    answer = await demo.call("GET", "/v1/whoami")
    assert (answer.status_code, answer.json()["code"]) == (401, "key_revoked")
    again = await delete(platform, demo)
    assert again["status"] == "deleted"


async def test_what_is_published_of_a_deleted_tenant_is_tombstones(platform: Platform, demo: Caller, bus: Bus) -> None:
    await furnish(platform, demo)
    seen: dict[str, dict[str, Versioned]] = {b: {} for b in (BUCKET_KEYS, BUCKET_LIMITS, BUCKET_ROUTES, BUCKET_DESIRED)}
    readers = [BucketReader(bus, bucket, entries.__setitem__) for bucket, entries in seen.items()]
    tasks = [asyncio.create_task(reader.run()) for reader in readers]
    kid = (await demo.ok("GET", "/v1/whoami"))["kid"]
    route, desired = route_key(demo.tenant, "digits"), desired_key("default", demo.tenant, "digits")

    async def is_served() -> bool:
        found = seen[BUCKET_ROUTES].get(route), seen[BUCKET_DESIRED].get(desired)
        return all(entry is not None and entry.value is not None for entry in found)

    async def is_gone() -> bool:
        status = (seen[BUCKET_LIMITS][demo.tenant].value or {}).get("status")
        key = (seen[BUCKET_KEYS][kid].value or {}).get("revoked")
        return (
            status == "deleted" and bool(key)
            and seen[BUCKET_ROUTES][route].value is None and seen[BUCKET_DESIRED][desired].value is None
        )  # fmt: skip

    try:
        await eventually(is_served)
        await delete(platform, demo)
        assert await eventually(is_gone)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def test_what_comes_of_a_deleted_tenant_afterwards_is_not_kept(
    platform: Platform, demo: Caller, settings: Settings
) -> None:
    await furnish(platform, demo)
    await delete(platform, demo)
    await until_deleted(platform, demo)
    await take_feedback(platform, demo, 10)
    assert not {"outputs", "labels", "feedback_counts"} & set(await rows_of(platform, demo.tenant))
    late = settings.artifact_dir / demo.tenant / "0"
    late.parent.mkdir()
    late.write_bytes(b"an upload that ended late")
    await platform.registry.deletions.sweep()
    assert not late.parent.exists()


async def test_a_transaction_that_began_before_a_deletion_ends_before_it_and_none_begins_after(
    platform: Platform, demo: Caller
) -> None:
    principal = type("P", (), {"tenant": demo.tenant, "kid": "k"})
    async with platform.registry.work(principal):  # type: ignore[arg-type]
        asked = asyncio.create_task(delete(platform, demo))
        done, _ = await asyncio.wait({asked}, timeout=0.3)
        assert not done
    assert (await asked)["status"] == "deleting"
    with pytest.raises(Exception, match="takes no changes"):
        async with platform.registry.work(principal):  # type: ignore[arg-type]
            pass
    await until_deleted(platform, demo)


async def test_a_deletion_waits_for_its_hosts_and_says_so(
    platform: Platform, demo: Caller, monkeypatch: pytest.MonkeyPatch
) -> None:
    await furnish(platform, demo)
    async with platform.registry.db.write() as session:
        session.add(
            ReplicaRow(
                tenant=demo.tenant, model="digits", cluster="default", host_id="h1", version=1, state="ready",
                restarts=0, updated_at=0.0,
            )
        )  # fmt: skip
    await delete(platform, demo)

    async def waits() -> bool:
        told = (await platform.operator.ok("GET", path(demo)))["deletion"]
        return bool(told["waits_for"] == "1 replicas are stopping") and told["remaining"].get("replicas") == 1

    await eventually(waits)
    told = await platform.operator.ok("GET", path(demo))
    assert told["deletion"]["remaining"]["models"] == 2, "what hosts serve stays until they have stopped"
    assert not {"keys", "deployments"} & set(told["deletion"]["remaining"])
    monkeypatch.setattr(removal, "HOSTS_S", 0.0)
    await until_deleted(platform, demo)


async def test_labels_that_nobody_has_read_yet_leave_the_stream_and_others_stay(
    own_platform: Platform, own_bus: Bus
) -> None:
    demo = await own_platform.tenant()
    await ensure_feedback(own_bus)
    js = own_bus.jetstream()
    await js.publish(f"feedback.{demo.tenant}.digits", b"{}")
    await js.publish("feedback.other.digits", b"{}")
    await delete(own_platform, demo)
    await until_deleted(own_platform, demo)

    async def subjects() -> set[str]:
        info = await js.stream_info(STREAM_FEEDBACK, subjects_filter=">")
        return set(info.state.subjects or {})

    assert f"feedback.{demo.tenant}.digits" not in await subjects()


async def test_a_deletion_goes_on_once_the_feature_proxy_answers(settings: Settings, tmp_path: Path) -> None:
    answers = {"status": b"503 Unavailable", "body": b"{}"}
    asked: list[bytes] = []

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.append((await reader.readuntil(b"\r\n\r\n")).split(b"\r\n")[0])
        head = b"HTTP/1.1 %s\r\ncontent-length: %d\r\nconnection: close\r\n\r\n"
        body = answers["body"] if len(asked) % 2 else b'{"cursor": 0, "removed": 1}'
        writer.write(head % (answers["status"], len(body)) + body)
        await writer.drain()
        writer.close()
        await writer.wait_closed()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    async with server, platform_of(settings.model_copy(update={"feature_proxy_url": url})) as platform:
        demo = await platform.tenant()
        await demo.push("digits", b"weights")
        await delete(platform, demo)

        async def waits() -> bool:
            told = (await platform.operator.ok("GET", path(demo)))["deletion"]
            return "feature" in told["waits_for"]

        await eventually(waits)
        asked.clear()
        answers.update(status=b"200 OK", body=b'{"cursor": 17, "removed": 500}')
        told = await until_deleted(platform, demo)
        assert told["deletion"]["waits_for"] == ""
    assert b"cursor=17" in asked[-1] or b"cursor=17" in asked[-2]


async def test_dead_keys_of_a_deleted_tenant_go_after_a_day(platform: Platform, demo: Caller) -> None:
    await delete(platform, demo)
    await until_deleted(platform, demo)
    await platform.registry.deletions.sweep()
    assert "api_keys" in await rows_of(platform, demo.tenant)
    async with platform.registry.db.write() as session:
        await session.execute(
            text("UPDATE api_keys SET revoked_at = revoked_at - 90000 WHERE tenant = :t"), {"t": demo.tenant}
        )
    await platform.registry.deletions.sweep()
    assert "api_keys" not in await rows_of(platform, demo.tenant)


async def test_two_registries_delete_one_tenant_once(settings: Settings, tmp_path: Path) -> None:
    second = settings.model_copy(update={"artifact_dir": settings.artifact_dir})
    assert isinstance(second.database_url, SecretStr)
    async with platform_of(settings) as one, platform_of(second) as two:
        demo = await one.tenant()
        await furnish(one, demo)
        await asyncio.gather(delete(one, demo), delete(two, demo))
        await until_deleted(two, demo)
        async with one.registry.db.read() as session:
            count = select(func.count()).where(AuditRow.tenant == demo.tenant, AuditRow.action == "tenant.deleted")
            assert await session.scalar(count) == 1
