"""What should run, and what does: values of `desired/...` and `status/...`."""

from typing import Literal

from pydantic import Field

from moorage_common.contracts.model import Contract
from moorage_common.contracts.tensors import Format, Signature

Isolation = Literal["dedicated", "pooled"]

SchedulingClass = Literal["standard", "scavenger"]
"""`scavenger` replicas run on what nobody else wants and are the first to go."""


MOST_MIB = 2**26
"""64 TiB. Amounts are bounded so that sums of them over a cluster stay exact in 64 bits."""
MOST_CPU_MILLI = 10**7


class GpuProfile(Contract):
    """What a replica takes of one GPU model: a fraction of a T4 is another than of an H100."""

    gpu_milli: int = Field(ge=1, le=1000)
    gpu_mem_mib: int = Field(default=0, ge=0, le=MOST_MIB, description="0 is the same share as gpu_milli.")


class Resources(Contract):
    """What one replica asks for, in integers. `devices` > 1 means whole devices of one node."""

    gpu_milli: int = Field(default=0, ge=0, le=1000, description="Per device; 1000 is a whole one, 0 none.")
    devices: int = Field(default=1, ge=1, le=16)
    gpu_mem_mib: int = Field(default=0, ge=0, le=MOST_MIB, description="Per device; 0 is the same share as gpu_milli.")
    cpu_milli: int = Field(default=250, ge=10, le=MOST_CPU_MILLI)
    host_mem_mib: int = Field(default=512, ge=64, le=MOST_MIB)
    gpu_models: list[str] = Field(default=[], description="GPU models it may run on; empty is any.")
    gpu_profiles: dict[str, GpuProfile] = Field(
        default={}, description="By GPU model, what it takes there in place of gpu_milli and gpu_mem_mib."
    )
    elastic_pct: int = Field(
        default=0, ge=0, le=50, description="Per cent of gpu_milli that may be left out where it does not fit whole."
    )
    node_labels: dict[str, str] = Field(default={}, description="Labels that the node must carry.")


class ArtifactRef(Contract):
    """A blob by digest. `url` is signed by the registry and expires; the digest does not."""

    digest: str = Field(pattern=r"^sha256:[0-9a-f]{64}$")
    size_bytes: int
    url: str = ""


class LoadSpec(Contract):
    """What a replica host needs to load a version."""

    tenant: str
    model: str
    version: int
    format: Format
    artifact: ArtifactRef
    signature: Signature
    max_batch: int = 64
    threads: int = 1
    gpu_mem_mib: int = Field(default=0, description="GPU memory the model may take on its device; 0 is no limit.")
    resources: Resources | None = Field(
        default=None, description="Of code formats: the most that the processes it starts may ask for together."
    )


class DesiredVersion(Contract):
    load: LoadSpec
    resources: Resources
    isolation: Isolation = "dedicated"
    min_replicas: int = 1
    max_replicas: int = 1
    target_in_flight: int = Field(default=8, description="In-flight requests a replica that autoscaling aims at.")
    idle_s: int = Field(default=300, description="With min 0: after so long without a request the last replica goes.")
    scheduling_class: SchedulingClass = "standard"
    priority: int = Field(default=50, ge=0, le=100, description="Within the tenant: lower ones are preempted first.")
    pinned: bool = Field(default=False, description="Never moved to make room for others.")
    capacity_share_bp: int = 10_000


class ValidationRun(Contract):
    """Ask a replica host of the tenant to load a version and answer its examples again."""

    run_id: str
    load: LoadSpec
    examples: ArtifactRef | None = Field(default=None, description="JSON of `Examples`; None: load check only.")
    libraries: dict[str, str] = Field(default={}, description="Versions recorded at push, to name those that differ.")
    rtol: float = 1e-3
    atol: float = 1e-4


class Desired(Contract):
    cluster: str
    tenant: str
    model: str
    versions: list[DesiredVersion] = []
    validations: list[ValidationRun] = []


ReplicaState = Literal["pending", "starting", "loading", "ready", "failed", "stopping"]


class ReplicaStatus(Contract):
    host_id: str
    version: int
    state: ReplicaState
    reason: str = ""
    node: str = ""
    devices: list[int] = []
    gpu_milli: int = 0
    restarts: int = 0
    started_at: float = 0.0
    ready_at: float | None = None


class ValidationResult(Contract):
    run_id: str
    version: int
    state: Literal["passed", "rejected", "unchecked"]
    reason: str = ""
    max_abs_diff: float | None = None
    libraries: dict[str, str] = {}


class Status(Contract):
    cluster: str
    tenant: str
    model: str
    replicas: list[ReplicaStatus] = []
    validations: list[ValidationResult] = []
    log_lines: list[str] = Field(default=[], description="The last lines of the hosts' logs, oldest first.")
