"""Which pool a pooled version belongs to. Pure.

A tenant's pools are numbered. A version stays where it is for as long as it is wanted, so that one more version or one
less loads nothing anew; a new one goes to the first pool with room.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from moorage_common.contracts.desired import DesiredVersion
from moorage_common.contracts.tensors import DATA_FORMATS
from moorage_scheduler.hosts import VersionKey

OVERCOMMIT = 8
"""So many times the memory of a pool its versions may take together: those lately used are in memory."""
_FLOOR_BYTES = 128 * 1024
"""What the smallest model counts for; moorage_runtime's pool counts so, too."""


@dataclass(frozen=True)
class PoolSize:
    """The most that one pool holds, and what a host of it takes of its node."""

    versions: int = 1000
    memory_mib: int = 256
    host_mem_mib: int = 512
    cpu_milli: int = 50


def is_pooled(version: DesiredVersion) -> bool:
    """Whether it shares a process. Code, and what needs a GPU, has one of its own whatever is asked for."""
    data = version.load.format in DATA_FORMATS
    return version.isolation == "pooled" and data and version.resources.gpu_milli == 0


def grouped(
    wanted: Iterable[tuple[VersionKey, int]], before: Mapping[VersionKey, int], size: PoolSize
) -> dict[VersionKey, int]:
    """The pool of each version.

    Args:
        wanted: versions with the bytes of their artifacts.
        before: where they were.
    """
    most_bytes = size.memory_mib * OVERCOMMIT * 1024 * 1024
    count: dict[tuple[str, int], int] = defaultdict(int)
    used: dict[tuple[str, int], int] = defaultdict(int)
    found: dict[VersionKey, int] = {}

    def put(key: VersionKey, pool: int, size_bytes: int) -> None:
        found[key] = pool
        count[key[0], pool] += 1
        used[key[0], pool] += size_bytes

    new = []
    for key, artifact_bytes in sorted(wanted):
        size_bytes = _FLOOR_BYTES + artifact_bytes
        if key in before:
            put(key, before[key], size_bytes)
        else:
            new.append((key, size_bytes))
    for key, size_bytes in new:
        pool = 0
        while count[key[0], pool] and (
            count[key[0], pool] >= size.versions or used[key[0], pool] + size_bytes > most_bytes
        ):
            pool += 1
        put(key, pool, size_bytes)
    return found
