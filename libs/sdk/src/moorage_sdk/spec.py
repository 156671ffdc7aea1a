"""Deployment specs as the registry takes them, from quantities as people write them."""

from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Any, TypedDict

from moorage_common.contracts.desired import Isolation, SchedulingClass
from moorage_sdk.errors import InvalidManifest, InvalidQuantity
from moorage_sdk.quantities import Quantity, parse_cpu, parse_duration, parse_gpu, parse_memory, parse_percent

Json = dict[str, Any]

_ELASTIC_MOST_PCT = 50


class Profile(TypedDict, total=False):
    """What a replica takes of one GPU model; without `gpu_memory` the same share as `gpu`."""

    gpu: Quantity
    gpu_memory: Quantity


class Placing(TypedDict, total=False):
    """Where and how a version may run; everything may be left out.

    Keys:
        gpu_models: GPU models it may run on, as nodes name them ("T4", "H100"); any when left out.
        gpu_profiles: by GPU model, what it takes there in place of `gpu` and `gpu_memory`:
            {"H100": {"gpu": 0.2, "gpu_memory": "4Gi"}}.
        elastic: per cent of `gpu` that may be left out where it does not fit whole, at most 50.
        node_labels: labels that the node must carry.
        idle: with `min` 0, after so long without a request the last replica goes ("5m").
        target_in_flight: requests in flight a replica that scaling aims at.
        scheduling_class: "standard", or "scavenger" for what runs only on GPUs that nobody else wants.
        priority: 0 to 100, within the tenant; lower ones make room for higher ones.
        pinned: never moved to make room for others.
    """

    gpu_models: Sequence[str]
    gpu_profiles: Mapping[str, Profile]
    elastic: Quantity
    node_labels: Mapping[str, str]
    idle: Quantity
    target_in_flight: int
    scheduling_class: SchedulingClass
    priority: int
    pinned: bool


def resources_spec(
    gpu: Quantity = 0,
    gpu_memory: Quantity | None = None,
    cpu: Quantity | None = None,
    memory: Quantity | None = None,
) -> Json:
    """What a replica asks for, in thousandths and MiB. `gpu_memory` is per device; None is the share that `gpu` is.

    Raises:
        InvalidQuantity: naming the field.
    """
    device = parse_gpu(gpu)
    spec: Json = {"gpu_milli": device.milli, "devices": device.devices}
    if gpu_memory is not None:
        spec["gpu_mem_mib"] = parse_memory(gpu_memory, "gpu_memory")
    if cpu is not None:
        spec["cpu_milli"] = parse_cpu(cpu)
    if memory is not None:
        spec["host_mem_mib"] = parse_memory(memory)
    return spec


def _profile_spec(model: str, profile: Profile) -> Json:
    device = parse_gpu(profile.get("gpu", 1), f"gpu_profiles.{model}.gpu")
    if device.devices > 1 or device.milli == 0:
        raise InvalidQuantity(
            f"gpu_profiles.{model}.gpu: write the share of one {model}, such as 0.5; 1 is a whole one"
        )
    spec: Json = {"gpu_milli": device.milli}
    if "gpu_memory" in profile:
        spec["gpu_mem_mib"] = parse_memory(profile["gpu_memory"], f"gpu_profiles.{model}.gpu_memory")
    return spec


def _placing_resources(placing: Placing) -> Json:
    spec: Json = {}
    if "gpu_models" in placing:
        spec["gpu_models"] = list(placing["gpu_models"])
    if "gpu_profiles" in placing:
        spec["gpu_profiles"] = {model: _profile_spec(model, of) for model, of in placing["gpu_profiles"].items()}
    if "elastic" in placing:
        spec["elastic_pct"] = parse_percent(placing["elastic"], "elastic", _ELASTIC_MOST_PCT)
    if "node_labels" in placing:
        spec["node_labels"] = dict(placing["node_labels"])
    return spec


def version_spec(
    version: int | str,
    resources: Json,
    *,
    least: int = 1,
    most: int = 1,
    isolation: Isolation = "dedicated",
    placing: Placing | None = None,
) -> Json:
    """One version of a deployment: `least` to `most` replicas of `resources`.

    Raises:
        InvalidManifest: fewer at most than at least.
        InvalidQuantity: naming the field of `placing`.
    """
    more = placing if placing is not None else Placing()
    if most < max(1, least):
        raise InvalidManifest(f"scaling: max ({most}) is less than {'min' if least > most else '1'}")
    scaling: Json = {"min": least, "max": most}
    if "target_in_flight" in more:
        scaling["target_in_flight"] = more["target_in_flight"]
    if "idle" in more:
        scaling["idle_s"] = parse_duration(more["idle"])
    return {
        "version": version,
        "resources": {**resources, **_placing_resources(more)},
        "scaling": scaling,
        "isolation": isolation,
        **{key: more[key] for key in ("scheduling_class", "priority", "pinned") if key in more},
    }


def basis_points(percent: float, what: str) -> int:
    """Percent as basis points.

    Raises:
        InvalidManifest: not from 0 to 100, or finer than 0.01.
    """
    points = Decimal(str(percent)) * 100
    if not points.is_finite() or not 0 <= points <= 10_000 or points != points.to_integral_value():
        raise InvalidManifest(f"traffic: weight {percent} of {what} is not a percentage to 0.01")
    return int(points)


def traffic_spec(weights: Mapping[int, float] | Sequence[tuple[int | str, float]]) -> list[Json]:
    """Percent by version as arms in basis points.

    Raises:
        InvalidManifest: the weights do not add up to 100, or one is finer than 0.01.
    """
    pairs: Sequence[tuple[int | str, float]] = [*weights.items()] if isinstance(weights, Mapping) else weights
    arms: list[Json] = []
    for version, percent in pairs:
        arms.append({"version": version, "weight_bp": basis_points(percent, f"version {version}")})
    if len({arm["version"] for arm in arms}) != len(arms):
        raise InvalidManifest("traffic: a version is named twice")
    total = sum(arm["weight_bp"] for arm in arms)
    if total != 10_000:
        raise InvalidManifest(f"traffic: the weights add up to {total / 100:g}, not 100")
    return arms
