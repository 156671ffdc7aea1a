"""Signed artifact URLs: how a replica host, which holds no key, fetches a blob."""

import hashlib
import hmac
from dataclasses import dataclass

from moorage_common.contracts.names import TenantId
from moorage_common.errors import Forbidden
from moorage_common.secrets import derive

DAY_S = 86_400


@dataclass(frozen=True)
class ArtifactUrls:
    """Signs URLs below `public_url`. They name one blob of one tenant and expire."""

    public_url: str
    pepper: str

    def sign(self, tenant: TenantId, digest: str, now: float) -> str:
        """A URL good for 24 to 48 hours: it expires at a midnight UTC, so that it is the same all day."""
        expires = (int(now) // DAY_S + 2) * DAY_S
        signature = self._signature(tenant, digest, expires)
        base = self.public_url.rstrip("/")
        return f"{base}/v1/artifacts/{tenant}/{digest}?expires={expires}&signature={signature}"

    def check(self, tenant: str, digest: str, expires: int, signature: str, now: float) -> None:
        """Raises Forbidden when the URL was not signed here or has expired."""
        if not hmac.compare_digest(self._signature(tenant, digest, expires).encode(), signature.encode()):
            raise Forbidden("this artifact URL was not signed by this registry", code="bad_signature")
        if expires <= now:
            message = "this artifact URL has expired; read the desired state again"
            raise Forbidden(message, code="signature_expired")

    def _signature(self, tenant: str, digest: str, expires: int) -> str:
        text = f"{tenant}\n{digest}\n{expires}".encode()
        return hmac.new(derive(self.pepper, "artifact-url"), text, hashlib.sha256).hexdigest()
