"""Settings of the router, read once in `__main__`."""

from pathlib import Path
from typing import Literal

from pydantic import Field, SecretStr

from moorage_common.networks import Cidr
from moorage_common.settings import TRUSTED_PROXIES, ServiceSettings


class RouterSettings(ServiceSettings):
    """`MOORAGE_*` variables of the router."""

    pepper: SecretStr = Field(description="The platform's secret: key digests, request ids and internal calls use it.")
    redis_url: SecretStr = Field(description="Redis that holds the rate limits.")
    state_dir: Path = Field(description="Directory of the snapshot and the usage log; it must outlive the process.")
    registry_url: str = Field(
        default="", description="Base URL of the registry, asked for keys and limits while the bus is silent."
    )
    trusted_proxies: list[Cidr] = Field(default=[], description=TRUSTED_PROXIES)
    feature_proxy_url: str = Field(
        default="http://127.0.0.1:8300", description="Base URL of the feature-proxy, plain http."
    )
    router_name: str = Field(
        default="router-0", pattern=r"^[A-Za-z0-9_-]{1,63}$", description="Name of this router, unique among routers."
    )
    listen_fd: int | None = Field(
        default=None, description="An inherited listening socket to serve on instead of host and port."
    )
    listen_fds_of_others: list[int] = Field(
        default=[],
        description="Inherited listening sockets on the same port, of routers beside this one: while one is away, this "
        "router answers for it. A JSON list.",
    )
    park_s: float = Field(
        default=30.0, gt=0, description="How long a request waits, within its deadline, for a replica to be ready."
    )
    parked_bytes: int = Field(
        default=256 * 1024 * 1024,
        ge=0,
        description="Bytes of requests that may wait for replicas at one time; a tenant may take a quarter of it.",
    )
    queue_order: Literal["fair", "arrival", "off"] = Field(
        default="fair",
        description="Whose request goes next to a full device or node that tenants share: `fair` by weights, "
        "`arrival` whoever came first, `off` whoever comes, with no limit on what is there.",
    )
    connections_per_host: int = Field(
        default=128, ge=1, description="Connections to one replica host; further requests wait in turn."
    )
    stale_keys_s: float = Field(
        default=3600.0, gt=0, description="How long keys count as current when the bus cannot be heard."
    )
    serve_stale_keys: bool = Field(
        default=True, description="Go on serving when keys are older than that; if not, refuse with 503."
    )
