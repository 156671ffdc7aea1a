"""schemathesis on a service's own OpenAPI document, in an environment of its own: the command, and what it found."""

import json
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from contracts_stage import MODEL, Caller, Stage

from moorage_common.openapi import PATH

sys.path.append(str(Path(__file__).parents[1] / "conformance"))
from conformance.environments import python_of

Json = dict[str, Any]

CHECKS = (
    "not_a_server_error", "status_code_conformance", "content_type_conformance", "response_headers_conformance",
    "response_schema_conformance", "unsupported_method", "allow_header_conformance",
)  # fmt: skip
EXCLUDED = ("/v1/sessions/current",)
"""Ends the session that is used."""
POOLS: dict[str, list[Any]] = {
    "model": ["m-one", "m-two"], "name": ["r-one", "r-two"], "tenant": ["t-one", "t-two"], "subject": ["ada", "bob"],
    "rollout": ["current"], "number": [1, 2], "node": ["n1"],
}  # fmt: skip
"""Names that operations choose from, so that one meets what another made; of the router, those of what is deployed."""
OF_ROUTER: dict[str, list[Any]] = {"model": [MODEL, "absent"], "tenant": ["demo", "rival"], "version": ["1", "2"]}
SCOPES = ["infer:*", "feedback:m-*", "usage:read", "models:write", "deploy:write", "keys:admin", "none-such"]
TENSOR = {"name": "input", "datatype": "FP64", "shape": [1, 4], "data": [1.0, 2.0, 3.0, 4.0]}


@dataclass(frozen=True)
class Found:
    """What one run found: a line per failure, how many cases there were and how many were answered with success."""

    service: str
    caller: str
    failures: list[str]
    cases: int
    answered: int
    tail: str


def document_of(stage: Stage, service: str) -> Json:
    """The service's document, with names out of small pools and bodies that have a chance to be taken."""
    document: Json = stage.http.get(stage.urls[service] + PATH).json()
    pools = POOLS | (OF_ROUTER if service == "router" else {})
    for path, methods in document["paths"].items():
        for operation in methods.values():
            for parameter in operation.get("parameters", []):
                if parameter["in"] == "path" and parameter["name"] in pools:
                    parameter["schema"] = {"enum": pools[parameter["name"]]}
                if (path, parameter["name"]) == ("/v1/events", "follow"):
                    parameter |= {"required": True, "schema": {"const": False}}
    schemas = document["components"]["schemas"]
    if "NewKey" in schemas:
        schemas["NewKey"]["properties"]["scopes"]["items"] = {"enum": SCOPES}
        for name in ("VersionSpec", "_Share"):
            if name in schemas:
                schemas[name]["properties"]["version"] = {"enum": [1, 2, "latest"]}
    if "RequestTensor" in schemas:
        schemas["RequestTensor"]["examples"] = [TENSOR]
        schemas["InferenceRequest"]["examples"] = [{"inputs": [TENSOR]}]
    return document


def run(stage: Stage, service: str, caller: Caller, folder: Path, seconds: int) -> Found:
    """All phases for `seconds`: examples, the schema's edges, made-up calls, and sequences along what answers tell."""
    folder.mkdir(parents=True)
    (folder / "document.json").write_text(json.dumps(document_of(stage, service)))
    (folder / "schemathesis.toml").write_text("")
    command = [
        str(python_of("schemathesis").with_name("schemathesis")), "--config-file", str(folder / "schemathesis.toml"),
        "run", str(folder / "document.json"), "--url", stage.urls[service], "--no-color",
        *(part for name, value in caller.headers.items() for part in ("-H", f"{name}: {value}")),
        *(part for path in EXCLUDED for part in ("--exclude-path", path)),
        "--checks", ",".join(CHECKS), "--phases", "examples,coverage,fuzzing,stateful", "--max-time", str(seconds),
        "--continue-on-failure", "--warnings", "off", "--request-timeout", "20", "--no-shrink",
        "--report-json-path", str(folder / "report.json"),
    ]  # fmt: skip
    ended = subprocess.run(command, capture_output=True, text=True, timeout=seconds * 3 + 120, check=False, cwd=folder)
    (folder / "output.txt").write_text(ended.stdout + ended.stderr)
    return read(service, caller.name, json.loads((folder / "report.json").read_text()), ended.stdout[-6000:])


def read(service: str, caller: str, report: Mapping[str, Any], tail: str) -> Found:
    """The run's report."""
    failures = [
        f"{service} as {caller}: {failure['title']}: {', '.join(failure['operations'])}"
        for failure in report["failures"]
    ]
    failures += [f"{service} as {caller}: {error}" for error in report["errors"]]
    answered = sum(one["accepted"] for phases in report["valid_rates"].values() for one in phases.values())
    return Found(service, caller, failures, report["test_cases"]["generated"], answered, tail)
