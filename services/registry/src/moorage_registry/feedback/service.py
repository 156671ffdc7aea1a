"""What labels say of a deployment's versions."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from sqlalchemy.ext.asyncio import AsyncSession

from moorage_common.contracts.names import TenantId
from moorage_registry.deployments.service import DeploymentReader
from moorage_registry.feedback.models import FeedbackStatus, LabelDelay, VersionFeedback
from moorage_registry.feedback.repository import FeedbackRepository
from moorage_registry.feedback.tables import LabelRow

RECENT = 10_000
"""Labels that are summed up."""
WAITS_S = 3600.0
"""A router ships an answer within seconds; one that has not come after so long will not."""


@dataclass
class _Sums:
    labels: int = 0
    judged: int = 0
    wrong: int = 0
    losses: list[float] = field(default_factory=list)
    pairs: int = 0

    def add(self, wrong: bool | None, loss: float | None) -> None:
        self.labels += 1
        if wrong is not None:
            self.judged += 1
            self.wrong += wrong
        if loss is not None:
            self.losses.append(loss)


def by_version(labels: Sequence[LabelRow]) -> list[VersionFeedback]:
    """Sums by version; answers to copies count for the version that gave them. Pure."""
    sums: dict[int, _Sums] = {}
    for row in labels:
        sums.setdefault(row.version, _Sums()).add(row.wrong, row.loss)
        if row.other_version is not None and (row.other_wrong, row.other_loss) != (None, None):
            other = sums.setdefault(row.other_version, _Sums())
            other.add(row.other_wrong, row.other_loss)
            other.pairs += 1
    return [
        VersionFeedback(
            version=version,
            labels=one.labels,
            wrong=one.wrong,
            accuracy=1 - one.wrong / one.judged if one.judged else None,
            mean_loss=sum(one.losses) / len(one.losses) if one.losses else None,
            pairs=one.pairs,
        )
        for version, one in sorted(sums.items())
    ]


def delay_of(labels: Sequence[LabelRow]) -> LabelDelay | None:
    """Quantiles of the time from request to label (nearest rank); None without labels. Pure."""
    delays = sorted(max(0.0, row.at - row.answered_at) for row in labels)
    if not delays:
        return None
    p50, p90 = (delays[-(-len(delays) * share // 100) - 1] for share in (50, 90))
    return LabelDelay(p50=p50, p90=p90)


@dataclass(frozen=True)
class FeedbackReader:
    session: AsyncSession
    tenant: TenantId

    async def status(self, model: str, now: float) -> FeedbackStatus:
        """Raises NotFound where nothing is deployed."""
        await DeploymentReader(self.session, self.tenant).live(model)
        rows = FeedbackRepository(self.session)
        count = await rows.count(self.tenant, model)
        settled = 0 if count is None else count.settled
        recent = await rows.recent(self.tenant, model, max(0, settled - RECENT))
        waiting, late = await rows.unsettled(self.tenant, model, now - WAITS_S)
        return FeedbackStatus(
            model=model,
            policy=await rows.policy(self.tenant, model),
            outputs=0 if count is None else count.outputs,
            labels=0 if count is None else count.labels,
            settled=settled,
            waiting=waiting,
            lost=late + (0 if count is None else count.lost),
            recent=len(recent),
            versions=by_version(recent),
            delay_s=delay_of(recent),
        )
