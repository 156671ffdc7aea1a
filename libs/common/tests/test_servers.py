"""The servers that tests run on."""

import os
import signal
import subprocess
import sys

import asyncpg
import psutil
import pytest
import redis

from moorage_common.testing.servers import Server, wait_until


async def test_postgres_answers_and_is_not_run_by_root(postgres_url: str) -> None:
    connection = await asyncpg.connect(postgres_url.replace("+asyncpg", ""))
    assert await connection.fetchval("select 1") == 1
    pid = await connection.fetchval("select pg_backend_pid()")
    owner = psutil.Process(pid).uids().real
    await connection.close()
    assert os.geteuid() != 0 or owner != 0


def test_redis_wants_its_password_and_keeps_its_data_over_a_kill(own_redis: Server) -> None:
    with redis.Redis.from_url(own_redis.url) as client:
        client.set("a", "1")
        own_redis.restart()
        assert client.get("a") == b"1"


def test_a_server_dies_with_the_process_that_started_it(tmp_path_factory: pytest.TempPathFactory) -> None:
    code = (
        "import sys, pathlib, signal\n"
        "from moorage_common.testing.servers import nats_server\n"
        "with nats_server(pathlib.Path(sys.argv[1])) as server:\n"
        "    print(server.pid, flush=True)\n"
        "    signal.pause()\n"
    )
    directory = tmp_path_factory.mktemp("dies")
    with subprocess.Popen([sys.executable, "-c", code, str(directory)], stdout=subprocess.PIPE, text=True) as starter:
        assert starter.stdout is not None
        server = psutil.Process(int(starter.stdout.readline()))
        starter.send_signal(signal.SIGKILL)
        starter.wait()
        wait_until(lambda: not server.is_running() or server.status() == psutil.STATUS_ZOMBIE, timeout_s=5)
