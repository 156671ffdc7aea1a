"""Reads the layout of the openb traces (Weng et al., USENIX ATC '23): a CSV of nodes, and one of pods without times."""

from collections.abc import Sequence
from pathlib import Path

from moorage_common.contracts.desired import Resources
from moorage_common.errors import BadRequest
from moorage_scheduler.placement.state import Ask, NodeSize
from moorage_scheduler.simulate.trace import opened

POD_COLUMNS = frozenset({"cpu_milli", "memory_mib", "num_gpu", "gpu_milli"})


def is_pods(path: Path) -> bool:
    """Whether the file at `path` has the header of openb's pods."""
    first = next(opened(path), None)
    return first is not None and first.keys() >= POD_COLUMNS


def read_pods(path: Path, tenants: Sequence[str] = ("openb",)) -> list[Ask]:
    """The pods of the CSV file at `path`, each a model of its own, dealt out to `tenants` in turn.

    A pod's GPU models (`gpu_spec`, several with "|") are kept; a pod of several GPUs takes whole ones.
    """
    asks: list[Ask] = []
    for number, row in enumerate(opened(path)):
        try:
            devices, milli = int(row["num_gpu"]), int(row["gpu_milli"])
            resources = Resources(
                gpu_milli=milli if devices else 0,
                devices=max(1, devices),
                cpu_milli=max(10, int(row["cpu_milli"])),
                host_mem_mib=max(64, int(row["memory_mib"])),
                gpu_models=[model for model in (row.get("gpu_spec") or "").split("|") if model],
            )
        except (KeyError, ValueError) as error:
            raise BadRequest(f"{path}, line {number + 2}, is no openb pod: {error}", code="bad_trace") from error
        asks.append(Ask(tenants[number % len(tenants)], row.get("name") or f"pod-{number}", 1, resources))
    return asks


def read_nodes(path: Path) -> list[NodeSize]:
    """The nodes of the CSV file at `path` (columns sn, cpu_milli, memory_mib, gpu, model), in its order."""
    try:
        return [
            NodeSize(
                name=row["sn"],
                devices=int(row["gpu"]),
                cpu_milli=int(row["cpu_milli"]),
                mem_mib=int(row["memory_mib"]),
                gpu_model=row["model"] if int(row["gpu"]) else "",
            )
            for row in opened(path)
        ]
    except (KeyError, ValueError) as error:
        raise BadRequest(
            f"{path} needs the columns sn, cpu_milli, memory_mib, gpu and model: {error}", code="bad_trace"
        ) from error
