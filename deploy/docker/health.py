#!/usr/bin/env python3
"""Exit 0 when this container's process lives: `GET /healthz` on its operations port, or the URL given."""

import os
import sys
import urllib.request

url = sys.argv[1] if len(sys.argv) > 1 else f"http://127.0.0.1:{os.environ['MOORAGE_OPS_PORT']}/healthz"
try:
    with urllib.request.urlopen(url, timeout=2) as answer:  # noqa: S310 - http to this container
        sys.exit(0 if answer.status == 200 else 1)
except OSError as error:
    sys.exit(f"{url}: {error}")
