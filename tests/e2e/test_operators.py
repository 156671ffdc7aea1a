"""What runs where and why, from outside: a tenant's view, an operator's, and decisions made again."""

import uuid
from collections.abc import Callable, Iterator

import numpy as np
import pytest
from e2e_platform import Platform, until
from sklearn.pipeline import Pipeline

from moorage_common.contracts.answers import NodeView, Seat
from moorage_scheduler.replay import replay
from moorage_sdk.client import Client
from moorage_sdk.errors import MoorageApiError
from moorage_sdk.pictures.moves import seats_of
from moorage_sdk.pictures.terminal import draw


@pytest.fixture
def stranger(platform: Platform) -> Iterator[Client]:
    """Another tenant."""
    tenant = f"s-{uuid.uuid4().hex[:10]}"
    with platform.admin() as admin:
        admin.registry.create_tenant(tenant)
    with platform.admin(tenant) as admin:
        key = str(admin.registry.create_key(["infer:*"])["key"])
    with Client(platform.info["registry"], platform.info["router"], key) as client:
        yield client


def seats(nodes: list[NodeView]) -> list[Seat]:
    return [seat for node in nodes for seat in seats_of(node)]


def test_what_runs_is_told_to_whom_it_belongs_and_decided_alike_again(
    platform: Platform, *, client: Client, name: str, classifier: Pipeline, pictures: np.ndarray, stranger: Client
) -> None:
    version = client.push(classifier, name=name, example=pictures[:8])
    client.deploy(version, gpu=0.25)
    (told,) = client.registry.explain(name).versions
    (placed,) = told.placed
    assert (told.wanted, placed.state, placed.gpu_milli) == (1, "ready", 250)
    assert placed.why
    own = client.registry.gpus().nodes
    assert [seat.gpu_milli for seat in seats(own) if seat.model == name] == [250]
    assert f"{name} v1" in draw(own, full=True)
    assert name not in stranger.registry.gpus().model_dump_json()
    with pytest.raises(MoorageApiError, match="is not deployed"):
        stranger.registry.explain(name)
    (share,) = client.registry.quota().tenants
    assert share.held_milli >= 250
    with platform.admin() as admin:
        assert name in {seat.model for seat in seats(admin.registry.nodes().nodes)}
        decisions = replay(admin.registry.cluster_state())["decisions"]
    assert [decision for decision in decisions if not decision["same"]] == []
    assert any(f"/{name} v1 " in decision["ask"] for decision in decisions)


def test_a_version_that_waits_is_told_why_and_a_drained_node_stays_drained(
    platform: Platform, client: Client, name: str, classifier: Pipeline, pictures: np.ndarray
) -> None:
    version = client.push(classifier, name=name, example=pictures[:8])
    client.deploy(version, gpu=0.25, gpu_models=["H100"], wait=False)
    until(
        lambda: [version.waiting for version in client.registry.explain(name).versions] == [1], 30, "replica that waits"
    )
    (told,) = client.registry.explain(name).versions
    assert [(step.filter, step.nodes) for step in told.removed] == [("gpu_model", told.nodes)]
    assert told.would_fit == ["any GPU model, not only those in gpu_models"]
    with platform.admin() as admin:
        (node,) = admin.registry.nodes().nodes
        assert admin.registry.drain_node(node.name) == [node.name]
        until(lambda: admin.registry.nodes().nodes[0].drained, 30, "drained node")
        platform.kill("registry")
        until(lambda: is_back(lambda: admin.registry.undrain_node(node.name)), 30, "registry")
        until(lambda: not admin.registry.nodes().nodes[0].drained, 30, "open node")
    client.registry.delete_deployment(name)


def is_back(call: Callable[[], object]) -> bool:
    try:
        call()
    except MoorageApiError as error:
        if error.code not in ("unreachable", "timed_out"):
            raise
        return False
    return True
