"""Why, in a sentence with numbers."""

from collections.abc import Sequence

from moorage_registry.rollouts.judge.arith import exp
from moorage_registry.rollouts.judge.evidence import HostEvidence, SignalEvidence

MOSTLY = 0.9


def per_cent(rate: float) -> str:
    """2.91 %, 0.083 %, 100 %."""
    return f"{100 * rate:.3g} %"


def counted(candidate: tuple[int, int], stable: tuple[int, int], what: str) -> str:
    """Both versions' bad of all, as "2.91 % of the candidate's 412 requests (12) failed, of stable's ..."."""
    (bad_c, n_c), (bad_s, n_s) = candidate, stable
    return (
        f"{per_cent(bad_c / max(n_c, 1))} of the candidate's {n_c:,} requests {what} ({bad_c:,}), "
        f"against {per_cent(bad_s / max(n_s, 1))} of stable's {n_s:,} ({bad_s:,})"
    )


def evidence_of(log_e: float, threshold: float) -> str:
    """As odds: "the evidence is 1,250 to 1 where 250 to 1 are asked for"."""
    return f"the evidence is {_odds(log_e)} to 1 where {_odds(threshold)} to 1 are asked for"


def errors(evidence: SignalEvidence) -> str:
    """Of a candidate that fails too often."""
    both = counted((evidence.candidate_bad, evidence.candidate_n), (evidence.stable_bad, evidence.stable_n), "failed")
    where = from_one_host([(host, host.requests, host.bad) for host in evidence.per_host])
    return f"{both}; {evidence_of(evidence.log_e, evidence.threshold)}{where}."


def from_one_host(hosts: Sequence[tuple[HostEvidence, int, int]]) -> str:
    """Says so if nearly all bad ones are of one host that has no such part of the requests; else nothing.

    Args:
        hosts: each with its requests and how many of them were bad.
    """
    requests, bad = sum(n for _, n, _ in hosts), sum(x for _, _, x in hosts)
    if len(hosts) < 2 or not bad:
        return ""
    host, n, x = max(hosts, key=lambda one: one[2])
    if x < MOSTLY * bad or n >= MOSTLY * requests:
        return ""
    part = "all" if x == bad else f"{x:,} of {bad:,}"
    return f"; {part} of it from host {host.host}, which had {n:,} of the {requests:,} requests"


def _odds(log: float) -> str:
    if log > 34.5:
        return "more than 1e15"
    odds = float(exp(log))
    return f"{odds:,.0f}" if odds >= 10 else f"{odds:.2g}"
