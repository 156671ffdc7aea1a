"""Validation and warm hosts on a real Ray, as actors that do little but die when they are told to."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from scheduler_harness import TENANT, until

from moorage_common.contracts.desired import ArtifactRef, Desired, LoadSpec, ValidationRun
from moorage_common.contracts.tensors import Signature
from moorage_scheduler.cluster import Cluster, Placed, RayNode
from moorage_scheduler.metrics import SchedulerMetrics
from moorage_scheduler.placement.state import ClusterState
from moorage_scheduler.sizing import WarmSize
from moorage_scheduler.validations import Validations
from moorage_scheduler.warm import Warm

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(300)]


@pytest.fixture
async def validations(cluster: Cluster, node: RayNode) -> AsyncIterator[Validations]:
    account = ClusterState.of([node.size], {})
    validations = Validations(
        cluster,
        SchedulerMetrics(),
        configure=lambda _host_id, _tenant: "{}",
        nodes=lambda: [node],
        account=account,
        on_result=lambda: None,
    )
    yield validations
    await validations.close()


def run(version: int, model: str = "m") -> ValidationRun:
    load = LoadSpec(
        tenant=TENANT,
        model=model,
        version=version,
        format="onnx",
        artifact=ArtifactRef(digest="sha256:" + "0" * 64, size_bytes=1),
        signature=Signature(inputs=[], outputs=[]),
    )
    return ValidationRun(run_id=f"{model}-{version}", load=load)


def desired(*runs: ValidationRun) -> list[Desired]:
    return [Desired(cluster="test", tenant=TENANT, model="m", versions=[], validations=list(runs))]


async def test_a_version_that_brings_its_validation_host_down_takes_no_other_with_it(validations: Validations) -> None:
    validations.want(desired(run(1, "deadly"), run(2), run(3)))
    await until(lambda: len(validations.of((TENANT, "m"))) == 3, "results")
    assert [one.state for one in sorted(validations.of((TENANT, "m")), key=lambda one: one.version)] == [
        "rejected",
        "passed",
        "passed",
    ]


async def test_a_run_that_is_not_wanted_any_more_while_its_host_starts_leaves_no_place_taken(
    validations: Validations, cluster: Cluster
) -> None:
    validations.want(desired(run(1)))
    await until(lambda: validations.account.held, "host with a place")
    validations.want([])
    await until(lambda: not validations.account.held, "place given back")
    assert not validations.hosts()


async def test_of_two_validation_hosts_of_a_tenant_that_are_found_one_goes(validations: Validations) -> None:
    def found(name: str) -> Placed:
        what: dict[str, Any] = {"host_id": name, "tenant": TENANT, "model": "_validation", "version": 0, "asked": {}}
        return Placed(**what, purpose="validation", node="gone", devices=[], started_at=0.0)

    validations.adopt(found("one"))
    validations.adopt(found("two"))
    await until(lambda: len(validations.account.held) == 1, "one place given back")
    assert [placed.host_id for placed in validations.hosts()] == list(validations.account.held) == ["one"]


async def test_a_warm_host_that_could_not_be_started_is_started_anew(cluster: Cluster, node: RayNode) -> None:
    warm = Warm(cluster, SchedulerMetrics(), lambda _host_id, _formats: "{}", WarmSize(least=1, most=1))
    free = {node.size.name: 10_000}
    cluster.may_act = lambda: False
    warm.step([node], free, (), ())
    assert len(warm.hosts) == 1
    await until(lambda: not warm.hosts, "end of what could not start")
    cluster.may_act = lambda: True
    warm.step([node], free, (), ())
    await until(lambda: any(host.ready for host in warm.hosts.values()), "warm host")
    assert warm.take("another life of the node") is None
    assert warm.take(node.ray_id) is not None
    await asyncio.sleep(0)
    await warm.close()
