"""Ray Serve applications as projects: what goes along, what is recorded, what is refused. No cluster is needed."""

import asyncio
import io
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest

from moorage_runtime.v2 import decode_json_tensors
from moorage_sdk.errors import ModelRefused
from moorage_sdk.models.packaged import Packaged
from moorage_sdk.models.packaging import package

# Ray's own: as it is imported, and event loops that its local mode leaves to the garbage collector.
pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]

PIPELINE = """
from pathlib import Path
from ray import serve
from parts.adding import add

@serve.deployment
class Ingress:
    def __init__(self):
        self.by = float((Path(__file__).parent / "by.txt").read_text())

    async def __call__(self, inputs):
        return {"y": add(inputs["x"], self.by), "count": [len(inputs["x"])] * len(inputs["x"])}

app = Ingress.bind()
"""
X = np.arange(6.0).reshape(3, 2)


@pytest.fixture
def project(tmp_path: Path) -> Path:
    files = {
        "pipeline.py": PIPELINE,
        "by.txt": "10",
        "parts/__init__.py": "",
        "parts/adding.py": "def add(x, by):\n    return x + by\n",
        ".hidden/secret.py": "",
        "venv/pyvenv.cfg": "",
        "venv/lib.py": "",
        "__pycache__/x.py": "",
        "key.txt": "secret",
    }
    for name, text in files.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return tmp_path


def _package(project: Path, **options: object) -> Packaged:
    chosen = {"example": {"x": X}, "format": "ray-serve", "include": ["by.txt"], **options}
    return package(f"{project / 'pipeline.py'}:app", **chosen)  # type: ignore[arg-type]


def test_the_projects_python_files_and_what_is_included_go_along(project: Path) -> None:
    packaged = _package(project)
    names = set(zipfile.ZipFile(io.BytesIO(packaged.content)).namelist())
    assert names == {"pipeline.py", "parts/__init__.py", "parts/adding.py", "by.txt", "moorage.json"}
    assert packaged.content == _package(project).content, "an equal project is one version"
    assert "ray" in packaged.libraries


def test_what_the_graph_answers_here_is_recorded_with_its_signature(project: Path) -> None:
    packaged = _package(project)
    signature = packaged.signature
    assert [(t.name, t.datatype, t.shape) for t in signature.inputs] == [("x", "FP64", [-1, 2])]
    assert [(t.name, t.datatype, t.shape) for t in signature.outputs] == [
        ("y", "FP64", [-1, 2]),
        ("count", "INT64", [-1]),
    ]
    assert signature.batchable
    assert packaged.examples is not None
    np.testing.assert_array_equal(decode_json_tensors(packaged.examples.examples[0].outputs)["y"], X + 10)


async def test_a_notebooks_running_loop_and_modules_of_the_same_name_are_no_matter(project: Path) -> None:
    mine = sys.modules["pipeline"] = type(sys)("pipeline")
    try:
        assert asyncio.get_running_loop()
        assert _package(project).format == "ray-serve"
        assert sys.modules["pipeline"] is mine
        assert "parts" not in sys.modules
    finally:
        del sys.modules["pipeline"]


def test_a_module_may_bring_its_own_example_and_a_v2_request_is_one(project: Path) -> None:
    request = {"inputs": [{"name": "x", "datatype": "FP64", "shape": [3, 2], "data": X.ravel().tolist()}]}
    assert _package(project, example=request).examples == _package(project).examples
    (project / "pipeline.py").write_text(PIPELINE + "example_inputs = {'x': [[1.0, 2.0]]}\n")
    assert _package(project, example=None).signature.inputs[0].shape == [-1, 2]


def test_what_cannot_run_elsewhere_is_refused_with_the_way_out(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ModelRefused, match=r"No such file.*by\.txt"):
        _package(project, include=[])
    with pytest.raises(ModelRefused, match="matches no file"):
        _package(project, include=["weights/*"])
    with pytest.raises(ModelRefused, match="needs an example"):
        _package(project, example=None)
    with pytest.raises(ModelRefused, match="has no attribute 'other'"):
        package(f"{project / 'pipeline.py'}:other", {"x": X}, "ray-serve")
    with pytest.raises(ModelRefused, match="is not there"):
        package(f"{project / 'nothing.py'}:app", {"x": X}, "ray-serve")
    with pytest.raises(ModelRefused, match="--format ray-serve"):
        package(project / "pipeline.py", X)
    (project / "link.txt").symlink_to("/etc/hostname")
    with pytest.raises(ModelRefused, match="is a link"):
        _package(project, include=["by.txt", "link.txt"])
    (project / "json.py").write_text("")
    with pytest.raises(ModelRefused, match="would hide a module"):
        _package(project)
    (project / "json.py").unlink()
    monkeypatch.chdir(project)
    assert package("pipeline:app", {"x": X}, "ray-serve", ["by.txt"]).content == _package(project).content
