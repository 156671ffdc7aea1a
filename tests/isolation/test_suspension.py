"""A suspended tenant is refused within a second by every process, on connections that were open before too."""

import asyncio
import time
from dataclasses import dataclass, field

import httpx
from isolation_platform import BODY, Note, Parts

from moorage_registry.testing import Caller, eventually

ROUNDS = 5
GOAL_S = 1.0


@dataclass
class Door:
    """One way in, asked again and again on one connection."""

    name: str
    method: str
    url: str
    body: str = ""
    accepted: float = 0.0
    """When the last request began that was let in, monotonic."""
    refused: float = 0.0
    codes: set[str] = field(default_factory=set)

    async def ask(self, http: httpx.AsyncClient, key: str) -> None:
        began = time.monotonic()
        headers = {"authorization": f"Bearer {key}"}
        answer = await http.request(self.method, self.url, content=self.body or None, headers=headers)
        if answer.is_success:
            self.accepted = began
        elif answer.status_code == 403:
            self.refused = began
            self.codes.add(answer.headers.get("moorage-error") or answer.json()["code"])
        else:
            raise AssertionError(f"{self.name}: {answer.status_code} {answer.text}")


async def _knock(door: Door, key: str, stop: asyncio.Event) -> None:
    async with httpx.AsyncClient(timeout=10, trust_env=False) as http:
        while not stop.is_set():
            await door.ask(http, key)
            await asyncio.sleep(0.01)


async def _follow_events(parts: Parts, key: str, ended: list[float]) -> None:
    headers = {"authorization": f"Bearer {key}"}
    async with (
        httpx.AsyncClient(base_url=parts.registry.url, timeout=None, trust_env=False) as http,
        http.stream("GET", "/v1/events", headers=headers) as stream,
    ):
        async for _line in stream.aiter_lines():
            pass
    ended.append(time.monotonic())


def _doors(parts: Parts) -> list[Door]:
    infer = "/v2/models/digits/infer"
    return [
        Door("registry", "GET", f"{parts.registry.url}/v1/models"),
        Door("features", "GET", f"{parts.features.url}/v1/features/services"),
        *(Door(f"router {place}", "POST", f"{one.url}{infer}", BODY) for place, one in enumerate(parts.routers)),
    ]


async def _late_s(parts: Parts, caller: Caller) -> float:
    """Suspend and resume the tenant once; how long after the answer the last request was let in, or an event told."""
    doors, stop, ended = _doors(parts), asyncio.Event(), list[float]()
    follower = asyncio.create_task(_follow_events(parts, caller.key, ended))
    knocking = [asyncio.create_task(_knock(door, caller.key, stop)) for door in doors]

    async def all_let_in() -> bool:
        return all(door.accepted for door in doors)

    async def all_refuse() -> bool:
        return all(door.refused > since for door in doors) and bool(ended)

    try:
        await eventually(all_let_in)
        await parts.operator.ok("POST", f"/v1/tenants/{caller.tenant}/suspend")
        since = time.monotonic()
        await eventually(all_refuse, 20)
    finally:
        stop.set()
        await asyncio.gather(*knocking)
        await follower
    assert {code for door in doors for code in door.codes} == {"tenant_suspended"}
    await parts.operator.ok("POST", f"/v1/tenants/{caller.tenant}/resume")
    return max(*(door.accepted for door in doors), ended[0]) - since


async def test_a_suspended_tenant_is_refused_everywhere_within_a_second_and_served_again_when_resumed(
    parts: Parts, note: Note
) -> None:
    caller = await parts.tenant("harbour")
    other = await parts.tenant("quay")
    for one in (caller, other):
        await parts.deploy(one, "digits", b"weights")
    late = [await _late_s(parts, caller) for _round in range(ROUNDS)]
    note("last let in after the suspension's answer, s", sorted(round(one, 3) for one in late))
    assert max(late) <= GOAL_S
    async with httpx.AsyncClient(trust_env=False) as http:

        async def is_served() -> bool:
            return (await parts.infer(parts.routers[0], http, caller, "digits")).status_code == 200

        await eventually(is_served)
        assert (await parts.infer(parts.routers[1], http, other, "digits")).status_code == 200


async def test_a_tenant_being_deleted_is_refused_everywhere_within_a_second_and_its_hosts_stop(parts: Parts) -> None:
    caller = await parts.tenant("harbour")
    await parts.deploy(caller, "digits", b"weights")
    doors, stop = _doors(parts), asyncio.Event()

    async def let_in_or_gone(door: Door) -> None:
        async with httpx.AsyncClient(timeout=10, trust_env=False) as http:
            while not stop.is_set():
                began = time.monotonic()
                answer = await http.request(
                    door.method, door.url, content=door.body or None, headers={"authorization": f"Bearer {caller.key}"}
                )
                if answer.is_success:
                    door.accepted = began
                else:
                    door.refused = began
                    door.codes.add(answer.headers.get("moorage-error") or answer.json()["code"])
                await asyncio.sleep(0.01)

    async def all_let_in() -> bool:
        return all(door.accepted for door in doors)

    async def is_deleted() -> bool:
        told = await parts.operator.ok("GET", "/v1/tenants/harbour")
        return bool(told["status"] == "deleted")

    knocking = [asyncio.create_task(let_in_or_gone(door)) for door in doors]
    try:
        await eventually(all_let_in)
        for door in doors:
            door.codes.clear()
        await parts.operator.ok("DELETE", "/v1/tenants/harbour?confirm=harbour")
        since = time.monotonic()
        await eventually(is_deleted, 30)
    finally:
        stop.set()
        await asyncio.gather(*knocking)
    assert max(door.accepted for door in doors) - since <= GOAL_S
    told = {code for door in doors for code in door.codes}
    assert told <= {"tenant_deleting", "key_revoked", "model_not_found"}
    assert not parts.cluster.runs("harbour")
