"""An export has all that a tenant has and nothing else, and is never held whole."""

import csv
import io
import json
import tarfile
from typing import Any

import pytest

from moorage_registry.audit.tables import AuditRow
from moorage_registry.people.tables import MembershipRow
from moorage_registry.tenants import export
from moorage_registry.testing import Caller, Platform
from moorage_registry.usage.tables import UsageSumRow


async def furnish(platform: Platform, caller: Caller, marker: str) -> None:
    await caller.push("digits", marker.encode() * 1000)
    await caller.push("digits", marker.encode() * 999)
    await caller.ok("PUT", "/v1/deployments/digits", json={"versions": [{"version": 1}]})
    await caller.ok("PUT", "/v1/rings/beta", json={"header": "x-user", "values": [marker]})
    async with platform.registry.db.write() as session:
        session.add(
            MembershipRow(
                tenant=caller.tenant,
                subject=marker,
                role="owner",
                name=marker,
                version=1,
                created_at=1.0,
                created_by="k",
            )
        )
        for hour in range(3):
            session.add(
                UsageSumRow(
                    tenant=caller.tenant, model=marker, version=1, kid="k", hour=hour * 3600, requests=hour, errors=0,
                    rows=1, bytes_in=1, bytes_out=1, busy_us=1,
                )
            )  # fmt: skip
        for number in range(7):
            session.add(
                AuditRow(tenant=caller.tenant, at=1.0, actor="k", action="tested", target=marker, detail={"n": number})
            )


def members(archive: bytes) -> dict[str, bytes]:
    found = {}
    with tarfile.open(fileobj=io.BytesIO(archive)) as opened:
        for info in opened:
            file = opened.extractfile(info)
            assert file is not None
            found[info.name] = file.read()
    return found


def lines(found: dict[str, bytes], folder: str) -> list[Any]:
    return [json.loads(line) for name in sorted(found) if f"/{folder}/" in name for line in found[name].splitlines()]


async def test_an_export_has_all_of_a_tenant_no_secret_and_nothing_of_another(
    platform: Platform, demo: Caller, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(export, "PAGE", 2)
    other = await platform.tenant()
    await furnish(platform, demo, "mine")
    await furnish(platform, other, "theirs")
    answer = await demo.call("GET", f"/v1/tenants/{demo.tenant}/export")
    assert (answer.status_code, answer.headers["content-type"]) == (200, "application/x-tar")
    assert b"theirs" not in answer.content
    assert str(other.tenant).encode() not in answer.content
    found = members(answer.content)
    told = json.loads(found[f"{demo.tenant}/tenant.json"])
    assert (told["name"], told["limits"]["tenant"]) == (demo.tenant, demo.tenant)
    assert json.loads(found[f"{demo.tenant}/complete.json"]) == {"members": len(found) - 1}
    assert [row["name"] for row in lines(found, "models")] == ["digits"]
    assert [row["number"] for row in lines(found, "versions")] == [1, 2]
    assert [row["name"] for row in lines(found, "rings")] == ["beta"]
    assert [row["subject"] for row in lines(found, "members")] == ["mine"]
    assert [row["model"] for row in lines(found, "deployments")] == ["digits"]
    assert {"tested", "tenant.created", "tenant.exported"} <= {row["action"] for row in lines(found, "audit")}
    (key,) = lines(found, "keys")
    assert key["kid"] in demo.key
    assert "digest" not in key
    assert demo.key.encode() not in answer.content
    pages = [found[name].decode() for name in sorted(found) if "/usage/" in name]
    usage = [row for page in pages for row in csv.DictReader(io.StringIO(page))]
    assert [(row["hour"], row["requests"]) for row in usage] == [
        ("1970-01-01T00:00:00.000Z", "0"), ("1970-01-01T01:00:00.000Z", "1"), ("1970-01-01T02:00:00.000Z", "2"),
    ]  # fmt: skip
    artifacts = {content for name, content in found.items() if "/artifacts/" in name}
    assert artifacts == {b"mine" * 1000, b"mine" * 999}


async def test_an_operator_exports_any_tenant_and_a_tenant_only_itself(platform: Platform, demo: Caller) -> None:
    other = await platform.tenant()
    await platform.operator.ok("POST", f"/v1/tenants/{demo.tenant}/suspend")
    answer = await platform.operator.call("GET", f"/v1/tenants/{demo.tenant}/export")
    assert f"{demo.tenant}/complete.json" in members(answer.content)
    answer = await other.call("GET", f"/v1/tenants/{demo.tenant}/export")
    assert (answer.status_code, answer.json()["code"]) == (404, "tenant_not_found")
    weak = await other.with_key("infer:*")
    answer = await weak.call("GET", f"/v1/tenants/{other.tenant}/export")
    assert (answer.status_code, answer.json()["code"]) == (403, "scope_missing")
    await platform.operator.ok("DELETE", f"/v1/tenants/{other.tenant}?confirm={other.tenant}")
    answer = await platform.operator.call("GET", f"/v1/tenants/{other.tenant}/export")
    assert (answer.status_code, answer.json()["code"]) == (409, "tenant_closed")


async def test_an_export_holds_no_more_than_a_chunk_of_an_artifact_at_a_time(platform: Platform, demo: Caller) -> None:
    await demo.push("digits", bytes(1 << 20))
    registry = platform.registry
    parts = [
        len(part) async for part in export.Export(registry.db, registry.blobs, demo.tenant, registry.clock).stream()
    ]
    assert max(parts) <= 256 * 1024 + 2048
    assert sum(parts) > 1 << 20


async def test_what_was_broken_off_has_no_end(platform: Platform, demo: Caller) -> None:
    digest = await demo.upload(b"weights")
    registry = platform.registry
    registry.blobs.path(demo.tenant, digest).unlink()
    parts = bytearray()

    async def read() -> None:
        async for part in export.Export(registry.db, registry.blobs, demo.tenant, registry.clock).stream():
            parts.extend(part)

    with pytest.raises(FileNotFoundError):
        await read()
    assert b"complete.json" not in parts
