"""The scheduler's settings, read once in `__main__` from `MOORAGE_*` variables."""

from pydantic import Field

from moorage_common.settings import ServiceSettings


class Settings(ServiceSettings):
    """Ray's own RAY_AUTH_MODE and RAY_AUTH_TOKEN are read by Ray."""

    cluster: str = Field(default="default", description="Name of the cluster this scheduler answers for.")
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
        default=5.0,
        ge=0,
        description="Seconds that replicas of a node which Ray lost keep waiting for it before they start elsewhere.",
    )
