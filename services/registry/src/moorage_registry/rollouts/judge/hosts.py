"""What each replica host of the candidate contributed: a failure says so when all of it came from one."""

from dataclasses import dataclass

from moorage_registry.rollouts.judge.evidence import HostEvidence

MOST = 64
OTHERS = "others"


@dataclass
class _Counted:
    requests: int = 0
    bad: int = 0
    timed: int = 0
    slow: int = 0


class Hosts:
    """Counts by host; those after the first `MOST` are one, "others"."""

    def __init__(self) -> None:
        self._hosts: dict[str, _Counted] = {}

    def add(self, host: str, *, requests: int = 0, bad: int = 0, timed: int = 0, slow: int = 0) -> None:
        name = host if host in self._hosts or len(self._hosts) < MOST else OTHERS
        one = self._hosts.setdefault(name, _Counted())
        one.requests += requests
        one.bad += bad
        one.timed += timed
        one.slow += slow

    def told(self) -> tuple[HostEvidence, ...]:
        return tuple(
            HostEvidence(host=name, requests=one.requests, bad=one.bad, timed=one.timed, slow=one.slow)
            for name, one in self._hosts.items()
        )
