"""Makes traces: arrivals as a Poisson stream with exponential lives, faults of nodes, and a mix of common requests."""

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass

from moorage_common.contracts.desired import Resources
from moorage_scheduler.placement.state import Ask
from moorage_scheduler.simulate.trace import Fault, Job, gpu_milli

_MIX = ((250, 1, 25), (500, 1, 25), (100, 1, 15), (1000, 1, 20), (1000, 2, 5), (1000, 4, 3), (1000, 8, 2), (0, 1, 5))
"""GPU milli, devices and how many in a hundred: small models mostly, some that need a node."""


@dataclass(frozen=True)
class Stream:
    """How a population of asks becomes a trace in time.

    Attributes:
        demand_milli: GPU milli that would run on average if everything had a place.
        mean_life_s: mean of the exponential lives.
        jobs: how many arrive.
        patience_s: how long each waits for a place.
    """

    demand_milli: float
    mean_life_s: float
    jobs: int
    patience_s: float = math.inf
    warm: bool = False
    """Begin with as much asked for at second 0 as runs on average, rather than with an empty cluster."""


def arrivals(population: Sequence[Ask], stream: Stream, rng: random.Random) -> tuple[Job, ...]:
    """`stream.jobs` asks of `population`: all of it in random order, again and again; of one seed always the same."""
    mean = sum(gpu_milli(ask) for ask in population) / len(population)
    rate = stream.demand_milli / (mean * stream.mean_life_s)
    jobs: list[Job] = []
    deck: list[Ask] = []
    at_s, asked = 0.0, 0
    for number in range(stream.jobs):
        if not deck:
            deck = rng.sample(population, len(population))
        ask = deck.pop()
        if stream.warm and asked < stream.demand_milli:
            asked += gpu_milli(ask)
        else:
            at_s += rng.expovariate(rate)
        life = rng.expovariate(1 / stream.mean_life_s)
        jobs.append(Job(f"job-{number}", at_s, ask, life, stream.patience_s))
    return tuple(jobs)


def mixed(tenants: Sequence[str], rng: random.Random, count: int = 1000) -> list[Ask]:
    """`count` asks of `tenants` in turn: mostly fractions of a GPU, some whole ones, few of up to eight."""
    weights = [weight for _, _, weight in _MIX]
    asks = []
    for number in range(count):
        milli, devices, _ = rng.choices(_MIX, weights)[0]
        cpu = max(250, 4 * milli * devices)
        resources = Resources(gpu_milli=milli, devices=devices, cpu_milli=cpu, host_mem_mib=2 * max(1024, cpu))
        asks.append(Ask(tenants[number % len(tenants)], f"m{number}", 1, resources))
    return asks


def faults(
    nodes: Sequence[str], until_s: float, mtbf_s: float, repair_s: float, rng: random.Random
) -> tuple[Fault, ...]:
    """Faults of each node at exponential intervals of mean `mtbf_s`, each mended after exponential `repair_s`."""
    found: list[Fault] = []
    for node in nodes:
        at_s = rng.expovariate(1 / mtbf_s)
        while at_s < until_s:
            away_s = rng.expovariate(1 / repair_s)
            found.append(Fault(at_s, node, away_s))
            at_s += away_s + rng.expovariate(1 / mtbf_s)
    return tuple(sorted(found, key=lambda fault: (fault.at_s, fault.node)))
