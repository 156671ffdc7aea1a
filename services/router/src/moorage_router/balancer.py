"""Choice of a host: power of two choices on in-flight requests (Mitzenmacher, 2001). Pure."""

from collections.abc import Callable, Sequence
from typing import Protocol, TypeVar


class Loaded(Protocol):
    """Anything with a count of requests in flight."""

    in_flight: int


H = TypeVar("H", bound=Loaded)


def choose(hosts: Sequence[H], draw: Callable[[], float], avoid: H | None = None) -> H | None:
    """The less loaded of two hosts drawn at random; one other than `avoid` where there is one.

    Args:
        draw: gives numbers uniform in [0, 1).
    """
    if avoid is not None:
        hosts = [host for host in hosts if host is not avoid] or hosts
    count = len(hosts)
    if count == 0:
        return None
    if count == 1:
        return hosts[0]
    first = int(draw() * count)
    second = (first + 1 + int(draw() * (count - 1))) % count
    return hosts[first] if hosts[first].in_flight <= hosts[second].in_flight else hosts[second]
