"""What a tenant's rollouts are, as they are told."""

from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy.ext.asyncio import AsyncSession

from moorage_common.contracts.names import TenantId
from moorage_common.contracts.rollouts import FINAL, RolloutPolicy
from moorage_common.errors import NotFound
from moorage_registry.deployments.service import DeploymentReader
from moorage_registry.rollouts import chain
from moorage_registry.rollouts.models import Explanation, LogEntry, LogPage, Rollout, Verdict, Verdicts
from moorage_registry.rollouts.repository import RolloutRepository
from moorage_registry.rollouts.tables import RolloutRow, RolloutVerdictRow
from moorage_registry.rollouts.weights import guard_of, weight_pct

CURRENT = "current"
"""In place of a rollout's id: the one that runs, else the last one."""
EXPLAINED = 5


def no_rollout(model: str, rollout: str) -> NotFound:
    if rollout == CURRENT:
        message = f"there was no rollout of {model} yet; `moorage rollout start {model} --to VERSION` starts one"
    else:
        message = f"{model} has no rollout {rollout}; `moorage rollout history {model}` lists them"
    return NotFound(message, code="rollout_not_found")


def weight_of(row: RolloutRow, policy: RolloutPolicy) -> float:
    """Per cent of everybody's requests that the candidate answers."""
    if row.state in FINAL:
        return 100.0 if row.state == "done" else 0.0
    return weight_pct(policy, row.step)


def rollout_of(row: RolloutRow) -> Rollout:
    policy = RolloutPolicy.model_validate(row.policy)
    return Rollout.model_validate(
        {
            **{name: getattr(row, name) for name in Rollout.model_fields if hasattr(row, name)},
            "policy": policy,
            "steps": guard_of(policy),
            "weight": weight_of(row, policy),
            "evidence": row.outlook.get("evidence", {}),
            "eta_s": row.outlook.get("eta_s") if row.finished_at is None else None,
            "needed": row.outlook.get("needed") if row.finished_at is None else None,
        }
    )


def verdict_of(row: RolloutVerdictRow) -> Verdict:
    return Verdict.model_validate({**_fields(row), "sentence": row.detail.get("sentence", "")})


def _fields(row: RolloutVerdictRow) -> dict[str, object]:
    return {name: getattr(row, name) for name in Verdict.model_fields if hasattr(row, name)}


def explained(row: RolloutRow, verdicts: Sequence[RolloutVerdictRow]) -> str:
    """Why the rollout is where it is, in a sentence."""
    last = verdicts[-1].detail.get("sentence", "") if verdicts else ""
    if row.state in FINAL or not row.reason or row.reason == last:
        return last
    return f"{last}. Now: {row.reason}"


@dataclass(frozen=True)
class RolloutReader:
    """What a tenant's rollouts of a model are."""

    session: AsyncSession
    tenant: TenantId

    @property
    def _rows(self) -> RolloutRepository:
        return RolloutRepository(self.session)

    async def row(self, model: str, rollout: str) -> RolloutRow:
        """Raises NotFound."""
        found = (
            await self._rows.last(self.tenant, model)
            if rollout == CURRENT
            else await self._rows.get(self.tenant, model, rollout)
        )
        if found is None:
            await DeploymentReader(self.session, self.tenant).live(model)
            raise no_rollout(model, rollout)
        return found

    async def get(self, model: str, rollout: str) -> Rollout:
        """Raises NotFound."""
        return rollout_of(await self.row(model, rollout))

    async def page(self, model: str, limit: int) -> list[Rollout]:
        """Newest first. Raises NotFound where the model is neither deployed nor was ever rolled out."""
        rows = await self._rows.page(self.tenant, model, limit)
        if not rows:
            await DeploymentReader(self.session, self.tenant).live(model)
        return [rollout_of(row) for row in rows]

    async def verdicts(self, model: str, rollout: str, after: int, limit: int) -> Verdicts:
        """Those after the number `after`; all are looked at for whether they are intact. Raises NotFound."""
        row = await self.row(model, rollout)
        page: list[Verdict] = []
        links = chain.Chain(row)
        async for one in self._rows.all_verdicts(row.id):
            links.show(one)
            if one.number > after and len(page) < limit:
                page.append(verdict_of(one))
        return Verdicts(verdicts=page, intact=links.intact)

    async def explain(self, model: str, rollout: str) -> Explanation:
        """Raises NotFound."""
        row = await self.row(model, rollout)
        found = await self._rows.verdicts(row.id, row.verdicts - EXPLAINED, EXPLAINED)
        return Explanation(
            sentence=explained(row, found),
            verdicts=[verdict_of(one) for one in found],
            evidence=row.outlook.get("evidence", {}),
        )

    async def log(self, model: str, rollout: str, after: int, limit: int) -> LogPage:
        """Raises NotFound."""
        row = await self.row(model, rollout)
        found = await self._rows.entries(row.id, after, limit)
        entries = [LogEntry.model_validate(one, from_attributes=True) for one in found]
        return LogPage(entries=entries, next_after=found[-1].seq if len(found) == limit else None)
