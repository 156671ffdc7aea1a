"""Processes that listen on one port stand in for each other."""

import asyncio
import contextlib
import resource
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

import pytest

from moorage_common.http1.standby import Standby

SERVER = """
import asyncio, os, signal, socket, sys
import uvloop
from moorage_common.http1.standby import Standby

class Tells(asyncio.Protocol):
    def connection_made(self, transport):
        transport.write(b"%d\\n" % os.getpid())
        self.transport = transport
    def data_received(self, data):
        self.transport.write(data)

async def main():
    mine, other = (socket.socket(fileno=int(fd)) for fd in sys.argv[1:])
    loop = asyncio.get_running_loop()
    server = await loop.create_server(Tells, sock=mine)
    standby = Standby([other], Tells)

    def drain():
        server.close()
        standby.close()

    loop.add_signal_handler(signal.SIGTERM, drain)
    print("ready", flush=True)
    await asyncio.Event().wait()

uvloop.run(main())
"""


@dataclass
class Pair:
    """Two processes on one port."""

    listeners: list[socket.socket]
    processes: list[subprocess.Popen[str]] = field(default_factory=list)

    def start(self, mine: int) -> None:
        fds = [self.listeners[mine].fileno(), self.listeners[1 - mine].fileno()]
        process = subprocess.Popen(
            [sys.executable, "-c", SERVER, *map(str, fds)],
            pass_fds=fds, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        self.processes.append(process)

    async def connect(self) -> tuple[int, asyncio.StreamReader, asyncio.StreamWriter]:
        """Which process answered, and its connection."""
        reader, writer = await asyncio.open_connection(*self.listeners[0].getsockname())
        return int(await asyncio.wait_for(reader.readline(), 10)), reader, writer


@pytest.fixture
def pair() -> Iterator[Pair]:
    with contextlib.ExitStack() as stack:
        first = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=2048, reuse_port=True))
        second = stack.enter_context(socket.create_server(first.getsockname(), backlog=2048, reuse_port=True))
        pair = Pair([first, second])
        try:
            pair.start(0)
            pair.start(1)
            yield pair
        finally:
            for process in pair.processes:
                process.kill()
                process.communicate()


async def test_a_burst_of_connections_is_shared_evenly(pair: Pair) -> None:
    connections = await asyncio.gather(*(pair.connect() for _ in range(128)))
    shares = Counter(pid for pid, _reader, _writer in connections)
    for _pid, _reader, writer in connections:
        writer.close()
    assert shares.total() == 128
    assert min(shares[process.pid] for process in pair.processes) >= 36, shares  # five sigma


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
async def test_the_other_takes_all_when_one_is_killed_or_drains_and_no_connection_waits(
    pair: Pair, number: signal.Signals
) -> None:
    ended, other = pair.processes
    connections = await asyncio.gather(*(pair.connect() for _ in range(32)))
    ended.send_signal(number)
    async with asyncio.timeout(10):
        in_a_row = 0
        while in_a_row < 64:
            begun = time.monotonic()
            pid, _reader, writer = await pair.connect()
            writer.close()
            assert time.monotonic() - begun < 1
            in_a_row = in_a_row + 1 if pid == other.pid else 0
    for pid, reader, writer in connections:
        if pid == ended.pid and number == signal.SIGTERM:
            writer.write(b"still there\n")
            assert await asyncio.wait_for(reader.readline(), 10) == b"still there\n"
        writer.close()


async def test_a_standby_that_ran_out_of_descriptors_takes_what_waits_once_there_are_some() -> None:
    made: list[asyncio.Transport] = []

    class Keeps(asyncio.Protocol):
        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            assert isinstance(transport, asyncio.Transport)
            made.append(transport)
            transport.write(b"x")

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with socket.create_server(("127.0.0.1", 0)) as listener, socket.create_connection(listener.getsockname()) as client:
        standby = Standby([listener.dup()], Keeps)
        client.setblocking(False)
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))
            standby._next.cancel()
            standby._look()
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
            assert made == []
            loop = asyncio.get_running_loop()
            assert await asyncio.wait_for(loop.sock_recv(client, 1), 10) == b"x"
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
            standby.close()
            for transport in made:
                transport.close()
            await asyncio.sleep(0)
