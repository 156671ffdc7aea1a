"""Uploaded definitions in a directory: `<tenant>/registry.pb`, replaced atomically, parsed once per change."""

import asyncio
import os
import shutil
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

from moorage_common.contracts.names import TenantId
from moorage_feature_proxy.definitions import NO_DEFINITIONS, Definitions, checked, parse

Stamp = tuple[int, int]
"""Modification time (ns) and inode of a file."""


@dataclass
class Uploads:
    """The definitions of all tenants. A file changed by another proxy on the same directory is read anew.

    Definitions are parsed off the event loop, and one upload of a tenant at a time, so that no tenant's takes the
    proxy from the others.
    """

    directory: Path
    _held: dict[TenantId, tuple[Stamp, Definitions]] = field(default_factory=dict)
    _turns: dict[TenantId, asyncio.Lock] = field(default_factory=dict)

    async def get(self, tenant: TenantId) -> Definitions:
        """The tenant's definitions; none before the first upload."""
        known = self._known(tenant, self._stamp(tenant))
        if known is not None:
            return known
        async with self._turn(tenant):
            return await asyncio.to_thread(self._read, tenant)

    async def put(self, tenant: TenantId, uploaded: bytes) -> Definitions:
        """Check and keep an upload. Raises Unprocessable, and keeps what was there, where it is refused."""
        async with self._turn(tenant):
            return await asyncio.to_thread(self._replace, tenant, uploaded)

    async def remove(self, tenant: TenantId) -> None:
        """Have the tenant have no definitions."""
        async with self._turn(tenant):
            await asyncio.to_thread(self._remove, tenant)

    def _turn(self, tenant: TenantId) -> asyncio.Lock:
        return self._turns.setdefault(tenant, asyncio.Lock())

    def _file(self, tenant: TenantId) -> Path:
        return self.directory / tenant / "registry.pb"

    def _stamp(self, tenant: TenantId) -> Stamp | None:
        try:
            status = self._file(tenant).stat()
        except FileNotFoundError:
            return None
        return status.st_mtime_ns, status.st_ino

    def _known(self, tenant: TenantId, stamp: Stamp | None) -> Definitions | None:
        """What needs no parsing: definitions held since `stamp`, or that there are none."""
        if stamp is None:
            self._held.pop(tenant, None)
            return NO_DEFINITIONS
        held = self._held.get(tenant)
        return held[1] if held is not None and held[0] == stamp else None

    def _read(self, tenant: TenantId) -> Definitions:
        stamp = self._stamp(tenant)
        known = self._known(tenant, stamp)
        if known is not None or stamp is None:
            return known or NO_DEFINITIONS
        found = parse(self._file(tenant).read_bytes())
        self._held[tenant] = (stamp, found)
        return found

    def _remove(self, tenant: TenantId) -> None:
        folder = self.directory / tenant
        if folder.exists():
            shutil.rmtree(folder)
        self._held.pop(tenant, None)

    def _replace(self, tenant: TenantId, uploaded: bytes) -> Definitions:
        kept = checked(tenant, uploaded)
        file = self._file(tenant)
        file.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=file.parent, prefix=".registry-", delete=False) as new:
            try:
                new.write(kept)
                new.flush()
                os.fsync(new.fileno())
                Path(new.name).replace(file)
            except BaseException:
                Path(new.name).unlink(missing_ok=True)
                raise
        return self._read(tenant)
