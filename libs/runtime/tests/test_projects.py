"""A project is unpacked only if every file of it is a plain file inside it, within the bounds."""

import io
import stat
import zipfile
from pathlib import Path

import pytest

from moorage_common.errors import Unprocessable
from moorage_runtime import projects
from moorage_runtime.projects import MANIFEST, pack, unpack

GOOD = {"pipeline.py": b"app = 1\n", "parts/__init__.py": b"", "parts/weights.npz": b"\x00" * 100}


def _zip(tmp_path: Path, *members: tuple[str | zipfile.ZipInfo, bytes], manifest: bytes = b"") -> Path:
    path = tmp_path / "blob"
    with zipfile.ZipFile(path, "w", compression=zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(MANIFEST, manifest or b'{"import_path": "pipeline:app"}')
        for name, content in members:
            archive.writestr(name, content)
    return path


def _unpack(path: Path, tmp_path: Path) -> projects.Manifest:
    target = tmp_path / "inside" / "target"
    target.mkdir(parents=True)
    return unpack(path, target)


def test_what_was_packed_comes_out_again(tmp_path: Path) -> None:
    blob = tmp_path / "blob"
    blob.write_bytes(pack("pipeline:app", GOOD))
    assert _unpack(blob, tmp_path).import_path == "pipeline:app"
    target = tmp_path / "inside" / "target"
    found = {str(p.relative_to(target)): p.read_bytes() for p in target.rglob("*") if p.is_file()}
    assert {name: found[name] for name in GOOD} == GOOD
    assert found.keys() == GOOD.keys() | {MANIFEST}


def test_an_equal_project_has_equal_bytes() -> None:
    assert pack("pipeline:app", GOOD) == pack("pipeline:app", dict(reversed(GOOD.items())))


@pytest.mark.parametrize(
    "name",
    ["../evil.py", "parts/../../evil.py", "/etc/evil.py", "C:\\evil.py", "..\\evil.py", "a//b.py", ".ssh/key", "a/./b"],
)
def test_paths_that_lead_outside_are_refused_and_nothing_is_written(tmp_path: Path, name: str) -> None:
    with pytest.raises(Unprocessable, match="no path inside the project") as caught:
        _unpack(_zip(tmp_path, (name, b"x")), tmp_path)
    assert caught.value.code == "bad_project"
    assert {p.name for p in tmp_path.rglob("*")} == {"blob", "inside", "target"}


def test_links_and_devices_are_refused(tmp_path: Path) -> None:
    for kind in (stat.S_IFLNK, stat.S_IFIFO, stat.S_IFDIR):
        member = zipfile.ZipInfo("link.py")
        member.external_attr = (kind | 0o777) << 16
        with pytest.raises(Unprocessable, match="not a plain file"):
            unpack(_zip(tmp_path, (member, b"/etc/passwd")), tmp_path)


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_a_file_named_twice_is_refused_whatever_its_case(tmp_path: Path) -> None:
    with pytest.raises(Unprocessable, match="twice"):
        unpack(_zip(tmp_path, ("a.py", b"1"), ("A.py", b"2")), tmp_path)


def test_too_many_files_and_too_many_bytes_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(projects, "MAX_FILES", 3)
    with pytest.raises(Unprocessable, match="at most 3") as caught:
        unpack(_zip(tmp_path, *[(f"m{n}.py", b"") for n in range(3)]), tmp_path)
    assert caught.value.code == "artifact_too_large"
    monkeypatch.setattr(projects, "MAX_UNPACKED_BYTES", 10_000)
    with pytest.raises(Unprocessable, match="at most 10000"):
        unpack(_zip(tmp_path, ("bomb.bin", b"\x00" * 10_001)), tmp_path)
    with pytest.raises(Unprocessable, match="at most 10000"):
        pack("pipeline:app", {"bomb.bin": b"\x00" * 10_001})


def test_a_size_that_the_archive_lies_about_is_not_relied_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(projects, "MAX_UNPACKED_BYTES", 10_000)
    path = _zip(tmp_path, ("bomb.bin", b"\x00" * 1_000_000))
    said = (1_000_000).to_bytes(4, "little")
    content = path.read_bytes()
    assert content.count(said) == 2
    path.write_bytes(content.replace(said, (100).to_bytes(4, "little")))
    with pytest.raises(Unprocessable):
        _unpack(path, tmp_path)
    assert (tmp_path / "inside" / "target" / "bomb.bin").stat().st_size <= 10_000


@pytest.mark.parametrize("name", ["json.py", "numpy/__init__.py", "moorage_runtime/host.py"])
def test_modules_that_would_hide_the_hosts_own_are_refused(name: str) -> None:
    with pytest.raises(Unprocessable, match="would hide a module"):
        pack("pipeline:app", {name: b""})


@pytest.mark.parametrize("path", ["pipeline", "pipeline:", "os;x:y", "a b:c", "pipeline:app()", "../x:y"])
def test_an_import_path_is_a_module_and_an_attribute(tmp_path: Path, path: str) -> None:
    with pytest.raises(Unprocessable, match=r"package\.module:attribute"):
        pack(path, GOOD)
    with pytest.raises(Unprocessable, match=r"package\.module:attribute"):
        unpack(_zip(tmp_path, manifest=f'{{"import_path": "{path}"}}'.encode()), tmp_path)


def test_what_is_no_project_is_refused(tmp_path: Path) -> None:
    blob = tmp_path / "blob"
    blob.write_bytes(b"PK\x03\x04 no zip")
    with pytest.raises(Unprocessable, match="cannot be unpacked"):
        unpack(blob, tmp_path)
    empty = io.BytesIO()
    zipfile.ZipFile(empty, "w").close()
    blob.write_bytes(empty.getvalue())
    with pytest.raises(Unprocessable, match=r"moorage\.json cannot be read"):
        unpack(blob, tmp_path)
