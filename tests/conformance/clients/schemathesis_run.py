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
    "response_schema_conformance", "unsupported_method", "allow_header_conformance",
)  # fmt: skip
EXAMPLES = 60


def specification() -> tuple[Any, list[str]]:
    """The document and its operations.

    It names 400 as the only error, where the protocol's text allows any error status with the error object: that is
    added, so that each error's body is held to it.
    """
    document = yaml.safe_load(SPECIFICATION.read_text())
    error = {"schema": {"$ref": "#/components/schemas/inference_error_response"}}
    document["components"]["schemas"]["inference_error_response"]["required"] = ["error"]
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


def answer(job: Json) -> list[Json]:
    document, operations = specification()
    with tempfile.TemporaryDirectory() as directory:
        folder = Path(directory)
        (folder / "specification.json").write_text(json.dumps(document))
        settings = f'[parameters]\n"path.MODEL_NAME" = "{job["model"]}"\n"path.MODEL_VERSION" = "1"\n'
        (folder / "schemathesis.toml").write_text(settings)
        report = folder / "report.json"
        command = [
            str(Path(sys.executable).with_name("schemathesis")), "--config-file", str(folder / "schemathesis.toml"),
            "run", str(folder / "specification.json"), "--url", job["url"], "--no-color",
            "-H", f"Authorization: {job['headers']['authorization']}", "--checks", ",".join(CHECKS),
            "--phases", "examples,coverage,fuzzing", "--max-examples", str(EXAMPLES), "--generation-deterministic",
            "--continue-on-failure", "--warnings", "off", "--report-json-path", str(report),
        ]  # fmt: skip
        ended = subprocess.run(command, capture_output=True, text=True, timeout=150, check=False, cwd=folder)
        print(ended.stdout[-20000:], ended.stderr[-2000:])
        print(report.read_text()[:6000] if report.exists() else "NO REPORT")
    return []


if __name__ == "__main__":
    run("schemathesis", answer)
