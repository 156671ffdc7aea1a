"""The composition root: everything the registry consists of, built once in the lifespan and handed down."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Annotated

import httpx
import structlog
from fastapi import Depends, Request
from sqlalchemy import text
from sqlalchemy.exc import SQLAlchemyError

from moorage_common.bus import Bus
from moorage_common.clock import Clock, wall_clock
from moorage_common.db import Database
from moorage_common.networks import Proxies
from moorage_common.outbox import Relay
from moorage_registry import migrations
from moorage_registry.catalog.blobs import BlobStore
from moorage_registry.catalog.feature_services import FeatureServices
from moorage_registry.catalog.urls import ArtifactUrls
from moorage_registry.clusters.schedulers import Schedulers
from moorage_registry.deployments.loads import LoadReports
from moorage_registry.deployments.router_series import RouterSeries
from moorage_registry.deployments.status import StatusReports
from moorage_registry.events.service import Commits
from moorage_registry.feedback.intake import FeedbackIntake
from moorage_registry.keys.leaks import Leaks
from moorage_registry.keys.scopes import ADMIN
from moorage_registry.keys.service import PLATFORM, KeyService, Principal
from moorage_registry.keys.uses import KeyUses
from moorage_registry.metrics import Metrics
from moorage_registry.people.issuer import Issuer, issuer_of
from moorage_registry.publisher import Publisher
from moorage_registry.rollouts.controller import Controller
from moorage_registry.rollouts.lease import Lease
from moorage_registry.rollouts.look import Looks
from moorage_registry.rollouts.replay import Replays
from moorage_registry.rollouts.skew import SkewGate
from moorage_registry.settings import Settings
from moorage_registry.tenants.deletions import DELETIONS_LEASE, Deletions
from moorage_registry.tenants.models import LimitsChange
from moorage_registry.tenants.plans import begun
from moorage_registry.tenants.removal import Removal
from moorage_registry.tenants.repository import TenantRepository
from moorage_registry.tenants.service import TenantService, check_open
from moorage_registry.usage.consumer import UsageConsumer
from moorage_registry.usage.reservations import Reservations
from moorage_registry.work import Touched, Work, Works

log = structlog.get_logger()

_RESTART_S = 1.0
_OUTBOX_S = 5.0
_CANCEL_AGAIN_S = 0.25


@dataclass(frozen=True)
class Registry:
    settings: Settings
    clock: Clock
    db: Database
    works: Works
    blobs: BlobStore
    urls: ArtifactUrls
    features: FeatureServices
    issuer: Issuer | None
    status: StatusReports
    loads: LoadReports
    router_series: RouterSeries
    schedulers: Schedulers
    rollouts: Controller
    replays: Replays
    commits: Commits
    deletions: Deletions
    metrics: Metrics
    publisher: Publisher
    proxies: Proxies
    leaks: Leaks
    uses: KeyUses

    @property
    def pepper(self) -> str:
        return self.settings.pepper.get_secret_value()

    @contextlib.asynccontextmanager
    async def work(self, principal: Principal) -> AsyncIterator[Work]:
        """A transaction in the principal's name, committed at the end of the block.

        Raises Conflict where the tenant is being deleted meanwhile.
        """
        async with self.works.begin(principal.tenant, principal.kid) as work:
            await check_open(work)
            yield work

    async def not_ready(self) -> str | None:
        """Why the registry cannot serve, or None. The bus may be away: events and publication wait for it."""
        try:
            async with asyncio.timeout(2), self.db.read() as session:
                await session.execute(text("SELECT 1"))
        except (SQLAlchemyError, OSError, TimeoutError) as error:
            log.warning("database not reachable", error=str(error))
            return "the database does not answer"
        return None


def registry_of(request: Request) -> Registry:
    registry: Registry = request.app.state.registry
    return registry


RegistryDep = Annotated[Registry, Depends(registry_of)]


@contextlib.asynccontextmanager
async def running(settings: Settings, metrics: Metrics, clock: Clock = wall_clock) -> AsyncIterator[Registry]:
    """A registry with its database current and its background tasks running, until the block ends."""
    url, pepper = settings.database_url.get_secret_value(), settings.pepper.get_secret_value()
    if settings.migrate:
        await asyncio.to_thread(migrations.upgrade, url)
    bus = Bus(settings.nats_url.get_secret_value(), "registry")
    async with contextlib.AsyncExitStack() as stack:
        http = await stack.enter_async_context(httpx.AsyncClient(timeout=5.0))
        db = Database.at(url)
        stack.push_async_callback(db.close)
        async with db.read() as session:
            epoch = await TenantRepository(session).epoch()
        urls = ArtifactUrls(settings.public_url, pepper)
        publisher = Publisher(db, bus, clock, settings.cluster, urls, epoch)
        relay, commits = Relay(db, bus, clock), Commits()

        def committed(touched: set[Touched]) -> None:
            publisher.touch(touched)
            commits.wake()

        works = Works(db, clock, relay.wake, committed)
        status, loads = StatusReports(bus, works, settings.cluster), LoadReports(bus, clock)
        features = FeatureServices(http, settings.feature_proxy_url, pepper)
        looks = Looks(works, bus, clock, Lease(db, clock), status, loads, SkewGate(features, clock))
        rollouts = Controller(db, looks, publisher.put_route, metrics.rollouts)
        uses = KeyUses(db)
        consumer = UsageConsumer(db, bus, clock, metrics.usage_taken, uses.note_all)
        reservations = Reservations(db, bus, clock, settings.reservation_s)
        feedback = FeedbackIntake(db, bus, clock, settings.feedback_outputs, metrics.feedback_taken)
        blobs = BlobStore(settings.artifact_dir, settings.max_artifact_bytes)
        removal = Removal(works, bus, blobs, features, pepper)
        deletions = Deletions(db, removal, Lease(db, clock, DELETIONS_LEASE))
        registry = Registry(
            settings=settings, clock=clock, db=db, works=works, urls=urls, features=features, status=status,
            issuer=issuer_of(settings, http, clock),
            blobs=blobs, deletions=deletions, router_series=RouterSeries(bus, loads),
            loads=loads, schedulers=Schedulers(bus, settings.cluster), rollouts=rollouts, replays=Replays(db),
            commits=commits, metrics=metrics, publisher=publisher, proxies=Proxies(settings.trusted_proxies),
            leaks=Leaks(works, pepper), uses=uses,
        )  # fmt: skip
        await _bootstrap(registry)
        await bus.start()
        stack.push_async_callback(bus.close)
        tasks = {
            **publisher.tasks(),
            **status.tasks(),
            **feedback.tasks(),
            **rollouts.tasks(),
            **deletions.tasks(),
            "relay": relay.run,
            "loads": loads.run,
            "usage": consumer.run,
            "key-uses": uses.run,
            "usage-forget": consumer.forget_old,
            "reservations": reservations.run,
            "reservations-forget": reservations.forget_old,
            "outbox-gauge": lambda: _measure_outbox(relay, metrics),
        }
        stack.push_async_callback(_close_rollouts, rollouts)
        await stack.enter_async_context(_in_background(db, tasks, metrics))
        yield registry


async def _close_rollouts(rollouts: Controller) -> None:
    with contextlib.suppress(SQLAlchemyError, OSError):
        await rollouts.close()


async def _bootstrap(registry: Registry) -> None:
    """Have the operators' tenant exist, and the administrator's key where one is given."""
    async with registry.works.begin(PLATFORM, "bootstrap") as work:
        await TenantService(work).ensure(begun(LimitsChange(), registry.settings.plans))
        key = registry.settings.bootstrap_admin_key
        if key is not None and key.get_secret_value():
            await KeyService(work, registry.pepper).ensure(key.get_secret_value(), [ADMIN])


async def _measure_outbox(relay: Relay, metrics: Metrics) -> None:
    while True:
        metrics.outbox.set(await relay.backlog())
        await asyncio.sleep(_OUTBOX_S)


@contextlib.asynccontextmanager
async def _in_background(
    db: Database, tasks: Mapping[str, Callable[[], Awaitable[None]]], metrics: Metrics
) -> AsyncIterator[None]:
    """Run `tasks` beside the block, each restarted when it fails: a database that is away comes back.

    They are cancelled until they have ended: `asyncio.wait_for`, which NATS's client uses, may swallow a cancellation
    (python/cpython#86296).
    """

    async def keep(name: str, task: Callable[[], Awaitable[None]]) -> None:
        while True:
            try:
                await task()
            except Exception:
                metrics.failures.labels(name).inc()
                log.exception("background task failed and is restarted", task=name)
            await asyncio.sleep(_RESTART_S)

    pending = {asyncio.create_task(keep(name, task), name=name) for name, task in tasks.items()}
    try:
        yield
    finally:
        await db.settle()
        while pending:
            for running_task in pending:
                running_task.cancel()
            _, pending = await asyncio.wait(pending, timeout=_CANCEL_AGAIN_S)
