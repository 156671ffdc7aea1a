"""Two routers on one port: both take connections, one that ends takes nothing with it that it did not hold."""

import asyncio
import os
import signal
import threading
import time
from collections.abc import Iterator
from types import TracebackType
from typing import Self
from urllib.parse import urlsplit

import httpx
import numpy as np
import psutil
import pytest
from e2e_platform import Note, Outcome, Platform, until
from sklearn.pipeline import Pipeline

from moorage_sdk.client import Client

pytestmark = pytest.mark.timeout(400)

CONNECTIONS = 64
PAUSE_S = 0.15
ROUTERS = ("router-0", "router-1")


@pytest.fixture(scope="module")
def platform(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Platform]:
    """A platform of this module's own."""
    platform = Platform(tmp_path_factory.mktemp("routers") / "state", ("--no-demo", "--routers", "2"))
    try:
        platform.start()
        yield platform
    finally:
        platform.end()


class Connections:
    """Callers that each keep a connection and ask again when answered. None asks twice for one answer."""

    def __init__(self, url: str, api_key: str, body: bytes) -> None:
        split = urlsplit(url)
        self._address = (split.hostname, split.port)
        self._request = (
            f"POST {split.path} HTTP/1.1\r\nHost: h\r\nAuthorization: Bearer {api_key}\r\n"
            f"Content-Length: {len(body)}\r\n\r\n"
        ).encode() + body
        self._stop = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()))
        self.outcomes: list[Outcome] = []

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join(timeout=60)

    def failed(self) -> list[Outcome]:
        return [outcome for outcome in self.outcomes if not outcome.is_ok]

    def go_on(self, count: int = 500) -> None:
        """Wait for answers to requests begun from now on."""
        now = time.monotonic()
        until(lambda: sum(o.is_ok and o.begun > now for o in list(self.outcomes)) >= count, 60, "further answers")

    async def _run(self) -> None:
        await asyncio.gather(*(self._caller(number) for number in range(CONNECTIONS)))

    async def _caller(self, number: int) -> None:
        await asyncio.sleep(PAUSE_S * number / CONNECTIONS)
        while not self._stop.is_set():
            reader, writer = await asyncio.open_connection(*self._address)
            goes_on = True
            while goes_on and not self._stop.is_set() and not reader.at_eof():
                goes_on = await self._ask(reader, writer)
                await asyncio.sleep(PAUSE_S)
            writer.close()

    async def _ask(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """Whether the connection may be used again."""
        begun = time.monotonic()
        keeps = False
        try:
            writer.write(self._request)
            head = (await reader.readuntil(b"\r\n\r\n")).lower()
            await reader.readexactly(int(head.partition(b"content-length: ")[2].partition(b"\r\n")[0]))
            status: int | str = int(head[9:12])
            keeps = b"connection: close" not in head
        except (OSError, asyncio.IncompleteReadError) as error:
            status = type(error).__name__
        self.outcomes.append(Outcome(begun, time.monotonic(), status))
        return keeps


@pytest.fixture
def callers(
    platform: Platform, client: Client, name: str, classifier: Pipeline, pictures: np.ndarray
) -> Iterator[Connections]:
    """64 connections, some 400 requests a second to a model on one replica."""
    client.deploy(client.push(classifier, name=name, example=pictures[:8]), gpu=0.5)
    spec = client.registry.version(name, 1).signature.inputs[0]
    tensor = {"name": spec.name, "datatype": spec.datatype, "shape": [1, 64], "data": pictures[0].tolist()}
    url = f"{platform.info['router']}/v2/models/{name}/infer"
    with httpx.Client(headers={"authorization": f"Bearer {platform.info['api_key']}"}) as http:
        known = {router: readyz(platform, router) for router in ROUTERS}
        assert set(known.values()) == {200}
        until(lambda: http.post(url, json={"inputs": [tensor]}).status_code == 200, 30, "an answer")
    with Connections(
        url, platform.info["api_key"], httpx.Request("POST", url, json={"inputs": [tensor]}).content
    ) as callers:
        callers.go_on()
        yield callers


def test_both_routers_take_connections_and_either_tells_the_statistics_of_both(
    platform: Platform, callers: Connections, name: str, note: Note
) -> None:
    before = {router: answered(platform, router, name) for router in ROUTERS}
    callers.go_on(1000)
    shares = {router: answered(platform, router, name) - before[router] for router in ROUTERS}
    note("routers_share", shares)
    assert min(shares.values()) > sum(shares.values()) / 5
    callers.__exit__(None, None, None)
    total = sum(answered(platform, router, name) for router in ROUTERS)
    assert callers.failed() == []
    headers = {"authorization": f"Bearer {platform.info['api_key']}"}
    for _ in range(8):  # a connection each: some go to the one, some to the other
        told = httpx.get(f"{platform.info['router']}/v2/models/{name}/stats", headers=headers).json()
        assert told["model_stats"][0]["inference_stats"]["success"]["count"] == total
    logs = platform.state / "logs"
    assert all((logs / f"{router}.log").exists() for router in ROUTERS)


def test_a_killed_router_loses_what_was_in_flight_in_it_and_the_other_goes_on(
    platform: Platform, client: Client, callers: Connections, name: str, note: Note
) -> None:
    held = connections_of(platform, "router-0")
    killed_at = time.monotonic()
    platform.kill("router-0")
    callers.go_on()
    until(lambda: readyz(platform, "router-0") == 200, 30, "the killed router")
    callers.go_on()
    callers.__exit__(None, None, None)
    lost = callers.failed()
    slowest = max(o.ended - o.begun for o in callers.outcomes if o.is_ok and o.ended > killed_at)
    note("routers_killed_lost", f"{len(lost)} of {held} connections")
    note("routers_killed_slowest_s", round(slowest, 2))
    assert len(lost) <= held
    assert all(o.begun < killed_at + 0.2 and o.ended > killed_at for o in lost), lost
    answers = sum(o.is_ok for o in callers.outcomes)
    # what it had answered in the moments before the kill was not on its disk yet
    unsure = sum(o.is_ok and killed_at - 0.5 < o.ended < killed_at + 0.2 for o in callers.outcomes)
    until(lambda: billed(client, name) >= answers - unsure, 30, "the usage")
    assert billed(client, name) <= answers + len(lost) + 1


def test_a_router_that_is_told_to_end_loses_nothing_and_the_bill_is_what_was_answered(
    platform: Platform, client: Client, callers: Connections, name: str, note: Note
) -> None:
    ended = platform.pid("router-1")
    told_at = time.monotonic()
    os.kill(ended, signal.SIGTERM)
    until(lambda: platform.pid("router-1") != ended, 60, "another router-1")
    note("router_drained_s", round(time.monotonic() - told_at, 2))
    callers.go_on()
    until(lambda: readyz(platform, "router-1") == 200, 30, "the router that ended")
    callers.go_on()
    callers.__exit__(None, None, None)
    assert callers.failed() == []
    answers = len(callers.outcomes) + 1  # and the one before them
    until(lambda: billed(client, name) >= answers, 30, "the usage of all answers")
    assert billed(client, name) == answers


def answered(platform: Platform, router: str, model: str) -> int:
    """Requests to `model` that this router answered with 200, from its operations port."""
    text = httpx.get(platform.info["operations"][router] + "/metrics").text
    lines = [line for line in text.splitlines() if line.startswith("moorage_router_requests_total{")]
    return sum(int(float(line.split()[-1])) for line in lines if f'model="{model}"' in line and 'code="200"' in line)


def readyz(platform: Platform, router: str) -> int:
    try:
        return httpx.get(platform.info["operations"][router] + "/readyz").status_code
    except httpx.TransportError:
        return 0


def connections_of(platform: Platform, router: str) -> int:
    port = urlsplit(platform.info["router"]).port
    found = psutil.Process(platform.pid(router)).net_connections("tcp4")
    return sum(c.status == psutil.CONN_ESTABLISHED and c.laddr.port == port for c in found)


def billed(client: Client, name: str) -> int:
    return sum(row["requests"] for row in client.usage(by="model")["rows"] if row["model"] == name)
