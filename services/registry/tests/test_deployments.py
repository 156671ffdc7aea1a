"""Deployments and traffic: declarative, compare-and-set, and adding up."""

import asyncio
import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import update

from moorage_common.contracts.desired import ReplicaStatus
from moorage_common.contracts.routes import Arm
from moorage_registry.catalog.tables import ArtifactRow
from moorage_registry.deployments.models import PlacedVersion
from moorage_registry.deployments.plan import share_out
from moorage_registry.deployments.quota import POOL_BYTES, Counted, growth
from moorage_registry.deployments.replicas import Seen, transitions
from moorage_registry.deployments.tables import RevisionRow, TrafficRow
from moorage_registry.testing import Caller, Json, Platform

PATH = "/v1/deployments/digits"


async def two_versions(demo: Caller, **traffic: object) -> Json:
    await demo.push("digits", b"one")
    await demo.push("digits", b"two")
    spec = {"versions": [{"version": 1}, {"version": 2}], **traffic}
    deployed: Json = await demo.ok("PUT", PATH, json=spec)
    return deployed


def weights(traffic: Json) -> dict[int, int]:
    return {arm["version"]: arm["weight_bp"] for arm in traffic["arms"]}


async def test_a_first_deployment_sends_everything_to_its_highest_version(demo: Caller) -> None:
    assert weights((await two_versions(demo))["traffic"]) == {2: 10_000}


async def test_applying_the_same_again_changes_nothing(demo: Caller) -> None:
    first = await two_versions(demo, traffic=[{"version": 1, "weight": 90}, {"version": 2, "weight": 10}])
    spec = {"versions": [{"version": 2}, {"version": 1}]}
    assert await demo.ok("PUT", PATH, json=spec) == first
    assert (await demo.ok("PUT", PATH, params={"dry_run": True}, json=spec)) == {"changes": []}


async def test_a_dry_run_tells_the_difference_and_writes_nothing(demo: Caller) -> None:
    before = await two_versions(demo)
    spec = {
        "versions": [{"version": 1, "scaling": {"min": 1, "max": 3}}, {"version": "latest"}],
        "traffic": [{"version": 1, "weight_bp": 2500}, {"version": 2, "weight_bp": 7500}],
    }
    found = await demo.ok("PUT", PATH, params={"dry_run": True}, json=spec)
    changes = {change["path"]: (change["from"], change["to"]) for change in found["changes"]}
    assert changes == {
        "versions.1.scaling.max": (1, 3),
        "traffic.v1": (None, {"weight_bp": 2500, "role": "stable"}),
        "traffic.v2.weight_bp": (10_000, 7500),
    }
    assert await demo.ok("GET", PATH) == before


async def test_applying_without_traffic_keeps_it_where_its_versions_stay(demo: Caller) -> None:
    await two_versions(demo, traffic=[{"version": 1, "weight": 90}, {"version": 2, "weight": 10}])
    await demo.push("digits", b"three")
    kept = await demo.ok("PUT", PATH, json={"versions": [{"version": v} for v in (1, 2, 3)]})
    assert weights(kept["traffic"]) == {1: 9000, 2: 1000}
    moved = await demo.ok("PUT", PATH, json={"versions": [{"version": 2}, {"version": 3}]})
    assert weights(moved["traffic"]) == {2: 10_000}
    gone = await demo.ok("PUT", PATH, json={"versions": [{"version": 3}]})
    assert weights(gone["traffic"]) == {3: 10_000}


async def test_traffic_is_set_only_on_the_revision_that_was_read(demo: Caller) -> None:
    revision = (await two_versions(demo))["traffic"]["revision"]
    body = {"arms": [{"version": 1, "weight": 50}, {"version": 2, "weight": 50}], "revision": revision}
    changed = await demo.ok("PUT", f"{PATH}/traffic", json=body)
    assert changed["revision"] == revision + 1
    answer = await demo.call("PUT", f"{PATH}/traffic", json=body)
    assert (answer.status_code, answer.json()["code"]) == (409, "traffic_changed")


NONSENSE: list[tuple[list[Json], str]] = [
    ([{"version": 1, "weight": 90}, {"version": 2, "weight": 11}], "weights_not_whole"),
    ([{"version": 1, "weight": 100}, {"version": 2, "weight": 10}], "weights_not_whole"),
    ([{"version": 1, "weight": 50}, {"version": 1, "weight": 50}], "version_named_twice"),
    ([{"version": 7, "weight": 100}], "version_not_found"),
    ([{"version": 3, "weight": 100}], "version_not_deployed"),
    ([{"version": 1}], "invalid_request"),
    ([{"version": 1, "weight": 100, "weight_bp": 10_000}], "invalid_request"),
    ([{"version": 1, "wieght": 100}], "invalid_request"),
    ([], "invalid_request"),
]


async def test_traffic_that_makes_no_sense_is_refused(demo: Caller) -> None:
    before = (await two_versions(demo))["traffic"]
    await demo.push("digits", b"three")
    for arms, code in NONSENSE:
        answer = await demo.call("PUT", f"{PATH}/traffic", json={"arms": arms})
        assert answer.status_code in (404, 422), arms
        assert answer.json()["code"] == code, arms
    assert await demo.ok("GET", f"{PATH}/traffic") == before


async def test_shadow_arms_do_not_count_towards_the_whole(demo: Caller) -> None:
    arms = [{"version": 1, "weight": 100}, {"version": 2, "weight": 30, "role": "shadow"}]
    await two_versions(demo)
    assert weights(await demo.ok("PUT", f"{PATH}/traffic", json={"arms": arms})) == {1: 10_000, 2: 3000}


async def test_while_a_rollout_owns_the_traffic_nobody_else_moves_it(platform: Platform, demo: Caller) -> None:
    await two_versions(demo)
    async with platform.registry.db.write() as session:
        owned = update(TrafficRow).where(TrafficRow.tenant == demo.tenant).values(owner="rollout:r1")
        await session.execute(owned)
    arms = [{"version": 1, "weight": 100}]
    both: Json = {"versions": [{"version": 1}, {"version": 2}]}
    for method, path, body in (
        ("PUT", f"{PATH}/traffic", {"arms": arms}),
        ("PUT", PATH, {**both, "traffic": arms}),
        ("PUT", PATH, {"versions": [{"version": 1}]}),
        ("DELETE", PATH, None),
    ):
        answer = await demo.call(method, path, json=body)
        assert (answer.status_code, answer.json()["code"]) == (409, "traffic_owned")
        assert "abort" in answer.json()["error"]
    await demo.ok("PUT", PATH, json={**both, "deadline_ms": 500})


async def test_a_deleted_deployment_comes_back_with_higher_revisions(demo: Caller) -> None:
    first = await two_versions(demo)
    assert (await demo.call("DELETE", PATH)).status_code == 204
    assert (await demo.call("GET", PATH)).status_code == 404
    assert (await demo.call("DELETE", PATH)).status_code == 404
    again = await demo.ok("PUT", PATH, json={"versions": [{"version": 1}]})
    assert again["revision"] > first["revision"]
    assert again["traffic"]["revision"] > first["traffic"]["revision"]
    assert weights(again["traffic"]) == {1: 10_000}


async def test_a_version_that_cannot_be_placed_is_refused(demo: Caller) -> None:
    await demo.push("digits", b"one")
    for version in (
        {"version": 1, "resources": {"gpu_mili": 500}},
        {"version": 1, "resources": {"gpu_milli": 1500}},
        {"version": 1, "resources": {"gpu_milli": 500, "devices": 2}},
        {"version": 1, "scaling": {"min": 3, "max": 2}},
        {"version": 1, "resources": {"gpu_milli": 1000, "devices": 3}},
        {"version": "newest"},
    ):
        assert (await demo.call("PUT", PATH, json={"versions": [version]})).status_code == 422, version


H100 = {"H100": {"gpu_milli": 200}}


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"gpu_profiles": H100}, "set gpu_milli to what"),
        ({"gpu_milli": 500, "gpu_profiles": {"H100": {"gpu_mili": 200}}}, "gpu_mili"),
        ({"gpu_milli": 500, "gpu_profiles": {"H100": {"gpu_milli": 0}}}, "gpu_milli"),
        ({"gpu_milli": 1000, "devices": 2, "gpu_profiles": H100}, "each of gpu_profiles to 1000"),
        ({"gpu_milli": 500, "gpu_models": ["T4"], "gpu_profiles": H100}, "which gpu_models leaves out; add it there"),
        ({"gpu_milli": 500, "gpu_models": ["T4", "T4"]}, "name each once"),
        ({"gpu_milli": 500, "gpu_models": ["<T4>"]}, "does not name a GPU model"),
        ({"elastic_pct": 10}, "set gpu_milli, or elastic_pct to 0"),
        ({"gpu_milli": 500, "elastic_pct": 60}, "elastic_pct"),
        ({"gpu_milli": 1000, "devices": 2, "elastic_pct": 10}, "whole devices are not trimmed"),
        ({"node_labels": {"zo ne": "a"}}, "is not a label; write letters"),
    ],
)
async def test_resources_that_contradict_themselves_are_refused_with_what_to_do(
    demo: Caller, asked: Json, said: str
) -> None:
    answer = await demo.call("PUT", PATH, json={"versions": [{"version": 1, "resources": asked}]})
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid_request")
    assert said in answer.json()["error"]


async def test_a_deployment_made_before_a_field_was_known_reads_as_its_default(
    platform: Platform, demo: Caller
) -> None:
    await demo.push("digits", b"one")
    before = await demo.ok("PUT", PATH, json={"versions": [{"version": 1}]})
    old = {"versions": [{"version": 1, "resources": {"gpu_milli": 0}, "scaling": {"min": 1, "max": 1}}]}
    async with platform.registry.db.write() as session:
        await session.execute(update(RevisionRow).where(RevisionRow.tenant == demo.tenant).values(spec=old))
    assert await demo.ok("GET", PATH) == before


async def test_the_gpu_share_of_a_tenant_holds_over_all_its_deployments(demo: Caller) -> None:
    whole = {"version": 1, "resources": {"gpu_milli": 1000}}
    for model, status in (("a", 200), ("b", 200), ("c", 422)):
        await demo.push(model, model.encode())
        answer = await demo.call("PUT", f"/v1/deployments/{model}", json={"versions": [whole]})
        assert answer.status_code == status
    assert answer.json()["code"] == "gpu_quota"


async def test_shares_count_the_most_replicas_that_may_run(demo: Caller) -> None:
    await demo.push("digits", b"one")
    for gpu_milli, most, code in ((1000, 3, "gpu_quota"), (0, 65, "replica_quota"), (1000, 2, None), (0, 64, None)):
        version = {"version": 1, "resources": {"gpu_milli": gpu_milli}, "scaling": {"min": 0, "max": most}}
        answer = await demo.call("PUT", PATH, json={"versions": [version]})
        assert (answer.status_code, answer.json().get("code")) == (422 if code else 200, code)


def pooled(most: int, artifact_bytes: int = 0) -> Counted:
    placed = {"version": 1, "isolation": "pooled", "scaling": {"max": most}}
    return Counted(PlacedVersion.model_validate(placed), artifact_bytes)


def test_a_hundred_pooled_versions_count_as_many_as_the_one_that_may_have_the_most() -> None:
    def counted(*most: int) -> int:
        return growth([pooled(each) for each in most]).replicas

    assert counted(*[1] * 100) == 1
    assert counted(*[1] * 101) == 2
    assert counted(1, 1000, 1) == 1000, "a process each"
    assert counted(*[1] * 100, 7) == 8


def test_pooled_versions_whose_artifacts_fill_a_process_count_as_another_one() -> None:
    third = POOL_BYTES // 3
    assert growth([pooled(1, third)] * 2).replicas == 1
    assert growth([pooled(1, third)] * 5).replicas == 3
    assert growth([pooled(4, 2 * POOL_BYTES), pooled(1)]).replicas == 5
    assert growth([pooled(1, 10**6)] * 100).replicas == 1


async def test_the_artifacts_of_pooled_versions_count_towards_the_quota(platform: Platform, demo: Caller) -> None:
    version = {"version": 1, "isolation": "pooled", "scaling": {"min": 0, "max": 33}}
    for model in ("digits", "other"):
        await demo.push(model, model.encode())
    async with platform.registry.db.write() as session:
        large = update(ArtifactRow).where(ArtifactRow.tenant == demo.tenant).values(size_bytes=POOL_BYTES)
        await session.execute(large)
    await demo.ok("PUT", PATH, json={"versions": [version]})
    answer = await demo.call("PUT", "/v1/deployments/other", json={"versions": [version]})
    assert (answer.status_code, answer.json()["code"]) == (422, "replica_quota"), answer.text


@pytest.mark.parametrize(
    ("field", "most", "refusal"),
    [
        ("cpu_milli", 64_000, ("cpu_quota", "could grow to 64.002 CPU and its share is 64; lower scaling.max")),
        ("host_mem_mib", 262_144, ("memory_quota", "could grow to 262146 MiB of memory and its share is 262144 MiB")),
    ],
)
async def test_cpu_and_memory_of_all_deployments_are_bounded(
    platform: Platform, demo: Caller, field: str, most: int, refusal: tuple[str, str]
) -> None:
    await demo.push("digits", b"one")

    def body(each: int) -> Json:
        return {"versions": [{"version": 1, "resources": {field: each}, "scaling": {"min": 0, "max": 2}}]}

    refused = await demo.call("PUT", PATH, json=body(most // 2 + 1))
    assert (refused.status_code, refused.json()["code"]) == (422, refusal[0])
    assert refusal[1] in refused.json()["error"]
    await demo.ok("PUT", PATH, json=body(most // 2))
    limit = "cpu_milli" if field == "cpu_milli" else "mem_mib"
    await platform.operator.ok("PUT", f"/v1/tenants/{demo.tenant}/limits", json={limit: most + 2})
    await demo.ok("PUT", PATH, json=body(most // 2 + 1))


async def test_models_deployed_at_once_do_not_pass_the_quota_together(demo: Caller) -> None:
    models = [f"m{number}" for number in range(6)]
    for model in models:
        await demo.push(model, model.encode())
    whole = {"versions": [{"version": 1, "resources": {"gpu_milli": 1000}}]}
    answers = await asyncio.gather(*(demo.call("PUT", f"/v1/deployments/{one}", json=whole) for one in models))
    assert sorted(answer.status_code for answer in answers) == [200, 200, 422, 422, 422, 422]


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ({"versions": [{"version": 1, "scaling": {"min": 0, "idle_s": 9}}]}, "idle_s"),
        ({"versions": [{"version": 1}], "features": {"entity": {"user": "user"}, "default": math.nan}}, "default"),
        ({"versions": [{"version": 1}], "features": {"entity": {"user": "user"}, "default": -math.inf}}, "default"),
    ],
)
async def test_numbers_that_make_no_sense_are_refused(demo: Caller, spec: Json, said: str) -> None:
    headers = {"content-type": "application/json"}
    answer = await demo.call("PUT", PATH, content=json.dumps(spec), headers=headers)
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid_request"), answer.text
    assert said in answer.json()["error"]


async def test_one_pooled_version_may_not_have_more_processes_than_a_dedicated_one(demo: Caller) -> None:
    await demo.push("digits", b"one")
    for most, code in ((65, "replica_quota"), (10, None)):
        version = {"version": 1, "isolation": "pooled", "scaling": {"min": 0, "max": most}}
        answer = await demo.call("PUT", PATH, json={"versions": [version]})
        assert (answer.status_code, answer.json().get("code")) == (422 if code else 200, code)
    await demo.push("other", b"two")
    for most, code in ((55, "replica_quota"), (54, None)):
        version = {"version": 1, "scaling": {"min": 0, "max": most}}
        answer = await demo.call("PUT", "/v1/deployments/other", json={"versions": [version]})
        assert (answer.status_code, answer.json().get("code")) == (422 if code else 200, code)


@pytest.mark.parametrize(
    "resources",
    [
        {"cpu_milli": 10**30},
        {"host_mem_mib": 10**30},
        {"gpu_milli": 1, "gpu_mem_mib": 10**30},
        {"gpu_milli": 1, "gpu_profiles": {"T4": {"gpu_milli": 1, "gpu_mem_mib": 10**30}}},
    ],
)
async def test_amounts_that_no_cluster_could_count_are_refused(demo: Caller, resources: dict[str, object]) -> None:
    await demo.push("digits", b"one")
    answer = await demo.call("PUT", PATH, json={"versions": [{"version": 1, "resources": resources}]})
    assert answer.status_code == 422, answer.text


async def test_a_pooled_version_takes_no_gpu(demo: Caller) -> None:
    await demo.push("digits", b"one")
    version = {"version": 1, "isolation": "pooled", "resources": {"gpu_milli": 100}}
    answer = await demo.call("PUT", PATH, json={"versions": [version]})
    assert (answer.status_code, answer.json()["code"]) == (422, "pooled_without_gpu")


async def test_the_gpu_share_counts_the_largest_profile_that_may_be_used(demo: Caller) -> None:
    await demo.push("digits", b"one")
    profiles = {"T4": {"gpu_milli": 900}, "H100": {"gpu_milli": 100}}
    for models, most, code in (([], 3, "gpu_quota"), ([], 2, None), (["H100"], 20, None), (["H100"], 21, "gpu_quota")):
        used = {name: profiles[name] for name in models} if models else profiles
        resources = {"gpu_milli": 500, "gpu_models": models, "gpu_profiles": used}
        version = {"version": 1, "resources": resources, "scaling": {"min": 0, "max": most}}
        answer = await demo.call("PUT", PATH, json={"versions": [version]})
        assert (answer.status_code, answer.json().get("code")) == (422 if code else 200, code)


@given(
    st.lists(st.integers(0, 10_000), min_size=1, max_size=8),
    st.sets(st.integers(0, 7)),
)
def test_shared_out_weights_always_add_up(shares: list[int], able: set[int]) -> None:
    arms = [Arm(arm=f"v{n}", version=n, weight_bp=share) for n, share in enumerate(shares)]
    shared = share_out(arms, able)
    left = sum(arm.weight_bp for arm in arms if arm.version in able)
    assert sum(arm.weight_bp for arm in shared) == (10_000 if left else 0)
    assert all(arm.version in able for arm in shared)
    for arm in shared:
        assert abs(arm.weight_bp - shares[arm.version] * 10_000 / left) < 1


def replica(host: str, state: str, restarts: int = 0) -> ReplicaStatus:
    return ReplicaStatus.model_validate({"host_id": host, "version": 1, "state": state, "restarts": restarts})


@pytest.mark.parametrize(
    ("stored", "reported", "expected"),
    [
        (None, replica("a", "loading"), []),
        (None, replica("a", "ready"), ["started"]),
        (Seen("loading", 0), replica("a", "ready"), ["started"]),
        (Seen("ready", 0), replica("a", "ready"), []),
        (Seen("ready", 0), replica("a", "ready", 1), ["lost", "started"]),
        (Seen("ready", 0), replica("a", "failed"), ["lost"]),
        (Seen("ready", 0), replica("a", "stopping"), []),
        (Seen("stopping", 0), None, []),
        (Seen("ready", 0), None, ["lost"]),
    ],
)
def test_replica_transitions(stored: Seen | None, reported: ReplicaStatus | None, expected: list[str]) -> None:
    before = {("a", 1): stored} if stored is not None else {}
    found = transitions(before, [reported] if reported is not None else [], frozenset({1}))
    assert [change.verb for change in found] == expected
    if reported is None:
        assert transitions(before, [], frozenset()) == []
