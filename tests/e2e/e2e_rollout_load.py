"""Steady traffic to many models over kept connections, every request made once, and labels that come back later.

In a thread of its own, to loopback addresses alone. Times are `time.time()`, which verdicts have, too.
"""

import asyncio
import heapq
import ipaddress
import itertools
import json
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self
from urllib.parse import urlsplit

import numpy as np
from e2e_platform import until
from e2e_rollout_models import rows, truth

CALLER = "user"
MOST_AT_ONCE = 64
"""Of one stream; more that are due are made when others were answered."""
FAILS_BY_ITSELF = "model_failed"
"""The code of an answer that a version gave and that the platform passed on."""
_ROWS = 4096
_LABELS_EVERY_S = 1.0
_ANSWER_S = 60.0


@dataclass(frozen=True)
class Stream:
    """Requests to `model`, `per_second` of them whatever happens.

    Attributes:
        callers: if not 0, so many callers in turn, told apart by the header `CALLER`.
        labels_after_s: the right class is fed back so long after the answer; None for never.
        connections: opened at the start and used in turn, so that every router that shares the port is asked.
    """

    model: str
    per_second: float
    callers: int = 0
    labels_after_s: float | None = None
    connections: int = 4


@dataclass(frozen=True, slots=True)
class Answered:
    """One request. `status` is 0 where the connection broke; version and revision are what the request id says."""

    begun: float
    ended: float
    status: int
    code: str
    version: int
    revision: int
    caller: str = ""
    port: int = 0
    """The connection's own."""

    @property
    def is_kept(self) -> bool:
        """Whether the caller got what the version has to say, be it that it fails on this row."""
        return self.status == 200 or self.code == FAILS_BY_ITSELF


@dataclass
class _Connection:
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    port: int


@dataclass
class _Asked:
    """A stream under way. `more` says whether it goes on."""

    stream: Stream
    answers: list[Answered] = field(default_factory=list)
    idle: list[_Connection] = field(default_factory=list)
    pending: set[asyncio.Task[None]] = field(default_factory=set)
    due_labels: list[tuple[float, int, str, int]] = field(default_factory=list)
    numbers: "itertools.count[int]" = field(default_factory=itertools.count)
    labelled: int = 0
    more: bool = True


class Traffic:
    """All streams, from `with` until its end; `add` and `end` them one by one in between."""

    def __init__(self, router: str, api_key: str, streams: Sequence[Stream] = ()) -> None:
        parts = urlsplit(router)
        if not ipaddress.ip_address(parts.hostname or "").is_loopback:
            message = "the load goes to loopback addresses only"
            raise ValueError(message)
        self._address = (str(parts.hostname), parts.port or 80)
        self._head = f"host: {parts.netloc}\r\nauthorization: Bearer {api_key}\r\ncontent-type: application/json\r\n"
        made = rows(np.random.default_rng(11), _ROWS)
        self._bodies = [_body(row) for row in made]
        self._truths = [truth(row) for row in made]
        self._asked: dict[str, _Asked] = {}
        self._first = list(streams)
        self._keeping: list[asyncio.Task[None]] = []
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run)
        self._stop = asyncio.Event()

    def __enter__(self) -> Self:
        self._thread.start()
        for stream in self._first:
            self.add(stream)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(timeout=_ANSWER_S + 10)

    def add(self, stream: Stream) -> None:
        """Begin a stream and wait for its first answer."""
        asked = self._asked[stream.model] = _Asked(stream)
        asyncio.run_coroutine_threadsafe(self._begin(asked), self._loop).result(10)
        until(lambda: any(a.status == 200 for a in list(asked.answers)), 60, f"an answer of {stream.model}")

    def end(self, model: str) -> None:
        """Make no more requests to `model`, and wait for those made."""
        asked = self._asked[model]
        asked.more = False
        until(lambda: not asked.pending, _ANSWER_S, f"the last answers of {model}")

    def answers(self, model: str) -> list[Answered]:
        return list(self._asked[model].answers)

    def labelled(self, model: str) -> int:
        """Labels that the platform took."""
        return self._asked[model].labelled

    def lost(self, model: str) -> list[Answered]:
        """Requests that got no answer, or a refusal for which the version that was asked is not to blame."""
        return [answer for answer in self.answers(model) if not answer.is_kept]

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_until_complete(self._until_stopped())
        self._loop.close()

    async def _until_stopped(self) -> None:
        await self._stop.wait()
        for asked in self._asked.values():
            asked.more = False
        async with asyncio.timeout(_ANSWER_S):
            await asyncio.gather(*(task for asked in self._asked.values() for task in asked.pending))
        for task in asyncio.all_tasks() - {asyncio.current_task()}:
            task.cancel()
        held = [connection.writer for asked in self._asked.values() for connection in asked.idle]
        for writer in held:
            writer.close()
        await asyncio.gather(*(writer.wait_closed() for writer in held), return_exceptions=True)

    async def _begin(self, asked: _Asked) -> None:
        asked.idle += [await self._opened() for _ in range(asked.stream.connections)]
        self._keeping.append(asyncio.create_task(self._send(asked)))
        if asked.stream.labels_after_s is not None:
            self._keeping.append(asyncio.create_task(self._label(asked)))

    async def _send(self, asked: _Asked) -> None:
        stream, due = asked.stream, time.monotonic()
        for number in itertools.count():
            if not asked.more:
                return
            if len(asked.pending) < MOST_AT_ONCE:
                task = asyncio.create_task(self._ask(asked, number))
                asked.pending.add(task)
                task.add_done_callback(asked.pending.discard)
            due += 1 / stream.per_second
            await asyncio.sleep(max(0.0, due - time.monotonic()))

    async def _ask(self, asked: _Asked, number: int) -> None:
        stream, at = asked.stream, number % _ROWS
        caller = f"u{number % stream.callers}" if stream.callers else ""
        fields = f"{CALLER}: {caller}\r\n" if caller else ""
        begun, port = time.time(), 0
        try:
            connection = await self._connection(asked)
            port = connection.port
            reply = await self._exchange(connection, f"/v2/models/{stream.model}/infer", fields, self._bodies[at])
        except (OSError, asyncio.IncompleteReadError, TimeoutError) as error:
            asked.answers.append(Answered(begun, time.time(), 0, type(error).__name__, 0, 0, caller, port))
            return
        status, code, request_id, closes = reply
        parts = request_id.split(".")
        version, revision = (int(parts[2]), int(parts[4])) if len(parts) == 6 else (0, 0)
        now = time.time()
        asked.answers.append(Answered(begun, now, status, code, version, revision, caller, port))
        if closes:
            connection.writer.close()
        else:
            asked.idle.append(connection)
        if stream.labels_after_s is not None and status == 200:
            due = (now + stream.labels_after_s, next(asked.numbers), request_id, self._truths[at])
            heapq.heappush(asked.due_labels, due)

    async def _connection(self, asked: _Asked) -> _Connection:
        while asked.idle:
            kept = asked.idle.pop(0)
            if not kept.reader.at_eof():
                return kept
            kept.writer.close()
        return await self._opened()

    async def _opened(self) -> _Connection:
        reader, writer = await asyncio.open_connection(*self._address)
        return _Connection(reader, writer, writer.get_extra_info("sockname")[1])

    async def _exchange(
        self, connection: _Connection, path: str, fields: str, body: bytes
    ) -> tuple[int, str, str, bool]:
        """Status, code of a refusal, request id, whether the connection closes."""
        line = f"POST {path} HTTP/1.1\r\n{self._head}{fields}content-length: {len(body)}\r\n\r\n"
        try:
            async with asyncio.timeout(_ANSWER_S):
                connection.writer.write(line.encode() + body)
                head = await connection.reader.readuntil(b"\r\n\r\n")
                found = _fields(head)
                await connection.reader.readexactly(int(found.get("content-length", "0")))
        except BaseException:
            connection.writer.close()
            raise
        closes = found.get("connection", "") == "close"
        return int(head[9:12]), found.get("moorage-error", ""), found.get("moorage-request-id", ""), closes

    async def _label(self, asked: _Asked) -> None:
        """Feed back what is due, every second, in one call."""
        path = f"/v2/models/{asked.stream.model}/feedback"
        while True:
            await asyncio.sleep(_LABELS_EVERY_S)
            given = []
            while asked.due_labels and asked.due_labels[0][0] <= time.time():
                _, _, request_id, label = heapq.heappop(asked.due_labels)
                given.append({"id": request_id, "label": label})
            if given:
                asked.labelled += len(given) if await self._feed_back(asked, path, given) else 0

    async def _feed_back(self, asked: _Asked, path: str, given: list[dict[str, object]]) -> bool:
        try:
            connection = await self._connection(asked)
            status, *_, closes = await self._exchange(connection, path, "", json.dumps({"feedback": given}).encode())
        except (OSError, asyncio.IncompleteReadError, TimeoutError):
            return False
        if closes:
            connection.writer.close()
        else:
            asked.idle.append(connection)
        return status < 300


def _body(row: np.ndarray) -> bytes:
    tensor = {"name": "x", "datatype": "FP32", "shape": [1, len(row)], "data": [round(float(v), 6) for v in row]}
    return json.dumps({"inputs": [tensor]}).encode()


def _fields(head: bytes) -> dict[str, str]:
    lines = head.decode("latin-1").split("\r\n")[1:-2]
    return {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
