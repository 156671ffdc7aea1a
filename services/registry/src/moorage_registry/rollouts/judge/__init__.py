"""The judge: pure, sequential, with a bound on false rollbacks. How and why: docs/tenants/how-rollouts-judge.md."""

from moorage_registry.rollouts.judge.evidence import Evidence, Failure, HostEvidence, SafetyEvidence, SignalEvidence
from moorage_registry.rollouts.judge.judging import Judge

__all__ = ["Evidence", "Failure", "HostEvidence", "Judge", "SafetyEvidence", "SignalEvidence"]
