"""What a replica host is started with."""

from pydantic import Field

from moorage_common.contracts.desired import LoadSpec
from moorage_common.contracts.model import Contract
from moorage_common.contracts.tensors import Format


class HostConfig(Contract):
    """The one argument of `ReplicaHost`, as JSON. Ray restarts an actor with the same."""

    host_id: str
    tenant: str
    bind: str = Field(default="127.0.0.1", description="Address the host listens on, at a free port.")
    cache_dir: str = Field(description="Directory of the artifact cache, shared by the hosts of a node.")
    loads: list[LoadSpec] = Field(default=[], description="Versions to load at start, in the background.")
    warm: list[Format] = Field(default=[], description="Formats whose libraries to import at start, for later loads.")
    devices: list[int] = Field(default=[], description="GPUs given by the scheduler; empty: those that Ray gave.")
    max_body_bytes: int = Field(default=64 * 1024 * 1024, description="Largest request, unpacked.")
    max_waiting: int = Field(default=256, description="Requests a version holds before it answers 503.")
