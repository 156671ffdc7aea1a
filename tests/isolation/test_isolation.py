"""Whatever two tenants do, nothing of one appears to the other: in answers, logs, metrics or events."""

import asyncio
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

import httpx
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, rule, run_state_machine_as_test
from isolation_operations import FEATURES, OPERATIONS, REGISTRY, ROUTER, Names, Operation, filled
from isolation_platform import Note, Parts

from moorage_registry.testing import Caller

STEPS = 6
"""Operations in a sequence, at most."""
_IDS = re.compile(r'"(?:kid|id|event_id|run_id|rollout)": ?"([0-9A-Za-z-]{12,40})"')


@dataclass
class World:
    """Two tenants and the three doors. `asked` counts operations, `sequences` their sequences."""

    urls: dict[str, str]
    names: tuple[Names, Names]
    keys: tuple[str, str]
    http: httpx.Client = field(default_factory=lambda: httpx.Client(timeout=30, trust_env=False))
    asked: int = 0
    sequences: int = 0
    served: int = 0
    events: list[str] = field(default_factory=lambda: ["", ""])

    def ask(self, who: int, operation: Operation, places: dict[str, str]) -> httpx.Response:
        self.asked += 1
        headers = {"authorization": f"Bearer {self.keys[who]}"}
        if "/events" in operation.path and self.events[who]:
            headers["last-event-id"] = self.events[who]
        answer = self.http.request(
            operation.method, self.urls[operation.door] + filled(operation.path, places),
            content=filled(operation.json, places) or None,
            headers={**headers, **({"content-type": "application/json"} if operation.json else {})},
        )  # fmt: skip
        assert answer.status_code not in (500, 502, 504), (operation, answer.text)
        self.served += answer.is_success
        self._keep(who, operation, answer)
        return answer

    def _keep(self, who: int, operation: Operation, answer: httpx.Response) -> None:
        """Remember what the platform made for the tenant: the other must never hear of it."""
        own = self.names[who]
        if operation.path.endswith("/infer") and answer.is_success:
            own.request = answer.headers["moorage-request-id"]
            own.ids.add(own.request)
        if answer.is_success and "/export" not in operation.path and len(own.ids) < 2000:
            own.ids |= set(_IDS.findall(answer.text))
        if "/events" in operation.path and answer.is_success:
            told = re.findall(r"^id: (\S+)$", answer.text, re.MULTILINE)
            own.ids |= set(told[:50])
            self.events[who] = told[-1] if told else self.events[who]

    def look(self, who: int, answer: httpx.Response, sent: dict[str, str]) -> None:
        """Nothing of the other is in the answer, but for what was itself sent."""
        heard = answer.text + "".join(f"{name}: {value}\n" for name, value in answer.headers.items())
        for value in sorted(sent.values(), key=len, reverse=True):
            heard = heard.replace(value, "")
        found = [mark for mark in self.names[1 - who].marks() if mark in heard]
        assert not found, (found, str(answer.request.url), answer.text[:2000])


class Tenants(RuleBasedStateMachine):
    """Each step is an operation of one of the two, with its own names or the other's."""

    world: World

    def __init__(self, world: World) -> None:
        super().__init__()
        self.world = world
        world.sequences += 1

    @rule(who=st.integers(0, 1), operation=st.sampled_from(OPERATIONS), number=st.integers(0, 2))
    def own(self, who: int, operation: Operation, number: int) -> None:
        places = self.world.names[who].places(number)
        self.world.look(who, self.world.ask(who, operation, places), {})

    @rule(
        who=st.integers(0, 1), number=st.integers(0, 2),
        operation=st.sampled_from([one for one in OPERATIONS if "{" in one.path and one.method != "PUT"]),
    )  # fmt: skip
    def with_the_others_names(self, who: int, operation: Operation, number: int) -> None:
        """It is answered as with names that nobody has: no oracle either."""
        world = self.world
        other = world.names[1 - who].places(number)
        nobody = Names("nobodys", kid="0" * 12).places(number)
        heard = world.ask(who, operation, other)
        unknown = world.ask(who, operation, nobody)
        world.look(who, heard, other)
        assert heard.status_code == unknown.status_code, (operation, heard.text, unknown.text)
        assert not heard.is_success or "/feedback" in operation.path or "versions" in operation.path, operation
        assert _without(heard.text, other) == _without(unknown.text, nobody), operation


def _without(text: str, places: dict[str, str]) -> str:
    for name, value in sorted(places.items(), key=lambda place: -len(place[1])):
        text = text.replace(value, f"<{name}>")
    return text


async def _world(parts: Parts) -> World:
    names, callers = (Names("aakwx"), Names("bbqzy")), list[Caller]()
    for own in names:
        caller = await parts.tenant(own.tenant)
        own.kid = (await caller.ok("GET", "/v1/whoami"))["kid"]
        own.ids |= {own.kid, caller.key}
        parts.cluster.logs[own.tenant] = [f"{own.word} was loaded"]
        for number in range(2):
            await parts.deploy(caller, f"{own.word}-model-{number}", own.content(number))
        await caller.upload(own.content(2))
        await caller.ok("PUT", f"/v1/rings/{own.word}-kept", json={"header": f"x-{own.word}", "values": [own.word]})
        await caller.ok("POST", "/v1/keys", json={"scopes": ["infer:*"], "name": f"{own.word} key"})
        callers.append(caller)
    urls = {REGISTRY: parts.registry.url, ROUTER: parts.routers[0].url, FEATURES: parts.features.url}
    return World(urls, names, (callers[0].key, callers[1].key))


async def test_whatever_two_tenants_do_nothing_of_one_appears_to_the_other(
    parts: Parts, pytestconfig: pytest.Config, note: Note
) -> None:
    world = await _world(parts)
    tried = settings(
        max_examples=pytestconfig.getoption("sequences"), stateful_step_count=STEPS, deadline=None, database=None,
        suppress_health_check=list(HealthCheck), print_blob=True,
    )  # fmt: skip
    machine: Callable[[], Tenants] = partial(Tenants, world)
    await asyncio.to_thread(run_state_machine_as_test, machine, settings=tried)
    note("sequences of operations, operations, good answers", (world.sequences, world.asked, world.served))
    assert world.served > world.asked / 5, "most operations must do something"
    for part in parts.processes:
        for line in part.log.read_text().splitlines():
            heard = [own.tenant for own in world.names if own.word in line]
            assert len(heard) < 2, (part.module, line)
    world.http.close()
