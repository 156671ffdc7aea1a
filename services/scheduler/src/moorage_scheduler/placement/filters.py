"""Which nodes can take a replica: one named predicate each, with a reason for people."""

from collections.abc import Callable

from moorage_scheduler.placement.state import Ask, Device, Node

Filter = Callable[[Node, Ask], str | None]
"""Why `node` cannot take `ask`, or None when it can."""


def fitting_devices(node: Node, ask: Ask) -> tuple[Device, ...]:
    """The devices of `node` with room for `ask`, in order."""
    milli, mib = ask.device_milli(), ask.device_mib(node.size)
    enforced = node.size.device_mem_mib > 0
    return tuple(d for d in node.devices if d.free_milli >= milli and (not enforced or d.free_mib >= mib))


def gpu_model(node: Node, ask: Ask) -> str | None:
    wanted = ask.resources.gpu_models
    if ask.device_milli() == 0 or not wanted or node.size.gpu_model in wanted:
        return None
    return f"its GPU is {node.size.gpu_model or 'of no known model'}, not {' or '.join(wanted)}"


def gpu_room(node: Node, ask: Ask) -> str | None:
    if ask.device_milli() == 0:
        return None
    fitting = len(fitting_devices(node, ask))
    if fitting >= ask.resources.devices:
        return None
    if not node.devices:
        return "it has no GPU"
    freest = max(node.devices, key=lambda device: device.free_milli)
    return (
        f"{ask.resources.devices} device(s) with {ask.device_milli()} milli and {ask.device_mib(node.size)} MiB free "
        f"are needed, {fitting} are; the freest has {freest.free_milli} milli"
    )


def cpu_room(node: Node, ask: Ask) -> str | None:
    if node.free_cpu_milli >= ask.resources.cpu_milli:
        return None
    return f"{ask.resources.cpu_milli} CPU milli are needed, {max(0, node.free_cpu_milli)} are free"


def memory_room(node: Node, ask: Ask) -> str | None:
    if node.free_mem_mib >= ask.resources.host_mem_mib:
        return None
    return f"{ask.resources.host_mem_mib} MiB of memory are needed, {max(0, node.free_mem_mib)} are free"


FILTERS: tuple[Filter, ...] = (gpu_model, gpu_room, cpu_room, memory_room)


def refusal(node: Node, ask: Ask) -> str | None:
    """The first filter's reason against `node`, or None."""
    return next((reason for check in FILTERS if (reason := check(node, ask)) is not None), None)
