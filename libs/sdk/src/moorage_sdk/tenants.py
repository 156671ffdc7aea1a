"""Tenants' lives: suspended, resumed, deleted, exported. For administrators, but for a tenant's own export."""

from pathlib import Path
from urllib.parse import quote

from moorage_sdk.errors import SdkError
from moorage_sdk.spec import Json
from moorage_sdk.transport import Transport

_END = b"\0" * 1024
"""Last bytes of a tar: one that was broken off has others."""


class Tenants:
    """`client.tenants`. Every method may raise `MoorageApiError`."""

    def __init__(self, transport: Transport) -> None:
        self._http = transport

    def get(self, name: str) -> Json:
        """`{name, status, limits, created_at, deletion}`; `deletion` says what remains of one that is being deleted."""
        return dict(self._http.json("GET", _path(name)))

    def suspend(self, name: str) -> Json:
        """Have its keys refused everywhere within a second; nothing is stopped or lost."""
        return dict(self._http.json("POST", f"{_path(name)}/suspend"))

    def resume(self, name: str) -> Json:
        return dict(self._http.json("POST", f"{_path(name)}/resume"))

    def delete(self, name: str, *, confirm: str) -> Json:
        """Begin to remove all that it has, for good; `confirm` is its name again. `get` says how far it is."""
        return dict(self._http.json("DELETE", _path(name), params={"confirm": confirm}))

    def export(self, name: str, path: str | Path) -> int:
        """Write a tar of all that the tenant has to `path`; its size in bytes.

        Raises SdkError where the archive was broken off: then there is no file.
        """
        target = Path(path)
        partial = target.with_name(f".{target.name}.part")
        size, last = 0, b""
        try:
            with partial.open("wb") as file, self._http.parts(f"{_path(name)}/export") as parts:
                for part in parts:
                    size += file.write(part)
                    last = (last + part)[-len(_END) :]
            if last != _END:
                raise SdkError("the export was broken off; try again")
            partial.replace(target)
        finally:
            partial.unlink(missing_ok=True)
        return size


def _path(name: str) -> str:
    return f"/v1/tenants/{quote(name, safe='')}"
