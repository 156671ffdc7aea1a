"""The event loop of the simulator: a trace on a cluster under a policy, in simulated time."""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from moorage_scheduler.placement.charges import Usage, capacity_of, got_milli, memories_of
from moorage_scheduler.placement.decisions import Decision, Move, Place, Preempt, Reclaim, Repair
from moorage_scheduler.placement.moves import moved
from moorage_scheduler.placement.shares import Shares
from moorage_scheduler.placement.staging import ONE_IN, set_aside
from moorage_scheduler.placement.state import DEVICE_MILLI, Ask, ClusterState, Held, NodeSize
from moorage_scheduler.simulate.audit import audit
from moorage_scheduler.simulate.clock import Clock
from moorage_scheduler.simulate.policies import Fairness, Policy, decide
from moorage_scheduler.simulate.record import Record, Summary
from moorage_scheduler.simulate.trace import Fault, Job, Trace, gpu_milli

AUDIT_EVERY = 2_000
"""Events between two checks that nothing is oversold."""


@dataclass
class Life:
    """A job on its way: waiting since `waiting_s` or running since `placed_s`, with `left_s` of its life to run."""

    job: Job
    left_s: float
    waiting_s: float
    owed: bool = False
    placed_s: float = 0.0
    turn: int = 0
    """How often it was placed or put back: what was due for an earlier turn is void."""


@dataclass(frozen=True)
class Due:
    """Something to happen to a job, or to look at the queue again (`served`)."""

    kind: Literal["arrived", "departed", "gave_up", "serve"]
    life: Life | None = None
    turn: int = 0


@dataclass(frozen=True)
class NodeDue:
    node: str
    fault: Fault | None
    """None: it is back."""


Watch = Callable[[ClusterState, Ask, Decision], None]
"""Is shown every decision, with the state that it was made on."""


@dataclass(frozen=True)
class Setup:
    """Everything a run consists of. `until_s` ends it; by default, it ends when the last job has come."""

    sizes: Sequence[NodeSize]
    trace: Trace
    policy: Policy
    shares: Shares = Shares.of({})  # noqa: RUF009 - frozen
    until_s: float = math.inf
    counted_from_s: float = 0.0
    sample_s: float = 60.0
    watch: Watch | None = None


@dataclass(frozen=True)
class Outcome:
    summary: Summary
    record: Record
    state: ClusterState
    """As it was at the end."""


Kind = tuple[object, ...]


class Run:
    """One run; `outcome` is its only result. The same setup gives the same outcome to the last bit."""

    def __init__(self, setup: Setup) -> None:
        self._setup = setup
        self._sizes = {size.name: size for size in setup.sizes}
        self._capacity = capacity_of(setup.sizes)
        self._state = ClusterState.of(setup.sizes, {})
        if setup.policy.repairs:
            set_aside(self._state, sum(size.devices for size in setup.sizes) // ONE_IN)
        self._fairness = Fairness(setup.shares, Usage(memories_of(setup.sizes)), setup.trace.least)
        self._clock: Clock[Due | NodeDue] = Clock()
        self._record = Record(setup.counted_from_s, setup.sample_s)
        self._running: dict[str, Life] = {}
        self._waiting: dict[str, Life] = {}
        self._waiting_milli = 0
        self._allocated = 0
        self._whole = sum(size.devices for size in setup.sizes) * DEVICE_MILLI
        self._hopeless: set[Kind] = set()
        """What found no place since room last came free."""

    def outcome(self) -> Outcome:
        setup, clock = self._setup, self._clock
        last = max((job.at_s for job in setup.trace.jobs), default=0.0)
        ends = last if math.isinf(setup.until_s) else setup.until_s
        for job in setup.trace.jobs:
            clock.put(job.at_s, Due("arrived", Life(job, job.lasts_s, job.at_s)))
        for fault in setup.trace.faults:
            clock.put(fault.at_s, NodeDue(fault.node, fault))
        events = 0
        while (due := clock.take()) is not None and clock.now <= ends:
            self._look(clock.now)
            self._happen(due)
            events += 1
            if events % AUDIT_EVERY == 0:
                audit(self._state)
        self._look(ends)
        audit(self._state)
        for life in self._waiting.values():
            if self._record.counts(life.job.at_s):
                self._record.waited(life.job.ask.tenant, ends - life.waiting_s, owed=life.owed)
        gpus = sum(size.devices for size in setup.sizes)
        summary = self._record.summary(setup.policy.name, gpus, len(self._waiting))
        return Outcome(summary, self._record, self._state)

    def _look(self, now: float) -> None:
        self._record.elapsed(now, self._whole, self._allocated, len(self._waiting), self._waiting_milli)

    def _happen(self, due: Due | NodeDue) -> None:
        if isinstance(due, NodeDue):
            self._node_changed(due)
            return
        life = due.life
        if life is None:
            if any(waiting.owed for waiting in self._waiting.values()):
                self._room_came_free()
        elif due.kind == "arrived":
            self._arrived(life)
        elif due.turn != life.turn:
            return
        elif due.kind == "departed":
            self._take_away(life)
            self._room_came_free()
        else:
            self._stop_waiting(life)
            if self._record.counts(life.job.at_s):
                self._record.gave_up(gpu_milli(life.job.ask))
                self._record.waited(life.job.ask.tenant, self._clock.now - life.waiting_s, owed=life.owed)

    def _arrived(self, life: Life) -> None:
        ask = life.job.ask
        self._state.observe(ask)
        if self._record.counts(life.job.at_s):
            self._record.arrived(gpu_milli(ask))
        self._wait(life)
        self._try([life])

    def _owed(self, ask: Ask) -> bool:
        """Whether the guarantee covers `ask` beside what its tenant has and is owed already."""
        shares, models = self._setup.shares, self._state.models
        if ask.tenant not in shares.tenants:
            return False
        usage = self._fairness.usage.copy() if self._waiting else self._fairness.usage
        for life in self._waiting.values():
            if life.owed and life.job.ask.tenant == ask.tenant:
                usage.add(life.job.ask, models[-1], usage.asked(life.job.ask, models[-1]))
        return any(shares.within_guarantee(usage, ask, model) for model in models)

    def _kind(self, ask: Ask) -> Kind:
        """Asks of one kind find a place alike, as long as the state is the same."""
        apart = ask.deployment if ask.deployment in self._state.siblings else None
        return (ask.tenant, ask.shape, ask.resources.elastic_pct, ask.scheduling_class, ask.priority, apart)

    def _try(self, lives: Iterable[Life]) -> None:
        for life in lives:
            kind = self._kind(life.job.ask)
            if kind not in self._hopeless and not self._serve(life):
                self._hopeless.add(kind)

    def _wait(self, life: Life) -> None:
        life.turn += 1
        life.waiting_s = self._clock.now
        life.owed = self._owed(life.job.ask)
        self._waiting[life.job.id] = life
        self._waiting_milli += gpu_milli(life.job.ask)
        if not math.isinf(life.job.patience_s):
            self._clock.put(self._clock.now + life.job.patience_s, Due("gave_up", life, life.turn))

    def _stop_waiting(self, life: Life) -> None:
        del self._waiting[life.job.id]
        self._waiting_milli -= gpu_milli(life.job.ask)
        life.turn += 1

    def _room_came_free(self) -> None:
        """Everyone who waits is tried, in the order of shares, or as they came where tenants have none."""
        self._hopeless.clear()
        waiting = list(self._waiting.values())
        order: Iterable[int] = range(len(waiting))
        if self._setup.policy.fair and len(waiting) > 1:
            order = self._setup.shares.order_of(
                [life.job.ask for life in waiting], self._fairness.usage, self._capacity
            )
        self._try(waiting[at] for at in order)

    def _serve(self, life: Life) -> bool:
        """Decide about one that waits, and act: whether it has a place now."""
        ask, now = life.job.ask, self._clock.now
        decision = decide(self._setup.policy, self._state, ask, self._fairness, now=now, movable=self._movable)
        if self._setup.watch is not None:
            self._setup.watch(self._state, ask, decision)
        match decision:
            case Place():
                self._put(life, decision)
            case Repair(moves=moves, place=place):
                self._move(moves)
                self._record.repaired += self._record.counts(now)
                self._put(life, place)
            case Reclaim(victims=victims, place=place):
                self._record.reclaimed += len(victims) * self._record.counts(now)
                self._stop(victims)
                self._put(life, place)
            case Preempt(victims=victims, place=place):
                self._record.preempted += len(victims) * self._record.counts(now)
                self._stop(victims)
                self._put(life, place)
            case _:
                return False
        return True

    def _movable(self, replica: str) -> bool:
        return not self._state.held[replica].pinned

    def _put(self, life: Life, place: Place) -> None:
        now, ask, job = self._clock.now, life.job.ask, life.job
        self._stop_waiting(life)
        if self._record.counts(job.at_s):
            self._record.waited(ask.tenant, now - life.waiting_s, owed=life.owed)
        life.placed_s = now
        self._running[job.id] = life
        held = Held(ask, place.node, place.devices, place.gpu_milli if place.devices else None, since=now)
        self._state.add(job.id, held)
        self._charge(held, 1)
        if not math.isinf(life.left_s):
            self._clock.put(now + life.left_s, Due("departed", life, life.turn))
        shares = self._setup.shares
        if self._setup.policy.fair and shares.tenants:
            self._clock.put(now + shares.grace_s, Due("serve"))

    def _charge(self, held: Held, sign: int) -> None:
        size = self._sizes[held.node]
        self._fairness.usage.hold(held, size, sign)
        self._allocated += sign * got_milli(held, size)

    def _take_away(self, life: Life) -> None:
        held = self._state.held[life.job.id]
        self._state.remove(life.job.id)
        self._charge(held, -1)
        del self._running[life.job.id]
        life.turn += 1

    def _stop(self, replicas: Iterable[str]) -> None:
        """They lose their places, and wait for others with what is left of their lives."""
        lives = [self._running[replica] for replica in replicas]
        for life in lives:
            self._take_away(life)
            life.left_s -= self._clock.now - life.placed_s
        for life in lives:
            self._wait(life)

    def _move(self, moves: Sequence[Move]) -> None:
        """Make before break: a replica is at both places for a moment, so each step has to fit beside its old place."""
        for move in moves:
            held = self._state.held[move.replica]
            there = moved(held, move.target)
            audit(self._state, [there.node], beside=[there])
            self._state.move(move.replica, there)
            self._charge(held, -1)
            self._charge(there, 1)
            self._record.moves += self._record.counts(self._clock.now)
        self._state.failures.turnover += 1

    def _node_changed(self, due: NodeDue) -> None:
        if due.fault is None:
            self._sizes[due.node] = next(size for size in self._setup.sizes if size.name == due.node)
        elif due.node in self._sizes:
            lost = [replica for replica in self._running if self._state.held[replica].node == due.node]
            self._record.failed_over += len(lost) * self._record.counts(self._clock.now)
            self._stop(lost)
            del self._sizes[due.node]
            if not math.isinf(due.fault.lasts_s):
                self._clock.put(self._clock.now + due.fault.lasts_s, NodeDue(due.node, None))
        self._state.set_nodes(self._sizes.values())
        self._capacity = capacity_of(self._sizes.values())
        self._whole = sum(size.devices for size in self._sizes.values()) * DEVICE_MILLI
        self._room_came_free()


def simulate(setup: Setup) -> Outcome:
    """Run `setup` to its end."""
    return Run(setup).outcome()
