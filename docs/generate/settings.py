"""docs/settings.md from the Settings classes."""

from importlib import import_module

from pydantic import SecretStr
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from moorage_common.settings import ServiceSettings

SERVICES = ("registry", "router", "scheduler", "feature-proxy")

HEAD = """# Settings

Each process reads its settings once, when it starts, from environment variables. `moorage up`, Compose and the Helm
chart set them; this page is generated from the classes by `make docs`. The scheduler also needs Ray's own
`RAY_AUTH_MODE=token` and `RAY_AUTH_TOKEN`.
"""


def settings_class(service: str) -> type[ServiceSettings]:
    module = import_module(f"moorage_{service.replace('-', '_')}.settings")
    classes = [found for found in vars(module).values() if isinstance(found, type)]
    (own,) = (found for found in classes if issubclass(found, ServiceSettings) and found is not ServiceSettings)
    return own


def page() -> str:
    common = set(ServiceSettings.model_fields)
    parts = [HEAD, "## Every service\n", _table(ServiceSettings, common)]
    for service in SERVICES:
        own = settings_class(service)
        parts += [f"## {service}\n", _table(own, set(own.model_fields) - common)]
    return "\n".join(parts)


def _table(settings: type[ServiceSettings], names: set[str]) -> str:
    rows = [_row(name, field) for name, field in settings.model_fields.items() if name in names]
    return "\n".join(["| variable | default | what |", "|---|---|---|", *rows]) + "\n"


def _row(name: str, field: FieldInfo) -> str:
    return f"| `MOORAGE_{name.upper()}` | {_default(field)} | {(field.description or '').replace('|', ' or ')} |"


def _default(field: FieldInfo) -> str:
    if field.default is PydanticUndefined:
        return "required"
    value = field.default.get_secret_value() if isinstance(field.default, SecretStr) else field.default
    if value is None or value == "":
        return "none"
    return f"`{str(value).lower() if isinstance(value, bool) else value}`"
