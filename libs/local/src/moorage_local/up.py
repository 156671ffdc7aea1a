"""`moorage up`, told once: claim the state directory, start everything at once, wait, show, end it all on Ctrl-C."""

import asyncio
import contextlib
import shutil
import signal
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

from moorage_common.embedded import ProgramMissing
from moorage_local import demo, ports, services
from moorage_local.credentials import Credentials
from moorage_local.options import Options, StartFailed
from moorage_local.ownership import Belongings, claim
from moorage_local.private_files import write_private
from moorage_local.processes import Program, Supervision
from moorage_local.progress import Progress
from moorage_local.readiness import wait_until_ready
from moorage_local.services import Plan
from moorage_local.tenant import ensure_tenant


def main(
    *, state: Path, port: int, gpus: int, demo: bool, routers: int = 1, nodes: int = 1, warm: int = 1,
    identity_issuer: str = "", queue_order: str = "fair",
) -> int:  # fmt: skip
    """Run the platform until Ctrl-C or SIGTERM; the exit code.

    Args:
        state: directory of all its state, `.moorage` where the command is run unless told otherwise.
        port: of the router, the others follow it; 0 takes free ports for all.
        gpus: logical GPUs of each Ray node.
        demo: push and split the demo model.
        routers: processes that answer on the router's port.
        nodes: Ray nodes, all on this machine.
        warm: empty hosts that each node keeps ready; 0 for none.
        identity_issuer: address of the OpenID Connect provider that people sign in by; empty for keys alone.
        queue_order: whose request goes next to what tenants share and is full: `fair`, `arrival` or `off`.
    """
    progress = Progress()
    options = Options(
        state.expanduser().resolve(), port, gpus, routers=routers, nodes=nodes, demo=demo, warm=warm,
        identity_issuer=identity_issuer, queue_order=queue_order,
    )  # fmt: skip
    try:
        with claim(options.state) as belongings:
            return asyncio.run(_run(options, belongings, progress))
    except (StartFailed, ProgramMissing) as error:
        progress.show(f"moorage up: {error}")
        return 1


async def _run(options: Options, belongings: Belongings, progress: Progress) -> int:
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stopping.set)
    plan = _plan(options, belongings)
    ready_file = _ready_file(options)
    ready_file.unlink(missing_ok=True)
    with ports.listening(plan.ports.router, options.routers) as listeners:
        programs = services.programs(plan, [listener.fileno() for listener in listeners])
        async with _supervised(plan, belongings, progress, programs) as supervision:
            starting = asyncio.create_task(_start(options, plan, programs, supervision, progress))
            stop = asyncio.create_task(stopping.wait())
            await asyncio.wait([starting, stop], return_when=asyncio.FIRST_COMPLETED)
            if starting.done():
                starting.result()
                await stop
            starting.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await starting
            progress.say("ending everything (a few seconds)")
            ready_file.unlink(missing_ok=True)
    progress.say("all ended; the state is kept in " + str(options.state))
    return 0


def _ready_file(options: Options) -> Path:
    return options.state / "local.json"


def _plan(options: Options, belongings: Belongings) -> Plan:
    chosen = ports.choose(options.port, options.routers)
    ray_dir, is_temporary = services.ray_directory(options.state)
    if is_temporary:
        belongings.add_directory(ray_dir)
    else:
        shutil.rmtree(ray_dir, ignore_errors=True)
    credentials = Credentials.of(options.state)
    return Plan(
        options.state, chosen, credentials, options.gpus, ray_dir, options.routers, options.nodes, options.warm,
        options.identity_issuer, options.queue_order,
    )  # fmt: skip


@contextlib.asynccontextmanager
async def _supervised(
    plan: Plan, belongings: Belongings, progress: Progress, programs: Sequence[Program]
) -> AsyncIterator[Supervision]:
    """Everything started; at the end the routers first, so that their last usage still reaches the bus."""
    supervision = Supervision(plan.state / "logs", belongings, progress.say)
    try:
        for program in programs:
            supervision.start(program)
        yield supervision
    finally:
        await supervision.end(*plan.router_names)
        await supervision.end(*services.SERVICES)
        await supervision.end(*services.STORES, *plan.node_names)


async def _start(
    options: Options,
    plan: Plan,
    programs: Sequence[Program],
    supervision: Supervision,
    progress: Progress,
) -> None:
    """From started processes to the first answer and `local.json`."""
    several = f" on each of {plan.nodes} nodes" if plan.nodes > 1 else ""
    progress.say(f"starting on {plan.state}: Ray with {plan.gpus} logical GPUs{several}, NATS, Redis and the services")
    async with contextlib.AsyncExitStack() as stack:
        trainer = None
        if options.demo:
            training = demo.training(supervision.log("demo"), ahead=not plan.credentials.demo_key)
            trainer = await stack.enter_async_context(training)
        await wait_until_ready(
            programs,
            on_ready=lambda name: progress.say(f"{name} is ready"),
            check=supervision.raise_if_hopeless,
        )
        supervision.is_starting = False
        api_key = await asyncio.to_thread(ensure_tenant, plan)
        where = plan.described(api_key)
        if trainer is not None:
            await _show_demo(trainer, where, supervision, progress)
    ready_file = _ready_file(options)
    write_private(ready_file, {**where, "operations": plan.operations()})
    progress.say(f"ready: router {plan.router_url}, registry {plan.registry_url}; keys and all URLs in {ready_file}")
    progress.say("Ctrl-C ends everything")


async def _show_demo(
    trainer: demo.DemoProcess, where: dict[str, str], supervision: Supervision, progress: Progress
) -> None:
    def on_line(kind: str, text: str) -> None:
        if kind == "say":
            progress.say(text)
        else:
            progress.show(f"\n{text}\n")

    try:
        await trainer.run(where, on_line)
    except StartFailed as error:
        progress.say(f"{error}; the platform runs on without it (log: {supervision.log('demo')})")
