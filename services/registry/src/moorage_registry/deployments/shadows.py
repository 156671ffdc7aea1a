"""What became of copies of requests, summed over routers from their series. Pure."""

from collections.abc import Iterable, Sequence

from prometheus_client.metrics_core import Metric

from moorage_common.contracts.routes import Arm
from moorage_registry.deployments.models import Shadow

_SERIES = "moorage_router_shadow_"


def shadows_of(model: str, arms: Sequence[Arm], families: Iterable[Metric]) -> list[Shadow]:
    """The versions of `model` that get copies now, or did since the routers started, by number."""
    shares = {arm.version: arm.weight_bp for arm in arms if arm.role == "shadow"}
    counts: dict[int, dict[tuple[str, str], float]] = {version: {} for version in shares}
    for family in families:
        if not family.name.startswith(_SERIES):
            continue
        kind = family.name.removeprefix(_SERIES)
        for sample in family.samples:
            labels = sample.labels
            if labels.get("model") != model or not labels.get("version", "").isdecimal():
                continue
            of = next((labels[name] for name in ("outcome", "reason", "agrees", "of") if name in labels), "")
            of_version = counts.setdefault(int(labels["version"]), {})
            of_version[kind, of] = of_version.get((kind, of), 0.0) + sample.value
    return [_shadow(version, shares.get(version, 0), found) for version, found in sorted(counts.items())]


def _shadow(version: int, weight_bp: int, found: dict[tuple[str, str], float]) -> Shadow:
    def by(kind: str) -> dict[str, int]:
        return {of: int(value) for (one, of), value in sorted(found.items()) if one == kind}

    compared = by("compared")
    both = sum(compared.values())
    return Shadow(
        version=version,
        weight_bp=weight_bp,
        outcomes=by("requests"),
        shed=by("shed"),
        agreed=compared.get("yes", 0),
        disagreed=compared.get("no", 0),
        not_compared=compared.get("unknown", 0),
        model_ms=found.get(("seconds", "shadow"), 0.0) * 1000 / both if both else None,
        served_model_ms=found.get(("seconds", "served"), 0.0) * 1000 / both if both else None,
    )
