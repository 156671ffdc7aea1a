"""Where replicas listen: value of `endpoints/<cluster>.<host_id>`."""

from typing import Literal

from moorage_common.contracts.model import Contract


class HeldVersion(Contract):
    model: str
    version: int
    state: Literal["loading", "ready", "failed", "draining"]
    reason: str = ""


class Endpoint(Contract):
    """A replica host. `generation` and `token` are made by the host at process start and change with every restart."""

    cluster: str
    host_id: str
    tenant: str
    address: str
    generation: str
    token: str
    versions: list[HeldVersion]
    node: str = ""
    devices: list[int] = []
