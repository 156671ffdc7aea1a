"""From a trained model to a metered answer."""

import json
import time
from collections.abc import Mapping
from pathlib import Path

import httpx
import magika
import numpy as np
import pytest
from e2e_platform import Note, Platform, until
from magika import Magika
from sklearn.pipeline import Pipeline

from moorage_sdk.client import Client


def test_answers_equal_scikit_learns_own(
    client: Client, name: str, classifier: Pipeline, pictures: np.ndarray, note: Note
) -> None:
    begun = time.monotonic()
    version = client.push(classifier, name=name, example=pictures[:8])
    endpoint = client.deploy(version, gpu=0.25)
    answered = endpoint.predict(pictures[:1])
    note("push_to_answer_s", round(time.monotonic() - begun, 2))
    assert version.state == "ready"
    assert not version.unchecked
    assert answered.tolist() == classifier.predict(pictures[:1]).tolist()
    everything = endpoint.infer(pictures)
    np.testing.assert_array_equal(everything["predict"].ravel(), classifier.predict(pictures))
    np.testing.assert_allclose(everything["predict_proba"], classifier.predict_proba(pictures), rtol=1e-6)


def test_answers_equal_magikas_own(client: Client, name: str) -> None:
    folder = next((Path(magika.__file__).parent / "models").glob("standard_v*"))
    config = json.loads((folder / "config.min.json").read_text())
    files = [Path(__file__), folder / "README.md", folder / "config.min.json", folder / "model.onnx"]
    contents = [path.read_bytes() for path in files]
    bytes_in = np.array([features(content, config) for content in contents], dtype=np.int32)
    endpoint = client.deploy(client.push(folder / "model.onnx", name=name, example={"bytes": bytes_in[:2]}), gpu=0.25)
    scores = endpoint.infer({"bytes": bytes_in})["target_label"]
    judge = Magika()
    for content, row in zip(contents, scores, strict=True):
        own = judge.identify_bytes(content)
        assert config["target_labels_space"][int(row.argmax())] == str(own.dl.label)
        assert row.max() == pytest.approx(own.score, abs=1e-4)


def features(content: bytes, config: dict[str, int]) -> list[int]:
    """Magika's input: the stripped first and last bytes, padded."""
    first = content[: config["block_size"]].lstrip()[: config["beg_size"]]
    last = content[-config["block_size"] :].rstrip()[-config["end_size"] :]
    padding = config["padding_token"]
    return [
        *first,
        *[padding] * (config["beg_size"] - len(first)),
        *[padding] * (config["end_size"] - len(last)),
        *last,
    ]


def test_what_was_asked_is_on_the_bill(client: Client, name: str, classifier: Pipeline, pictures: np.ndarray) -> None:
    endpoint = client.deploy(client.push(classifier, name=name, example=pictures[:8]))
    for _ in range(25):
        endpoint.predict(pictures[:4])

    def billed() -> list[dict[str, int]]:
        return [row for row in client.usage(by="model,version")["rows"] if row["model"] == name]

    until(lambda: billed() and billed()[0]["requests"] >= 25, 30, "the usage of 25 requests")
    row = billed()[0]
    assert (row["version"], row["requests"], row["rows"], row["errors"]) == (1, 25, 100, 0)


def test_refusals_say_what_is_wrong(
    platform: Platform, client: Client, name: str, classifier: Pipeline, pictures: np.ndarray
) -> None:
    client.deploy(client.push(classifier, name=name, example=pictures[:8]))
    reader = client.registry.create_key(["infer:other-*"])["key"]
    mine = platform.info["api_key"]
    url = f"{platform.info['router']}/v2/models/{name}/infer"
    good: dict[str, object] = {"name": "x", "datatype": "FP64", "shape": [1, 64], "data": [0] * 64}

    def refused(key: str, tensor: Mapping[str, object], where: str = url) -> tuple[int, dict[str, str]]:
        answer = httpx.post(where, json={"inputs": [tensor]}, headers={"authorization": f"Bearer {key}"})
        assert set(answer.json()) == {"error"}
        assert answer.headers["moorage-error"]
        return answer.status_code, answer.json()

    assert refused("mrg_live_wrong", good)[0] == 401
    until(lambda: refused(reader, good)[0] == 403, 5, "the refusal of a key without the scope")
    assert refused(mine, good, url.replace(name, "no-such-model"))[0] == 404
    assert refused(mine, good | {"shape": [1, 63]})[0] == 400
    assert refused(mine, good | {"datatype": "FP65"})[0] == 400


def test_another_tenants_model_does_not_exist(
    platform: Platform, client: Client, name: str, classifier: Pipeline, pictures: np.ndarray
) -> None:
    client.deploy(client.push(classifier, name=name, example=pictures[:8]))
    with platform.admin() as admin:
        if "other" not in [tenant["name"] for tenant in admin.registry.tenants()]:
            admin.registry.create_tenant("other")
    with platform.admin("other") as admin:
        key = admin.registry.create_key(["infer:*", "models:write", "deploy:write", "usage:read", "events:read"])["key"]
    with Client(platform.info["registry"], platform.info["router"], key) as other:
        assert other.registry.models() == []
        assert other.registry.deployment(name) is None
        assert other.usage()["rows"] == []
        assert name not in {event.subject.rsplit("/", 1)[-1] for event in other.events()}
        headers = {"authorization": f"Bearer {key}"}
        nothing = f"{platform.info['router']}/v2/models/nothing"
        until(lambda: httpx.get(nothing, headers=headers).status_code == 404, 5, "the key")
        for path in (f"/v2/models/{name}", f"/v2/models/{name}/ready", f"/v2/models/{name}/versions/1"):
            assert httpx.get(platform.info["router"] + path, headers=headers).status_code == 404


def test_a_revoked_key_is_refused_within_seconds(platform: Platform, client: Client) -> None:
    made = client.registry.create_key(["infer:*"])
    url, headers = f"{platform.info['router']}/v2/models/nothing", {"authorization": f"Bearer {made['key']}"}
    until(lambda: httpx.get(url, headers=headers).status_code == 404, 5, "the new key")
    client.registry.revoke_key(made["kid"])
    until(lambda: httpx.get(url, headers=headers).status_code == 401, 5, "the refusal of the revoked key")
