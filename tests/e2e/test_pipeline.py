"""A Ray Serve pipeline in two versions beside a single model, behind one key: SDK and HTTP only."""

import collections
import importlib.util
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from e2e_platform import Platform, until
from sklearn.pipeline import Pipeline

from moorage_sdk.client import Client
from moorage_sdk.errors import MoorageApiError

EXAMPLE = Path(__file__).parents[2] / "examples" / "pipeline"
REQUESTS = 400


def _train(strength: float, project: Path) -> np.ndarray:
    spec = importlib.util.spec_from_file_location("pipeline_train", EXAMPLE / "train.py")
    assert spec is not None
    assert spec.loader is not None
    module: Any = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    digits: np.ndarray = module.train(strength, project / "weights.npz")
    return digits


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """The example's code, to be trained in a directory of the test's own."""
    (tmp_path / "pipeline.py").write_bytes((EXAMPLE / "pipeline.py").read_bytes())
    return tmp_path


@pytest.mark.timeout(400)
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # Ray Serve's own, as it is imported
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_two_versions_of_a_pipeline_share_traffic_beside_a_model(  # noqa: PLR0917 - fixtures
    platform: Platform, client: Client, name: str, project: Path, classifier: Pipeline, pictures: np.ndarray
) -> None:
    _allow_code(platform, allow=False)
    _train(0.01, project)
    push = {"name": name, "format": "ray-serve", "include": ["weights.npz"], "example": {"pixels": pictures[:8]}}
    with pytest.raises(MoorageApiError) as caught:
        client.push(f"{project / 'pipeline.py'}:app", **push)
    assert caught.value.code == "code_not_allowed"
    _allow_code(platform)

    single = f"{name}-single"
    client.deploy(client.push(classifier, name=single, example=pictures[:8]), gpu=0.25)
    try:
        expected: dict[int, np.ndarray] = {}
        for strength in (0.01, 1.0):
            digits = _train(strength, project)
            version = client.push(f"{project / 'pipeline.py'}:app", **push)
            assert version.state == "ready"
            client.deploy(version, cpu="400m")
            expected[version.version] = digits
        for number, digits in expected.items():
            answer = client.infer(name, {"pixels": pictures[:300]}, version=number)
            np.testing.assert_array_equal(answer["digit"], digits[:300])
            assert answer["novelty"].shape == (300,)

        client.set_traffic(name, {1: 50, 2: 50})
        until(lambda: len(_answered(platform, name, pictures, 20)) == 2, 30, "both versions")
        answered = _answered(platform, name, pictures, REQUESTS)
        assert answered.keys() == {"1", "2"}
        assert abs(answered["1"] - REQUESTS / 2) < 4 * (REQUESTS / 4) ** 0.5
        np.testing.assert_array_equal(client.infer(single, pictures[:50])["predict"], classifier.predict(pictures[:50]))

        refused = httpx.post(
            f"{platform.info['router']}/v2/models/{name}/infer",
            json={"inputs": [{"name": "pixels", "datatype": "FP64", "shape": [1, 64], "data": [99.0] * 64}]},
            headers={"authorization": f"Bearer {platform.info['api_key']}"},
            timeout=30,
        )
        assert (refused.status_code, refused.json()["error"]) == (
            400,
            "the application refuses the request: pixels are 0 to 16",
        )

        def billed() -> set[tuple[str, int]]:
            rows = client.usage(by="model,version")["rows"]
            return {(row["model"], row["version"]) for row in rows if row["requests"] and row["model"].startswith(name)}

        until(lambda: billed() == {(name, 1), (name, 2), (single, 1)}, 60, "the usage of all three")
    finally:
        client.registry.delete_deployment(single)


def test_a_pipeline_goes_from_the_command_line(platform: Platform, name: str, project: Path) -> None:
    _allow_code(platform)
    _train(0.1, project)
    code = "from sklearn.datasets import load_digits\nexample_inputs = {'pixels': load_digits().data[:4]}\n"
    (project / "pipeline.py").write_text((project / "pipeline.py").read_text() + code)
    command = ["push", "pipeline.py:app", "--name", name, "--format", "ray-serve", "--include", "weights.npz"]
    settings = os.environ | {
        "MOORAGE_REGISTRY": platform.info["registry"],
        "MOORAGE_ROUTER": platform.info["router"],
        "MOORAGE_API_KEY": platform.info["api_key"],
    }
    moorage = str(Path(sys.executable).with_name("moorage"))
    done = subprocess.run(
        [moorage, *command], cwd=project, env=settings, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split("\t") == [name, "1", "ready\n"]


def _allow_code(platform: Platform, *, allow: bool = True) -> None:
    answer = httpx.put(
        f"{platform.info['registry']}/v1/tenants/demo/limits",
        json={"allow_code": allow},
        headers={"authorization": f"Bearer {platform.info['admin_key']}"},
        timeout=30,
    )
    assert answer.status_code == 200, answer.text


def _answered(platform: Platform, name: str, pictures: np.ndarray, count: int) -> collections.Counter[str]:
    """Versions that answered so many requests."""
    body = {"name": "pixels", "datatype": "FP64", "shape": [1, 64], "data": pictures[0].tolist()}
    headers = {"authorization": f"Bearer {platform.info['api_key']}"}
    found: collections.Counter[str] = collections.Counter()
    with httpx.Client(headers=headers, timeout=30, trust_env=False) as http:
        for _ in range(count):
            answer = http.post(f"{platform.info['router']}/v2/models/{name}/infer", json={"inputs": [body]})
            found[answer.json()["model_version"] if answer.status_code == 200 else answer.text] += 1
    return found
