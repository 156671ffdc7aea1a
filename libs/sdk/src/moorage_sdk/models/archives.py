"""skops archives whose bytes depend on the model alone, so that an equal push has an equal digest.

skops names objects and members after their addresses in memory and stamps members with the time; here they are
numbered in the schema's order and stamped alike. Nothing else changes.
"""

import io
import itertools
import json
import zipfile
from pathlib import PurePosixPath
from typing import Any

_SCHEMA = "schema.json"
_STAMP = (1980, 1, 1, 0, 0, 0)


class _Numbering:
    """New names for ids and members, in the order of their first mention."""

    def __init__(self, members: frozenset[str]) -> None:
        self._members = members
        self._ids: dict[int, int] = {}
        self._names = itertools.count(1)
        self.files: dict[str, str] = {}

    def renamed(self, node: Any) -> Any:
        if isinstance(node, list):
            return [self.renamed(child) for child in node]
        if not isinstance(node, dict):
            return node
        return {key: self._value(key, value) for key, value in node.items()}

    def _value(self, key: str, value: Any) -> Any:
        if key == "__id__" and isinstance(value, int):
            return self._ids.setdefault(value, len(self._ids) + 1)
        if key == "file" and isinstance(value, str) and value in self._members:
            if value not in self.files:
                self.files[value] = f"{next(self._names)}{PurePosixPath(value).suffix}"
            return self.files[value]
        return self.renamed(value)


def canonical(archive: bytes) -> bytes:
    """`archive` as skops wrote it, renamed and stamped; members that the schema does not mention are left out."""
    with zipfile.ZipFile(io.BytesIO(archive)) as found:
        numbering = _Numbering(frozenset(found.namelist()))
        schema = numbering.renamed(json.loads(found.read(_SCHEMA)))
        members = {new: found.read(old) for old, new in numbering.files.items()}
    members[_SCHEMA] = json.dumps(schema, indent=2).encode()
    written = io.BytesIO()
    with zipfile.ZipFile(written, "w", compression=zipfile.ZIP_DEFLATED) as target:
        for name, content in members.items():
            entry = zipfile.ZipInfo(name, date_time=_STAMP)
            entry.compress_type = zipfile.ZIP_DEFLATED
            target.writestr(entry, content)
    return written.getvalue()
