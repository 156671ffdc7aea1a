"""`python -m moorage_feature_proxy`."""

import asyncio

from moorage_common import logs
from moorage_common.app import serve
from moorage_feature_proxy.app import create_app
from moorage_feature_proxy.settings import Settings


def main() -> None:
    settings = Settings()
    logs.configure("feature-proxy", level=settings.log_level, log_format=settings.log_format)
    app, operations = create_app(settings)
    asyncio.run(serve(app, operations, settings))


if __name__ == "__main__":
    main()
