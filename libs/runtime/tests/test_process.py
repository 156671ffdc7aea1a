"""A host as a process: it starts on its config alone, and imports what its models need and no more."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import numpy as np
from skl2onnx import to_onnx
from sklearn.datasets import load_iris
from sklearn.linear_model import LogisticRegression

from moorage_common.contracts import host_calls
from moorage_runtime import v2
from moorage_runtime.config import HostConfig
from moorage_runtime.signature import infer_signature

X, Y = load_iris(return_X_y=True)


def test_a_host_without_ray_serves_its_config_until_told_to_end(blobs: Any, tmp_path: Path) -> None:
    model = LogisticRegression(max_iter=500).fit(X, Y)
    path = tmp_path / "m.onnx"
    path.write_bytes(to_onnx(model, X[:1].astype(np.float32), options={"zipmap": False}).SerializeToString())
    spec = blobs.spec(blobs.put(path.read_bytes()), "onnx", infer_signature(path))
    config = HostConfig(host_id="h1", tenant="demo", cache_dir=str(tmp_path / "cache"), loads=[spec])
    command = [sys.executable, "-m", "moorage_runtime", "-"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(config.model_dump_json())
        process.stdin.close()
        identity = json.loads(process.stdout.readline())
        assert identity["versions"][0]["state"] == "ready"
        assert identity["pid"] == process.pid
        sent = v2.encode_request({"X": X.astype(np.float32)})
        headers = {host_calls.TOKEN: identity["token"], host_calls.TENANT: "demo"}
        url = f"http://{identity['address']}/v2/models/m/versions/1/infer"
        answer = httpx.post(url, content=sent.body, headers=headers, trust_env=False, timeout=30)
        assert answer.json()["outputs"][0]["data"] == model.predict(X).tolist()
        process.terminate()
        assert process.wait(30) == 0


def test_a_host_imports_no_model_library_before_it_loads_a_model_of_it() -> None:
    heavy = ["sklearn", "skops", "xgboost", "lightgbm", "onnxruntime", "pandas", "scipy", "ray", "httpx", "fastapi"]
    code = f"import sys, moorage_runtime.host, moorage_runtime.v2; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120)
    assert done.stdout.strip() == "[]"


def test_onnx_models_import_no_scikit_learn() -> None:
    code = "import sys, moorage_runtime.formats.onnx; print([m for m in ('sklearn', 'pandas') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120)
    assert done.stdout.strip() == "[]"


def test_native_libraries_use_as_many_threads_as_the_replica_asked_for() -> None:
    code = (
        "import json; from moorage_runtime.interpreter import share_processor; share_processor(1);"
        "import sklearn.ensemble, threadpoolctl;"
        "print(json.dumps([l['num_threads'] for l in threadpoolctl.threadpool_info()]))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120)
    assert set(json.loads(done.stdout)) == {1}


def test_libraries_and_models_are_kept_out_of_garbage_collections() -> None:
    code = (
        "import gc; from moorage_runtime import formats; from moorage_runtime.interpreter import settle_garbage;"
        "formats.warm('skops'); settle_garbage(); print(gc.get_freeze_count() > 50_000, len(gc.get_objects()) < 1000)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120)
    assert done.stdout.split() == ["True", "True"]
