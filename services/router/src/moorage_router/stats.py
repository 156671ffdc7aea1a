"""Statistics of a tenant's versions in the form of Triton's statistics extension. Pure."""

from collections.abc import Iterable, Iterator

import orjson

from moorage_common.contracts.stats import VersionStats
from moorage_router.routes import ServedRoute

_SUMMED = ("success", "failed", "success_us", "failed_us", "rows", "model_us")


def kept(routes: Iterable[ServedRoute]) -> Iterator[VersionStats]:
    """What this router counted; versions beyond the tenant's cap, which share one series, are left out."""
    for route in routes:
        for served in route.versions.values():
            if served.series.own:
                yield served.series.stats(served.model, served.number)


def summed(own: Iterable[VersionStats], others: Iterable[VersionStats]) -> list[VersionStats]:
    """`own`, each with what other routers counted of the same version."""
    by_version = {(stats.model, stats.version): stats for stats in own}
    for stats in others:
        held = by_version.get((stats.model, stats.version))
        if held is not None:
            sums = {name: getattr(held, name) + getattr(stats, name) for name in _SUMMED}
            sums["last_ms"] = max(held.last_ms, stats.last_ms)
            by_version[stats.model, stats.version] = held.model_copy(update=sums)
    return list(by_version.values())


def encoded(stats: Iterable[VersionStats]) -> bytes:
    """`{"model_stats": [...]}`."""
    return orjson.dumps({"model_stats": [_model_stat(one) for one in stats]})


def _model_stat(stats: VersionStats) -> dict[str, object]:
    """`queue` is all of the successful requests' time that was not the model's."""
    return {
        "name": stats.model,
        "version": str(stats.version),
        "last_inference": stats.last_ms,
        "inference_count": stats.rows,
        "execution_count": stats.success,
        "inference_stats": {
            "success": _duration(stats.success, stats.success_us),
            "fail": _duration(stats.failed, stats.failed_us),
            "queue": _duration(stats.success, max(0, stats.success_us - stats.model_us)),
            "compute_input": _duration(0, 0),
            "compute_infer": _duration(stats.success, stats.model_us),
            "compute_output": _duration(0, 0),
            "cache_hit": _duration(0, 0),
            "cache_miss": _duration(0, 0),
        },
        "batch_stats": [],
    }


def _duration(count: int, us: int) -> dict[str, int]:
    return {"count": count, "ns": us * 1000}
