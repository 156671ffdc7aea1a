"""Versions that are code: only where an administrator allows it, and only in processes of their own."""

from moorage_common.contracts.desired import Resources
from moorage_registry.deployments.models import PlacedVersion, Revision
from moorage_registry.deployments.views import ModelState, desired_of
from moorage_registry.testing import SIGNATURE, Caller, Platform

PATH = "/v1/models/pipe/versions"


async def _body(caller: Caller) -> dict[str, object]:
    return {"artifact_digest": await caller.upload(b"code"), "format": "ray-serve", "signature": SIGNATURE}


async def _allow(platform: Platform, caller: Caller, *, allow: bool) -> None:
    path = f"/v1/tenants/{caller.tenant}/limits"
    await platform.operator.ok("PUT", path, json={"allow_code": allow})


async def test_code_needs_an_administrators_word_and_the_refusal_says_which(platform: Platform, demo: Caller) -> None:
    body = await _body(demo)
    refused = await demo.call("POST", PATH, json=body)
    assert (refused.status_code, refused.json()["code"]) == (403, "code_not_allowed")
    assert "allow_code" in refused.json()["error"]
    own = await demo.call("PUT", f"/v1/tenants/{demo.tenant}/limits", json={"allow_code": True})
    assert own.status_code == 403, "a tenant cannot allow itself"

    await _allow(platform, demo, allow=True)
    assert (await demo.ok("POST", PATH, json=body))["format"] == "ray-serve"
    other = await platform.tenant()
    answer = await other.call("POST", PATH, json=await _body(other))
    assert answer.status_code == 403, "it is one tenant's alone"


async def test_code_that_is_no_longer_allowed_is_not_deployed_anew(platform: Platform, demo: Caller) -> None:
    await _allow(platform, demo, allow=True)
    await demo.ok("POST", PATH, json=await _body(demo))
    await _allow(platform, demo, allow=False)
    answer = await demo.call("PUT", "/v1/deployments/pipe", json={"versions": [{"version": 1}]})
    assert (answer.status_code, answer.json()["code"]) == (403, "code_not_allowed")


async def test_code_shares_no_process(platform: Platform, demo: Caller) -> None:
    await _allow(platform, demo, allow=True)
    await demo.ok("POST", PATH, json=await _body(demo))
    spec = {"versions": [{"version": 1, "isolation": "pooled"}]}
    answer = await demo.call("PUT", "/v1/deployments/pipe", json=spec)
    assert (answer.status_code, answer.json()["code"]) == (422, "dedicated_only")
    await demo.ok("PUT", "/v1/deployments/pipe", json={"versions": [{"version": 1}]})


def test_a_host_of_code_is_told_what_its_processes_may_ask_for() -> None:
    from moorage_registry.catalog.tables import VersionRow

    def load(model_format: str) -> Resources | None:
        row = VersionRow(
            model="m", number=1, state="ready", artifact_digest="sha256:" + "0" * 64, format=model_format,
            signature=SIGNATURE, libraries={}, examples_digest=None, run_id="r",
        )  # fmt: skip
        placed = PlacedVersion.model_validate({"version": 1, "resources": {"cpu_milli": 700}})
        state = ModelState("t", "m", 1, [row], {}, Revision(versions=[placed]), 1, [])  # type: ignore[arg-type]
        desired = desired_of(state, "c", lambda _tenant, _digest: "http://x")
        assert desired is not None
        return desired.versions[0].load.resources

    told = load("ray-serve")
    assert told is not None
    assert told.cpu_milli == 700
    assert load("onnx") is None
