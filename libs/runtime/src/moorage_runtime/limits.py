"""What a replica host takes before it refuses."""

from dataclasses import dataclass

from moorage_runtime.v2.datatypes import REQUEST_LIMIT_BYTES


@dataclass(frozen=True, slots=True)
class Limits:
    """`HostConfig` has the same with descriptions. `max_batch_bytes` bounds what is copied together, not a request;
    `max_body_bytes` bounds a request and, apart from it, the tensors decoded from it."""

    max_body_bytes: int = REQUEST_LIMIT_BYTES
    max_concurrent: int = 1024
    max_waiting: int = 512
    max_queue_age_s: float = 10.0
    max_rows: int = 100_000
    max_batch_bytes: int = 16 * 1024 * 1024
