"""What `moorage up` was asked for."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Options:
    """`port` 0 takes free ports for everything; otherwise the routers', and the others follow it."""

    state: Path
    port: int = 8080
    gpus: int = 2
    routers: int = 1
    nodes: int = 1
    warm: int = 1
    demo: bool = True
    identity_issuer: str = ""
    queue_order: str = "fair"


class StartFailed(Exception):
    """The platform cannot start; the message is for the person at the terminal and says what to do."""
