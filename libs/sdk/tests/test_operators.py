"""Operators' commands and a tenant's, against a real registry; the scheduler is one that answers what it is told to."""

import asyncio
import json
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Protocol

import nats
import pytest
from nats.aio.msg import Msg
from sklearn.linear_model import LinearRegression
from typer.testing import CliRunner, Result

from moorage_common.contracts.cluster import SchedulerAnswer, SchedulerAsk
from moorage_common.contracts.names import scheduler_subject
from moorage_common.testing.servers import wait_until
from moorage_sdk.cli.app import app
from moorage_sdk.cli.quota import changed_shares
from moorage_sdk.client import Client
from moorage_sdk.errors import InvalidQuantity, SdkError
from moorage_sdk.limits import changed_rates, changes_of, parse_weights

SEAT = {"host_id": "h1", "tenant": "harbour", "model": "digits", "version": 1, "state": "ready", "gpu_milli": 500}
FULL = {"name": "a", "devices": [{"device": 0, "free_milli": 500, "seats": [SEAT]}]}
NODES: dict[str, Any] = {"nodes": [FULL, {"name": "b", "devices": [{"device": 0, "free_milli": 1000}]}]}
MOVE = {"host_id": "h1", "gpu_milli": 500, "from_node": "a", "from_devices": [0], "to_node": "b", "to_devices": [0]}


class Registry(Protocol):
    """What the fixture of conftest gives."""

    url: str
    api_key: str
    admin_key: str


class LeadingScheduler:
    """Answers in a thread of its own, and notes what it was asked."""

    def __init__(self, url: str) -> None:
        self.asked: list[SchedulerAsk] = []
        self.answer: Callable[[SchedulerAsk], dict[str, Any]] = lambda _ask: NODES
        self._url = url
        self._ready, self._loop = threading.Event(), asyncio.new_event_loop()
        self._done = asyncio.Event()
        self._thread = threading.Thread(target=lambda: self._loop.run_until_complete(self._serve()), daemon=True)

    async def _serve(self) -> None:
        async def take(message: Msg) -> None:
            self.asked.append(SchedulerAsk.model_validate_json(message.data))
            answer = SchedulerAnswer(answer=self.answer(self.asked[-1]))
            await message.respond(answer.model_dump_json().encode())

        client = await nats.connect(self._url)
        await client.subscribe(scheduler_subject("default"), cb=take)
        await client.flush()
        self._ready.set()
        await self._done.wait()
        await client.close()

    def __enter__(self) -> "LeadingScheduler":
        self._thread.start()
        wait_until(self._ready.is_set, timeout_s=10, what="the subscription")
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._done.set)
        self._thread.join(10)
        self._loop.close()


@pytest.fixture
def scheduler(nats_url: str) -> Iterator[LeadingScheduler]:
    with LeadingScheduler(nats_url) as leading:
        yield leading


Command = Callable[..., Result]


def command_of(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, url: str, key: str) -> Command:
    monkeypatch.setenv("MOORAGE_PROFILE_FILE", str(tmp_path / "profiles.yaml"))
    for name, value in (("REGISTRY", url), ("ROUTER", "http://127.0.0.1:9"), ("API_KEY", key)):
        monkeypatch.setenv(f"MOORAGE_{name}", value)

    def run(*arguments: str) -> Result:
        return CliRunner().invoke(app, list(arguments))

    return run


@pytest.fixture
def operator(registry: Registry, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Command:
    return command_of(monkeypatch, tmp_path, registry.url, registry.admin_key)


@pytest.fixture
def tenant(registry: Registry, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Command:
    return command_of(monkeypatch, tmp_path, registry.url, registry.api_key)


def test_a_tenant_sees_what_it_may_and_an_operator_all(
    scheduler: LeadingScheduler, tenant: Command, registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "harbour/digits v1 0.5" in tenant("gpus").stdout
    monkeypatch.setenv("MOORAGE_API_KEY", registry.admin_key)
    assert json.loads(tenant("gpus", "--json").stdout)["nodes"][0]["name"] == "a"
    tenant("--tenant", "harbour", "gpus")
    assert [ask.tenant for ask in scheduler.asked] == ["harbour", "", "harbour"]


def test_the_picture_goes_to_files(scheduler: LeadingScheduler, operator: Command, tmp_path: Path) -> None:
    shown = operator("gpus", "--svg", str(tmp_path / "g.svg"), "--html", str(tmp_path / "g.html"))
    assert shown.stdout == ""
    assert (tmp_path / "g.svg").read_text().startswith("<svg ")
    assert (tmp_path / "g.html").read_text().startswith("<!DOCTYPE html>")
    failed = operator("gpus", "--svg", str(tmp_path / "none" / "g.svg"))
    assert "cannot be written" in str(failed.exception)


def test_a_drain_waits_until_the_node_is_empty_and_tells_of_each_replica(
    scheduler: LeadingScheduler, operator: Command
) -> None:
    moving = {"nodes": [{**FULL, "left": {"h1": "its successor is starting"}}]}
    empty = {"nodes": [{"name": "a", "devices": [{"device": 0, "free_milli": 1000}]}]}
    looks = iter([NODES, NODES, moving, moving, empty])
    scheduler.answer = lambda _ask: next(looks)
    shown = operator("nodes", "drain", "a")
    assert shown.exit_code == 0
    assert [line for line in shown.stderr.splitlines() if ":" in line or "empty" in line] == [
        "a: 1 left: harbour/digits v1 (ready)",
        "a: 1 left: harbour/digits v1 (its successor is starting)",
        "a is empty",
    ]
    assert operator("nodes", "undrain", "a").exit_code == 0


def test_a_drain_that_lasts_too_long_says_what_is_left(scheduler: LeadingScheduler, operator: Command) -> None:
    failed = operator("nodes", "drain", "a", "--timeout", "0s")
    assert str(failed.exception) == "a is not empty after 0 s: harbour/digits v1 (ready); the drain goes on"
    failed = operator("nodes", "drain", "c")
    assert "the cluster has no node c; it has a, b" in str(failed.exception)
    operator("nodes", "undrain", "a")


def test_nodes_are_listed(scheduler: LeadingScheduler, operator: Command) -> None:
    lines = operator("nodes", "list").stdout.splitlines()
    assert lines[0].split("\t")[:4] == ["node", "gpu_model", "gpus", "gpu_free"]
    assert lines[1].split("\t") == ["a", "", "1", "0.5", "0", "0", "1", ""]


def test_a_defragmentation_shows_before_and_after(
    scheduler: LeadingScheduler, operator: Command, tmp_path: Path
) -> None:
    scheduler.answer = lambda ask: {**NODES, "moves": [MOVE], "ordered": not ask.dry_run}
    shown = operator("defragment", "--dry-run", "--svg", str(tmp_path / "d.svg")).stdout
    assert "1 move (dry run):\n  h1 (0.5): a GPU 0 -> b GPU 0\n" in shown
    before, after = shown.split("\nafter: ")
    assert before.count("█") == after.count("█") == 20
    assert "before" in (tmp_path / "d.svg").read_text()
    assert "1 move ordered" in operator("defragment").stdout
    assert [ask.dry_run for ask in scheduler.asked] == [True, False]


def test_an_explanation_is_for_people(scheduler: LeadingScheduler, tenant: Command, client: Client) -> None:
    client.push(LinearRegression().fit([[0.0], [1.0]], [0.0, 1.0]), name="explained", example=[[0.0]], wait=False)
    client.deploy("explained", wait=False)
    scheduler.answer = lambda _ask: {"model": "explained", "versions": [{"version": 1, "wanted": 1, "reason": "full"}]}
    assert tenant("explain", "explained").stdout == "explained version 1: 1 wanted, 0 placed\n  full\n"
    assert "is not deployed" in str(tenant("explain", "unheard").exception)


def test_a_quota_is_shown_and_set(scheduler: LeadingScheduler, operator: Command) -> None:
    share = {"gpu_model": "T4", "guaranteed_milli": 1000, "held_guaranteed_milli": 500}
    limits = {"gpu_milli": 2000, "cpu_milli": 64_000, "mem_mib": 262_144}
    told = {"tenant": "harbour", **limits, "waiting": 1, "shares": [share]}
    scheduler.answer = lambda _ask: {"tenants": [told], "overcommitted": ["T4: too much"]}
    shown = operator("quota")
    assert shown.stdout == operator("quota", "show").stdout
    assert shown.stdout.splitlines()[1] == "harbour\tT4\t1\tany\t1\t0.5\t0\t0\t2\t64\t256Gi\t1"
    assert "warning: T4: too much" in shown.stderr
    assert operator("quota", "set", "harbour", "--gpu", "3", "--guarantee", "T4=1", "--allow-code").exit_code == 0
    assert operator("quota", "set", "harbour", "--cpu", "8", "--memory", "16Gi").exit_code == 0
    done = operator("quota", "set", "harbour", "--borrow", "T4=0.5", "--guarantee", "any=1", "--json")
    limits = json.loads(done.stdout)
    assert (limits["gpu_milli"], limits["allow_code"]) == (3000, True)
    assert (limits["cpu_milli"], limits["mem_mib"]) == (8000, 16_384)
    assert limits["gpu_shares"] == [
        {"gpu_model": "T4", "guaranteed_milli": 1000, "borrow_milli": 500, "weight": 1.0},
        {"gpu_model": "", "guaranteed_milli": 1000, "borrow_milli": None, "weight": 1.0},
    ]
    assert "raise gpu_milli" in str(operator("quota", "set", "harbour", "--gpu", "1").exception)
    operator("quota", "set", "harbour", "--drop", "T4", "--drop", "any", "--gpu", "2", "--no-code")
    operator("quota", "set", "harbour", "--cpu", "64", "--memory", "256Gi")


def test_limits_are_set_and_shown_with_the_months_use(scheduler: LeadingScheduler, operator: Command) -> None:
    scheduler.answer = lambda _ask: {"tenants": []}
    done = operator(
        "quota", "set", "harbour", "--plan", "premium", "--weight", "8", "--weight", "T4=2", "--rate", "50", "--burst",
        "100", "--concurrent", "7", "--body", "2Mi", "--month", "1000", "--model-rate", "digits=5", "--model-rate",
        "magika=2.5/9", "--store-loss", "closed", "--json",
    )  # fmt: skip
    limits = json.loads(done.stdout)
    assert (limits["plan"], limits["weight"], limits["requests_per_month"]) == ("premium", 8, 1000)
    assert (limits["max_body_bytes"], limits["max_concurrent"]) == (2 * 1024 * 1024, 7)
    assert limits["model_rates"] == [
        {"model": "digits", "requests_per_s": 5, "burst": 5},
        {"model": "magika", "requests_per_s": 2.5, "burst": 9},
    ]
    assert [share["weight"] for share in limits["gpu_shares"]] == [2]
    shown = next(line for line in operator("quota").stdout.splitlines() if line.startswith("harbour\t"))
    told = shown.split("\t")
    assert told[1:8] == ["active", "premium", "8", "50", "100", "7", "2Mi"]
    assert told[8:11] == ["0", "0", "1000"]
    assert told[12] == "digits=5/5,magika=2.5/9"
    told = json.loads(operator("quota", "show", "--json").stdout)["limits"]
    assert {one["tenant"]: one["month"]["limit"] for one in told}["harbour"] == 1000
    operator(
        "quota", "set", "harbour", "--plan", "standard", "--rate", "1000", "--burst", "2000", "--concurrent", "256",
        "--body", "16Mi", "--month", "any", "--drop-model-rate", "digits", "--drop-model-rate", "magika",
        "--store-loss", "local", "--drop", "T4",
    )  # fmt: skip
    assert "there is no plan gold; there are free, premium, standard" in str(
        operator("quota", "set", "harbour", "--plan", "gold").exception
    )


def test_limits_are_shown_while_the_scheduler_is_away(operator: Command) -> None:
    shown = operator("quota")
    assert shown.exit_code == 0
    assert any(line.startswith("harbour\t") for line in shown.stdout.splitlines())
    assert "GPU shares cannot be told" in shown.stderr


def test_wrong_limits_say_what_to_write() -> None:
    with pytest.raises(SdkError, match="a whole number of requests, or any"):
        changes_of(month="many")
    with pytest.raises(InvalidQuantity, match="--body"):
        changes_of(body="16MB")
    with pytest.raises(SdkError, match="weight stands twice"):
        parse_weights(["4", "5"])
    with pytest.raises(SdkError, match="this is a number"):
        parse_weights(["heavy"])
    with pytest.raises(SdkError, match="write MODEL=RATE"):
        changed_rates([], ["digits=quick"], [])
    with pytest.raises(SdkError, match="it has no rate"):
        changed_rates([], [], ["digits"])


def test_wrong_shares_say_what_to_write() -> None:
    with pytest.raises(SdkError, match="is not MODEL=GPUS"):
        changed_shares([], ["T4"], [], [], [])
    with pytest.raises(InvalidQuantity, match="--borrow"):
        changed_shares([], [], ["T4=lots"], [], [])
    with pytest.raises(SdkError, match="a weight is a number"):
        changed_shares([], [], [], ["T4=heavy"], [])
    with pytest.raises(SdkError, match="no such entry"):
        changed_shares([], [], [], [], ["T4"])


def test_a_state_is_printed_whole_and_only_to_operators(
    scheduler: LeadingScheduler, operator: Command, registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert json.loads(operator("scheduler", "state").stdout) == NODES
    monkeypatch.setenv("MOORAGE_API_KEY", registry.api_key)
    assert "platform:admin" in str(operator("scheduler", "state").exception)


def test_a_state_that_is_no_json_is_refused(operator: Command, tmp_path: Path) -> None:
    (tmp_path / "state.json").write_text("[")
    assert "cannot be read as JSON" in str(operator("scheduler", "replay", str(tmp_path / "state.json")).exception)
