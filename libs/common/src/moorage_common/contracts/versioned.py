"""The envelope of every key-value entry: one writer, ordered by (epoch, version), never by the bucket's revision."""

from typing import Any

from moorage_common.contracts.model import Contract

HEARTBEAT_PREFIX = "_hb."


class Versioned(Contract):
    """A value with its writer's order. `value` is None in a tombstone.

    The registry's epoch is a database row raised only on a restore and its version the row's own; the scheduler's
    epoch is its leader's fencing number.
    """

    epoch: int
    version: int
    value: dict[str, Any] | None

    @property
    def order(self) -> tuple[int, int]:
        return (self.epoch, self.version)


class Heartbeat(Contract):
    """Written every second under `_hb.<writer>`, last of a rebuild: a bucket without it is not complete.

    Attributes:
        writer: who writes; for buckets shared by clusters, the cluster.
        prefix: the keys this writer answers for ("" for the whole bucket).
        epoch: of the writer.
        at: seconds since 1970.
        created: when the bucket that the writer filled was made; a reader of another bucket does not believe the beat.
    """

    writer: str
    prefix: str
    epoch: int
    at: float
    created: str = ""
