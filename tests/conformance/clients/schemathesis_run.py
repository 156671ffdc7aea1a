"""schemathesis on the specification's own YAML: what it describes must be what is answered."""

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import yaml
from job import Json, run

SPECIFICATION = Path(__file__).parents[1] / "specification" / "open_inference_rest.yaml"
CHECKS = (
    "not_a_server_error", "status_code_conformance", "content_type_conformance", "response_headers_conformance",
    "response_schema_conformance", "negative_data_rejection", "unsupported_method", "allow_header_conformance",
)  # fmt: skip
EXAMPLES = 60


def specification() -> tuple[Any, list[str]]:
    """The document and its operations.

    It names 400 as the only error, where the protocol's text allows any error status with the error object: that is
    added, so that each error's body is held to it. And clients write null for optional members that they leave out.
    """
    document = yaml.safe_load(SPECIFICATION.read_text())
    error = {"schema": {"$ref": "#/components/schemas/inference_error_response"}}
    document["components"]["schemas"]["inference_error_response"]["required"] = ["error"]
    optional = document["components"]["schemas"]["inference_request"]["properties"]
    for member in ("id", "parameters", "outputs"):
        optional[member] = {"nullable": True, "allOf": [optional[member]]}
    operations = []
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            if method != "parameters":
                operations.append(f"{method.upper()} {path}")
                for status in ("4XX", "503"):
                    operation["responses"][status] = {
                        "description": "Error", "content": {"application/json": error},
                    }  # fmt: skip
    return document, operations


def with_examples(document: Any, model: str) -> None:
    """Requests that the model answers, so that answers are seen too: none that is made up fits it."""
    tensor = {"datatype": "INT32", "shape": [1, 2], "data": [1, 2]}
    nested = {**tensor, "data": [[1, 2]], "parameters": {"own": 1}}
    whole = {"id": "42", "parameters": {}, "inputs": [{"name": "x", **nested}, {"name": "y", **nested}],
             "outputs": [{"name": "x_out", "parameters": {}}]}  # fmt: skip
    least = {"inputs": [{"name": "x", **tensor}, {"name": "y", **tensor}]}
    infer = next(methods["post"] for path, methods in document["paths"].items() if path.endswith("/infer"))
    infer["requestBody"]["content"]["application/json"]["examples"] = {
        "whole": {"value": whole}, "least": {"value": least},
    }  # fmt: skip


def command(job: Json, folder: Path, document: Any) -> list[str]:
    """The command line, and the files that it reads."""
    (folder / "specification.json").write_text(json.dumps(document))
    settings = f'[parameters]\n"path.MODEL_NAME" = "{job["model"]}"\n"path.MODEL_VERSION" = "1"\n'
    (folder / "schemathesis.toml").write_text(settings)
    return [
        str(Path(sys.executable).with_name("schemathesis")), "--config-file", str(folder / "schemathesis.toml"),
        "run", str(folder / "specification.json"), "--url", job["url"], "--no-color",
        "-H", f"Authorization: {job['headers']['authorization']}", "--checks", ",".join(CHECKS),
        "--phases", "examples,coverage,fuzzing", "--max-examples", str(EXAMPLES), "--generation-deterministic",
        "--continue-on-failure", "--warnings", "off", "--report-json-path", str(folder / "report.json"),
    ]  # fmt: skip


def answer(job: Json) -> list[Json]:
    """A result for each operation, and one for the run as a whole: `{cases, answered}`."""
    document, operations = specification()
    with_examples(document, job["model"])
    with tempfile.TemporaryDirectory() as directory:
        folder = Path(directory)
        ended = subprocess.run(
            command(job, folder, document), capture_output=True, text=True, timeout=150, check=False, cwd=folder
        )
        sys.stderr.write(ended.stdout[-8000:] + ended.stderr[-2000:])
        report = json.loads((folder / "report.json").read_text())
    failed: dict[str, list[str]] = {}
    for failure in report["failures"]:
        for operation in failure["operations"]:
            failed.setdefault(operation.split()[-1], []).append(f"{failure['title']} ({operation})")
    results = []
    for operation in operations:
        found = failed.pop(operation.split()[-1], [])
        results.append({"cell": operation, "error": "; ".join(found)} if found else {"cell": operation, "value": True})
    answered = sum(one["accepted"] for phases in report["valid_rates"].values() for one in phases.values())
    whole = {"cases": report["test_cases"]["generated"], "answered": answered, "is_complete": report["complete"]}
    other = [*report["errors"], *failed.values()]
    results.append(
        {"cell": "every operation", "error": str(other)} if other else {"cell": "every operation", "value": whole}
    )
    return results


if __name__ == "__main__":
    run("schemathesis", answer)
