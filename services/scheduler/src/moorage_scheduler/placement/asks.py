"""What wants a place, what has one, and what a node is: the values that placement decides over."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from types import MappingProxyType
from typing import Any

from moorage_common.contracts.desired import Resources

DEVICE_MILLI = 1000


@dataclass(frozen=True)
class NodeSize:
    """What a node has in all. A device memory of 0 MiB is unknown, and then not enforced."""

    name: str
    devices: int
    cpu_milli: int
    mem_mib: int
    gpu_model: str = ""
    device_mem_mib: int = 0
    labels: Mapping[str, str] = field(default_factory=dict, hash=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "labels", MappingProxyType(dict(self.labels)))

    def recorded(self) -> dict[str, Any]:
        """As JSON, for `ClusterState.recorded`."""
        return {**{name: value for name, value in vars(self).items() if name != "labels"}, "labels": dict(self.labels)}


@dataclass(frozen=True)
class Demand:
    """The GPU part of a shape: what it takes of each device, by GPU model, and where it may run at all.

    `milli` is 0 without a GPU; then `devices` is 0 too. `profiles` is a sorted tuple of (model, milli, MiB).
    """

    milli: int
    mem_mib: int
    devices: int
    models: tuple[str, ...] = ()
    profiles: tuple[tuple[str, int, int], ...] = ()
    labels: tuple[tuple[str, str], ...] = ()

    def on(self, size: NodeSize) -> tuple[int, int]:
        """Milli and MiB that it takes of each device of `size`; 0 MiB is none where no memory is known."""
        milli, mib = self._said(size)
        if milli and self.devices > 1:
            milli = DEVICE_MILLI
        return milli, mib or size.device_mem_mib * milli // DEVICE_MILLI

    def said_mib(self, size: NodeSize) -> int:
        """MiB that it says it takes of each device of `size`; 0: as large a share as its milli."""
        return self._said(size)[1]

    def _said(self, size: NodeSize) -> tuple[int, int]:
        for model, milli, mib in self.profiles:
            if model == size.gpu_model:
                return milli, mib
        return self.milli, self.mem_mib

    def takes_model(self, model: str) -> bool:
        return not self.milli or not self.models or model in self.models


@dataclass(frozen=True)
class Shape:
    """What one replica asks for. Asks of one shape fit the same places and score alike."""

    demand: Demand
    cpu_milli: int
    mem_mib: int

    @staticmethod
    def of(resources: Resources) -> "Shape":
        labels = tuple(sorted(resources.node_labels.items()))
        if not resources.gpu_milli:
            return Shape(Demand(0, 0, 0, labels=labels), resources.cpu_milli, resources.host_mem_mib)
        profiles = sorted((model, p.gpu_milli, p.gpu_mem_mib) for model, p in resources.gpu_profiles.items())
        whole = DEVICE_MILLI if resources.devices > 1 else resources.gpu_milli
        models = tuple(sorted(resources.gpu_models))
        demand = Demand(whole, resources.gpu_mem_mib, resources.devices, models, tuple(profiles), labels)
        return Shape(demand, resources.cpu_milli, resources.host_mem_mib)

    def granted(self, size: NodeSize, milli: int) -> "Shape":
        """This shape as it runs on `size` with `milli` of each device: trimmed, it moves within its GPU model only."""
        asked, mib = self.demand.on(size)
        if milli == asked:
            return self
        models = (size.gpu_model,) if size.gpu_model else self.demand.models
        trimmed = Demand(milli, mib, self.demand.devices, models, (), self.demand.labels)
        return Shape(trimmed, self.cpu_milli, self.mem_mib)


@dataclass(frozen=True)
class Ask:
    """One replica that wants a place."""

    tenant: str
    model: str
    version: int
    resources: Resources
    scheduling_class: str = "standard"
    priority: int = 50

    @property
    def deployment(self) -> tuple[str, str]:
        return (self.tenant, self.model)

    @cached_property
    def shape(self) -> Shape:
        return Shape.of(self.resources)

    def device_milli(self, node: NodeSize | None = None) -> int:
        """Thousandths it takes of each device of `node` (None: of a model without a profile); 0 without a GPU."""
        return self.shape.demand.milli if node is None else self.shape.demand.on(node)[0]

    def device_mib(self, node: NodeSize) -> int:
        """MiB it takes of each device of `node`: what it says, else the same share as its milli."""
        return self.shape.demand.on(node)[1] if self.shape.demand.milli else 0

    def recorded(self) -> dict[str, Any]:
        """As JSON, for `ClusterState.recorded`."""
        named = {name: getattr(self, name) for name in ("tenant", "model", "version", "scheduling_class", "priority")}
        return {**named, "resources": self.resources.model_dump(mode="json", exclude_defaults=True)}

    @staticmethod
    def of_recorded(recorded: Mapping[str, Any]) -> "Ask":
        return Ask(**{**recorded, "resources": Resources.model_validate(recorded["resources"])})


@dataclass(frozen=True)
class Held:
    """A replica that has a place, as long as its process may live there.

    `gpu_milli` is what it got of each device; less than asked where an elastic ask was trimmed, None: what it asks.
    `since` is the second it was placed. `leaving`: it is on its way out, and its place is not free yet.
    """

    ask: Ask
    node: str
    devices: tuple[int, ...]
    gpu_milli: int | None = None
    pinned: bool = False
    since: float = 0.0
    leaving: bool = False

    def shape_on(self, size: NodeSize) -> Shape:
        """The shape it has on its node, `size`."""
        shape = self.ask.shape
        return shape if self.gpu_milli is None or not self.devices else shape.granted(size, self.gpu_milli)

    def recorded(self) -> dict[str, Any]:
        """As JSON, for `ClusterState.recorded`."""
        return {**vars(self), "ask": self.ask.recorded(), "devices": list(self.devices)}

    @staticmethod
    def of_recorded(recorded: Mapping[str, Any]) -> "Held":
        devices = tuple(recorded["devices"])
        return Held(**{**recorded, "ask": Ask.of_recorded(recorded["ask"]), "devices": devices})
