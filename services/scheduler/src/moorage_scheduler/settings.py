"""The scheduler's settings, read once in `__main__` from `MOORAGE_*` variables."""

from pydantic import Field

from moorage_common.settings import ServiceSettings


class Settings(ServiceSettings):
    """Ray's own RAY_AUTH_MODE and RAY_AUTH_TOKEN are read by Ray."""

    cluster: str = Field(default="default", description="Name of the cluster this scheduler answers for.")
    scheduler_name: str = Field(
        default="",
        pattern="^[^/]*$",
        description=(
            "Name of this process where a supervisor starts it anew only once it has ended: it then leads at once in "
            "place of the one before. Never give two that may run at the same time one name; empty otherwise."
        ),
    )
    ray_address: str = Field(default="127.0.0.1:6379", description="Ray's control service, `host:port`.")
    cache_dir: str = Field(
        default="/var/cache/moorage", description="Artifact cache of the replica hosts, the same path on every node."
    )
    host_bind: str = Field(default="127.0.0.1", description="Address that replica hosts listen on.")
    serve_cpus: float = Field(
        default=0.2,
        ge=0,
        description="CPUs of each node left out of the replicas' groups, for processes of Ray Serve applications.",
    )
    serve_gpus: int = Field(default=0, ge=0, description="GPUs of each node left out of the groups for the same.")
    node_grace_s: float = Field(
        default=0.0,
        ge=0,
        description=(
            "Seconds that replicas of a node which Ray lost wait for one of its name to come back before they start "
            "elsewhere. What ran on it is gone by then: waiting only keeps them together with what the node has cached."
        ),
    )
    pool_memory_mib: int = Field(
        default=256, ge=16, description="Memory that the models of one pooled host may take; the longest unused leave."
    )
    pool_versions: int = Field(default=1000, ge=1, le=4000, description="The most versions that one pool holds.")
    pool_cpu_milli: int = Field(default=50, ge=10, description="Processor time that a pooled host is counted with.")
    warm_least: int = Field(
        default=1, ge=0, description="Empty hosts that each node keeps ready, however few replicas start."
    )
    warm_most: int = Field(default=8, ge=0, description="The most of them a node keeps, however many replicas start.")
    warm_memory_mib: int = Field(default=256, ge=64, description="Memory that an empty host is counted with.")
    move_cooldown_s: float = Field(
        default=60.0, ge=0, description="Seconds that a replica stays where it is after it was moved for others' sake."
    )
    moves_an_hour: int = Field(
        default=120, ge=0, description="Moves an hour to make room: of one tenant's replicas, and for one tenant's."
    )
    reclaim_grace_s: float = Field(
        default=30.0,
        ge=0,
        description="Seconds that a replica runs at least before its place may be reclaimed or preempted for another.",
    )
    mps: bool = Field(
        default=False,
        description="Whether CUDA's MPS daemon runs on the GPU nodes: replicas are then held to their share by it.",
    )
    defragmentation_moves_an_hour: int = Field(
        default=30, ge=0, description="Moves an hour that gather free room in the background; 0 is only when ordered."
    )
