"""The Ray cluster as the scheduler uses it: nodes, a bundle a GPU, replica hosts as named actors. All of Ray is here.

A node has one placement group of bundles `{"GPU": 1}` and one with a single CPU bundle, both made once (groups cannot
be resized). A host is a detached actor named by its host id, in a bundle that the planner chose; Ray restarts it there
when it dies. An actor fits one bundle, so a replica of k devices is a lead actor and k-1 reservations beside it.
"""

import asyncio
import contextlib
import functools
import logging
from collections.abc import Callable, Collection
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Any, Literal, TypeVar

import ray
import structlog
from pydantic import ValidationError
from ray.exceptions import GetTimeoutError, RayActorError, RayError, RayTaskError
from ray.util.placement_group import PlacementGroup
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from moorage_common.contracts.desired import SchedulingClass
from moorage_common.contracts.model import Contract
from moorage_scheduler import groups
from moorage_scheduler.actors import Reservation, placed_class
from moorage_scheduler.labels import size_of
from moorage_scheduler.placement.state import NodeSize

log = structlog.get_logger()

T = TypeVar("T")

NAMESPACE = "moorage"
CALL_TIMEOUT_S = 10.0
NODES_TIMEOUT_S = 5.0
ADOPT_TIMEOUT_S = 15.0
LOST_POLL_S = 0.5
_RESERVATION = "#"
_CONCURRENT_CALLS = 32


class ClusterUnreachable(Exception):
    """Ray did not answer in time."""


class NotLeading(ClusterUnreachable):
    """This process may change nothing now: the lease is not renewed."""


class HostGone(Exception):
    """The actor is dead for good: its constructor failed, it was removed, or its node is lost."""


class HostRefused(Exception):
    """The method raised; the message is its error."""


_NOT_OURS = (HostRefused, AttributeError, TypeError, ValidationError)
"""What asking another's actor what it was placed as may raise."""


class Placed(Contract):
    """What a host was placed as; kept by the actor itself, so that a new scheduler can adopt it.

    `epoch` is the fencing number of the leader that started it; `Cluster` puts it in.
    """

    host_id: str
    tenant: str
    model: str
    version: int
    purpose: Literal["replica", "validation", "pool", "warm"]
    node: str
    node_id: str = ""
    """Ray's: a node that was restarted keeps its name and gets another one."""
    devices: list[int]
    asked: dict[str, Any]
    started_at: float
    moved_from: str = ""
    """The host whose place it takes."""
    gpu_milli: int | None = None
    """What it got of each device; less than asked where an elastic ask was trimmed."""
    scheduling_class: SchedulingClass = "standard"
    priority: int = 50
    pinned: bool = False
    epoch: int = 0
    format: str = ""


@dataclass(frozen=True)
class RayNode:
    """`size` is what hosts may take; `serve_*` what is left out of the groups for Ray Serve's processes."""

    size: NodeSize
    ray_id: str
    serve_cpu_milli: int = 0
    serve_devices: int = 0


@dataclass(frozen=True)
class LeftOut:
    """Of each node, for Ray Serve's processes: no group takes it."""

    cpus: float = 0.2
    gpus: int = 0


@dataclass
class Cluster:
    """One external Ray cluster. Every call runs off the event loop and has a timeout.

    Args:
        host_class: the actor class of replica hosts, constructed with the JSON of its configuration.
        may_act: whether this process leads. Asked right before anything is changed, which raises NotLeading if not.
        epoch: its fencing number.
        found_epoch: the highest that `running` found.
        left_out: what of each node its groups leave to Ray Serve.

    Raises (all calls):
        ClusterUnreachable: Ray did not answer in time.
        HostGone: the actor is dead for good.
    """

    address: str
    host_class: type[Any]
    may_act: Callable[[], bool] = lambda: True
    epoch: int = 0
    found_epoch: int = 0
    left_out: LeftOut = field(default_factory=LeftOut)
    _threads: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(8, thread_name_prefix="ray"))
    _groups: dict[str, PlacementGroup] = field(default_factory=dict)
    _handles: dict[str, Any] = field(default_factory=dict)
    _known: set[str] = field(default_factory=set)
    """Actors found when taking over, and those started since."""

    async def ask_ray(self, call: Callable[[], T], timeout_s: float = CALL_TIMEOUT_S) -> T:
        """Make a call of Ray's own interface, which blocks one of a few threads for that long."""
        try:
            async with asyncio.timeout(timeout_s):  # unlike wait_for it never swallows a cancellation
                return await asyncio.get_running_loop().run_in_executor(self._threads, call)
        except RayActorError as error:
            raise HostGone(str(error)) from error
        except (TimeoutError, GetTimeoutError, RayError, ConnectionError) as error:
            raise ClusterUnreachable(str(error) or "no answer in time") from error

    async def connect(self) -> None:
        """Become a driver of the cluster. Raises ClusterUnreachable."""
        await self.ask_ray(self._connect, timeout_s=60.0)

    def _connect(self) -> None:
        logging.getLogger("ray").setLevel(logging.ERROR)
        try:
            ray.init(
                address=self.address,
                namespace=NAMESPACE,
                log_to_driver=False,
                configure_logging=False,
                ignore_reinit_error=True,
            )
        except RuntimeError as error:
            ray.shutdown()
            raise ConnectionError(str(error)) from error

    async def close(self) -> None:
        """Leave the cluster; hosts go on."""
        with contextlib.suppress(ClusterUnreachable):
            await self.ask_ray(ray.shutdown)
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def nodes(self) -> list[RayNode]:
        """The live nodes."""
        entries = await self.ask_ray(ray.nodes, NODES_TIMEOUT_S)
        return [_ray_node(entry, self.left_out) for entry in entries if entry["Alive"]]

    async def ensure_groups(self, node: RayNode) -> None:
        """The node's groups, made when absent: none where it offers nothing, as a head of KubeRay's does.

        Raises ClusterUnreachable when Ray does not grant them in time.
        """
        cpus = node.size.cpu_milli / 1000
        wanted: dict[str, list[dict[str, float]]] = {
            groups.gpu_group(node.ray_id): [{"GPU": 1}] * node.size.devices,
            groups.cpu_group(node.ray_id): [{"CPU": cpus}] if cpus else [],
        }
        for name, bundles in wanted.items():
            if bundles and name not in self._groups:
                self._lead()
                make = functools.partial(groups.ensure, name, bundles, node.ray_id)
                self._groups[name] = await self.ask_ray(make, timeout_s=groups.GRANT_TIMEOUT_S + 10)

    async def remove_groups_except(self, alive: Collection[str]) -> None:
        """Remove the groups of nodes that are gone, also those that an earlier scheduler made.

        Args:
            alive: Ray's ids of the nodes that stay.
        """
        self._lead()
        for name in await self.ask_ray(functools.partial(groups.remove_except, alive)):
            log.info("groups of a lost node removed", group=name)
            self._groups.pop(name, None)

    async def start(self, placed: Placed, ray_id: str, gpu_fraction: float, config_json: str) -> None:
        """Create the host's actor (and its reservations). Returns once Ray has taken the order.

        Args:
            gpu_fraction: of each device, in (0, 1]; 0 without a GPU.
        """
        placed = placed.model_copy(update={"epoch": self.epoch})
        self._known.add(placed.host_id)
        siblings: list[int] = []
        for number, bundle in enumerate(placed.devices[1:], start=1):
            siblings += await self._reserved(f"{placed.host_id}{_RESERVATION}{number}", ray_id, bundle)
        await self.ask_ray(functools.partial(self._start, placed, ray_id, gpu_fraction, config_json, siblings))

    async def assign(self, placed: Placed, ray_id: str, gpu_fraction: float, config_json: str) -> dict[str, Any]:
        """Make a warm host what `placed` says; what it says of itself then. It may be told the same twice.

        Raises:
            HostRefused: it is another's already.
        """
        placed = placed.model_copy(update={"epoch": self.epoch})
        self._known.add(placed.host_id)
        self._lead()
        devices: list[int] = []
        for number, bundle in enumerate(placed.devices):
            name = f"{placed.host_id}{_RESERVATION}{number}"
            devices += await self._reserved(name, ray_id, bundle, gpu_fraction)
        arguments = (config_json, placed.model_dump_json(), devices)
        identity: dict[str, Any] = await self.call(placed.host_id, "assign", *arguments, timeout_s=60.0)
        return identity

    def _lead(self) -> None:
        if not self.may_act():
            raise NotLeading("nothing is changed while the lease of the scheduler is not renewed")

    async def _reserved(self, name: str, ray_id: str, bundle: int, gpu_fraction: float = 1.0) -> list[int]:
        """Its devices; made when absent. No thread waits until they are free."""

        def reserve() -> None:
            self._lead()
            options = self._options(name, ray_id, bundle, gpu_fraction)
            self._handles[name] = ray.remote(Reservation).options(**options, get_if_exists=True).remote()

        await self.ask_ray(reserve, timeout_s=60.0)
        devices: list[int] = await self.call(name, "devices", timeout_s=60.0)
        return devices

    def _start(self, placed: Placed, ray_id: str, gpu_fraction: float, config_json: str, siblings: list[int]) -> None:
        bundle = placed.devices[0] if placed.devices else None
        options = self._options(placed.host_id, ray_id, bundle, gpu_fraction)
        actor_class = ray.remote(placed_class(self.host_class))
        self._lead()
        self._handles[placed.host_id] = actor_class.options(**options, max_concurrency=_CONCURRENT_CALLS).remote(
            config_json, placed.model_dump_json(), siblings
        )

    def _options(self, name: str, ray_id: str, bundle: int | None, gpu_fraction: float) -> dict[str, Any]:
        group = self._groups[groups.cpu_group(ray_id) if bundle is None else groups.gpu_group(ray_id)]
        return {
            "name": name,
            "namespace": NAMESPACE,
            "lifetime": "detached",
            "max_restarts": -1,
            "num_cpus": 0,
            "num_gpus": gpu_fraction,  # always said: Ray's default is not none (ray#50180)
            "scheduling_strategy": PlacementGroupSchedulingStrategy(
                group, placement_group_bundle_index=0 if bundle is None else bundle
            ),
        }

    async def _names(self) -> list[str]:
        return await self.ask_ray(ray.util.list_named_actors)

    async def running(self) -> list[Placed]:
        """The hosts that run or are being restarted, by what they say themselves.

        Actors whose node is lost or that do not say so in time, and reservations of no host that has a place, go.
        """
        names = await self._names()
        answers = await self._answers([name for name in names if _RESERVATION not in name])
        found = []
        for name, answer in answers.items():
            if isinstance(answer, Placed):
                found.append(answer)
            else:
                log.warning("removing an actor that does not answer", host_id=name, error=str(answer)[:200])
                await self.remove(name)
        leads = {placed.host_id for placed in found}
        holders = {placed.host_id for placed in found if placed.purpose != "warm"}
        for name in names:
            if _RESERVATION in name and name.split(_RESERVATION)[0] not in holders:
                await self.ask_ray(functools.partial(self._kill, name))
        self._known |= leads
        self.found_epoch = max((placed.epoch for placed in found), default=0)
        return found

    async def _answers(self, names: Collection[str]) -> dict[str, Placed | BaseException]:
        """What actors say that they were placed as, or why they do not; those that are lost are not waited for."""
        calls = {name: asyncio.create_task(self._placed(name, ADOPT_TIMEOUT_S)) for name in names}
        try:
            waiting = set(calls.values())
            while waiting:
                _done, waiting = await asyncio.wait(waiting, timeout=LOST_POLL_S)
                for name in await self._lost() if waiting else ():
                    if name in calls:
                        calls[name].cancel("its node is lost")
            return dict(zip(calls, await asyncio.gather(*calls.values(), return_exceptions=True), strict=True))
        finally:
            for call in calls.values():
                call.cancel()

    async def _placed(self, name: str, timeout_s: float) -> Placed:
        return Placed.model_validate_json(await self.call(name, "placed", timeout_s=timeout_s))

    async def _lost(self) -> set[str]:
        return await self.ask_ray(functools.partial(groups.lost_actors, NAMESPACE))

    async def strangers(self) -> dict[str, int]:
        """Actors that were neither found when taking over nor started since, with their epochs.

        That of one that is lost with its node, and of a reservation without its lead, is -1. One that does not answer
        is left for the next time, and one that does not answer as ours do is somebody else's.
        """
        names = set(await self._names())
        found: dict[str, int] = {}
        lost: set[str] | None = None
        for name in names:
            lead, reservation, _number = name.partition(_RESERVATION)
            if lead in self._known or (reservation and lead in names):
                continue
            lost = await self._lost() if lost is None else lost
            if reservation or name in lost:
                found[name] = -1
                continue
            with contextlib.suppress(ClusterUnreachable, HostGone, *_NOT_OURS):
                found[name] = (await self._placed(name, timeout_s=5.0)).epoch
        return found

    async def call(self, host_id: str, method: str, *arguments: Any, timeout_s: float, retries: int = -1) -> Any:
        """Call an actor's method; while Ray restarts the actor, the call waits for it.

        Args:
            retries: 0 for a call that must not run twice; it then fails with HostGone while the actor is away.

        Raises:
            HostRefused: the method raised.
        """
        submit = functools.partial(self._submit, host_id, method, arguments, retries)
        future = (await self.ask_ray(submit)).future()
        try:
            async with asyncio.timeout(timeout_s):
                return await asyncio.wrap_future(future)
        except RayActorError as error:
            raise HostGone(str(error)) from error
        except RayTaskError as error:
            raise HostRefused(str(error.cause)) from error
        except (TimeoutError, RayError) as error:
            raise ClusterUnreachable(str(error) or "no answer in time") from error

    def _submit(self, host_id: str, method: str, arguments: tuple[Any, ...], retries: int) -> Any:
        bound = getattr(self._handle(host_id), method)
        return bound.options(max_task_retries=retries).remote(*arguments)

    def _handle(self, host_id: str) -> Any:
        if host_id not in self._handles:
            try:
                self._handles[host_id] = ray.get_actor(host_id, namespace=NAMESPACE)
            except ValueError as error:
                raise HostGone(str(error)) from error
        return self._handles[host_id]

    async def remove(self, host_id: str) -> None:
        """Kill a host and its reservations for good. One that is gone already is no error.

        One that cannot be removed now is a stranger from here on, which the sweep of strangers removes.
        """
        self._known.discard(host_id)
        names = {*await self._names(), *self._handles}
        for name in names:
            if name == host_id or name.startswith(host_id + _RESERVATION):
                await self.ask_ray(functools.partial(self._kill, name))

    def _kill(self, name: str) -> None:
        self._lead()
        with contextlib.suppress(HostGone, ValueError):
            ray.kill(self._handle(name), no_restart=True)
        self._handles.pop(name, None)


def _ray_node(entry: dict[str, Any], left_out: LeftOut) -> RayNode:
    whole = size_of(entry)
    cpu_milli, devices = min(whole.cpu_milli, round(left_out.cpus * 1000)), min(whole.devices, left_out.gpus)
    size = replace(whole, cpu_milli=whole.cpu_milli - cpu_milli, devices=whole.devices - devices)
    return RayNode(size, entry["NodeID"], cpu_milli, devices)
