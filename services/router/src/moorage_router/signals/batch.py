"""One open or closed batch: who takes part, what became of each request, and the sums. Pure: the clock is outside.

Whether a request counts is decided by what was known when it was routed (the version, the client's share, its order in
the batch) and by whether a host was asked at all; what became of it decides only whether it was bad. Counting by
outcome would choose the number of requests by how they ended, and the bound on false rollbacks would be gone.
"""

import math
from collections import Counter
from collections.abc import Callable

from moorage_common.contracts.feedback import Output
from moorage_common.contracts.signals import (
    BUCKET_RATIO,
    CLASSES,
    OTHER,
    SAMPLED,
    ArmCounts,
    HostCounts,
    Predictions,
)
from moorage_router.replicas import Host
from moorage_router.signals.memory import Memory, Warmth

CLIENTS = 10
"""With so many clients or more, none weighs more than a tenth of a batch; with fewer, none more than an equal share."""

_OPEN, _VOID, _NAN = 0, -1, 1
"""Beside the statuses of answers: not answered yet, does not count, answered with NaN among the outputs."""
_CAUSES = {_NAN: "nan", 504: "timeout", 502: "lost"}
_TIMED = frozenset({200, _NAN, 499, 504})
"""Answered, or waited for so long at least; what was refused or lost took a time that says nothing of the model."""
_LOG_RATIO = math.log(BUCKET_RATIO)
_log = math.log


def cause_of(status: int, state: str = "ok") -> str | None:
    """Why an answer is bad, or None: 5xx, a timeout, a lost answer, NaN among the outputs.

    What the caller did is never bad: 4xx, and 499 when it went away.
    """
    return _cause(_NAN if state == "nan" and status == 200 else status)


def _cause(status: int) -> str | None:
    if status >= 500 or status == _NAN:
        return _CAUSES.get(status) or str(status)
    return None


def most_of_one(requests: int, clients: int) -> int:
    """How many requests of one client count in a batch of so many, whole ones rounded up."""
    return -(-requests // min(max(clients, 1), CLIENTS))


class Mark:
    """One request that takes part.

    Attributes:
        wants_output: its prediction is in the sample. Of a sticky key that of the request which is timed.
    """

    __slots__ = ("arm", "batch", "host", "key", "nth", "status", "timed", "took_us", "wants_output")

    def __init__(self, batch: "Batch", arm: "Arm", nth: int, key: int | None, timed: bool) -> None:
        self.batch = batch
        self.arm = arm
        self.nth = nth
        """Its number among its client's requests in the batch, from 0."""
        self.key = key
        self.timed = timed
        self.status = _OPEN
        arm.routed = routed = arm.routed + 1
        # Sticky traffic: a key that always gets the same answer would be drift of the version it is given to.
        self.wants_output = timed and routed <= arm.sample

    def done(self, status: int, took_us: int, host: Host | None, state: str, output: Output | None) -> None:
        """What became of it; only the first call counts.

        Args:
            status: of the answer; 499 when the caller went away first.
            took_us: microseconds at the replica, of the attempt that answered, or until nobody waited any more.
            host: who was asked last. None: nobody was, so that the request says nothing about the version.
            state: of the outputs, one of `host_frames.STATES`.
        """
        if self.status:
            return
        self.host = host
        self.took_us = took_us
        if host is None:
            status = _VOID
        elif state == "nan" and status == 200:
            status = _NAN
        self.status = status
        if output is not None and self.wants_output:
            self.arm.outputs.append((self, output))
        if self.batch.closed:
            self.batch.settle(self)


class HostTally:
    """Sums of one generation of a host."""

    __slots__ = ("causes", "requests", "slow", "warmth")

    def __init__(self, warmth: Warmth) -> None:
        self.warmth = warmth
        self.requests = 0
        self.causes: dict[str, int] = {}
        self.slow: dict[int, int] = {}


class Arm:
    """One version's part of a batch."""

    __slots__ = ("bad_keys", "hosts", "outputs", "routed", "sample", "unanswered", "version")

    def __init__(self, version: int, sample: int = SAMPLED) -> None:
        """`sample`: of how many requests the prediction is told, the first ones."""
        self.version = version
        self.sample = sample
        self.routed = 0
        self.unanswered = 0
        self.hosts: dict[Host, HostTally] = {}
        self.outputs: list[tuple[Mark, Output]] = []
        self.bad_keys: list[int] = []

    def counts(self) -> ArmCounts:
        """The sums, by host id."""
        hosts: dict[str, HostCounts] = {}
        for host, tally in self.hosts.items():
            name = host.endpoint.host_id
            requests, causes, slow = tally.requests, tally.causes, tally.slow
            if name in hosts:  # another generation of it
                held = hosts[name]
                requests += held.requests
                causes, slow = Counter(held.causes) + Counter(causes), Counter(held.slow) + Counter(slow)
            bad = sum(causes.values())
            hosts[name] = HostCounts(host=name, requests=requests, bad=bad, causes=causes, slow=slow)
        if self.unanswered:
            hosts[""] = HostCounts(host="", requests=self.unanswered)
        return ArmCounts(
            version=self.version, hosts=list(hosts.values()), predictions=self._predictions(), bad_keys=self.bad_keys
        )

    def _predictions(self) -> Predictions:
        classes: dict[str, int] = {}
        numbers: list[float] = []
        for mark, output in self.outputs:
            if mark.status == _VOID:
                continue
            if output.kind == "number":
                numbers.append(float(output.value))
                continue
            name = output.value if output.value in classes or len(classes) < CLASSES else OTHER
            classes[name] = classes.get(name, 0) + 1
        return Predictions(classes=classes, numbers=numbers)


class Batch:
    """The requests of one stratum that were routed within a second."""

    __slots__ = (
        "arms", "clients", "closed", "closed_at", "counted", "expires", "finished", "keys", "marks", "memory",
        "open", "opened", "opened_at", "skip_first", "stratum",
    )  # fmt: skip

    def __init__(
        self,
        stratum: str,
        arms: dict[int, Arm],
        memory: Memory,
        *,
        skip_first: int,
        opened: float,
        opened_at: float,
        finished: Callable[["Batch"], None],
    ) -> None:
        """`opened`: monotonic seconds; `opened_at`: seconds since 1970; `finished` is called once."""
        self.stratum = stratum
        self.arms = arms
        self.memory = memory
        self.skip_first = skip_first
        self.opened = opened
        self.opened_at = opened_at
        self.finished = finished
        self.closed = False
        self.closed_at = 0.0
        self.expires = 0.0
        self.open = 0
        self.counted = 0
        self.marks: list[Mark] = []
        self.clients: dict[str, int] = {}
        self.keys: set[int] = set()

    def close(self, closed_at: float, expires: float) -> None:
        """No request is added any more: fix each client's share, and sum up what is known.

        Args:
            closed_at: seconds since 1970.
            expires: monotonic seconds when every request's deadline has passed.
        """
        self.closed, self.closed_at, self.expires = True, closed_at, expires
        marks, self.marks = self.marks, []
        most = most_of_one(len(marks), len(self.clients))
        for mark in marks:
            if mark.nth >= most:
                mark.status = _VOID
            elif mark.status == _OPEN:
                self.marks.append(mark)
            else:
                self._count(mark)
        self.open = len(self.marks)
        if not self.open:
            self._finish()

    def settle(self, mark: Mark) -> None:
        """A request of a closed batch was answered."""
        self._count(mark)
        self.open -= 1
        if not self.open:
            self._finish()

    def expire(self) -> None:
        """Every deadline has passed: who is not answered counts as asked, and as nothing bad.

        The gateway answers by the deadline itself, with 504; what is left is an answer that its caller reads slowly.
        """
        for mark in self.marks:
            if mark.status == _OPEN:
                mark.status = _VOID
                mark.arm.unanswered += 1
                self.counted += 1
        self._finish()

    def _finish(self) -> None:
        self.marks, self.open = [], 0
        self.finished(self)

    def _count(self, mark: Mark) -> None:
        """Add one answered request to the sums."""
        host, status, arm = mark.host, mark.status, mark.arm
        if host is None:
            self._give_back(mark)
            return
        self.counted += 1
        tally = arm.hosts.get(host)
        if tally is None:
            endpoint = host.endpoint
            warmth = self.memory.warmth(endpoint.host_id, endpoint.generation, arm.version, self.skip_first)
            tally = arm.hosts[host] = HostTally(warmth)
        tally.requests += 1
        if status != 200:
            cause = _cause(status)
            if cause is not None and (mark.key is None or self.memory.is_first_bad(mark.key)):
                tally.causes[cause] = tally.causes.get(cause, 0) + 1
                if mark.key is not None:
                    arm.bad_keys.append(mark.key)
        if tally.warmth.left > 0:
            tally.warmth.left -= 1
        elif mark.timed and status in _TIMED:
            us, slow = mark.took_us, tally.slow
            bucket = int(_log(us) / _LOG_RATIO) if us > 1 else 0  # as signals.bucket_of
            slow[bucket] = slow.get(bucket, 0) + 1
            return
        self._give_back(mark)

    def _give_back(self, mark: Mark) -> None:
        """A sticky key's request could not be timed: another of the key may be."""
        if mark.timed and mark.key is not None:
            self.memory.timed.discard(mark.key)
