"""The OpenAPI document of a service made with FastAPI, with what the framework does not know: rules and refusals."""

from typing import Any

from fastapi import APIRouter, FastAPI
from fastapi.openapi.utils import get_openapi
from fastapi.responses import JSONResponse

from moorage_common.access import ANYONE, anyone, check_rules

Json = dict[str, Any]

PATH = "/openapi.json"
RULE = "x-moorage-rule"
"""The operation's member that says who may use it: a scope, `any key`, `anyone`, or what stands in place of a key."""
BEARER = {"type": "http", "scheme": "bearer", "description": "An API key, `mrg_...`, or a person's session key."}

_REFUSAL = {
    "type": "object",
    "properties": {
        "error": {"type": "string", "description": "What to do."},
        "code": {"type": "string", "description": "Stable; docs/failure-modes.md lists them."},
    },
    "required": ["error", "code"],
    "additionalProperties": False,
}
_REFUSED = {
    "description": "A refusal.",
    "content": {"application/json": {"schema": {"$ref": "#/components/schemas/Refusal"}}},
}


def answered_as(media_type: str, status: int = 200) -> dict[int | str, Json]:
    """`responses=` of a route whose answer is no JSON."""
    return {status: {"content": {media_type: {}}}}


def document_of(app: FastAPI) -> Json:
    """What the app takes and answers. Raises RuntimeError where a route has no access rule."""
    rules = check_rules(app.routes)
    document = get_openapi(title=app.title, version="1", routes=app.routes)
    components = document.setdefault("components", {})
    components["securitySchemes"] = {"key": BEARER}
    schemas = components.setdefault("schemas", {})
    schemas["Refusal"] = _REFUSAL
    for unused in ("HTTPValidationError", "ValidationError"):
        schemas.pop(unused, None)
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            rule = rules[method.upper(), path]
            operation[RULE] = rule
            operation["security"] = [] if rule == ANYONE else [{"key": []}]
            responses = operation["responses"]
            responses.pop("422", None)
            head = method == "head"
            responses |= {status: {"description": "A refusal."} if head else _REFUSED for status in ("4XX", "503")}
            _without_credentials(operation)
    return document


def _without_credentials(operation: Json) -> None:
    """`Authorization` is said by `security` (OpenAPI 3.1, Parameter Object)."""
    operation["parameters"] = [
        one for one in operation.get("parameters", []) if (one["in"], one["name"]) != ("header", "authorization")
    ]
    if not operation["parameters"]:
        del operation["parameters"]


def openapi_router(app: FastAPI) -> APIRouter:
    """`GET /openapi.json` of the app, for everybody."""
    router = APIRouter()
    made: list[Json] = []

    @router.get(PATH, dependencies=[anyone()], response_class=JSONResponse)
    async def get_openapi_document() -> dict[str, Any]:
        """This service's OpenAPI document."""
        if not made:
            made.append(document_of(app))
        return made[0]

    return router
