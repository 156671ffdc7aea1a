"""What a scrape is told of places and of tenants that wait for them."""

from collections.abc import Iterable

from prometheus_client.core import Metric

from moorage_common.metrics import TenantSeries
from moorage_router.fairness.places import Places
from moorage_router.metrics import counter, gauge


def fairness_series(places: Places, series: TenantSeries) -> Iterable[Metric]:
    """By place its limit and what runs; by tenant what waits, and how often it waited or was shed."""
    held = list(places.all())
    queued: dict[tuple[str, ...], float] = {}
    waited: dict[tuple[str, ...], float] = {}
    shed: dict[tuple[str, ...], float] = {}
    for place in held:
        for tenant, number in place.queued_by_tenant():
            labels = tuple(series.labels(tenant))
            queued[labels] = queued.get(labels, 0) + number
    for tenant, number in places.counts.waited.items():
        labels = tuple(series.labels(tenant))
        waited[labels] = waited.get(labels, 0) + number
    for tenant, number in places.counts.overloaded.items():
        labels = tuple(series.labels(tenant))
        shed[labels] = shed.get(labels, 0) + number
    limits = [((place.name,), float(place.gradient.limit)) for place in held]
    running = [((place.name,), float(place.running)) for place in held]
    yield gauge("moorage_router_place_limit", "Requests that may run in a place.", ["place"], limits)
    yield gauge("moorage_router_place_running", "Requests that run in a place.", ["place"], running)
    yield gauge("moorage_router_queued", "Requests waiting their turn at a place.", ["tenant"], queued.items())
    yield counter("moorage_router_waited", "Requests that waited their turn.", ["tenant"], waited.items())
    yield counter("moorage_router_overloaded", "Requests shed from full queues.", ["tenant"], shed.items())
