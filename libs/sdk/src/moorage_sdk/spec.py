"""Deployment specs as the registry takes them, from quantities as people write them."""

from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Any

from moorage_common.contracts.desired import Isolation
from moorage_sdk.errors import InvalidManifest
from moorage_sdk.quantities import Quantity, parse_cpu, parse_gpu, parse_memory

Json = dict[str, Any]


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


def version_spec(
    version: int | str,
    resources: Json,
    *,
    least: int = 1,
    most: int = 1,
    target_in_flight: int | None = None,
    isolation: Isolation = "dedicated",
) -> Json:
    """One version of a deployment: `least` to `most` replicas of `resources`."""
    if most < max(1, least):
        raise InvalidManifest(f"scaling: max ({most}) is less than {'min' if least > most else '1'}")
    scaling: Json = {"min": least, "max": most}
    if target_in_flight is not None:
        scaling["target_in_flight"] = target_in_flight
    return {"version": version, "resources": resources, "scaling": scaling, "isolation": isolation}


def traffic_spec(weights: Mapping[int, float] | Sequence[tuple[int | str, float]]) -> list[Json]:
    """Percent by version as arms in basis points.

    Raises:
        InvalidManifest: the weights do not add up to 100, or one is finer than 0.01.
    """
    pairs: Sequence[tuple[int | str, float]] = [*weights.items()] if isinstance(weights, Mapping) else weights
    arms: list[Json] = []
    for version, percent in pairs:
        points = Decimal(str(percent)) * 100
        if not points.is_finite() or points < 0 or points != points.to_integral_value():
            raise InvalidManifest(f"traffic: weight {percent} of version {version} is not a percentage to 0.01")
        arms.append({"version": version, "weight_bp": int(points)})
    if len({arm["version"] for arm in arms}) != len(arms):
        raise InvalidManifest("traffic: a version is named twice")
    total = sum(arm["weight_bp"] for arm in arms)
    if total != 10_000:
        raise InvalidManifest(f"traffic: the weights add up to {total / 100:g}, not 100")
    return arms
