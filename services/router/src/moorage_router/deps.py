"""The router's composition root: what exists, built once, in the order of who needs whom."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable, Iterable
from dataclasses import dataclass
from urllib.parse import urlsplit

from prometheus_client.core import Metric

from moorage_common import secrets
from moorage_common.bus import Bus
from moorage_common.contracts.names import BUCKET_KEYS, BUCKET_LIMITS
from moorage_common.contracts.versioned import Versioned
from moorage_common.key_refresh import KeyRefresh
from moorage_common.key_table import KeyTable
from moorage_common.networks import Proxies
from moorage_router.auth import Authenticator
from moorage_router.catalog import Catalog
from moorage_router.endpoints import Endpoints
from moorage_router.fairness.places import Places
from moorage_router.fairness.series import fairness_series
from moorage_router.features.lookup import FeatureLookup
from moorage_router.features.service import FeatureJoiner
from moorage_router.feedback.outputs import Outputs
from moorage_router.feedback.service import FeedbackService
from moorage_router.forwarding import Forwarder
from moorage_router.gateway import Gateway
from moorage_router.limits.calls import StoreState
from moorage_router.limits.limiter import Limiter
from moorage_router.limits.month import Months
from moorage_router.limits.store import LimitStore
from moorage_router.load import LoadReporter
from moorage_router.metrics import RouterMetrics, counter, gauge
from moorage_router.observation import Observer
from moorage_router.parking import Parking
from moorage_router.pool import SWEEP_S, Pool
from moorage_router.replicas import EndpointTable
from moorage_router.routes import RouteTable
from moorage_router.settings import RouterSettings
from moorage_router.shadow import Room, Shadows
from moorage_router.shadow_series import ShadowTable
from moorage_router.signals.book import Book
from moorage_router.signals.shipper import SignalsShipper
from moorage_router.stats_exchange import StatsExchange
from moorage_router.tables import Tables
from moorage_router.tenant_series import TenantSeriesResponder
from moorage_router.usage import UsageMeter, UsageShipper
from moorage_router.usage_log import UsageLog
from moorage_router.waking import Waker


@dataclass(frozen=True)
class Deps:
    """Everything a running router consists of."""

    bus: Bus
    store: LimitStore
    keys: KeyTable
    limits: Limiter
    months: Months
    routes: RouteTable
    hosts: EndpointTable
    places: Places
    waker: Waker
    parking: Parking
    feature_pool: Pool
    tables: Tables
    refresh: KeyRefresh
    usage: UsageShipper
    book: Book
    signals: SignalsShipper
    outputs: Outputs
    shadows: Shadows
    load: LoadReporter
    tenant_series: TenantSeriesResponder
    stats: StatsExchange
    metrics: RouterMetrics
    endpoints: Endpoints

    def not_ready(self) -> str | None:
        """Why the router cannot serve yet."""
        return None if self.tables.known else "the router has not read its tables from the bus yet"


def build(settings: RouterSettings, metrics: RouterMetrics) -> Deps:
    """Build it all; nothing runs yet. Needs a running event loop."""
    pepper = settings.pepper.get_secret_value()
    request_id_secret = secrets.derive(pepper, "request-id")
    bus = Bus(settings.nats_url.get_secret_value(), settings.router_name)
    store = LimitStore(settings.redis_url.get_secret_value())
    places = Places(settings.queue_order)
    hosts = EndpointTable(settings.connections_per_host, places)
    waker = Waker(bus, metrics)
    parking = Parking(waker, settings.parked_bytes, settings.park_s, lambda tenant: limits.of(tenant).limits.weight)
    limits = Limiter(StoreState(store), settings.router_name, parking.parked)
    usage_log = UsageLog(settings.state_dir / "usage", settings.router_name)
    signals = SignalsShipper(bus)
    book = Book(settings.router_name, usage_log.boot, signals.take)
    routes = RouteTable(hosts, metrics.version, request_id_secret, book)
    keys = KeyTable(pepper)

    def on_limits(tenant: str, entry: Versioned) -> None:
        keys.on_limits(tenant, entry)
        limits.apply(tenant, entry)
        months.apply(tenant, entry)

    tables = Tables(
        bus, settings.state_dir / f"{settings.router_name}.snapshot.json",
        keys=keys.on_key, limits=on_limits, routes=routes.apply, endpoints=hosts.apply,
    )  # fmt: skip
    refresh = KeyRefresh(settings.registry_url, pepper, tables.readers[BUCKET_KEYS], tables.readers[BUCKET_LIMITS])
    meter = UsageMeter()
    usage = UsageShipper(meter, usage_log, bus)
    owner = f"{settings.router_name}:{usage_log.boot}"
    months = Months(bus, owner, lambda: limits.state.routers, lambda: usage_log.unshipped)
    outputs = Outputs(bus, settings.router_name, metrics)
    proxy = urlsplit(settings.feature_proxy_url)
    feature_pool = Pool(f"{proxy.hostname}:{proxy.port or 80}", settings.connections_per_host)
    features = FeatureJoiner(FeatureLookup(feature_pool, secrets.internal_token(pepper)))
    shadows = Shadows(features, outputs, ShadowTable(metrics), Room(parking.parked, SWEEP_S))
    gateway = Gateway(
        keys=Authenticator(keys, _staleness(settings, refresh)), routes=routes, limits=limits, months=months,
        usage=meter, features=features, forwarder=Forwarder(hosts, metrics, parking),
        observer=Observer(outputs, shadows),
    )  # fmt: skip
    exchange = StatsExchange(bus, routes, settings.router_name)
    endpoints = Endpoints(
        gateway, Catalog(routes, exchange),
        FeedbackService(limits, bus, request_id_secret, metrics), metrics,
        lambda: None if tables.known else "the router has not read its tables from the bus yet",
        secret=request_id_secret, proxies=Proxies(settings.trusted_proxies),
    )  # fmt: skip
    deps = Deps(
        bus=bus, store=store, keys=keys, limits=limits, routes=routes, hosts=hosts, places=places, waker=waker,
        parking=parking, feature_pool=feature_pool, tables=tables, refresh=refresh, usage=usage, book=book,
        signals=signals, outputs=outputs, shadows=shadows,
        load=LoadReporter(bus, hosts, settings.router_name, usage_log.boot),
        tenant_series=TenantSeriesResponder(bus, metrics.registry, settings.router_name),
        months=months, stats=exchange, metrics=metrics, endpoints=endpoints,
    )  # fmt: skip
    metrics.gauges(lambda: _gauges(deps))
    return deps


def _staleness(settings: RouterSettings, refresh: KeyRefresh) -> Callable[[], bool]:
    """Whether keys are too old to be trusted; the clock starts with the process."""
    started = time.monotonic()

    def stale() -> bool:
        silence_s = min(refresh.silence_s(), time.monotonic() - started)
        return not settings.serve_stale_keys and silence_s > settings.stale_keys_s

    return stale


@contextlib.asynccontextmanager
async def running(deps: Deps) -> AsyncIterator[None]:
    """Serve from the snapshot at once, then keep tables, leases, usage and reports going; drain at the end."""
    deps.tables.restore()
    await deps.bus.start()
    work = [
        *(reader.run() for reader in deps.tables.readers.values()),
        deps.refresh.run(), deps.tables.run_snapshots(),
        deps.limits.run(), deps.usage.run_commits(), deps.usage.run_shipping(),
        deps.load.run(), deps.tenant_series.run(), deps.stats.run(), deps.signals.run(), deps.outputs.run(),
        deps.months.run(), _sweep(deps),
    ]  # fmt: skip
    tasks = [asyncio.create_task(coroutine) for coroutine in work]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await deps.shadows.close()
        await deps.waker.close()
        await deps.usage.close()
        await deps.months.close()
        deps.book.close()
        await deps.signals.close()
        await deps.outputs.close()
        await deps.tables.write()
        deps.hosts.close()
        deps.feature_pool.close()
        await deps.store.close()
        await deps.bus.close()


async def _sweep(deps: Deps) -> None:
    while True:
        await asyncio.sleep(SWEEP_S)
        now = time.monotonic()
        deps.hosts.sweep(now)
        deps.feature_pool.sweep(now)
        deps.book.sweep()
        deps.shadows.room.tick()


def _gauges(deps: Deps) -> Iterable[Metric]:
    """What is true at the moment of a scrape."""
    labels = deps.metrics.series.labels
    in_flight: dict[tuple[str, ...], float] = {}
    parked: dict[tuple[str, ...], float] = {}
    ready: dict[tuple[str, ...], float] = {}
    for replicas in deps.hosts.all():
        names = tuple(labels(replicas.tenant, replicas.model))
        in_flight[names] = in_flight.get(names, 0) + replicas.in_flight
        parked[names] = parked.get(names, 0) + replicas.parked
        ready[names] = ready.get(names, 0) + len(replicas.ready)
    tokens = [((name,), float(tenant.gate.tokens)) for name, tenant in deps.limits.tenants.items()]
    state = deps.limits.state
    by_model = ["tenant", "model"]
    yield gauge("moorage_router_in_flight", "Requests being answered.", by_model, in_flight.items())
    yield gauge("moorage_router_parked", "Requests waiting for a replica.", by_model, parked.items())
    yield gauge("moorage_router_parked_bytes", "Bytes of those requests.", [], [((), float(deps.parking.size))])
    yield from fairness_series(deps.places, deps.metrics.series)
    yield gauge("moorage_router_ready_replicas", "Replica hosts ready, by model.", by_model, ready.items())
    yield gauge("moorage_router_quota_tokens", "Leased tokens in hand.", ["tenant"], tokens)
    yield gauge("moorage_router_usage_unshipped", "Requests not acknowledged.", [], [((), deps.usage.unshipped)])
    signals = deps.signals
    yield gauge("moorage_router_signals_waiting", "Batches of signals not acknowledged.", [], [((), signals.waiting)])
    outcomes = [(("sent",), float(signals.sent)), (("dropped",), float(signals.dropped))]
    yield counter("moorage_router_signals", "Batches of signals for rollouts' judge.", ["outcome"], outcomes)
    yield gauge("moorage_router_outputs_waiting", "Kept outputs not shipped.", [], [((), float(deps.outputs.waiting))])
    yield gauge("moorage_router_limit_store_away", "1 while Redis is away.", [], [((), float(state.breaker.opened))])
    yield gauge("moorage_router_routers", "Routers that share the limits.", [], [((), float(state.routers))])
    reads = [(("answered",), float(deps.refresh.reads)), (("failed",), float(deps.refresh.failures))]
    yield counter("moorage_router_registry_reads", "Reads of keys from the registry.", ["outcome"], reads)
    yield gauge(
        "moorage_router_table_silence_seconds", "Since a table's writer was last heard.", ["bucket"],
        [((bucket,), min(reader.silence_s(), 1e9)) for bucket, reader in deps.tables.readers.items()],
    )  # fmt: skip
