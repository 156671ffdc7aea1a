"""A host without Ray, for benchmarks and tests: `python -m moorage_runtime config.json` (or `-` for standard input).

Prints `identity()` as one JSON line once every version in the config has loaded or failed, and runs until SIGTERM.
"""

import json
import signal
import sys
import threading
import time
from pathlib import Path

from moorage_runtime.host import ReplicaHost


def main() -> None:
    """Run until told to end."""
    if len(sys.argv) != 2:
        sys.exit("usage: python -m moorage_runtime CONFIG.json   (a HostConfig; - reads standard input)")
    text = sys.stdin.read() if sys.argv[1] == "-" else Path(sys.argv[1]).read_text(encoding="utf-8")
    over = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: over.set())
    host = ReplicaHost(text)
    identity = host.identity()
    while any(v["state"] == "loading" for v in identity["versions"]) and not over.is_set():
        time.sleep(0.01)
        identity = host.identity()
    sys.stdout.write(json.dumps(identity) + "\n")
    sys.stdout.flush()
    over.wait()
    host.stop()


if __name__ == "__main__":
    main()
