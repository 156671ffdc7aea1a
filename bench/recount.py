"""An account of a cluster apart from the scheduler's own: dictionaries and sums, checked at every change."""

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field

from moorage_scheduler.placement.decisions import Place, Repair
from moorage_scheduler.placement.state import Ask, NodeSize

DEVICE_MILLI = 1000
Deployment = tuple[str, str]


class Broken(AssertionError):
    """An invariant does not hold."""


@dataclass
class Recount:
    """Who sits where. Every method raises Broken when a device is over its milli or MiB, a node over its CPU or memory,
    two replicas of a deployment share a device, or somebody who had a place has none."""

    sizes: dict[str, NodeSize]
    places: dict[str, tuple[Ask, Place]] = field(default_factory=dict)
    checks: int = 0
    _on: dict[str, dict[str, tuple[Ask, Place]]] = field(default_factory=lambda: defaultdict(dict))

    @staticmethod
    def of(sizes: Iterable[NodeSize]) -> "Recount":
        return Recount({size.name: size for size in sizes})

    def placed(self, replica: str, ask: Ask, place: Place) -> None:
        if replica in self.places:
            raise Broken(f"{replica} has a place already")
        self.places[replica] = (ask, place)
        self._on[place.node][replica] = (ask, place)
        self.check(place.node)

    def moved(self, plan: Repair) -> None:
        """Carry the moves out, both places held until a replica has moved."""
        for move in plan.moves:
            ask, source = self.places[move.replica]
            if source != move.source:
                raise Broken(f"{move.replica} is at {source}, not at {move.source}")
            self._on[move.target.node][f"{move.replica} moving"] = (ask, move.target)
            self.check(move.target.node, moving=move.replica)
            del self._on[move.target.node][f"{move.replica} moving"]
            del self._on[source.node][move.replica]
            self._on[move.target.node][move.replica] = self.places[move.replica] = (ask, move.target)
            self.check(move.target.node)

    def check(self, node: str, moving: str = "") -> None:
        """Sum up what sits on `node`. `moving` may share a device with its own second place."""
        self.checks += 1
        size = self.sizes[node]
        here = self._on[node]
        milli: dict[int, int] = defaultdict(int)
        mib: dict[int, int] = defaultdict(int)
        who: dict[int, set[Deployment]] = defaultdict(set)
        for replica, (ask, place) in here.items():
            model, each_mib = ask.resources, ask.device_mib(size)
            if len(place.devices) != (model.devices if model.gpu_milli else 0) or len(set(place.devices)) != len(
                place.devices
            ):
                raise Broken(f"{replica} has devices {place.devices}")
            if model.gpu_milli and model.gpu_models and size.gpu_model not in model.gpu_models:
                raise Broken(f"{replica} is on a {size.gpu_model}")
            for device in place.devices:
                if not 0 <= device < size.devices:
                    raise Broken(f"{node} has no device {device}")
                milli[device] += place.gpu_milli
                mib[device] += each_mib
                if ask.deployment in who[device] and moving not in replica:
                    raise Broken(f"{replica} shares device {device} of {node} with its own deployment")
                who[device].add(ask.deployment)
        cpu = sum(ask.resources.cpu_milli for ask, _ in here.values())
        mem = sum(ask.resources.host_mem_mib for ask, _ in here.values())
        if max(milli.values(), default=0) > DEVICE_MILLI or cpu > size.cpu_milli or mem > size.mem_mib:
            raise Broken(f"{node} is over: devices {dict(milli)}, CPU {cpu} of {size.cpu_milli}, memory {mem}")
        if size.device_mem_mib and max(mib.values(), default=0) > size.device_mem_mib:
            raise Broken(f"{node} is over its device memory: {dict(mib)}")

    def same(self, held: Iterable[tuple[str, str, tuple[int, ...]]]) -> None:
        """Whether the scheduler's account has the same replicas at the same places; then check every node."""
        theirs = {replica: (node, devices) for replica, node, devices in held}
        mine = {replica: (place.node, place.devices) for replica, (_, place) in self.places.items()}
        if theirs != mine:
            raise Broken(f"{len(theirs)} replicas have a place by the scheduler's account, {len(mine)} by the recount")
        for node in self.sizes:
            self.check(node)

    def gpu_milli(self) -> int:
        return sum(place.gpu_milli * len(place.devices) for _, place in self.places.values())
