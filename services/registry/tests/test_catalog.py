"""Artifacts and versions: digests hold, versions are immutable, equal pushes are one."""

import asyncio
import hashlib
from collections.abc import AsyncIterator
from pathlib import Path

from moorage_registry.catalog.urls import DAY_S, ArtifactUrls
from moorage_registry.settings import Settings
from moorage_registry.testing import SIGNATURE, Caller, Platform, platform_of


def digest_of(content: bytes) -> str:
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


def stored_files(settings: Settings) -> list[Path]:
    return [path for path in settings.artifact_dir.rglob("*") if path.is_file()]


async def test_an_artifact_comes_back_byte_by_byte_through_its_signed_url(platform: Platform, demo: Caller) -> None:
    content = bytes(range(256)) * 2048
    digest = await demo.upload(content)
    assert (await demo.call("HEAD", f"/v1/artifacts/{digest}")).status_code == 200
    url = platform.registry.urls.sign(demo.tenant, digest, platform.registry.clock())
    answer = await platform.operator.http.get(url)
    assert answer.content == content
    for broken in (url[:-1] + ("0" if url[-1] != "0" else "1"), url.replace("expires=1", "expires=2")):
        assert (await platform.operator.http.get(broken)).status_code == 403
    foreign = url.split("signature=")[0] + "signature=%C3%A9"
    assert (await platform.operator.http.get(foreign)).status_code == 403


async def test_a_tenants_artifacts_have_a_share_of_the_disk(settings: Settings) -> None:
    async with platform_of(settings.model_copy(update={"max_tenant_artifact_bytes": 10})) as platform:
        demo, other = await platform.tenant(), await platform.tenant()
        await demo.upload(b"sixsix")
        await demo.upload(b"sixsix")
        answer = await demo.call("PUT", f"/v1/artifacts/{digest_of(b'fives')}", content=b"fives")
        assert (answer.status_code, answer.json()["code"]) == (413, "artifact_quota")
        await demo.upload(b"four")
        await other.upload(b"fives")


async def test_a_model_has_a_bounded_number_of_versions_pending(demo: Caller) -> None:
    digest = await demo.upload(b"weights")
    body = {"artifact_digest": digest, "format": "onnx", "signature": SIGNATURE, "force_new": True}
    for _ in range(16):
        await demo.ok("POST", "/v1/models/digits/versions", json=body)
    answer = await demo.call("POST", "/v1/models/digits/versions", json=body)
    assert (answer.status_code, answer.json()["code"]) == (409, "too_many_pending")


async def test_bytes_of_another_digest_are_refused_and_leave_nothing(platform: Platform, demo: Caller) -> None:
    answer = await demo.call("PUT", f"/v1/artifacts/{digest_of(b'right')}", content=b"wrong")
    assert (answer.status_code, answer.json()["code"]) == (400, "digest_mismatch")
    assert stored_files(platform.settings) == []


async def test_an_artifact_too_large_or_of_no_told_length_is_refused(platform: Platform, demo: Caller) -> None:
    content = b"x" * (platform.settings.max_artifact_bytes + 1)

    async def streamed() -> AsyncIterator[bytes]:
        for start in range(0, len(content), 1 << 16):
            yield content[start : start + (1 << 16)]

    for body, refused in ((content, (413, "artifact_too_large")), (streamed(), (400, "length_required"))):
        answer = await demo.call("PUT", f"/v1/artifacts/{digest_of(content)}", content=body)
        assert (answer.status_code, answer.json()["code"]) == refused
    assert stored_files(platform.settings) == []


async def test_uploading_again_is_harmless_even_at_the_same_time(demo: Caller) -> None:
    path = f"/v1/artifacts/{digest_of(b'same')}"
    answers = await asyncio.gather(*(demo.call("PUT", path, content=b"same") for _ in range(4)))
    assert sorted(answer.status_code for answer in answers) == [200, 200, 200, 201]


def test_a_signed_url_lives_a_day_at_least_and_is_the_same_all_day() -> None:
    urls = ArtifactUrls("http://registry/", "pepper")
    day = 20_000 * DAY_S
    first, last = (urls.sign("demo", "sha256:00", at) for at in (day, day + DAY_S - 1))  # type: ignore[arg-type]
    assert first == last
    expires = int(first.split("expires=")[1].split("&")[0])
    assert DAY_S < expires - (day + DAY_S - 1) <= 2 * DAY_S


async def test_an_equal_push_is_the_same_version_unless_a_new_one_is_forced(demo: Caller) -> None:
    first = await demo.push("digits", b"weights")
    assert (first["version"], first["state"]) == (1, "uploaded")
    body = {"artifact_digest": first["artifact_digest"], "format": "onnx", "signature": SIGNATURE}
    again = await demo.call("POST", "/v1/models/digits/versions", json=body)
    assert (again.status_code, again.json()["version"]) == (200, 1)
    forced = await demo.call("POST", "/v1/models/digits/versions", json={**body, "force_new": True})
    assert (forced.status_code, forced.json()["version"]) == (201, 2)
    other = {**SIGNATURE, "batchable": False}
    changed = await demo.call("POST", "/v1/models/digits/versions", json={**body, "signature": other})
    assert (changed.status_code, changed.json()["version"]) == (201, 3)


async def test_no_route_changes_a_version(demo: Caller) -> None:
    before = await demo.push("digits", b"weights")
    for method in ("PUT", "PATCH", "DELETE"):
        answer = await demo.call(method, "/v1/models/digits/versions/1", json={"format": "skops"})
        assert answer.status_code == 405
    after = await demo.ok("GET", "/v1/models/digits/versions/1")
    ignored = {"state": None}
    assert {**after, **ignored} == {**before, **ignored}


async def test_concurrent_pushes_get_numbers_of_their_own_without_gaps(demo: Caller) -> None:
    versions = await asyncio.gather(*(demo.push("digits", b"weights %d" % n) for n in range(6)))
    assert sorted(version["version"] for version in versions) == [1, 2, 3, 4, 5, 6]


async def test_a_format_that_is_not_served_is_refused_with_the_way_out(demo: Caller) -> None:
    digest = await demo.upload(b"x")
    for name in ("pickle", "joblib", "torch", "tensorflow"):
        body = {"artifact_digest": digest, "format": name, "signature": SIGNATURE}
        answer = await demo.call("POST", "/v1/models/digits/versions", json=body)
        assert (answer.status_code, answer.json()["code"]) == (422, "format_refused")
        assert "skops" in answer.json()["error"] or "data format" in answer.json()["error"]
    assert (await demo.ok("GET", "/v1/models"))["models"] == []


async def test_a_model_has_a_proper_name(demo: Caller) -> None:
    body = {"artifact_digest": await demo.upload(b"x"), "format": "onnx", "signature": SIGNATURE}
    for name in ("Digits", "a_b", "-a", "a--b", "a.b", "x" * 64, "%2e%2e"):
        answer = await demo.call("POST", f"/v1/models/{name}/versions", json=body)
        assert answer.status_code in (404, 422), name
    await demo.ok("POST", f"/v1/models/{'x' * 63}/versions", json=body)


async def test_a_signature_that_makes_no_sense_is_refused(demo: Caller) -> None:
    digest = await demo.upload(b"x")
    good = SIGNATURE["inputs"][0]
    for inputs in (
        [],
        [good, good],
        [good] * 65,
        [{**good, "shape": [1] * 9}],
        [{**good, "shape": [0]}],
        [{**good, "datatype": "FP31"}],
        [{**good, "columns": ["a", "b"]}],
        [{**good, "labels": ["x" * 100] * 400}],
    ):
        signature = {**SIGNATURE, "inputs": inputs}
        body = {"artifact_digest": digest, "format": "onnx", "signature": signature}
        assert (await demo.call("POST", "/v1/models/digits/versions", json=body)).status_code == 422, inputs
    for libraries in ({"x" * 129: "1"}, {"x": "1" * 129}):
        body = {"artifact_digest": digest, "format": "onnx", "signature": SIGNATURE, "libraries": libraries}
        assert (await demo.call("POST", "/v1/models/digits/versions", json=body)).status_code == 422


async def test_a_body_over_one_mebibyte_of_json_is_refused(demo: Caller) -> None:
    answer = await demo.call("POST", "/v1/models/digits/versions", json={"libraries": {"x": "y" * (1 << 20)}})
    assert answer.status_code == 413


async def test_a_feature_service_is_pinned_at_push(settings: Settings, feature_proxy: str) -> None:
    async with platform_of(settings.model_copy(update={"feature_proxy_url": feature_proxy})) as platform:
        demo = await platform.tenant()
        version = await demo.push("sensors", b"weights", feature_service="readings")
        assert version["feature_fingerprint"] == "f1"
        assert version["features"] == ["sensor__mean", "sensor__max"]
        body = {"artifact_digest": version["artifact_digest"], "format": "onnx", "signature": SIGNATURE}
        answer = await demo.call("POST", "/v1/models/sensors/versions", json={**body, "feature_service": "none"})
        assert (answer.status_code, answer.json()["code"]) == (422, "unknown_feature_service")
        unmapped = await demo.call("PUT", "/v1/deployments/sensors", json={"versions": [{"version": 1}]})
        assert (unmapped.status_code, unmapped.json()["code"]) == (422, "features_not_mapped")
        spec = {"versions": [{"version": 1}], "features": {"entity": {"sensor_id": "id"}}}
        await demo.ok("PUT", "/v1/deployments/sensors", json=spec)
