"""Deployments to roll out, rollouts over HTTP, and what their logs say of the requests that were counted."""

import collections
import datetime
import time
from collections.abc import Collection, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self

import httpx
from e2e_platform import Platform
from e2e_rollout_load import CALLER, Answered, Stream, Traffic
from e2e_rollout_models import Behaviour, example, made

from moorage_sdk.client import Client

Json = dict[str, Any]

HEALTHY = Behaviour()
FINAL = ("done", "rolled_back", "aborted")
_PAGE = 500


@dataclass(frozen=True)
class Case:
    """A deployment with its callers, and the version that it is moved to.

    Attributes:
        callers: if not 0, so many callers in turn, told apart by a header.
        sticky: whether each of them keeps its version.
        held: the deployment has the candidate already, at no share: so it need not be started during the baseline.
        ring: how many of them are in the ring of the model's name.
        labels_after_s: the right answers are fed back so long after each request.
        rounds: so often, to the other version and back, as long as each is promoted.
    """

    model: str
    candidate: Behaviour
    stable: Behaviour = HEALTHY
    per_second: float = 20.0
    policy: Json = field(default_factory=dict)
    pooled: bool = False
    held: bool = False
    callers: int = 0
    sticky: bool = False
    ring: int = 0
    labels_after_s: float | None = None
    rounds: int = 1

    @property
    def stream(self) -> Stream:
        return Stream(self.model, self.per_second, self.callers, self.labels_after_s)


def prepare(platform: Platform, cases: Collection[Case]) -> None:
    """Push both versions of each and deploy the first, with what its traffic sticks to, and make rings."""
    with platform.client() as client, ThreadPoolExecutor(4) as pushers:
        list(pushers.map(lambda case: _prepare(client, case), cases))
    with Rollouts.of(platform) as rollouts:
        for case in cases:
            if case.ring:
                members = [f"u{number}" for number in range(case.ring)]
                rollouts.put(f"/v1/rings/{case.model}", {"header": CALLER, "values": members})


def _prepare(client: Client, case: Case) -> None:
    for behaviour in (case.stable, case.candidate):
        client.push(made(behaviour), name=case.model, example=example(), new=True)
    isolation = "pooled" if case.pooled else "dedicated"
    for version in (1, 2) if case.held else (1,):
        client.deploy(case.model, version=version, cpu="20m", memory="64Mi", isolation=isolation)
    more: Json = {}
    if case.sticky:
        more["stickiness"] = {"by": "header", "name": CALLER}
    if case.labels_after_s is not None:
        more["feedback"] = {}
    spec = client.registry.deployment(case.model)
    if more and spec is not None:
        client.registry.put_deployment(case.model, {"versions": spec["versions"]} | more)


def damage(platform: Platform, digest: str) -> None:
    """What a broken disk does to an artifact after its version was validated: one byte is another one."""
    found = [path for path in platform.state.glob(f"*/**/{digest.removeprefix('sha256:')}*") if path.is_file()]
    found += platform.state.glob(f"cache/sha256/{digest.removeprefix('sha256:')}/blob")
    assert found
    for path in found:
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 1
        path.write_bytes(content)


@dataclass(frozen=True)
class Rollouts:
    """What `/v1/deployments/{model}/rollouts` says and takes. A registry that is away for a moment is waited for."""

    http: httpx.Client

    @classmethod
    def of(cls, platform: Platform) -> "Rollouts":
        headers = {"authorization": f"Bearer {platform.info['api_key']}"}
        return cls(httpx.Client(base_url=platform.info["registry"], headers=headers, timeout=30, trust_env=False))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.http.close()

    def start(self, model: str, to: int, policy: Mapping[str, Any]) -> Json:
        return self._asked("POST", f"/v1/deployments/{model}/rollouts", {"to": to, "policy": policy})

    def get(self, model: str, rollout: str = "current") -> Json:
        return self._asked("GET", f"/v1/deployments/{model}/rollouts/{rollout}")

    def verdicts(self, model: str, rollout: str) -> Json:
        """`{verdicts, intact}`."""
        return self._asked("GET", f"/v1/deployments/{model}/rollouts/{rollout}/verdicts")

    def explain(self, model: str, rollout: str) -> Json:
        return self._asked("GET", f"/v1/deployments/{model}/rollouts/{rollout}/explain")

    def replay(self, model: str, rollout: str) -> Json:
        """`{same, evidence, failures}`."""
        return self._asked("POST", f"/v1/deployments/{model}/rollouts/{rollout}/replay", {})

    def entries(self, model: str, rollout: str, after: int = 0) -> Iterator[Json]:
        """Its log after that number, in order."""
        path = f"/v1/deployments/{model}/rollouts/{rollout}/log?limit={_PAGE}&after="
        while page := self._asked("GET", f"{path}{after}")["entries"]:
            yield from page
            after = page[-1]["seq"]

    def put(self, path: str, body: Json) -> Json:
        return self._asked("PUT", path, body)

    def wait(self, model: str, rollout: str, states: tuple[str, ...], timeout_s: float) -> Json:
        """Until it is in one of `states`, or in a final one, which must then be one of them."""
        deadline = time.monotonic() + timeout_s
        while (found := self.get(model, rollout))["state"] not in states + FINAL:
            assert time.monotonic() < deadline, f"{model} is not {states} after {timeout_s:g} s: {found}"
            time.sleep(0.2)
        assert found["state"] in states, (found, self.verdicts(model, rollout))
        return found

    def _asked(self, method: str, path: str, body: Json | None = None) -> Json:
        """What changes something is asked once, everything else until the registry is there."""
        once = method != "GET" and not path.endswith("/replay")
        deadline = time.monotonic() + 30
        while True:
            try:
                answer = self.http.request(method, path, json=body)
            except httpx.TransportError:
                if once or time.monotonic() > deadline:
                    raise
                time.sleep(0.1)
                continue
            assert answer.is_success, (method, path, answer.status_code, answer.text)
            found: Json = answer.json()
            return found


def instant(text: str) -> float:
    """Seconds since 1970."""
    return datetime.datetime.fromisoformat(text).timestamp()


Counts = collections.Counter[tuple[int, int]]
"""Requests by route revision and version."""


def counted(entries: list[Json]) -> Counts:
    """Those that the judge was told of."""
    found: Counts = collections.Counter()
    for entry in entries:
        if entry["kind"] == "batch":
            batch = entry["entry"].get("batch", entry["entry"])
            for arm in (batch["candidate"], batch["stable"]):
                found[batch["revision"], arm["version"]] += sum(host["requests"] for host in arm["hosts"])
    return found


def answered(answers: list[Answered], revisions: set[int]) -> Counts:
    """Those that callers were answered under these revisions."""
    return collections.Counter((a.revision, a.version) for a in answers if a.revision in revisions and a.is_kept)


@dataclass
class Ended:
    """What lies there when all rollouts are final: of each model its rollouts in turn."""

    rollouts: Rollouts
    traffic: Traffic
    of: dict[str, list[Json]] = field(default_factory=dict)

    def run(self, cases: Iterable[Case], policy: Json, most_s: float) -> float:
        """Start all, and each one's next round when one was promoted; seconds until all are final."""
        begun, left = time.monotonic(), {case.model: case for case in cases}
        running = {name: self.rollouts.start(name, 2, policy | case.policy) for name, case in left.items()}
        while left:
            assert time.monotonic() - begun < most_s, f"not final: {[running[name] for name in left]}"
            for name, case in list(left.items()):
                now = running[name] = self.rollouts.get(name, running[name]["id"])
                if now["state"] not in FINAL:
                    continue
                mine = self.of.setdefault(name, [])
                mine.append(now)
                if len(mine) < case.rounds and now["state"] == "done":
                    running[name] = self.rollouts.start(name, now["stable"], policy | case.policy)
                else:
                    del left[name]
            time.sleep(0.5)
        return time.monotonic() - begun
