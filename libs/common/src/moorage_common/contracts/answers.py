"""What schedulers answer to a `SchedulerAsk`: the bodies of `SchedulerAnswer`, by `what`."""

from pydantic import Field

from moorage_common.contracts.desired import ReplicaState, SchedulingClass
from moorage_common.contracts.model import Contract


class Seat(Contract):
    """A replica where it sits. All of another tenant's on a device are one `Seat` without names."""

    host_id: str = ""
    tenant: str = ""
    model: str = ""
    version: int = 0
    state: ReplicaState | None = None
    devices: list[int] = []
    gpu_milli: int = Field(default=0, description="What it holds of each of its devices.")
    gpu_mem_mib: int = 0
    scheduling_class: SchedulingClass = "standard"
    pinned: bool = False


class DeviceView(Contract):
    """A GPU. Memory is None where it is not known, free amounts are negative where more runs than fits."""

    device: int
    free_milli: int
    mem_mib: int | None = None
    free_mib: int | None = None
    seats: list[Seat] = []


class NodeView(Contract):
    name: str
    gpu_model: str = ""
    labels: dict[str, str] = {}
    drained: bool = Field(default=False, description="It takes no more replicas and loses those it has.")
    cpu_milli: int = 0
    free_cpu_milli: int = 0
    mem_mib: int = 0
    free_mem_mib: int = 0
    devices: list[DeviceView] = []
    seats: list[Seat] = Field(default=[], description="Replicas without a GPU.")
    left: dict[str, str] = Field(default={}, description="Of a drained node, by host id, why a replica is still there.")

    def replicas(self) -> int:
        """How many replicas sit here; one of several devices counts once, one without a name as one a device."""
        named = {seat.host_id for device in self.devices for seat in device.seats if seat.host_id}
        unnamed = sum(not seat.host_id for device in self.devices for seat in device.seats)
        return len(named) + unnamed + len(self.seats)


class Waiting(Contract):
    """Replicas of a version that have no place."""

    tenant: str = ""
    model: str = ""
    version: int = 0
    replicas: int = 0
    reason: str = ""


class Nodes(Contract):
    """Answer to `nodes`."""

    nodes: list[NodeView] = []
    waiting: list[Waiting] = []


class Removed(Contract):
    """How many nodes a filter took out of those that the ones before it left, and why, of most of them."""

    filter: str
    nodes: int
    reason: str = ""


class Placement(Contract):
    """A replica that has a place, and why there."""

    host_id: str
    state: ReplicaState
    node: str
    devices: list[int] = []
    gpu_milli: int = 0
    why: str = ""


class VersionExplanation(Contract):
    """Why the replicas of one version are where they are, or wait. `removed` tells of the next replica to place."""

    version: int
    wanted: int = 0
    placed: list[Placement] = []
    waiting: int = 0
    reason: str = Field(default="", description="Why replicas wait, or why none is to run.")
    nodes: int = Field(default=0, description="Nodes that the filters looked at.")
    removed: list[Removed] = []
    would_fit: list[str] = Field(default=[], description="What would make it fit, each by itself.")


class Explanation(Contract):
    """Answer to `explain`. Of other tenants it tells nothing but counts of nodes."""

    model: str
    versions: list[VersionExplanation] = []


class ShareView(Contract):
    """A tenant's share of one GPU model ("" for all models without an entry), in thousandths of a device."""

    gpu_model: str = ""
    guaranteed_milli: int = 0
    borrow_milli: int | None = None
    weight: float = 1.0
    held_guaranteed_milli: int = 0
    held_borrowed_milli: int = 0
    held_scavenger_milli: int = 0


class TenantShares(Contract):
    tenant: str
    gpu_milli: int = Field(default=0, description="The most it may hold in all.")
    cpu_milli: int = Field(default=0, description="The most CPU that its deployments may grow to.")
    mem_mib: int = Field(default=0, description="The most memory of nodes that they may grow to.")
    held_milli: int = 0
    waiting: int = Field(default=0, description="Replicas without a place.")
    waiting_milli: int = 0
    shares: list[ShareView] = []


class Shares(Contract):
    """Answer to `shares`: of one tenant, or of all. `overcommitted` says which guarantees cannot all be kept."""

    tenants: list[TenantShares] = []
    overcommitted: list[str] = []


class Moved(Contract):
    """A replica that changes its place, in the order in which moves are made."""

    host_id: str
    tenant: str = ""
    model: str = ""
    version: int = 0
    gpu_milli: int = 0
    from_node: str
    from_devices: list[int] = []
    to_node: str
    to_devices: list[int] = []


class Figures(Contract):
    """How well the free GPU is gathered. `fragmented_milli`: free, but of no use to what is typically asked for."""

    free_milli: int = 0
    fragmented_milli: float = 0.0
    free_devices: int = Field(default=0, description="Devices with nothing on them.")
    largest_run: int = Field(default=0, description="Most devices of one node with nothing on them.")


class Defragmented(Contract):
    """Answer to `defragment`: the moves, carried out where `ordered`, and the nodes as they are before."""

    ordered: bool = False
    moves: list[Moved] = []
    before: Figures = Figures()
    after: Figures = Figures()
    nodes: list[NodeView] = []
