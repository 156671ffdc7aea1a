"""What a router remembers of one rollout for as long as it runs: bounded, whatever callers send."""

KEYS = 200_000
"""Sticky keys remembered, of each kind. Beyond it no further key counts: none may count twice."""
RETRIES = 50_000
"""Idempotency keys remembered at least, and twice as many at most; those not seen for longest are forgotten."""
REPLICAS = 4096
"""Generations of replicas whose first requests are counted."""


class Warmth:
    """`left`: how many of a replica's next answers are not timed."""

    __slots__ = ("left",)

    def __init__(self, left: int) -> None:
        self.left = left


class Memory:
    """Keys that had their bad event, keys that were timed, idempotency keys seen, and how warm replicas are.

    Attributes:
        bad: sticky keys whose first bad event was counted.
        timed: sticky keys whose latency was counted, or is about to be, under the current revision of the route.
    """

    __slots__ = ("_earlier", "_keys", "_replicas", "_retries", "_seen", "bad", "timed")

    def __init__(self, keys: int = KEYS, retries: int = RETRIES) -> None:
        self._keys = keys
        self._retries = retries
        self.bad: set[int] = set()
        self.timed: set[int] = set()
        self._seen: set[int] = set()
        self._earlier: set[int] = set()
        self._replicas: dict[tuple[str, str, int], Warmth] = {}

    def is_retry(self, kid: str, idempotency: bytes) -> bool:
        """Whether a request of this key under this `Idempotency-Key` was seen before; it is from now on."""
        seen, mark = self._seen, hash((kid, idempotency))
        if mark in seen:
            return True
        if len(seen) >= self._retries:
            self._earlier, self._seen = seen, set()
        self._seen.add(mark)
        return mark in self._earlier

    def may_count(self, key: int) -> bool:
        """Whether a sticky key's requests still count: not after its first bad event."""
        return key not in self.bad and len(self.bad) < self._keys

    def may_time(self, key: int) -> bool:
        """Whether this request of a sticky key is the one to be timed; no other is until it is given back."""
        timed = self.timed
        if key in timed or len(timed) >= self._keys:
            return False
        timed.add(key)
        return True

    def is_first_bad(self, key: int) -> bool:
        """Whether this is the key's first bad event; it had one from now on."""
        if key in self.bad:
            return False
        self.bad.add(key)
        return True

    def warmth(self, host_id: str, generation: str, version: int, skip_first: int) -> "Warmth":
        """Of one version in one generation of a replica host."""
        replicas, name = self._replicas, (host_id, generation, version)
        held = replicas.get(name)
        if held is None:
            if len(replicas) >= REPLICAS:
                del replicas[next(iter(replicas))]
            held = replicas[name] = Warmth(skip_first)
        return held
