"""`python -m moorage_scheduler`."""

import asyncio

from moorage_common import logs
from moorage_common.app import serve
from moorage_runtime.host import ReplicaHost
from moorage_scheduler.app import create_app
from moorage_scheduler.settings import Settings


def main() -> None:
    settings = Settings()
    logs.configure("scheduler", level=settings.log_level, log_format=settings.log_format)
    app, operations = create_app(settings, ReplicaHost)
    asyncio.run(serve(app, operations, settings))


if __name__ == "__main__":
    main()
