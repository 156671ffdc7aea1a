#!/usr/bin/env python3
"""Write `.env` for docker compose: fresh random secrets and an administrator's key. Never overwrites an existing one.

Needs Python 3.11 or later and nothing else.
"""

import os
import secrets
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "libs/common/src"))

from moorage_common import api_keys  # noqa: E402 - found through the path above; it needs the standard library only


def environment() -> dict[str, str]:
    """The variables that docker-compose.yml requires. Passwords start with a letter: NATS reads digits as numbers."""
    passwords = ("NATS_PASSWORD", "REDIS_LIMITS_PASSWORD", "REDIS_FEATURES_PASSWORD", "POSTGRES_PASSWORD", "RAY_TOKEN")
    return {
        "MOORAGE_PEPPER": secrets.token_hex(32),
        **{f"MOORAGE_{name}": "p" + secrets.token_hex(24) for name in passwords},
        "MOORAGE_ADMIN_KEY": api_keys.mint("live").text,
    }


def main() -> None:
    path = Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / ".env"
    try:
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        sys.exit(f"{path} exists; to change a secret, edit it there")
    with os.fdopen(handle, "w") as file:
        file.writelines(f"{name}={value}\n" for name, value in environment().items())
    sys.stdout.write(f"wrote {path}; the administrator's key is MOORAGE_ADMIN_KEY in it\n")


if __name__ == "__main__":
    main()
