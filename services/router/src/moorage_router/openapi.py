"""The router's OpenAPI document, made from the table of operations."""

from typing import Any

from moorage_router.operations import OPERATIONS, Operation, Rule

Json = dict[str, Any]

RULE = "x-moorage-rule"


def _object(required: tuple[str, ...], **properties: Json) -> Json:
    return {"type": "object", "properties": properties, "required": list(required)}


def _list_of(items: Json) -> Json:
    return {"type": "array", "items": items}


def _ref(name: str) -> Json:
    return {"$ref": f"#/components/schemas/{name}"}


_TEXT: Json = {"type": "string"}
_COUNT: Json = {"type": "integer", "minimum": 0}
_FREE: Json = {"type": "object"}
_TRUE: Json = {"const": True}

_SCHEMAS: dict[str, Json] = {
    "Refusal": _object(("error",), error={"type": "string", "description": "What to do."})
    | {"additionalProperties": False},
    "Server": _object(("name", "version", "extensions"), name=_TEXT, version=_TEXT, extensions=_list_of(_TEXT)),
    "Live": _object(("live",), live=_TRUE),
    "ServerReady": _object(("ready", "live"), ready=_TRUE, live=_TRUE),
    "Ready": _object(("name", "ready"), name=_TEXT, ready=_TRUE),
    "Models": _object(
        ("models",),
        models=_list_of(
            _object(("name", "versions", "ready"), name=_TEXT, versions=_list_of(_TEXT), ready={"type": "boolean"})
        ),
    ),
    "TensorInfo": _object(
        ("name", "datatype", "shape"), name=_TEXT, datatype=_TEXT, shape=_list_of({"type": "integer", "minimum": -1})
    ),
    "Metadata": _object(
        ("name", "versions", "platform", "inputs", "outputs"),
        name=_TEXT, versions=_list_of(_TEXT), platform=_TEXT,
        inputs=_list_of(_ref("TensorInfo")), outputs=_list_of(_ref("TensorInfo")),
    ),
    "IndexRequest": {"type": "object", "properties": {"ready": {"type": "boolean"}}},
    "Index": _list_of(
        _object(
            ("name", "version", "state", "reason"),
            name=_TEXT, version=_TEXT, state={"enum": ["READY", "UNAVAILABLE"]}, reason=_TEXT,
        )
    ),
    "Statistics": _object(
        ("model_stats",),
        model_stats=_list_of(
            _object(
                ("name", "version", "inference_count", "execution_count", "inference_stats"),
                name=_TEXT, version=_TEXT, last_inference=_COUNT, inference_count=_COUNT, execution_count=_COUNT,
                inference_stats=_FREE, batch_stats=_list_of(_FREE),
            )
        ),
    ),
    "RequestTensor": _object(
        ("name", "shape", "datatype"), name=_TEXT, shape=_list_of(_COUNT), datatype=_TEXT, parameters=_FREE,
        data={"type": "array"},
    ),
    "InferenceRequest": _object(
        ("inputs",),
        id=_TEXT, parameters=_FREE, inputs=_list_of(_ref("RequestTensor")),
        outputs=_list_of(_object(("name",), name=_TEXT, parameters=_FREE)),
    ),
    "InferenceResponse": _object(
        ("model_name", "outputs"),
        model_name=_TEXT, model_version=_TEXT, id=_TEXT, parameters=_FREE,
        outputs=_list_of(
            _object(
                ("name", "shape", "datatype"), name=_TEXT, shape=_list_of(_COUNT), datatype=_TEXT, parameters=_FREE,
                data={"type": "array"},
            )
        ),
    ),
    "Label": _object(
        ("id",), id=_TEXT, label={"type": ["string", "number", "boolean"]}, correct={"type": "boolean"},
        loss={"type": "number"},
    ),
    "Labels": {"anyOf": [_ref("Label"), _object(("feedback",), feedback=_list_of(_ref("Label")))]},
    "LabelsTaken": _object(
        ("accepted", "refused"),
        accepted=_COUNT,
        refused=_list_of(_object(("index", "code", "error"), index=_COUNT, code=_TEXT, error=_TEXT)),
    ),
}  # fmt: skip

_OF: dict[str, tuple[str, str, str | None, str | None]] = {
    "document": ("This document.", "200", None, None),
    "server": ("Name, version and extensions.", "200", None, "Server"),
    "live": ("The process lives.", "200", None, "Live"),
    "server_ready": ("The router can serve.", "200", None, "ServerReady"),
    "models": ("The tenant's deployed models.", "200", None, "Models"),
    "all_stats": ("Statistics of every model that the key covers.", "200", None, None),
    "index": ("The tenant's versions and their states.", "200", "IndexRequest", "Index"),
    "metadata": ("Versions, inputs and outputs.", "200", None, "Metadata"),
    "ready": ("Whether a replica is ready.", "200", None, "Ready"),
    "stats": ("Statistics of each version.", "200", None, "Statistics"),
    "infer": ("One inference.", "200", "InferenceRequest", "InferenceResponse"),
    "feedback": ("Labels for what was answered.", "202", "Labels", "LabelsTaken"),
}
"""Summary, status, body and answer of each operation, by name. An answer without a schema is any JSON."""

_REFUSED: Json = {
    "description": "A refusal; its code is in the header.",
    "headers": {"Moorage-Error": {"schema": _TEXT, "required": True}},
    "content": {"application/json": {"schema": _ref("Refusal")}},
}


def document() -> Json:
    """Every operation of the table, below `/t/{tenant}` too."""
    paths: dict[str, Json] = {}
    for operation in OPERATIONS:
        for base in ("", "/t/{tenant}") if operation.has_tenant else ("",):
            paths.setdefault(base + operation.path, {})[operation.method.lower()] = _described(operation, base)
    return {
        "openapi": "3.1.0",
        "info": {"title": "Moorage router: Open Inference Protocol V2", "version": "1"},
        "paths": paths,
        "components": {
            "schemas": _SCHEMAS,
            "securitySchemes": {"key": {"type": "http", "scheme": "bearer", "description": "An API key, `mrg_...`."}},
        },
    }


def _described(operation: Operation, base: str) -> Json:
    summary, status, body, answer = _OF[operation.name]
    places = [part[1:-1] for part in (*base.split("/"), *operation.parts) if part.startswith("{")]
    content: Json = {"application/json": {"schema": _ref(answer) if answer else {}}}
    if operation.name == "infer":
        content["application/octet-stream"] = {"schema": {"type": "string", "format": "binary"}}
    described: Json = {
        "operationId": "_".join((*places, operation.name)),
        "summary": summary,
        RULE: str(operation.rule),
        "security": [] if operation.rule is Rule.ANYONE else [{"key": []}],
        "responses": {
            status: {"description": "Done.", "content": content},
            **dict.fromkeys(("4XX", "502", "503", "504"), _REFUSED),
        },
    }
    if places:
        described["parameters"] = [{"name": one, "in": "path", "required": True, "schema": _TEXT} for one in places]
    if body is not None:
        described["requestBody"] = {
            "required": operation.name != "index", "content": {"application/json": {"schema": _ref(body)}},
        }  # fmt: skip
    return described
