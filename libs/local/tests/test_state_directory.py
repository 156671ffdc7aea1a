"""The state directory: one launcher at a time, the same secrets for ever, nothing left of a killed launcher."""

import contextlib
import socket
import stat
import subprocess
import sys
from dataclasses import astuple
from pathlib import Path

import psutil
import pytest

from moorage_common import api_keys
from moorage_common.testing.servers import free_port, wait_until
from moorage_local import ports, services
from moorage_local.credentials import Credentials
from moorage_local.options import StartFailed
from moorage_local.ownership import Belongings, claim

HOLD = """
import pathlib, signal, subprocess, sys
from moorage_local.ownership import claim
with claim(pathlib.Path(sys.argv[1])) as belongings:
    child = subprocess.Popen([sys.executable, "-c", "import signal; signal.pause()"], start_new_session=True)
    belongings.add_process("child", child.pid)
    belongings.add_directory(pathlib.Path(sys.argv[2]))
    print(child.pid, flush=True)
    signal.pause()
"""


def test_a_second_launcher_is_refused_with_the_process_of_the_first(tmp_path: Path) -> None:
    with claim(tmp_path), pytest.raises(StartFailed, match=f"process {psutil.Process().pid}"), claim(tmp_path):
        pass
    with claim(tmp_path):
        pass


def test_what_a_killed_launcher_left_is_ended_by_the_next(tmp_path: Path) -> None:
    state, scratch = tmp_path / "state", tmp_path / "scratch"
    scratch.mkdir()
    command = [sys.executable, "-c", HOLD, str(state), str(scratch)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as launcher:
        assert launcher.stdout is not None
        left = psutil.Process(int(launcher.stdout.readline()))
        launcher.kill()
        launcher.wait()
    assert left.is_running()
    with claim(state):
        wait_until(lambda: not left.is_running() or left.status() == psutil.STATUS_ZOMBIE)
        assert not scratch.exists()


def test_a_process_that_only_has_the_same_number_is_left_alone(tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=True) as stranger:
        created = psutil.Process(stranger.pid).create_time()
        Belongings(tmp_path / "left.json", {"ray": (stranger.pid, created - 60)}).end_all()
        assert psutil.Process(stranger.pid).status() != psutil.STATUS_ZOMBIE
        stranger.kill()


def test_secrets_are_made_once_and_only_their_owner_reads_them(tmp_path: Path) -> None:
    first = Credentials.of(tmp_path)
    assert Credentials.of(tmp_path) == first
    assert stat.S_IMODE((tmp_path / "secrets.json").stat().st_mode) == 0o600
    assert api_keys.parse(first.admin_key) is not None
    assert first.pepper not in repr(first)


def test_a_taken_port_is_named_with_what_to_do() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(StartFailed, match=rf"port {port} \(for registry\) is taken.*--port 0"):
            ports.choose(port - 1)


def test_free_ports_differ_from_each_other() -> None:
    *chosen, more = astuple(ports.choose(0, routers=4))
    assert len(more) == 3
    assert len({*chosen, *more}) == len(chosen) + 3


def test_further_routers_take_the_ports_after_all_others() -> None:
    base = free_base(12)
    one, three = ports.choose(base), ports.choose(base, routers=3)
    assert astuple(three)[:-1] == astuple(one)[:-1]
    assert three.all_router_ops == (one.router_ops, base + 10, base + 11)


def free_base(count: int) -> int:
    """The first of as many free ports in a row."""
    for base in range(12_000, 20_000, count):
        with contextlib.suppress(OSError), contextlib.ExitStack() as stack:
            for port in range(base, base + count):
                taken = stack.enter_context(socket.socket())
                taken.bind(("127.0.0.1", port))
            return base
    raise AssertionError("no free ports in a row")


def test_each_router_has_a_name_an_operations_port_a_socket_and_those_of_the_others(tmp_path: Path) -> None:
    plan = services.Plan(tmp_path, ports.choose(0, routers=3), Credentials.of(tmp_path), 0, Path("/tmp/ray"), routers=3)
    routers = [
        program for program in services.programs(plan, listeners=[7, 8, 9]) if program.name.startswith("router-")
    ]
    assert [program.name for program in routers] == ["router-0", "router-1", "router-2"]
    assert [program.environment["MOORAGE_ROUTER_NAME"] for program in routers] == plan.router_names
    assert [program.environment["MOORAGE_LISTEN_FD"] for program in routers] == ["7", "8", "9"]
    assert routers[1].environment["MOORAGE_LISTEN_FDS_OF_OTHERS"] == "[7, 9]"
    assert {program.inherits for program in routers} == {(7, 8, 9)}
    urls = [plan.operations()[program.name] + "/readyz" for program in routers]
    assert [program.ready_url for program in routers] == urls
    assert len(set(urls)) == 3


def test_a_connection_waits_while_the_servers_process_is_away() -> None:
    with (
        ports.listening(free_port()) as (listener,),
        socket.create_connection(listener.getsockname()[:2]) as client,
    ):
        client.sendall(b"waiting")
        accepted, _address = listener.accept()
        with accepted:
            assert accepted.recv(7) == b"waiting"


def test_rays_directory_is_short_wherever_the_state_is(tmp_path: Path) -> None:
    short, temporary = services.ray_directory(Path("/srv/moorage"))
    assert (short, temporary) == (Path("/srv/moorage/ray"), False)
    deep = tmp_path / ("d" * 60)
    short, temporary = services.ray_directory(deep)
    assert temporary
    assert len(str(short)) <= 40
    short.rmdir()
