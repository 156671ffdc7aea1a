"""What one connection may take of a server."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Limits:
    """Sizes in bytes, times in seconds.

    Attributes:
        kept_body: a body up to this size is handed over whole; a longer one part by part, as it comes.
        read_ahead: of a body that comes part by part, what is read before the handler asks for it.
        drain_linger_s: how long a draining server still takes connections and requests, each answered as the last one
            of its connection.
    """

    target: int = 8 * 1024
    head: int = 64 * 1024
    fields: int = 100
    kept_body: int = 256 * 1024
    read_ahead: int = 256 * 1024
    connections: int = 20_000
    head_s: float = 20.0
    body_s: float = 30.0
    idle_s: float = 75.0
    write_s: float = 60.0
    linger_s: float = 2.0
    drain_linger_s: float = 1.0
    drain_s: float = 30.0
