"""An identity provider on a loopback port for tests: signs any claims with its own keys, and counts who reads them."""

import contextlib
import json
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from joserfc import jwk, jwt

AUDIENCE = "moorage"
CLIENT = "moorage-cli"


@dataclass
class Provider:
    """`issuer` answers with its discovery document and `keys`; with `is_away` each request is refused."""

    issuer: str
    keys: dict[str, jwk.Key] = field(default_factory=dict)
    is_away: bool = False
    reads: int = 0

    def rotate(self, kid: str, key: jwk.Key | None = None) -> None:
        """Have this key alone."""
        self.keys = {kid: key if key is not None else jwk.ECKey.generate_key("P-256", auto_kid=False)}

    def claims(self, subject: str, **more: Any) -> dict[str, Any]:
        """Good claims of an access token for five minutes; `more` changes them, and None takes one away."""
        now = int(time.time())
        found = {
            "iss": self.issuer, "aud": AUDIENCE, "azp": CLIENT, "sub": subject, "exp": now + 300, "iat": now,
            "typ": "Bearer", "preferred_username": f"{subject}@example.com", **more,
        }  # fmt: skip
        return {name: value for name, value in found.items() if value is not None}

    def token(self, claims: Mapping[str, Any], kid: str = "") -> str:
        """`claims`, signed with the key `kid`, else the first."""
        used = kid or next(iter(self.keys))
        key = self.keys[used]
        algorithm = "RS256" if key.key_type == "RSA" else "ES256"
        return jwt.encode({"alg": algorithm, "kid": used, "typ": "JWT"}, dict(claims), key)

    def document(self, path: str) -> dict[str, Any] | None:
        """What is at `path`; None for nothing."""
        if self.is_away:
            return None
        if path == "/.well-known/openid-configuration":
            return {"issuer": self.issuer, "jwks_uri": f"{self.issuer}/certs"}
        if path == "/certs":
            self.reads += 1
            described = {kid: key.as_dict(private=False) for kid, key in self.keys.items()}
            return {"keys": [{**key, "kid": kid, "use": "sig"} for kid, key in described.items()]}
        return None


@contextlib.contextmanager
def provider() -> Iterator[Provider]:
    """One with a key on P-256, until the block ends."""
    found = Provider("")

    class Answer(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            document = found.document(self.path)
            body = json.dumps(document or {}).encode()
            self.send_response(503 if document is None else 200)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the parent's name
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Answer) as server:
        found.issuer = f"http://127.0.0.1:{server.server_address[1]}"
        found.rotate("first")
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        try:
            yield found
        finally:
            server.shutdown()
