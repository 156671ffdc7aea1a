"""The artifact of a code format: a zip of a project's files and a manifest that says what to import. Imports no code.

A project is packed where its author is and unpacked where it runs; both sides hold it to the same bounds.
"""

import io
import re
import stat
import sys
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path, PurePosixPath

from pydantic import Field, ValidationError

from moorage_common.contracts.model import Contract
from moorage_common.errors import Unprocessable

MANIFEST = "moorage.json"
MAX_FILES = 1000
MAX_UNPACKED_BYTES = 128 * 1024 * 1024
MAX_PACKED_BYTES = 64 * 1024 * 1024
MAX_PATH = 200
_STAMP = (1980, 1, 1, 0, 0, 0)
_CHUNK = 1024 * 1024
_IMPORT_PATH = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*(\.[A-Za-z_]\w*)*", re.ASCII)
_PART = re.compile(r"[\w][\w .+=@-]*")
"""One part of a file's path: no separators, no drive, no leading dot, nothing that a shell or a file system reads."""


class Manifest(Contract):
    """`moorage.json` of a project."""

    import_path: str = Field(description="`package.module:attribute` of the application.")


def checked_import_path(text: str) -> str:
    """`text` if it reads `package.module:attribute`. Raises Unprocessable."""
    if not _IMPORT_PATH.fullmatch(text):
        raise _bad(f"{text!r} does not name an application; write package.module:attribute, such as pipeline:app")
    return text


def pack(import_path: str, files: Mapping[str, bytes]) -> bytes:
    """A zip whose bytes depend on `files` (path with forward slashes -> content) and `import_path` alone.

    Raises:
        Unprocessable: beyond the bounds, or a path that would be refused where it is unpacked.
    """
    manifest = Manifest(import_path=checked_import_path(import_path)).model_dump_json().encode()
    members = {**files, MANIFEST: manifest}
    _check_count(len(members))
    size_bytes = sum(map(len, members.values()))
    if size_bytes > MAX_UNPACKED_BYTES:
        raise _too_large(f"the project has {size_bytes} bytes; at most {MAX_UNPACKED_BYTES} are taken")
    _check_names(members)
    written = io.BytesIO()
    with zipfile.ZipFile(written, "w", compression=zipfile.ZIP_DEFLATED) as archive:
        for name in sorted(members):
            entry = zipfile.ZipInfo(name, date_time=_STAMP)
            entry.compress_type = zipfile.ZIP_DEFLATED
            entry.external_attr = (stat.S_IFREG | 0o644) << 16
            archive.writestr(entry, members[name])
    if written.tell() > MAX_PACKED_BYTES:
        raise _too_large(f"the packed project has {written.tell()} bytes; at most {MAX_PACKED_BYTES} are taken")
    return written.getvalue()


def unpack(path: Path, directory: Path) -> Manifest:
    """Write the project at `path` into the empty `directory`, after all of it was checked.

    Raises:
        Unprocessable: `bad_project`: no zip, links, paths that lead outside, no manifest; `artifact_too_large`.
    """
    if path.stat().st_size > MAX_PACKED_BYTES:
        raise _too_large(f"the packed project has {path.stat().st_size} bytes; at most {MAX_PACKED_BYTES} are taken")
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
            _check_members(members)
            left = MAX_UNPACKED_BYTES
            for member in members:
                left -= _write(archive, member, directory, left)
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError, EOFError, OSError, ValueError) as error:
        raise _bad(f"the project cannot be unpacked: {str(error)[:300]}") from None
    try:
        manifest = Manifest.model_validate_json((directory / MANIFEST).read_bytes())
    except (OSError, ValidationError) as error:
        raise _bad(f"the project's {MANIFEST} cannot be read: {str(error)[:300]}") from None
    checked_import_path(manifest.import_path)
    return manifest


def top_level_names(paths: Iterable[str]) -> set[str]:
    """What the files can be imported as from the project's root."""
    names = set()
    for text in paths:
        path = PurePosixPath(text)
        if path.suffix == ".py":
            names.add(path.parts[0].removesuffix(".py"))
    return names


def _check_members(members: list[zipfile.ZipInfo]) -> None:
    _check_count(len(members))
    size_bytes = sum(member.file_size for member in members)
    if size_bytes > MAX_UNPACKED_BYTES:
        raise _too_large(f"the project unpacks to {size_bytes} bytes; at most {MAX_UNPACKED_BYTES} are taken")
    for member in members:
        kind = stat.S_IFMT(member.external_attr >> 16)
        if member.is_dir() or kind not in (0, stat.S_IFREG):
            raise _bad(f"{member.filename!r} is not a plain file; links and directories are not taken")
    _check_names([member.filename for member in members])


def _check_names(names: Iterable[str]) -> None:
    seen: set[str] = set()
    for name in names:
        if len(name) > MAX_PATH or not all(_PART.fullmatch(part) for part in name.split("/")):
            raise _bad(f"{name[:MAX_PATH]!r} is no path inside the project; use letters, digits, _ - . and spaces")
        if name.lower() in seen:
            raise _bad(f"the project holds {name!r} twice")
        seen.add(name.lower())
    hidden = sorted(top_level_names(seen) & ({name.lower() for name in sys.stdlib_module_names} | _OURS))
    if hidden:
        raise _bad(f"the project's {', '.join(hidden)} would hide a module of the same name; call it otherwise")


_OURS = frozenset(
    {"ray", "numpy", "orjson", "msgspec", "pydantic", "structlog", "uvloop", "httpx"}
    | {"moorage_common", "moorage_runtime", "moorage_scheduler"}
)
"""What the host itself imports, besides the standard library."""


def _write(archive: zipfile.ZipFile, member: zipfile.ZipInfo, directory: Path, left: int) -> int:
    """Write one file; its bytes. What the archive says of its size is not relied on."""
    target = directory / member.filename
    target.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    size_bytes = 0
    with archive.open(member) as source, target.open("xb") as file:
        while chunk := source.read(_CHUNK):
            size_bytes += len(chunk)
            if size_bytes > left:
                raise _too_large(f"the project unpacks to more than {MAX_UNPACKED_BYTES} bytes")
            file.write(chunk)
    return size_bytes


def _check_count(count: int) -> None:
    if count > MAX_FILES:
        raise _too_large(f"the project has {count} files; at most {MAX_FILES} are taken")


def _bad(text: str) -> Unprocessable:
    return Unprocessable(text, code="bad_project")


def _too_large(text: str) -> Unprocessable:
    return Unprocessable(text, code="artifact_too_large")
