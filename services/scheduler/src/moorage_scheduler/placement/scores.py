"""How good a place is. Lower is better; equal places are taken in the cluster's fixed order."""

from moorage_scheduler.placement.filters import fitting_devices
from moorage_scheduler.placement.state import Ask, Device, Node

Score = tuple[int, int]
"""Devices shared with the same deployment, then what is left free of what is asked for."""


def best_devices(node: Node, ask: Ask) -> tuple[Device, ...]:
    """The devices of `node` that `ask` would take: apart from its siblings where it can be, then the fullest."""
    if ask.device_milli() == 0:
        return ()
    fitting = sorted(
        fitting_devices(node, ask), key=lambda device: (ask.deployment in device.deployments, device.free_milli)
    )
    return tuple(fitting[: ask.resources.devices])


def best_fit(node: Node, devices: tuple[Device, ...], ask: Ask) -> Score:
    """Best fit: the fewest GPU milli left on the devices taken; the fewest CPU milli left where no GPU is asked for."""
    if not devices:
        return (0, node.free_cpu_milli - ask.resources.cpu_milli)
    siblings = sum(ask.deployment in device.deployments for device in devices)
    return (siblings, sum(device.free_milli - ask.device_milli() for device in devices))
