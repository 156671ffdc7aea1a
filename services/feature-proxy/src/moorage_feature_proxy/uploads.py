"""Uploaded definitions in a directory: `<tenant>/registry.pb`, replaced atomically, parsed once per change."""

import os
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

from moorage_common.contracts.names import TenantId
from moorage_feature_proxy.definitions import NO_DEFINITIONS, Definitions, checked, parse


@dataclass
class Uploads:
    """The definitions of all tenants. A file changed by another proxy on the same directory is read anew."""

    directory: Path
    _held: dict[TenantId, tuple[tuple[int, int], Definitions]] = field(default_factory=dict)

    def _file(self, tenant: TenantId) -> Path:
        return self.directory / tenant / "registry.pb"

    def get(self, tenant: TenantId) -> Definitions:
        """The tenant's definitions; none before the first upload."""
        file = self._file(tenant)
        try:
            status = file.stat()
        except FileNotFoundError:
            self._held.pop(tenant, None)
            return NO_DEFINITIONS
        stamp = (status.st_mtime_ns, status.st_ino)
        held = self._held.get(tenant)
        if held is None or held[0] != stamp:
            held = (stamp, parse(file.read_bytes()))
            self._held[tenant] = held
        return held[1]

    def put(self, tenant: TenantId, uploaded: bytes) -> Definitions:
        """Check and keep an upload. Raises Unprocessable, and keeps what was there, where it is refused."""
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
        return self.get(tenant)
