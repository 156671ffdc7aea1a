"""Rows of answers that are kept, of labels, and of what there is of each model."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from sqlalchemy import delete, func, insert, select, text
from sqlalchemy.ext.asyncio import AsyncSession

from moorage_common.contracts.feedback import AnsweredOutput
from moorage_common.contracts.names import TenantId
from moorage_common.contracts.rollouts import FeedbackPolicy
from moorage_registry.deployments.tables import DeploymentRow, RevisionRow
from moorage_registry.feedback.tables import FeedbackCountRow, LabelRow, OutputRow

Key = tuple[str, str]
"""Tenant and ULID of an answer."""
Place = tuple[str, str]
"""Tenant and model."""
_LOCK = 0x6D6F6F66
_ROWS_A_STATEMENT = 500


class KeptOutput(NamedTuple):
    """What of a kept answer labels are held against."""

    kind: str
    value: str
    other_version: int | None
    other_value: str | None


def _slices(found: Sequence[Any]) -> Iterator[Sequence[Any]]:
    return (found[start : start + _ROWS_A_STATEMENT] for start in range(0, len(found), _ROWS_A_STATEMENT))


def _by_tenant(keys: Iterable[Key]) -> Iterator[tuple[str, Sequence[str]]]:
    """Tenants and their ULIDs, so many as a statement takes."""
    grouped: dict[str, list[str]] = {}
    for tenant, ulid in keys:
        grouped.setdefault(tenant, []).append(ulid)
    return ((tenant, part) for tenant, ulids in grouped.items() for part in _slices(ulids))


class FeedbackRepository:
    def __init__(self, session: AsyncSession) -> None:
        self._session = session

    async def lock(self) -> None:
        """Take turns with every other transaction that settles labels, until this one ends.

        Postgres numbers and shows rows as transactions end, in any order: without turns a label and its answer could
        miss each other, and a reader that has seen number n one below n. SQLite writes one at a time anyway.
        """
        if self._session.get_bind().dialect.name == "postgresql":
            await self._session.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _LOCK})

    async def counts(self, places: Iterable[Place]) -> dict[Place, FeedbackCountRow]:
        """What there is of these models, made where there was nothing. Needs the lock."""
        found = {}
        for tenant, model in sorted(set(places)):
            row = await self._session.get(FeedbackCountRow, (tenant, model))
            if row is None:
                row = FeedbackCountRow(tenant=tenant, model=model, settled=0, outputs=0, labels=0, lost=0)
                self._session.add(row)
            found[tenant, model] = row
        return found

    async def count(self, tenant: TenantId, model: str) -> FeedbackCountRow | None:
        return await self._session.get(FeedbackCountRow, (tenant, model))

    async def all_counts(self) -> Sequence[FeedbackCountRow]:
        return (await self._session.scalars(select(FeedbackCountRow))).all()

    async def policy(self, tenant: str, model: str) -> FeedbackPolicy | None:
        """What the model's deployment says of labels, deleted or not."""
        query = select(RevisionRow.spec).join(
            DeploymentRow,
            (DeploymentRow.tenant == RevisionRow.tenant)
            & (DeploymentRow.model == RevisionRow.model)
            & (DeploymentRow.revision == RevisionRow.revision),
        )
        spec = await self._session.scalar(query.where(RevisionRow.tenant == tenant, RevisionRow.model == model))
        said = spec.get("feedback") if spec is not None else None
        return None if said is None else FeedbackPolicy.model_validate(said)

    # -- answers

    async def add_outputs(self, outputs: Sequence[AnsweredOutput]) -> set[Key]:
        """Keep answers; the keys of those that were not kept before. Needs the lock."""
        known = await self._kept([(one.tenant, one.ulid) for one in outputs])
        rows: dict[Key, dict[str, Any]] = {}
        for one in outputs:
            key = one.tenant, one.ulid
            if key not in known and key not in rows:
                rows[key] = {
                    "tenant": one.tenant, "ulid": one.ulid, "model": one.model, "version": one.version,
                    "at": one.at, "kind": one.output.kind, "value": one.output.value,
                    "other_version": one.other_version, "other_value": None if one.other is None else one.other.value,
                }  # fmt: skip
        if rows:
            await self._session.execute(insert(OutputRow), list(rows.values()))
        return set(rows)

    async def _kept(self, keys: Iterable[Key]) -> set[Key]:
        """Those of the answers that are kept."""
        found: set[Key] = set()
        for tenant, ulids in _by_tenant(keys):
            query = select(OutputRow.ulid).where(OutputRow.tenant == tenant, OutputRow.ulid.in_(ulids))
            found |= {(tenant, ulid) for ulid in await self._session.scalars(query)}
        return found

    async def outputs(self, keys: Iterable[Key]) -> dict[Key, KeptOutput]:
        """Those of the answers that are kept."""
        found = {}
        columns = OutputRow.ulid, OutputRow.kind, OutputRow.value, OutputRow.other_version, OutputRow.other_value
        for tenant, ulids in _by_tenant(keys):
            query = select(*columns).where(OutputRow.tenant == tenant, OutputRow.ulid.in_(ulids))
            for row in await self._session.execute(query):
                found[tenant, row.ulid] = KeptOutput(row.kind, row.value, row.other_version, row.other_value)
        return found

    async def outputs_of_tenant(self, tenant: str) -> int:
        """How many answers are kept."""
        query = select(func.sum(FeedbackCountRow.outputs)).where(FeedbackCountRow.tenant == tenant)
        return int(await self._session.scalar(query) or 0)

    async def labels_of_tenant(self, tenant: str) -> int:
        query = select(func.sum(FeedbackCountRow.labels)).where(FeedbackCountRow.tenant == tenant)
        return int(await self._session.scalar(query) or 0)

    async def oldest_outputs(self, tenant: str, limit: int) -> Sequence[tuple[str, str]]:
        """ULID and model of a tenant's oldest kept answers."""
        query = select(OutputRow.ulid, OutputRow.model).where(OutputRow.tenant == tenant)
        return [(row.ulid, row.model) for row in await self._session.execute(query.order_by(OutputRow.at).limit(limit))]

    async def outputs_before(self, tenant: str, model: str, before: float, limit: int) -> Sequence[tuple[str, str]]:
        """The same of one model's that were answered before then."""
        query = select(OutputRow.ulid, OutputRow.model).where(OutputRow.tenant == tenant, OutputRow.at < before)
        query = query.where(OutputRow.model == model).order_by(OutputRow.at)
        return [(row.ulid, row.model) for row in await self._session.execute(query.limit(limit))]

    async def drop_outputs(self, tenant: str, ulids: Sequence[str]) -> None:
        for part in _slices(ulids):
            await self._session.execute(
                delete(OutputRow).where(OutputRow.tenant == tenant, OutputRow.ulid.in_(list(part)))
            )

    # -- labels

    async def labelled(self, keys: Iterable[Key]) -> set[Key]:
        """Those of the answers that have a label."""
        found: set[Key] = set()
        for tenant, ulids in _by_tenant(keys):
            query = select(LabelRow.ulid).where(LabelRow.tenant == tenant, LabelRow.ulid.in_(ulids))
            found |= {(tenant, ulid) for ulid in await self._session.scalars(query)}
        return found

    async def add_labels(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Labels in order of arrival, of answers that have none. Needs the lock."""
        if rows:
            await self._session.execute(insert(LabelRow), list(rows))

    async def waiting(self, keys: Iterable[Key]) -> list[LabelRow]:
        """Labels of these answers that are not settled, by order of arrival."""
        found: list[LabelRow] = []
        for tenant, ulids in _by_tenant(keys):
            query = select(LabelRow).where(LabelRow.tenant == tenant, LabelRow.ulid.in_(ulids), LabelRow.settled == 0)
            found += await self._session.scalars(query)
        return sorted(found, key=lambda row: row.id)

    async def recent(self, tenant: TenantId, model: str, after: int) -> Sequence[LabelRow]:
        """Labels that settled after number `after`, in that order."""
        query = select(LabelRow).where(LabelRow.tenant == tenant, LabelRow.model == model, LabelRow.settled > after)
        return (await self._session.scalars(query.order_by(LabelRow.settled))).all()

    async def unsettled(self, tenant: TenantId, model: str, since: float) -> tuple[int, int]:
        """Labels without their answer: those that came since then, and those before."""
        query = select(LabelRow.at >= since, func.count()).where(
            LabelRow.tenant == tenant, LabelRow.model == model, LabelRow.settled == 0
        )
        found = {bool(is_new): count for is_new, count in await self._session.execute(query.group_by(text("1")))}
        return found.get(True, 0), found.get(False, 0)

    async def labels_before(self, tenant: str, model: str, before: float, limit: int) -> Sequence[LabelRow]:
        """A model's labels that came before then."""
        query = select(LabelRow).where(LabelRow.tenant == tenant, LabelRow.model == model, LabelRow.at < before)
        return (await self._session.scalars(query.order_by(LabelRow.at).limit(limit))).all()

    async def oldest_labels(self, tenant: str, limit: int) -> Sequence[LabelRow]:
        """A tenant's labels of the oldest answers."""
        query = select(LabelRow).where(LabelRow.tenant == tenant).order_by(LabelRow.ulid)
        return (await self._session.scalars(query.limit(limit))).all()

    async def drop_labels(self, rows: Sequence[LabelRow]) -> None:
        for part in _slices([row.id for row in rows]):
            await self._session.execute(delete(LabelRow).where(LabelRow.id.in_(list(part))))
