"""One open or closed batch: who takes part, what became of each request, and the sums. Pure: the clock is outside.

Whether a request counts is decided by what was known when it was routed (the version, the client's share, its order in
the batch) and by whether a host was asked at all; what became of it decides only whether it was bad. Counting by
outcome would choose the number of requests by how they ended, and the bound on false rollbacks would be gone.
"""

import math
from collections import Counter
from collections.abc import Callable
from hashlib import blake2b

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

CLASS_CHARACTERS = 64
CLIENTS = 10
"""With so many clients or more, none weighs more than a tenth of a batch; with fewer, none more than an equal share."""

_OPEN, _VOID, _NAN = 0, -1, 1
"""Beside the statuses of answers: not answered yet, does not count, answered with NaN among the outputs."""
_CAUSES = {_NAN: "nan", 504: "timeout", 502: "lost"}
_TIMED = frozenset({200, _NAN, 499, 504})
"""Answered, or waited for so long at least; what was refused or lost took a time that says nothing of the model."""
_LOG_RATIO = math.log(BUCKET_RATIO)
_log = math.log


def _cause(status: int) -> str | None:
    """Why an answer is bad, or None. What the caller did is never bad: 4xx, and 499 when it went away."""
    if status >= 500 or status == _NAN:
        return _CAUSES.get(status) or str(status)
    return None


def class_name(value: str) -> str:
    """A class as it is told: a long one, or one that does not print, by its beginning and a digest.

    What models say is kept by the second and for weeks, and is in sentences: neither may grow with it.
    """
    if len(value) <= CLASS_CHARACTERS and value.isprintable() and value != OTHER:
        return value
    begins = "".join(one if one.isprintable() else "\ufffd" for one in value[: CLASS_CHARACTERS - 16])
    return f"{begins}\u2026{blake2b(value.encode(), digest_size=6).hexdigest()}"


def most_of_one(requests: int, clients: int) -> int:
    """How many requests of one client count in a batch of so many, whole ones rounded up."""
    return -(-requests // min(max(clients, 1), CLIENTS))


class Mark:
    """One request that takes part.

    Attributes:
        wants_output: its prediction is in the sample. Of a sticky key that of the request which is timed.
    """

    __slots__ = ("arm", "batch", "bucket", "key", "nth", "status", "tally", "timed", "wants_output")

    tally: "HostTally"
    bucket: int
    """Where it was counted; -1: not timed."""

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
        """What became of it; only the first call counts. It is summed up at once, while it is in a processor's cache.

        Args:
            status: of the answer; 499 when the caller went away first.
            took_us: microseconds at the replica, of the attempt that answered, or until nobody waited any more.
            host: who was asked last. None: nobody was, so that the request says nothing about the version.
            state: of the outputs, one of `host_frames.STATES`.
        """
        batch = self.batch
        if self.status or batch.is_finished:
            return
        if host is None:
            self.status = _VOID
            if self.timed and self.key is not None:
                batch.memory.timed.discard(self.key)
        else:
            self.status = status = _NAN if state == "nan" and status == 200 else status
            if not batch.closed:
                batch.count(self, host, took_us)
                if self.nth * CLIENTS >= batch.routed:  # its client's share may prove smaller than that
                    batch.perhaps.append(self)
            elif self.nth < batch.most:
                batch.count(self, host, took_us)
            if output is not None and self.wants_output:
                self.arm.outputs.append((self.nth, output))
        self.arm.settled += 1
        if batch.closed:
            batch.finish_if_settled()


class HostTally:
    """Sums of one generation of a host."""

    __slots__ = ("causes", "requests", "slow", "warmth")

    def __init__(self, warmth: Warmth) -> None:
        self.warmth = warmth
        self.requests = 0
        self.causes: dict[str, int] = {}
        self.slow: dict[int, int] = {}

    def take_back(self, mark: Mark) -> None:
        """`mark` was counted here, and is not to be."""
        self.requests -= 1
        cause = _cause(mark.status)
        if cause is not None:
            self.causes[cause] -= 1
        if mark.bucket >= 0:
            self.slow[mark.bucket] -= 1


class Arm:
    """One version's part of a batch."""

    __slots__ = ("bad_keys", "hosts", "outputs", "routed", "sample", "settled", "unanswered", "version")

    def __init__(self, version: int, sample: int = SAMPLED) -> None:
        """`sample`: of how many requests the prediction is told, the first ones."""
        self.version = version
        self.sample = sample
        self.routed = 0
        self.settled = 0
        self.unanswered = 0
        self.hosts: dict[Host, HostTally] = {}
        self.outputs: list[tuple[int, Output]] = []
        """With the number of the request among its client's."""
        self.bad_keys: list[int] = []

    @property
    def counted(self) -> int:
        return self.unanswered + sum(tally.requests for tally in self.hosts.values())

    def counts(self, most: int) -> ArmCounts:
        """The sums, by host id; `most` requests of one client count."""
        hosts: dict[str, HostCounts] = {}
        for host, tally in self.hosts.items():
            name = host.endpoint.host_id
            requests, causes, slow = tally.requests, Counter(tally.causes), Counter(tally.slow)
            if name in hosts:  # another generation of it
                held = hosts[name]
                requests, causes, slow = (
                    requests + held.requests,
                    causes + Counter(held.causes),
                    slow + Counter(held.slow),
                )
            bad = sum(causes.values())
            hosts[name] = HostCounts(host=name, requests=requests, bad=bad, causes=+causes, slow=+slow)
        if self.unanswered:
            hosts[""] = HostCounts(host="", requests=self.unanswered)
        return ArmCounts(
            version=self.version, hosts=[one for one in hosts.values() if one.requests], bad_keys=self.bad_keys,
            predictions=self._predictions(most),
        )  # fmt: skip

    def _predictions(self, most: int) -> Predictions:
        classes: dict[str, int] = {}
        numbers: list[float] = []
        for nth, output in self.outputs:
            if nth >= most:
                continue
            if output.kind == "number":
                numbers.append(float(output.value))
                continue
            name = class_name(output.value)
            name = name if name in classes or len(classes) < CLASSES else OTHER
            classes[name] = classes.get(name, 0) + 1
        return Predictions(classes=classes, numbers=numbers)


class Batch:
    """The requests of one stratum that were routed within a second.

    Attributes:
        perhaps: counted requests that are beyond their client's share if no more of others' come.
        most: of one client's requests, once the batch is closed.
    """

    __slots__ = (
        "arms", "clients", "closed", "closed_at", "expires", "finished", "is_finished", "keys", "memory", "most",
        "opened", "opened_at", "perhaps", "routed", "skip_first", "stratum",
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
        self.closed = self.is_finished = False
        self.closed_at = 0.0
        self.expires = 0.0
        self.routed = 0
        self.most = 0
        self.perhaps: list[Mark] = []
        self.clients: dict[str, int] = {}
        self.keys: set[int] = set()

    def close(self, closed_at: float, expires: float) -> None:
        """No request is added any more: fix each client's share, and take back what is beyond it.

        Args:
            closed_at: seconds since 1970.
            expires: monotonic seconds when every request's deadline has passed.
        """
        self.closed, self.closed_at, self.expires = True, closed_at, expires
        self.most = most = most_of_one(self.routed, len(self.clients))
        if any(requests > most for requests in self.clients.values()):
            for mark in self.perhaps:
                if mark.nth >= most:
                    mark.tally.take_back(mark)
        self.perhaps = []
        self.finish_if_settled()

    def expire(self) -> None:
        """Every deadline has passed: who is not answered counts as asked, and as nothing bad.

        The gateway answers by the deadline itself, with 504; what is left is an answer that its caller reads slowly.
        """
        for arm in self.arms.values():
            arm.unanswered = arm.routed - arm.settled
        self._finish()

    def finish_if_settled(self) -> None:
        if all(arm.routed == arm.settled for arm in self.arms.values()):
            self._finish()

    def _finish(self) -> None:
        self.is_finished = True
        self.finished(self)

    def count(self, mark: Mark, host: Host, took_us: int) -> None:
        """Add one answered request to the sums."""
        arm, status = mark.arm, mark.status
        tally = arm.hosts.get(host)
        if tally is None:
            endpoint = host.endpoint
            warmth = self.memory.warmth(endpoint.host_id, endpoint.generation, arm.version, self.skip_first)
            tally = arm.hosts[host] = HostTally(warmth)
        mark.tally = tally
        tally.requests += 1
        if status != 200:
            self._count_bad(mark, tally)
        if mark.timed and not tally.warmth.left and status in _TIMED:
            bucket = int(_log(took_us) / _LOG_RATIO) if took_us > 1 else 0  # as signals.bucket_of
            mark.bucket = bucket
            slow = tally.slow
            slow[bucket] = slow.get(bucket, 0) + 1
            return
        mark.bucket = -1
        if tally.warmth.left:
            tally.warmth.left -= 1
        if mark.timed and mark.key is not None:  # another request of the key may be timed
            self.memory.timed.discard(mark.key)

    def _count_bad(self, mark: Mark, tally: HostTally) -> None:
        cause, key = _cause(mark.status), mark.key
        if cause is None or (key is not None and not self.memory.is_first_bad(key)):
            return
        tally.causes[cause] = tally.causes.get(cause, 0) + 1
        if key is not None:
            mark.arm.bad_keys.append(key)
