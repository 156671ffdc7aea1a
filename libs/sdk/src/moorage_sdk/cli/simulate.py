"""`simulate`: size a cluster before it is bought."""

import importlib
from pathlib import Path
from typing import Annotated, Any

import typer

from moorage_sdk.cli.context import AsJson, say
from moorage_sdk.cli.output import print_rows
from moorage_sdk.errors import SdkError
from moorage_sdk.quantities import parse_cpu, parse_memory

_SCHEDULER = "moorage_scheduler"
COLUMNS = (
    "policy", "gpus", "arrivals", "lost_pct", "allocated_pct", "moves_per_1000", "reclaimed", "preempted",
    "failed_over", "still_waiting", "p95_wait_s",
)  # fmt: skip
EPILOG = """A trace is CSV with a header, a line a replica: at_s, lasts_s (empty: to the end), tenant, gpu_milli; and
where wanted model, version, devices, gpu_mem_mib, cpu_milli, host_mem_mib, gpu_models (T4|A10), elastic_pct, class
(standard or scavenger), priority, patience_s, min_replicas. openb's pods are taken too (cpu_milli, memory_mib,
num_gpu, gpu_milli, gpu_spec); they have no times, so they arrive like `synthetic`. .csv.gz is read as well."""

Gpus = Annotated[
    list[str] | None, typer.Option(help="GPUs, N or NxMODEL or NxMODEL:MIB; may be given again. [default: 64]")
]
Nodes = Annotated[Path | None, typer.Option(help="CSV of nodes instead (sn, cpu_milli, memory_mib, gpu, model).")]
Policies = Annotated[
    list[str] | None,
    typer.Option(
        help="firstfit, bestfit, fgd, firstfit+repair, bestfit+repair or moorage; may be given again. "
        "[default: moorage]"
    ),
]
LostUnder = Annotated[
    float | None, typer.Option(help="Find the least GPUs with less lost demand than so many per cent.")
]


def simulate(
    *,
    out: Annotated[Path, typer.Option(help="Directory for tables, time series and plots.")] = Path("simulation"),
    trace: Annotated[str, typer.Option(help="A CSV file (see below), or `synthetic`.")] = "synthetic",
    gpus: Gpus = None,
    nodes: Nodes = None,
    per_node: Annotated[int, typer.Option(min=1, max=16, help="GPUs a node.")] = 8,
    cpu: Annotated[str, typer.Option(help="CPUs for each GPU of a node.")] = "12",
    memory: Annotated[str, typer.Option(help="Memory for each GPU of a node.")] = "48Gi",
    policy: Policies = None,
    limits: Annotated[Path | None, typer.Option(help="JSON list of tenants' limits with gpu_shares.")] = None,
    faults: Annotated[Path | None, typer.Option(help="CSV of node faults: at_s, node, lasts_s.")] = None,
    mtbf: Annotated[float | None, typer.Option(min=60, help="Mean seconds between faults of a node.")] = None,
    repair: Annotated[float, typer.Option(min=1, help="Mean seconds that a faulty node is away.")] = 3600.0,
    load: Annotated[float, typer.Option(min=0.01, max=10, help="Demand as a part of the GPUs given.")] = 0.95,
    life: Annotated[float, typer.Option(min=1, help="Mean life of a replica, seconds.")] = 3600.0,
    arrivals: Annotated[int, typer.Option(min=1, max=1_000_000, help="Replicas that arrive.")] = 10_000,
    patience: Annotated[float, typer.Option(min=0, help="Seconds that one waits for a place; then lost.")] = 300.0,
    tenants: Annotated[int, typer.Option(min=1, help="Tenants that arrivals are dealt out to.")] = 3,
    seed: Annotated[int, typer.Option(help="The same seed gives the same trace.")] = 0,
    grace: Annotated[float, typer.Option(min=0, help="Seconds that a borrower keeps its place.")] = 30.0,
    lost_under: LostUnder = None,
    no_plots: Annotated[bool, typer.Option("--no-plots", help="Tables and series only.")] = False,
    as_json: AsJson = False,
) -> None:
    """Run the scheduler's placement on a cluster that need not exist, under a trace, in simulated time."""
    command, fleet = _simulator("command"), _simulator("fleet")
    from moorage_common.errors import MoorageError  # noqa: PLC0415 - keeps --help quick

    try:
        host = fleet.Host(per_node, parse_cpu(cpu), parse_memory(memory))
        options = command.Options(
            out=out,
            trace=trace,
            gpus=gpus or ["64"],
            nodes=nodes,
            host=host,
            policies=policy or ["moorage"],
            limits=limits,
            faults=faults,
            mtbf_s=mtbf,
            repair_s=repair,
            load=load,
            life_s=life,
            arrivals=arrivals,
            patience_s=patience,
            tenants=tenants,
            seed=seed,
            grace_s=grace,
            lost_under_pct=lost_under,
            plots=not no_plots,
        )
        answer = command.run(options)
    except MoorageError as error:
        raise SdkError(error.message) from None
    print_rows(answer.rows, COLUMNS, as_json=as_json)
    for line in answer.said:
        say(line)
    say(f"written: {', '.join(str(path) for path in answer.files)}")


def _simulator(module: str) -> Any:
    """A module of the scheduler's simulator, which need not be installed where the command is."""
    try:
        return importlib.import_module(f"{_SCHEDULER}.simulate.{module}")
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] != _SCHEDULER:
            raise
        said = "the simulator is part of the scheduler; run: pip install 'moorage-scheduler[simulate]'"
        raise SdkError(said) from None
