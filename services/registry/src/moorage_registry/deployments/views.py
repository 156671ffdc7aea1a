"""What routers and schedulers are told of a model: pure functions of its rows."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from moorage_common.contracts.desired import ArtifactRef, Desired, DesiredVersion, LoadSpec, Resources, ValidationRun
from moorage_common.contracts.names import TenantId
from moorage_common.contracts.rollouts import FeedbackPolicy
from moorage_common.contracts.routes import Arm, Route, RouteFeedback, RouteRing, RouteVersion, Sticky
from moorage_common.contracts.tensors import CODE_FORMATS, Signature
from moorage_registry.catalog.repository import PENDING
from moorage_registry.catalog.tables import VersionRow
from moorage_registry.deployments.models import PlacedVersion, Revision
from moorage_registry.deployments.plan import share_out
from moorage_registry.rollouts.published import PublishedRollout


@dataclass(frozen=True)
class ModelState:
    """All that is known of a model, read in one transaction. `deployed` is None where nothing is deployed.

    `rollout` is what a rollout that moves has to say about routes and replicas.
    """

    tenant: TenantId
    model: str
    revision: int
    versions: Sequence[VersionRow]
    sizes: Mapping[str, int]
    deployed: Revision | None
    traffic_revision: int
    arms: Sequence[Arm]
    sticky: Sticky | None = None
    rings: Sequence[RouteRing] = ()
    rollout: PublishedRollout | None = None


def route_of(state: ModelState, cluster: str) -> Route | None:
    """The route, or None where nothing is deployed. Routers ask the scheduler of `cluster` to start replicas.

    Versions that are not ready get no share, of rings neither, while others are; where none is ready, the arms stand as
    they were set, and routers answer that the model is not ready yet.
    """
    if state.deployed is None:
        return None
    held = set(state.deployed.numbers())
    rows = [row for row in state.versions if row.number in held and row.state != "rejected"]
    ready = {row.number for row in rows if row.state == "ready"}
    return Route(
        tenant=state.tenant,
        model=state.model,
        revision=state.traffic_revision,
        arms=share_out(state.arms, ready) or list(state.arms),
        versions=[_route_version(row) for row in rows],
        deadline_ms=state.deployed.deadline_ms,
        features=state.deployed.features.join() if state.deployed.features is not None else None,
        sticky=state.sticky,
        rings=[ring for ring in state.rings if ring.version in ready],
        rollout=state.rollout.route if state.rollout is not None else None,
        feedback=_route_feedback(state.deployed.feedback),
        cluster=cluster,
    )


def _route_feedback(policy: FeedbackPolicy | None) -> RouteFeedback | None:
    if policy is None:
        return None
    return RouteFeedback(output=policy.output, keep_bp=round(policy.keep_pct * 100))


def _route_version(row: VersionRow) -> RouteVersion:
    return RouteVersion.model_validate(
        {
            "version": row.number,
            "format": row.format,
            "signature": row.signature,
            "feature_service": row.feature_service,
            "features": row.features,
        }
    )


def desired_of(state: ModelState, cluster: str, sign: Callable[[TenantId, str], str]) -> Desired | None:
    """What should run, and what should be validated; None where neither. `sign` makes URLs of artifacts."""

    def artifact(digest: str) -> ArtifactRef:
        return ArtifactRef(digest=digest, size_bytes=state.sizes.get(digest, 0), url=sign(state.tenant, digest))

    by_number = {row.number: row for row in state.versions}
    placed = state.deployed.versions if state.deployed is not None else []
    versions = [
        _desired_version(state, by_number[p.version], p, artifact)
        for p in placed
        if p.version in by_number and by_number[p.version].state == "ready"
    ]
    runs = [
        ValidationRun(
            run_id=row.run_id,
            load=_load(state, row, artifact, Resources()),
            examples=artifact(row.examples_digest) if row.examples_digest is not None else None,
            libraries=row.libraries,
        )
        for row in state.versions
        if row.state in PENDING
    ]
    if not versions and not runs:
        return None
    return Desired(cluster=cluster, tenant=state.tenant, model=state.model, versions=versions, validations=runs)


def _desired_version(
    state: ModelState, row: VersionRow, placed: PlacedVersion, artifact: Callable[[str], ArtifactRef]
) -> DesiredVersion:
    load = _load(state, row, artifact, placed.resources)
    scaling = state.rollout.scaling(placed) if state.rollout is not None else placed.scaling
    if row.format in CODE_FORMATS:
        load = load.model_copy(update={"resources": placed.resources})
    return DesiredVersion(
        load=load,
        resources=placed.resources,
        isolation=placed.isolation,
        min_replicas=scaling.min,
        max_replicas=scaling.max,
        target_in_flight=scaling.target_in_flight,
        idle_s=scaling.idle_s,
        scheduling_class=placed.scheduling_class,
        priority=placed.priority,
        pinned=placed.pinned,
        capacity_share_bp=placed.capacity_share_bp,
    )


def _load(state: ModelState, row: VersionRow, artifact: Callable[[str], ArtifactRef], resources: Resources) -> LoadSpec:
    return LoadSpec.model_validate(
        {
            "tenant": state.tenant,
            "model": state.model,
            "version": row.number,
            "format": row.format,
            "artifact": artifact(row.artifact_digest),
            "signature": Signature.model_validate(row.signature),
            "threads": max(1, resources.cpu_milli // 1000),
            "gpu_mem_mib": resources.gpu_mem_mib,
        }
    )
