"""One secret, the pepper, and what is derived from it. Replica hosts hold none of these."""

import hashlib
import hmac


def derive(pepper: str, purpose: str) -> bytes:
    """A 32-byte key for one purpose (`artifact-url`, `request-id`, `internal-calls`), HMAC-SHA256(pepper, purpose)."""
    return hmac.new(pepper.encode(), f"moorage/{purpose}".encode(), hashlib.sha256).digest()


def internal_token(pepper: str) -> str:
    """Bearer of calls between Moorage's own processes."""
    return derive(pepper, "internal-calls").hex()
