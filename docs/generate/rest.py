"""docs/reference/{registry,features}.md from the services' OpenAPI descriptions."""

from pathlib import Path
from typing import Any

from fastapi import FastAPI

from moorage_common.access import ANY_KEY, ANYONE
from moorage_common.openapi import RULE, document_of

Json = dict[str, Any]

METHODS = ("get", "put", "post", "delete", "head")

REGISTRY_HEAD = """# Registry REST

Generated from the service by `make docs`. JSON in and out; `Authorization: Bearer <API key>`. The tenant is the key's;
a `platform:admin` key acts for another with the header `Moorage-Tenant`. A refusal is `{"error": <what to do>,
"code": <code>}`, with a code of [failure modes](../failure-modes.md).
"""

FEATURES_HEAD = """# Feature-proxy REST

Generated from the service by `make docs`. JSON in and out, except the upload, which is a Feast registry file;
`Authorization: Bearer <API key>` with `features:read` or `features:write`. Refusals as in
[failure modes](../failure-modes.md).
"""


def registry_page() -> str:
    from moorage_registry.app import create_app  # noqa: PLC0415 - each page imports its own service
    from moorage_registry.metrics import Metrics  # noqa: PLC0415
    from moorage_registry.settings import Settings  # noqa: PLC0415

    settings = Settings(
        database_url="sqlite+aiosqlite://",
        pepper="0123456789abcdef",
        artifact_dir=Path("artifacts"),
        public_url="http://127.0.0.1",
    )
    return REGISTRY_HEAD + _page(create_app(settings, Metrics()))


def features_page() -> str:
    from moorage_feature_proxy.app import create_app  # noqa: PLC0415
    from moorage_feature_proxy.settings import Settings  # noqa: PLC0415

    settings = Settings(pepper="0123456789abcdef", redis_url="redis://127.0.0.1", state_dir=Path("state"))
    return FEATURES_HEAD + _page(create_app(settings)[0])


def _page(app: FastAPI) -> str:
    description = document_of(app)
    schemas: Json = description.get("components", {}).get("schemas", {})
    parts = [
        _operation(method, path, item[method], schemas)
        for path, item in description["paths"].items()
        for method in METHODS
        if method in item
    ]
    return "\n" + "\n".join(parts)


def _operation(method: str, path: str, operation: Json, schemas: Json) -> str:
    lines = [f"## {method.upper()} {path}\n", operation.get("description") or f"{operation.get('summary', '')}."]
    lines.append("\n" + _who(operation[RULE]))
    asked = [p for p in operation.get("parameters", []) if p["in"] == "query"]
    if asked:
        lines.append("\nQuery: " + ", ".join(f"`{p['name']}` ({_type(p['schema'])})" for p in asked) + ".")
    body = operation.get("requestBody", {}).get("content", {}).get("application/json", {}).get("schema")
    if body is not None:
        lines.append(f"\nTakes {_fields(body, schemas)}.")
    for status, answer in operation["responses"].items():
        schema = answer.get("content", {}).get("application/json", {}).get("schema")
        if status.startswith("2"):
            lines.append(f"\nAnswers {status}" + (f" with {_fields(schema, schemas)}." if schema else "."))
    return "\n".join(lines) + "\n"


def _who(rule: str) -> str:
    return {ANY_KEY: "For any key.", ANYONE: "For anyone: needs no key."}.get(rule, f"For `{rule}`.")


def _fields(schema: Json, schemas: Json) -> str:
    if "$ref" not in schema:
        return _type(schema)
    name = schema["$ref"].rsplit("/", 1)[-1]
    properties: Json = schemas[name].get("properties", {})
    required = set(schemas[name].get("required", []))
    listed = [f"`{field}`{'' if field in required else '?'} ({_type(of)})" for field, of in properties.items()]
    return f"{name}: {', '.join(listed)}" if listed else name


def _type(schema: Json) -> str:
    if "$ref" in schema:
        return str(schema["$ref"]).rsplit("/", 1)[-1]
    if "anyOf" in schema:
        return " or ".join(_type(one) for one in schema["anyOf"])
    if "enum" in schema:
        return " or ".join(str(one) for one in schema["enum"])
    if schema.get("type") == "array":
        return f"list of {_type(schema.get('items', {}))}"
    return str(schema.get("const", schema.get("type", "any")))
