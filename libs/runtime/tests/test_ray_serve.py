"""Ray Serve applications in a process without Ray: as validation and their authors run them."""

import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pytest

from moorage_common.contracts.desired import LoadSpec, Resources, ValidationRun
from moorage_common.contracts.tensors import Signature, TensorSpec
from moorage_common.errors import Unprocessable
from moorage_runtime.apart import Job, Validator
from moorage_runtime.artifacts import ArtifactCache
from moorage_runtime.projects import pack
from moorage_runtime.versions import Versions

# Ray's own: as it is imported, and event loops that its local mode leaves to the garbage collector.
pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]

PIPELINE = b"""
import asyncio
import numpy as np
from pathlib import Path
from ray import serve
from parts.doubling import double

@serve.deployment(ray_actor_options={"num_cpus": 0.1})
class Scale:
    def __init__(self):
        self.by = float((Path(__file__).parent / "by.txt").read_text())

    async def __call__(self, x):
        return x * self.by

@serve.deployment(ray_actor_options={"num_cpus": 0.2}, num_replicas=2)
class Ingress:
    def __init__(self, scale):
        self.scale = scale

    async def __call__(self, inputs):
        x = inputs["x"]
        if (x == 1).any():
            raise ValueError("one is not taken")
        if (x == 2).any():
            raise RuntimeError("two breaks it")
        if (x == 3).any():
            return {"y": "text"}
        if (x == 4).any():
            await asyncio.sleep(60)
        if (x == 5).any():
            await asyncio.sleep(0.3)
        import late
        scaled, doubled = await asyncio.gather(self.scale.remote(x), double(x))
        return {"y": scaled + doubled + late.ZERO}

app = Ingress.bind(Scale.bind())
"""
FILES = {
    "pipeline.py": PIPELINE,
    "parts/__init__.py": b"",
    "parts/doubling.py": b"async def double(x):\n    return 2 * x\n",
    "late.py": b"ZERO = 0\n",
    "by.txt": b"10",
}
SIGNATURE = Signature(
    inputs=[TensorSpec(name="x", datatype="FP64", shape=[-1, 2])],
    outputs=[TensorSpec(name="y", datatype="FP64", shape=[-1, 2])],
)


def _spec(blobs: Any, files: dict[str, bytes] = FILES, import_path: str = "pipeline:app", **changes: Any) -> LoadSpec:
    spec: LoadSpec = blobs.spec(blobs.put(pack(import_path, files)), "ray-serve", SIGNATURE, **changes)
    return spec


def _body(*rows: float) -> bytes:
    data = [value for row in rows for value in (row, 0.0)]
    return orjson.dumps({"inputs": [{"name": "x", "datatype": "FP64", "shape": [len(rows), 2], "data": data}]})


def test_an_application_of_several_files_answers_v2_requests(blobs: Any, start_host: Any) -> None:
    client = start_host(_spec(blobs))
    answer = client.infer(_body(7, 8))
    assert answer.json()["outputs"][0]["data"] == [84.0, 0.0, 96.0, 0.0]
    assert answer.headers["moorage-out-rows"] == "2"


def test_requests_are_answered_at_once_and_not_in_turn(blobs: Any, start_host: Any) -> None:
    client = start_host(_spec(blobs))
    client.infer(_body(7))
    codes: list[int] = []

    def call(caller: Any) -> None:
        codes.append(caller.infer(_body(5)).status_code)

    callers = [threading.Thread(target=call, args=(client.another(),)) for _ in range(8)]
    before, began = threading.active_count(), time.monotonic()
    for caller in callers:
        caller.start()
    during = threading.active_count()
    for caller in callers:
        caller.join()
    assert codes == [200] * 8
    assert time.monotonic() - began < 8 * 0.3
    assert during <= before + len(callers)


def test_what_the_code_raises_is_told_with_a_fitting_status(blobs: Any, start_host: Any) -> None:
    client = start_host(_spec(blobs))
    for value, status, code, text in (
        (1, 400, "bad_request", "one is not taken"),
        (2, 500, "model_failed", "RuntimeError: two breaks it"),
        (3, 500, "model_failed", "output 'y'"),
    ):
        answer = client.infer(_body(value))
        assert (answer.status_code, answer.headers["moorage-error"]) == (status, code)
        assert text in answer.json()["error"]


def test_a_deadline_ends_the_request(blobs: Any, start_host: Any) -> None:
    client = start_host(_spec(blobs))
    began = time.monotonic()
    assert client.infer(_body(4), {"moorage-deadline-ms": "300"}).status_code == 504
    assert time.monotonic() - began < 5
    assert client.infer(_body(7)).status_code == 200


@pytest.mark.parametrize(
    ("files", "import_path", "reason"),
    [
        ({"pipeline.py": b"import nowhere_to_be_found\n"}, "pipeline:app", "No module named 'nowhere_to_be_found'"),
        ({"pipeline.py": b"app = 3\n"}, "pipeline:app", "is a int, not a Ray Serve application"),
        (FILES, "pipeline:other", "has no attribute 'other'"),
        ({**FILES, "by.txt": b"ten"}, "pipeline:app", "could not convert string to float"),
    ],
)
def test_an_application_that_does_not_start_fails_its_version_with_the_reason(
    blobs: Any, start_host: Any, files: dict[str, bytes], import_path: str, reason: str
) -> None:
    client = start_host(_spec(blobs, files, import_path))
    (held,) = client.host.identity()["versions"]
    assert held["state"] == "failed"
    assert reason in held["reason"]


def test_an_unloaded_application_leaves_nothing_behind(blobs: Any, start_host: Any) -> None:
    import sys

    client = start_host(_spec(blobs))
    root = Path(sys.modules["pipeline"].__file__ or "").parent
    assert root.is_dir()
    client.host.unload("m", 1)
    assert not root.exists()
    assert "pipeline" not in sys.modules
    assert str(root) not in sys.path


def test_a_process_that_holds_other_versions_takes_no_code(blobs: Any, tmp_path: Path) -> None:
    versions = Versions("demo", ArtifactCache(tmp_path / "cache"))
    with pytest.raises(Unprocessable, match="isolation: dedicated") as caught:
        versions.open_shared(_spec(blobs))
    assert caught.value.code == "dedicated_only"
    assert not blobs.hits


def test_a_validation_runs_the_code_in_a_process_of_its_own(blobs: Any, tmp_path: Path) -> None:
    def outputs(shift: float) -> list[dict[str, Any]]:
        return [{"name": "y", "datatype": "FP64", "shape": [1, 2], "data": [84.0 + shift, 0.0]}]

    validator = Validator()
    try:
        for shift, state in ((0.0, "passed"), (1.0, "rejected")):
            examples = {"examples": [{"request": orjson.loads(_body(7)), "outputs": outputs(shift)}]}
            run = ValidationRun(run_id="r", load=_spec(blobs), examples=blobs.put(orjson.dumps(examples)))
            job = Job(tenant="demo", cache_dir=str(tmp_path / "cache"), run=run)
            result = validator.validate(job)
            assert result.state == state, result.reason
            assert "ray" in result.libraries
    finally:
        validator.close()


def test_what_deployments_ask_for_together_is_held_against_what_the_version_has() -> None:
    from ray import serve
    from ray.serve._private.build_app import build_app

    from moorage_runtime.formats.ray_serve_cluster import asked_for, check

    @serve.deployment(
        ray_actor_options={"num_cpus": 0.5, "num_gpus": 0.25},
        autoscaling_config={"min_replicas": 1, "max_replicas": 3},
    )
    class Growing:
        pass

    @serve.deployment(num_replicas=2, ray_actor_options={"memory": 256 * 2**20})
    class Plain:
        def __init__(self, other: object) -> None:
            pass

    built = build_app(Plain.bind(Growing.bind()), name="x").deployments
    asked = asked_for(built)
    assert (asked.cpu_milli, asked.gpu_milli, asked.mem_mib) == (3500, 750, 512)
    check(built, Resources(cpu_milli=3500, gpu_milli=750, host_mem_mib=512))
    with pytest.raises(
        Unprocessable, match=r"3\.5 CPU where the version has 3, 0\.75 GPU where the version has 0"
    ) as e:
        check(built, Resources(cpu_milli=3000, host_mem_mib=512))
    assert e.value.code == "resources_exceeded"
    assert "Growing: 3 x 0.5 CPU, 0.25 GPU" in e.value.message


def policy(_context: object) -> int:
    return 1


def test_options_that_would_run_code_for_others_or_escape_the_account_are_refused() -> None:
    from ray import serve
    from ray.serve._private.build_app import build_app

    from moorage_runtime.formats.ray_serve_cluster import check

    for options, reason in (
        ({"autoscaling_config": {"policy": {"policy_function": policy}}}, "autoscaling policy"),
        ({"ray_actor_options": {"runtime_env": {"pip": ["x"]}}}, "runtime_env pip"),
        ({"ray_actor_options": {"resources": {"special": 1}}}, "resources"),
        ({"placement_group_bundles": [{"CPU": 1}]}, "placement groups"),
    ):

        @serve.deployment(**options)
        class One:
            pass

        with pytest.raises(Unprocessable, match=reason) as caught:
            check(build_app(One.bind(), name="x").deployments, None)
        assert caught.value.code == "application_refused"


def test_an_answer_is_taken_in_the_datatypes_of_the_signature() -> None:
    from moorage_runtime.formats.ray_serve import _as_declared

    spec = TensorSpec(name="y", datatype="FP32", shape=[-1])
    assert _as_declared(spec, {"y": [1.0, 2.0]}, 2).dtype == np.float32
    text = TensorSpec(name="t", datatype="BYTES", shape=[-1])
    assert _as_declared(text, {"t": ["a", "b"]}, 2).tolist() == [b"a", b"b"]
