"""What a replica host is started with."""

from pydantic import Field

from moorage_common.contracts.desired import LoadSpec
from moorage_common.contracts.model import Contract
from moorage_common.contracts.tensors import Format
from moorage_runtime.gpu_caps import GpuCaps
from moorage_runtime.limits import Limits


class HostConfig(Contract):
    """The one argument of `ReplicaHost`, as JSON. Ray restarts an actor with the same."""

    host_id: str
    tenant: str = Field(default="", description="Empty: a warm host, which waits to be assigned to a tenant.")
    bind: str = Field(default="127.0.0.1", description="Address the host listens on, at a free port.")
    cache_dir: str = Field(description="Directory of the artifact cache, shared by the hosts of a node.")
    loads: list[LoadSpec] = Field(default=[], description="Versions to load at start, in the background.")
    warm: list[Format] = Field(default=[], description="Formats whose libraries to import at start, for later loads.")
    pool_memory_mib: int = Field(
        default=0, description="Memory that a pooled host's models may take; 0 is a host that keeps all it loads."
    )
    gpu_caps: GpuCaps | None = Field(default=None, description="What MPS holds the process to, where it runs.")
    devices: list[int] = Field(default=[], description="GPUs given by the scheduler; empty: those that Ray gave.")
    max_body_bytes: int = Field(
        default=64 * 1024 * 1024, description="Largest request, unpacked, and most that its tensors take."
    )
    max_concurrent: int = Field(
        default=1024, description="Requests the host answers at a time, all versions; then 503."
    )
    max_waiting: int = Field(default=512, description="Requests a version holds before it answers 503.")
    max_queue_age_ms: int = Field(default=10_000, description="A request that waited longer is answered 503, not run.")
    max_rows: int = Field(default=100_000, description="Rows that one request may have; more are answered 413.")
    max_batch_bytes: int = Field(
        default=16 * 1024 * 1024, description="Most input bytes put together into one batch; larger requests run alone."
    )

    @property
    def limits(self) -> Limits:
        """What the host takes before it refuses."""
        return Limits(
            max_body_bytes=self.max_body_bytes,
            max_concurrent=self.max_concurrent,
            max_waiting=self.max_waiting,
            max_queue_age_s=self.max_queue_age_ms / 1000,
            max_rows=self.max_rows,
            max_batch_bytes=self.max_batch_bytes,
        )
