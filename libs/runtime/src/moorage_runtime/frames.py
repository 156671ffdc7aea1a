"""A router's link to this host: many calls over one connection (contracts/host_frames.py)."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import cast

from moorage_common.contracts import host_frames
from moorage_common.contracts.host_frames import Answer, BadFrame, Call, Frames

Serve = Callable[[Call], Awaitable[Answer]]
"""Answers a call, whatever it is; cancelled when the caller has gone."""


class Link(asyncio.Protocol):
    """One router's calls. `links` holds it while it is open."""

    def __init__(self, serve: Serve, links: "set[Link]") -> None:
        self._serve = serve
        self._links = links
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._frames = Frames()
        self._tasks: dict[int, asyncio.Task[None]] = {}
        self._out: list[bytes] = []
        self._ends = False

    @property
    def calls(self) -> int:
        """Calls that are not answered yet."""
        return len(self._tasks)

    def end(self, refuse: Serve | None = None) -> None:
        """Close once everything is answered; `refuse` answers what is still asked."""
        self._ends = True
        self._serve = refuse or self._serve
        if not self._tasks:
            self._close()

    def _close(self) -> None:
        self._flush()
        if self._transport is not None:
            self._transport.close()

    # -- asyncio

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._links.add(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        self._links.discard(self)
        for task in self._tasks.values():
            task.cancel()

    def pause_writing(self) -> None:
        """The router reads too slowly: take no more calls until it has."""
        if self._transport is not None:
            self._transport.pause_reading()

    def resume_writing(self) -> None:
        if self._transport is not None:
            self._transport.resume_reading()

    def data_received(self, data: bytes) -> None:
        try:
            frames = self._frames.feed(data)
        except BadFrame:
            frames = []
            self._abort()
        for frame in frames:
            if isinstance(frame, Call):
                if frame.id in self._tasks:
                    self._abort()
                    return
                self._tasks[frame.id] = self._loop.create_task(self._answer(frame))
            elif isinstance(frame, int):
                task = self._tasks.pop(frame, None)
                if task is not None:
                    task.cancel()
            else:
                self._abort()
                return

    def _abort(self) -> None:
        if self._transport is not None:
            self._transport.abort()

    async def _answer(self, call: Call) -> None:
        try:
            answer = await self._serve(call)
            self._send(host_frames.encode_answer(answer))
        finally:
            self._tasks.pop(call.id, None)
            if self._ends and not self._tasks:
                self._close()

    def _send(self, frame: bytes) -> None:
        """What one turn of the loop answers goes out together."""
        if not self._out:
            self._loop.call_soon(self._flush)
        self._out.append(frame)

    def _flush(self) -> None:
        out, self._out = self._out, []
        if out and self._transport is not None:
            self._transport.write(out[0] if len(out) == 1 else b"".join(out))
