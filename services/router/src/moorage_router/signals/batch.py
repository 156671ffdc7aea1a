"""One open or closed batch: who takes part, what became of each request, and the sums. Pure: the clock is outside.

Whether a request counts is decided by what was known when it was routed (the version, the client's share, its order in
the batch) and by whether a host was asked at all; what became of it decides only whether it was bad. Counting by
outcome would choose the number of requests by how they ended, and the bound on false rollbacks would be gone.
"""

from collections.abc import Callable

from moorage_common.contracts.feedback import Output
from moorage_common.contracts.signals import (
    CLASSES,
    OTHER,
    SAMPLED,
    ArmCounts,
    HostCounts,
    Predictions,
    bucket_of,
)
from moorage_router.replicas import Host
from moorage_router.signals.memory import Memory

CLIENTS = 10
"""With so many clients or more, none weighs more than a tenth of a batch; with fewer, none more than an equal share."""

_OPEN, _VOID = 0, -1
_CAUSES = {504: "timeout", 502: "lost"}
_TIMED = frozenset({200, 499, 504})
"""Answered, or waited for so long at least; what was refused or lost took a time that says nothing of the model."""


def cause_of(status: int, state: str) -> str | None:
    """Why an answer is bad, or None: 5xx, a timeout, a lost answer, NaN among the outputs.

    What the caller did is never bad: 4xx, and 499 when it went away.
    """
    if status >= 500:
        return _CAUSES.get(status) or str(status)
    return "nan" if state == "nan" else None


def most_of_one(requests: int, clients: int) -> int:
    """How many requests of one client count in a batch of so many, whole ones rounded up."""
    return -(-requests // min(max(clients, 1), CLIENTS))


class Mark:
    """One request that takes part.

    Attributes:
        wants_output: its prediction is in the sample.
    """

    __slots__ = ("arm", "batch", "host", "key", "nth", "output", "state", "status", "timed", "took_us", "wants_output")

    def __init__(self, batch: "Batch", arm: "Arm", nth: int, key: int | None, timed: bool) -> None:
        self.batch = batch
        self.arm = arm
        self.nth = nth
        """Its number among its client's requests in the batch, from 0."""
        self.key = key
        self.timed = timed
        self.status = _OPEN
        arm.routed += 1
        self.wants_output = arm.routed <= SAMPLED

    def done(self, status: int, took_us: int, host: Host | None, state: str, output: Output | None) -> None:
        """What became of it; only the first call counts.

        Args:
            status: of the answer; 499 when the caller went away first.
            took_us: microseconds at the replica, of the attempt that answered, or until nobody waited any more.
            host: who was asked last. None: nobody was, so that the request says nothing about the version.
            state: of the outputs, one of `host_frames.STATES`.
        """
        if self.status != _OPEN:
            return
        self.host = host
        self.status = _VOID if host is None else status
        self.took_us = took_us
        self.state = state
        self.output = output
        batch = self.batch
        if batch.closed:
            batch.settle(self)


class HostTally:
    """Sums of one host; the same as `HostCounts`, but not frozen."""

    __slots__ = ("bad", "causes", "requests", "slow")

    def __init__(self) -> None:
        self.requests = 0
        self.bad = 0
        self.causes: dict[str, int] = {}
        self.slow: dict[int, int] = {}


class Arm:
    """One version's part of a batch."""

    __slots__ = ("bad_keys", "classes", "hosts", "numbers", "routed", "version")

    def __init__(self, version: int) -> None:
        self.version = version
        self.routed = 0
        self.hosts: dict[str, HostTally] = {}
        self.classes: dict[str, int] = {}
        self.numbers: list[float] = []
        self.bad_keys: list[int] = []

    def host(self, host_id: str) -> HostTally:
        tally = self.hosts.get(host_id)
        if tally is None:
            tally = self.hosts[host_id] = HostTally()
        return tally

    def predicted(self, output: Output) -> None:
        """Add one prediction to the sample."""
        if output.kind == "number":
            self.numbers.append(float(output.value))
            return
        name, classes = output.value, self.classes
        if name not in classes and len(classes) >= CLASSES:
            name = OTHER
        classes[name] = classes.get(name, 0) + 1

    def counts(self) -> ArmCounts:
        hosts = [
            HostCounts(host=host_id, requests=one.requests, bad=one.bad, causes=one.causes, slow=one.slow)
            for host_id, one in self.hosts.items()
        ]
        predictions = Predictions(classes=self.classes, numbers=self.numbers)
        return ArmCounts(version=self.version, hosts=hosts, predictions=predictions, bad_keys=self.bad_keys)


class Batch:
    """The requests of one stratum that were routed within a second."""

    __slots__ = (
        "arms", "cap", "clients", "closed", "closed_at", "counted", "expires", "finished", "keys", "marks", "memory",
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
        self.cap = 0
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
        self.cap = cap = most_of_one(len(marks), len(self.clients))
        self.open = len(marks)
        for mark in marks:
            if mark.key is None and mark.nth >= cap:
                mark.status = mark.status or _VOID
                self.open -= 1
            elif mark.status == _OPEN:
                self.marks.append(mark)
            else:
                self._count(mark)
                self.open -= 1
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
                mark.arm.host("").requests += 1
                self.counted += 1
        self._finish()

    def _finish(self) -> None:
        self.marks, self.open = [], 0
        self.finished(self)

    def _count(self, mark: Mark) -> None:
        """Add one answered request to the sums."""
        host, status, key, memory = mark.host, mark.status, mark.key, self.memory
        if host is None:
            if key is not None and mark.timed:
                memory.timed.discard(key)
            return
        self.counted += 1
        arm = mark.arm
        endpoint = host.endpoint
        tally = arm.host(endpoint.host_id)
        tally.requests += 1
        cause = cause_of(status, mark.state)
        if cause is not None and (key is None or memory.is_first_bad(key)):
            tally.bad += 1
            tally.causes[cause] = tally.causes.get(cause, 0) + 1
            if key is not None:
                arm.bad_keys.append(key)
        if mark.timed:
            warm = memory.is_warm(endpoint.host_id, endpoint.generation, arm.version, self.skip_first)
            if warm and status in _TIMED:
                bucket = bucket_of(mark.took_us)
                tally.slow[bucket] = tally.slow.get(bucket, 0) + 1
            elif key is not None:
                memory.timed.discard(key)
        if mark.output is not None and mark.wants_output:
            arm.predicted(mark.output)
