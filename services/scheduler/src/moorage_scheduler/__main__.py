"""`python -m moorage_scheduler`."""

import asyncio
import os
import sys

from moorage_common import logs
from moorage_common.app import serve
from moorage_runtime.host import ReplicaHost
from moorage_scheduler.app import create_app
from moorage_scheduler.settings import Settings


def main() -> int:
    settings = Settings()
    logs.configure("scheduler", level=settings.log_level, log_format=settings.log_format)
    app, operations = create_app(settings, ReplicaHost)
    asyncio.run(serve(app, operations, settings))
    return 1 if app.state.failed else 0


if __name__ == "__main__":
    code = main()
    sys.stderr.flush()
    # A thread may still wait for a Ray that is gone, which an ordinary exit would wait for in turn.
    os._exit(code)
