"""Versions: immutable once pushed; their state moves as hosts validate them."""

import math
from dataclasses import dataclass

from moorage_common.contracts.desired import ValidationResult
from moorage_common.contracts.features import FeatureServiceInfo
from moorage_common.contracts.request_id import new_ulid
from moorage_common.errors import Conflict, NotFound, Unprocessable
from moorage_registry.catalog import rules
from moorage_registry.catalog.code import check_allowed
from moorage_registry.catalog.models import Artifact, Model, NewVersion, Validation, Version
from moorage_registry.catalog.repository import PENDING, CatalogRepository
from moorage_registry.catalog.tables import ModelRow, VersionRow
from moorage_registry.work import Work


def no_model(name: str) -> NotFound:
    return NotFound(f"there is no model {name}; push a version of it first", code="model_not_found")


def no_version(model: str, number: int) -> NotFound:
    return NotFound(f"model {model} has no version {number}", code="version_not_found")


def model_of(row: ModelRow, latest: int | None) -> Model:
    return Model(model=row.name, versions=row.last_version, latest=latest, created_at=row.created_at)


def version_of(row: VersionRow, size_bytes: int) -> Version:
    """The version as it is told. `size_bytes` is its artifact's."""
    fields = {name: getattr(row, name) for name in Version.model_fields if hasattr(row, name)}
    return Version(**fields, version=row.number, size_bytes=size_bytes, validation=_validation_of(row))


def _validation_of(row: VersionRow) -> Validation | None:
    if row.state in PENDING:
        return None
    state = "rejected" if row.state == "rejected" else "unchecked" if row.unchecked else "passed"
    return Validation(
        state=state,
        reason=row.reason,
        max_abs_diff=row.max_abs_diff,
        libraries=row.validated_libraries,
        at=row.validated_at,
    )


def _finite(number: float | None) -> float | None:
    return number if number is not None and math.isfinite(number) else None


def check(wanted: NewVersion) -> None:
    """Raises Unprocessable when no such version is served, before anything else is asked."""
    fault = rules.format_fault(wanted.format)
    if fault is not None:
        raise Unprocessable(fault, code="format_refused")
    fault = rules.signature_fault(wanted.signature)
    if fault is not None:
        raise Unprocessable(fault, code="bad_signature_of_model")


@dataclass(frozen=True)
class CatalogService:
    work: Work

    @property
    def _rows(self) -> CatalogRepository:
        return CatalogRepository(self.work.session)

    async def add_artifact(self, artifact: Artifact) -> bool:
        """Note that a blob is stored. False when it was known."""
        rows, work = self._rows, self.work
        added = await rows.add_artifact(work.tenant, artifact.digest, artifact.size_bytes, work.now)
        if added:
            work.audit("artifact.stored", artifact.digest, size_bytes=artifact.size_bytes)
        return added

    async def push(self, model: str, wanted: NewVersion, service: FeatureServiceInfo | None) -> tuple[Version, bool]:
        """The version, and whether it is new: an equal one that exists is returned unless a new one is forced.

        Args:
            service: the feature service named in `wanted`, as it is now.

        Raises:
            Forbidden: the format is code, which the tenant may not run.
            Unprocessable, Conflict: an artifact is missing; too many versions await validation.
        """
        await check_allowed(self.work.session, self.work.tenant, [wanted.format])
        size_bytes = await self._size_of(wanted.artifact_digest)
        if wanted.examples_digest is not None:
            await self._size_of(wanted.examples_digest)
        owner = await self._rows.ensure_model(self.work.tenant, model, self.work.now)
        content = rules.content_digest(wanted.artifact_digest, wanted.format, wanted.signature, service)
        if not wanted.force_new:
            equal = await self._rows.equal_version(self.work.tenant, model, content)
            if equal is not None:
                return version_of(equal, size_bytes), False
        await self._check_pending(model)
        owner.last_version += 1
        owner.revision += 1
        row = self._new_row(owner, wanted, service, content)
        await self._rows.add_version(self.work.tenant, row)
        self.work.touch("model", model)
        self.work.happened(
            "version.uploaded",
            f"models/{model}",
            row.number,
            version=row.number,
            artifact_digest=row.artifact_digest,
            format=row.format,
        )
        return version_of(row, size_bytes), True

    async def settle(self, model: str, result: ValidationResult) -> bool:
        """Take in the result of a validation run. False when it is of no pending run, or came before."""
        owner = await self._rows.model(self.work.tenant, model, lock=True)
        row = await self._rows.version(self.work.tenant, model, result.version)
        if owner is None or row is None or row.run_id != result.run_id or row.state not in PENDING:
            return False
        rejected = result.state == "rejected"
        row.state = "rejected" if rejected else "ready"
        row.unchecked = result.state == "unchecked"
        row.reason = result.reason
        row.max_abs_diff = _finite(result.max_abs_diff)
        row.validated_libraries = result.libraries
        row.validated_at = self.work.now
        owner.revision += 1
        self.work.touch("model", model)
        self.work.happened(
            "version.rejected" if rejected else "version.ready",
            f"models/{model}",
            row.number,
            version=row.number,
            reason=result.reason,
            unchecked=row.unchecked,
            max_abs_diff=row.max_abs_diff,
        )
        return True

    async def _check_pending(self, model: str) -> None:
        pending = sum(row.state in PENDING for row in await self._rows.versions(self.work.tenant, model))
        if pending >= rules.PENDING_MAX:
            message = f"{pending} versions of {model} await validation, the most at once; push again when some are done"
            raise Conflict(message, code="too_many_pending")

    async def _size_of(self, digest: str) -> int:
        artifact = await self._rows.artifact(self.work.tenant, digest)
        if artifact is None:
            message = f"artifact {digest} is not here; upload it first with PUT /v1/artifacts/{digest}"
            raise Unprocessable(message, code="artifact_missing")
        return artifact.size_bytes

    def _new_row(
        self, owner: ModelRow, wanted: NewVersion, service: FeatureServiceInfo | None, content: str
    ) -> VersionRow:
        return VersionRow(
            model=owner.name,
            number=owner.last_version,
            state="uploaded",
            unchecked=False,
            reason="",
            artifact_digest=wanted.artifact_digest,
            format=wanted.format,
            signature=wanted.signature.model_dump(mode="json"),
            libraries=wanted.libraries,
            examples_digest=wanted.examples_digest,
            feature_service=service.name if service is not None else None,
            feature_fingerprint=service.fingerprint if service is not None else None,
            features=service.features if service is not None else [],
            feature_entities=service.entities if service is not None else [],
            content_digest=content,
            run_id=new_ulid(),
            max_abs_diff=None,
            validated_libraries={},
            validated_at=None,
            created_at=self.work.now,
            created_by=self.work.actor,
        )
