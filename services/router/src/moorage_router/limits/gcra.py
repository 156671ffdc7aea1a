"""Generic cell rate algorithm (ITU-T I.371), and how much of a limit one router takes at a time. Pure; seconds."""

from dataclasses import dataclass

CHUNK_S = 0.1
LEAST_LEASE = 8
"""A chunk below this many tokens is not worth a lease: each round of requests asks Redis."""


@dataclass(frozen=True, slots=True)
class Taken:
    """One request fits. `tat` is the bucket's new theoretical arrival time."""

    tat: float


@dataclass(frozen=True, slots=True)
class Refused:
    """It does not; it would after `retry_after_s`."""

    retry_after_s: float


def take(tat: float, now: float, *, rate: float, burst: float) -> Taken | Refused:
    """Take one token from a bucket of `burst` tokens that refills at `rate` a second."""
    if rate <= 0 or burst < 1:
        return Refused(retry_after_s=60.0)
    later = max(tat, now) + 1 / rate
    over = later - now - burst / rate
    return Taken(tat=later) if over <= 1e-9 else Refused(retry_after_s=over)


def charged(tat: float, now: float, tokens: int, *, rate: float, burst: float) -> float:
    """The bucket's arrival time after `tokens` were spent elsewhere; never deeper in debt than empty."""
    if rate <= 0:
        return tat
    return min(max(tat, now) + tokens / rate, now + burst / rate)


def chunk(local_rate: float, burst: int, routers: int) -> int:
    """Tokens to lease at once: 100 ms of what passes here, at most this router's part of half the burst."""
    most = max(1, burst // (2 * max(1, routers)))
    return min(max(1, round(local_rate * CHUNK_S)), most)


def local_burst(rate: float, burst: float) -> float:
    """Tokens a router may hold while the store is away: a quarter second of its share, at least one."""
    return max(1.0, min(burst, rate * 0.25))
