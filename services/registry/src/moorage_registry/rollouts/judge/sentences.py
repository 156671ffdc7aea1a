"""Why, in a sentence with numbers."""

from collections.abc import Sequence

from moorage_registry.rollouts.judge.arith import exp
from moorage_registry.rollouts.judge.evidence import HostEvidence, SignalEvidence

MOSTLY = 0.9


def per_cent(rate: float) -> str:
    """2.91 %, 0.083 %, 100 %."""
    return f"{100 * rate:.3g} %"


def counted(candidate: tuple[int, int], stable: tuple[int, int], what: str, of: str = "requests") -> str:
    """Both versions' bad of all, as "2.91 % of the candidate's 412 requests (12) failed, of stable's ..."."""
    (bad_c, n_c), (bad_s, n_s) = candidate, stable
    return (
        f"{per_cent(bad_c / max(n_c, 1))} of the candidate's {n_c:,} {of} {what} ({bad_c:,}), "
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


def latency(evidence: SignalEvidence) -> str:
    """Of a candidate that is too slow, by the quantile that shows it most."""
    most = max(evidence.detail["quantiles"], key=lambda one: float(one["log_e"]))
    slow_c, slow_s = int(most["candidate_slow"]), int(most["stable_slow"])
    by_host = [(host, host.timed, host.slow) for host in evidence.per_host]
    where = from_one_host(by_host, of="those beyond the 95 % quantile")
    return (
        f"{per_cent(slow_c / max(evidence.candidate_n, 1))} of the candidate's {evidence.candidate_n:,} requests took "
        f"{_ms(most['candidate_us'])} or longer ({slow_c:,}), against {per_cent(slow_s / max(evidence.stable_n, 1))} "
        f"of stable's {evidence.stable_n:,} that took {_ms(most['stable_us'])} or longer ({slow_s:,}); "
        f"{evidence_of(evidence.log_e, evidence.threshold)}{where}."
    )


def quality(evidence: SignalEvidence) -> str:
    """Of a candidate that is wrong too often."""
    beyond = evidence.detail.get("wrong_from_loss")
    what = "were wrong" if beyond is None else f"had a loss above {beyond:.4g}"
    told = []
    if evidence.candidate_n and evidence.stable_n:
        bad = (evidence.candidate_bad, evidence.candidate_n), (evidence.stable_bad, evidence.stable_n)
        told.append(counted(*bad, what, of="labelled answers"))
    if "pairs" in evidence.detail:
        worse, better = evidence.detail["candidate_alone_worse"], evidence.detail["stable_alone_worse"]
        told.append(
            f"of {evidence.detail['pairs']:,} requests that both versions answered, the candidate answered {worse:,} "
            f"worse and stable {better:,}"
        )
    return f"{'; '.join(told)}; {evidence_of(evidence.log_e, evidence.threshold)}."


def drift(evidence: SignalEvidence) -> str:
    """Of a candidate that predicts otherwise."""
    return f"The candidate predicts otherwise: {_bin(evidence)}; {evidence_of(evidence.log_e, evidence.threshold)}."


def collapsed(evidence: SignalEvidence, what: str) -> str:
    """Of a candidate that predicts one thing alone, or what cannot be."""
    return f"The candidate's predictions collapsed: {what}; {evidence_of(evidence.log_e, evidence.threshold)}."


def _bin(evidence: SignalEvidence) -> str:
    return (
        f"{per_cent(evidence.candidate_rate)} of its {evidence.candidate_n:,} predictions are "
        f"{evidence.detail['bin']}, of stable's {evidence.stable_n:,} {per_cent(evidence.stable_rate)}"
    )


def _ms(us: float) -> str:
    return f"{us / 1000:.3g} ms"


def from_one_host(hosts: Sequence[tuple[HostEvidence, int, int]], of: str = "it") -> str:
    """Says so if nearly all bad ones are of one host that has no such part of the requests; else nothing.

    Args:
        hosts: each with its requests and how many of them were bad.
        of: what the bad ones are called.
    """
    requests, bad = sum(n for _, n, _ in hosts), sum(x for _, _, x in hosts)
    if len(hosts) < 2 or not bad:
        return ""
    host, n, x = max(hosts, key=lambda one: one[2])
    if x < MOSTLY * bad or n >= MOSTLY * requests:
        return ""
    part = "all" if x == bad else f"{x:,} of {bad:,}"
    return f"; {part} of {of} from host {host.host}, which had {n:,} of the {requests:,} requests"


def _odds(log: float) -> str:
    if log > 34.5:
        return "more than 1e15"
    odds = float(exp(log))
    return f"{odds:,.0f}" if odds >= 10 else f"{odds:.2g}"
