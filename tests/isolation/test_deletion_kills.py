"""A deletion survives SIGKILL of the registry at whatever it is doing."""

import secrets
from collections.abc import AsyncIterator
from pathlib import Path

import asyncpg
import httpx
import pytest
from isolation_platform import Note, Parts
from sqlalchemy import insert, text

from moorage_common.contracts.request_id import new_ulid
from moorage_common.db import Database
from moorage_common.testing.servers import Server
from moorage_registry import migrations
from moorage_registry.feedback.tables import FeedbackCountRow, OutputRow
from moorage_registry.testing import Caller

MODELS, OUTPUTS, KILLS = 8, 6000, 4


@pytest.fixture(params=["sqlite", "postgres"])
async def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return f"sqlite+aiosqlite:///{tmp_path}/registry.db"
    server: str = request.getfixturevalue("postgres_url")
    name = f"isolation_{secrets.token_hex(6)}"
    connection = await asyncpg.connect(server.replace("+asyncpg", ""))
    try:
        await connection.execute(f"CREATE DATABASE {name}")
    finally:
        await connection.close()
    return f"{server.rsplit('/', 1)[0]}/{name}"


@pytest.fixture
async def without_routers(own_nats: Server, redis_url: str, tmp_path: Path, database_url: str) -> AsyncIterator[Parts]:
    async with Parts.running(tmp_path, own_nats.url, redis_url, database_url, routers=0) as running:
        yield running


async def furnish(parts: Parts, caller: Caller, database_url: str) -> None:
    for number in range(MODELS):
        await parts.deploy(caller, f"m{number}", f"weights {number}".encode())
    for number in range(5):
        await caller.with_key("infer:*")
        await caller.ok("PUT", f"/v1/rings/ring-{number}", json={"header": "x-user", "values": ["a"]})
    db = Database.at(database_url)
    rows = [
        {"tenant": caller.tenant, "ulid": new_ulid(), "model": "m0", "version": 1, "at": 1.0, "kind": "class",
         "value": "1", "other_version": None, "other_value": None}
        for _ in range(OUTPUTS)
    ]  # fmt: skip
    async with db.write() as session:
        for start in range(0, OUTPUTS, 1000):
            await session.execute(insert(OutputRow), rows[start : start + 1000])
        session.add(FeedbackCountRow(tenant=caller.tenant, model="m0", settled=0, outputs=OUTPUTS, labels=0, lost=0))
    await db.close()


async def rows_of(database_url: str, tenant: str) -> dict[str, int]:
    db, found = Database.at(database_url), {}
    async with db.read() as session:
        for table in migrations.metadata().tables.values():
            if "tenant" in table.c:
                query = text(f"SELECT count(*) FROM {table.name} WHERE tenant = :t")
                found[table.name] = await session.scalar(query, {"t": tenant}) or 0
    await db.close()
    return {name: count for name, count in found.items() if count}


async def test_a_deletion_that_is_killed_again_and_again_ends_and_leaves_nothing(
    without_routers: Parts, database_url: str, tmp_path: Path, note: Note
) -> None:
    parts = without_routers
    caller, other = await parts.tenant("harbour"), await parts.tenant("quay")
    await furnish(parts, caller, database_url)
    await parts.deploy(other, "digits", b"weights 0")
    kept = await rows_of(database_url, "quay")
    told = await parts.operator.ok("DELETE", "/v1/tenants/harbour?confirm=harbour")
    parts.registry.kill()
    seen, kills = told["deletion"]["remaining"], 1
    while True:
        if not parts.registry.is_up:
            await parts.registry.start()
        try:
            told = await parts.operator.ok("GET", "/v1/tenants/harbour")
        except httpx.TransportError:
            continue
        if told["status"] == "deleted":
            break
        assert told["status"] == "deleting"
        remaining = told["deletion"]["remaining"]
        assert all(remaining[kind] <= seen.get(kind, 0) for kind in remaining), "what is gone does not come back"
        if remaining != seen and kills < KILLS:
            parts.registry.kill()
            kills += 1
        seen = remaining
    note(f"kills amid one deletion, {database_url.split('+', maxsplit=1)[0]}", kills)
    assert kills >= 3
    left = await rows_of(database_url, "harbour")
    assert set(left) <= {"audit", "outbox", "usage", "api_keys"}
    assert not (tmp_path / "artifacts" / "harbour").exists()
    assert not (tmp_path / "features" / "harbour").exists()
    still = await rows_of(database_url, "quay")
    assert all(still[table] >= count for table, count in kept.items()), (kept, still)
    refused = await parts.operator.call("POST", "/v1/tenants", json={"name": "harbour"})
    assert (refused.status_code, refused.json()["code"]) == (409, "tenant_exists")
    assert (await parts.operator.ok("GET", "/v1/tenants/quay"))["status"] == "active"
