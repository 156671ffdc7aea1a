"""What the protocol says beside inference: health, metadata, lists, statistics, and how a server says no."""

import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from conformance.cells import Ledger, assert_no_red
from conformance.models import DIGITS, WIDE, identity_of, picture
from conformance.raw import LENGTH, RAW, Got, Wire, check_error, check_json, infer_path
from conformance.refusals import MALFORMED, Strict
from conformance.tensors import COLUMNS, DATATYPES, answer, request, sample

Check = Callable[[], object]
INT32 = identity_of("INT32")


def ask_int32(wire: Wire, path: str = infer_path(INT32), **rest: Any) -> Got:
    """A good request with further members."""
    inputs = {name: sample("INT32", beyond_json=False, rows=2) for name in ("x", "y")}
    return wire.ask("POST", path, request(inputs, binary=dict.fromkeys(inputs, False), **rest)[0])


def note_all(ledger: Ledger, capability: str, checks: dict[str, Check]) -> None:
    """Run every check, then fail for those that are red."""
    found = []
    for name, check in checks.items():
        text = ""
        try:
            check()
        except (AssertionError, KeyError, ValueError, TypeError) as error:
            text = f"{type(error).__name__}: {error}"
        found.append(ledger.note(RAW, capability, name, text))
    assert_no_red(found)


def equal(got: object, wanted: object) -> None:
    assert got == wanted, f"{got!r:.300} instead of {wanted!r:.300}"


def test_health_is_told_without_a_key(wire: Wire, ledger: Ledger) -> None:
    def body(path: str, wanted: object) -> Check:
        return lambda: equal(check_json(wire.ask("GET", path, key=None)), wanted)

    note_all(
        ledger,
        "health",
        {
            "live": body("/v2/health/live", {"live": True}),
            "ready": body("/v2/health/ready", {"ready": True, "live": True}),
            "ready below a tenant's path": body("/t/demo/v2/health/ready", {"ready": True, "live": True}),
        },
    )


def test_a_model_says_when_it_is_ready(wire: Wire, ledger: Ledger) -> None:
    def ready(path: str) -> Check:
        return lambda: equal(check_json(wire.ask("GET", path)), {"name": DIGITS, "ready": True})

    note_all(
        ledger,
        "health",
        {
            "model ready": ready(f"/v2/models/{DIGITS}/ready"),
            "version 2 ready": ready(f"/v2/models/{DIGITS}/versions/2/ready"),
            "version 9 ready": lambda: check_error(wire.ask("GET", f"/v2/models/{DIGITS}/versions/9/ready"), 404),
            "no such model": lambda: check_error(wire.ask("GET", "/v2/models/nothing/ready"), 404),
        },
    )


def server_metadata(wire: Wire, path: str) -> None:
    document = check_json(wire.ask("GET", path, key=None))
    assert isinstance(document["name"], str)
    assert isinstance(document["version"], str)
    assert "binary_tensor_data" in document["extensions"], "the binary extension is not said"
    never = {"generate", "shared_memory", "system_shared_memory", "cuda_shared_memory", "trace", "logging", "sequence"}
    assert not never & set(document["extensions"]), f"claims {never & set(document['extensions'])}"


def model_metadata(wire: Wire, path: str, model: str, versions: list[str], inputs: list[dict[str, Any]]) -> None:
    document = check_json(wire.ask("GET", path))
    equal(document["name"], model)
    equal(document["versions"], versions)
    assert document["platform"], "no platform"
    shown = [{key: tensor[key] for key in ("name", "datatype", "shape")} for tensor in document["inputs"]]
    equal(shown, inputs)
    assert document["outputs"], "no outputs"


def test_metadata_tell_what_was_pushed(wire: Wire, ledger: Ledger) -> None:
    def tensors(datatype: str, *names: str) -> list[dict[str, Any]]:
        return [{"name": name, "datatype": datatype, "shape": [-1, COLUMNS]} for name in names]

    checks: dict[str, Check] = {
        f"server at {path}": lambda path=path: server_metadata(wire, path)  # type: ignore[misc]
        for path in ("/v2", "/v2/", "/t/demo/v2", "/t/demo/v2/")
    }
    for datatype in DATATYPES:
        model = identity_of(datatype)
        checks[f"model of {datatype}"] = lambda model=model, datatype=datatype: model_metadata(  # type: ignore[misc]
            wire, f"/v2/models/{model}", model, ["1"], tensors(datatype, "x", "y")
        )
    pixels = [{"name": "input", "datatype": "FP64", "shape": [-1, 64]}]
    checks |= {
        f"digits at {path or '/'}": lambda path=path: model_metadata(  # type: ignore[misc]
            wire, f"/v2/models/{DIGITS}{path}", DIGITS, ["1", "2"], pixels
        )
        for path in ("", "/versions/1", "/versions/2")
    }
    checks["version 9"] = lambda: check_error(wire.ask("GET", f"/v2/models/{DIGITS}/versions/9"), 404)
    checks["no such model"] = lambda: check_error(wire.ask("GET", "/v2/models/nothing"), 404)
    note_all(ledger, "metadata", checks)


def digit_of(wire: Wire, version: str | None, answered_by: str | None) -> None:
    data = {"inputs": [{"name": "input", "datatype": "FP64", "shape": [1, 64], "data": picture().ravel().tolist()}]}
    document = check_json(wire.post(infer_path(DIGITS, version), data))
    assert answered_by is None or document["model_version"] == answered_by, document["model_version"]
    (digit,) = next(o["data"] for o in document["outputs"] if o["name"] == "predict")
    equal((digit >= 100), document["model_version"] == "2")


def test_the_version_in_the_path_answers(wire: Wire, ledger: Ledger) -> None:
    note_all(
        ledger,
        "versions",
        {
            "version 1": lambda: digit_of(wire, "1", "1"),
            "version 2": lambda: digit_of(wire, "2", "2"),
            "none, traffic decides": lambda: digit_of(wire, None, "1"),
            "version 9": lambda: check_error(wire.post(infer_path(DIGITS, "9"), {"inputs": []}), 404),
            "version x": lambda: check_error(wire.post(infer_path(DIGITS, "x"), {"inputs": []}), 404),
        },
    )


def outputs_of(got: Got) -> list[str]:
    return [output["name"] for output in check_json(got)["outputs"]]


def test_outputs_are_those_asked_for(wire: Wire, ledger: Ledger) -> None:
    def nobody_asked_for_bytes() -> None:
        got = ask_int32(wire, outputs=[{"name": "x_out", "parameters": {"binary_data": False}}],
                        parameters={"binary_data_output": True})  # fmt: skip
        assert LENGTH not in got.headers, "binary_data of the output does not go before binary_data_output"
        equal(outputs_of(got), ["x_out"])

    note_all(
        ledger,
        "infer",
        {
            "all by default": lambda: equal(outputs_of(ask_int32(wire)), ["x_out", "y_out"]),
            "one by name": lambda: equal(outputs_of(ask_int32(wire, outputs=[{"name": "y_out"}])), ["y_out"]),
            "an output's own choice of form": nobody_asked_for_bytes,
            "unknown output": lambda: check_error(ask_int32(wire, outputs=[{"name": "z"}]), 400),
            "no id, none echoed": lambda: equal("id" in check_json(ask_int32(wire)), False),
            "empty id": lambda: equal(check_json(ask_int32(wire, id="")).get("id", ""), ""),
        },
    )


def test_what_clients_send_beside_the_protocol_is_taken(wire: Wire, ledger: Ledger) -> None:
    tensor = {"name": "x", "datatype": "INT32", "shape": [1, 2], "data": [1, 2]}
    odd = {"parameters": {"priority": 3, "x-own": "a"}, "note": [None]}

    def tolerated(**rest: Any) -> Check:
        return lambda: equal(outputs_of(ask_int32(wire, **rest)), ["x_out", "y_out"])

    def sent_with(headers: dict[str, str], path: str = infer_path(INT32)) -> Check:
        body = json.dumps({"inputs": [tensor, tensor | {"name": "y"}]}).encode()
        return lambda: equal(outputs_of(wire.ask("POST", path, body, headers)), ["x_out", "y_out"])

    note_all(
        ledger,
        "tolerated",
        {
            "model_name in the request": tolerated(model_name=INT32),
            "unknown parameters": tolerated(parameters={"sequence_id": 0, "x": True, "y": "z"}),
            "unknown members": tolerated(note={"any": [1]}),
            "null for optional members": tolerated(id=None, parameters=None, outputs=None),
            "unknown members of a tensor": lambda: equal(
                outputs_of(wire.post(infer_path(INT32), {"inputs": [tensor | odd, {**tensor, **odd, "name": "y"}]})),
                ["x_out", "y_out"],
            ),
            "a tenant's base path": tolerated(path=f"/t/demo{infer_path(INT32, '1')}"),
            "no Content-Type": sent_with({}),
            "JSON as application/octet-stream": sent_with({"content-type": "application/octet-stream"}),
            "JSON with a charset": sent_with({"content-type": "application/json; charset=utf-8"}),
            "any Accept": sent_with({"accept": "text/html, */*;q=0.1"}),
            "a query": sent_with({}, f"{infer_path(INT32)}?a=b"),
        },
    )


def test_no_answer_is_packed_as_nobody_asked(wire: Wire, ledger: Ledger) -> None:
    inputs = {name: sample("INT32", beyond_json=False, rows=4096) for name in ("x", "y")}
    body, _ = request(inputs, binary=dict.fromkeys(inputs, False))

    def encoding(accepted: str | None, wanted: set[str | None]) -> Check:
        def check() -> None:
            headers = {} if accepted is None else {"accept-encoding": accepted}
            got = wire.ask("POST", infer_path(INT32), body, headers)
            check_json(got)
            found = got.headers.get("content-encoding")
            assert found in wanted, f"Content-Encoding {found}"

        return check

    note_all(
        ledger,
        "infer",
        {
            "nothing accepted": encoding(None, {None}),
            "brotli accepted": encoding("br", {None}),
            "brotli and gzip accepted": encoding("br, gzip;q=0.5", {"gzip"}),
            "gzip refused": encoding("gzip;q=0", {None}),
            "identity accepted": encoding("identity", {None}),
        },
    )


def test_models_and_the_repository_are_listed(wire: Wire, ledger: Ledger) -> None:
    served = {identity_of(d) for d in DATATYPES} | {WIDE, DIGITS}

    def models() -> None:
        listed = check_json(wire.ask("GET", "/v2/models"))["models"]
        equal({row["name"] for row in listed}, served)
        equal(next(sorted(row["versions"]) for row in listed if row["name"] == DIGITS), ["1", "2"])

    def index(body: bytes) -> Check:
        def check() -> None:
            listed = check_json(wire.ask("POST", "/v2/repository/index", body))
            assert isinstance(listed, list), type(listed)
            equal({row["name"] for row in listed}, served)
            equal(sorted(row["version"] for row in listed if row["name"] == DIGITS), ["1", "2"])
            for row in listed:
                equal((row["state"], row["reason"]), ("READY", ""))

        return check

    note_all(
        ledger,
        "repository index",
        {
            "models": models,
            "index of all": index(b""),
            "index, empty object": index(b"{}"),
            "index of the ready": index(b'{"ready": true}'),
            "index without a key": lambda: check_error(wire.ask("POST", "/v2/repository/index", key=None), 401),
        },
    )


def test_statistics_count_what_was_asked(wire: Wire, ledger: Ledger) -> None:
    parts = {"success", "fail", "queue", "compute_input", "compute_infer", "compute_output"}

    def rows(path: str) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = check_json(wire.ask("GET", path))["model_stats"]
        for row in found:
            assert isinstance(row["version"], str), "version is no text"
            assert {"last_inference", "inference_count", "execution_count", "batch_stats"} <= set(row), sorted(row)
            assert parts <= set(row["inference_stats"]), sorted(row["inference_stats"])
            for part in parts:
                assert {"count", "ns"} <= set(row["inference_stats"][part]), part
        return found

    def successes(path: str) -> int:
        (row,) = rows(path)
        found: int = row["inference_stats"]["success"]["count"]
        return found

    def counts() -> None:
        path = f"/v2/models/{DIGITS}/versions/2/stats"
        before = successes(path)
        for _ in range(3):
            digit_of(wire, "2", "2")
        equal(successes(path) - before, 3)

    def of_model() -> None:
        equal(sorted((row["name"], row["version"]) for row in rows(f"/v2/models/{DIGITS}/stats")),
              [(DIGITS, "1"), (DIGITS, "2")])  # fmt: skip

    def of_all() -> None:
        equal({row["name"] for row in rows("/v2/models/stats")}, {identity_of(d) for d in DATATYPES} | {WIDE, DIGITS})

    note_all(
        ledger,
        "statistics",
        {
            "a version counts": counts,
            "of a model": of_model,
            "of all models": of_all,
            "version 9": lambda: check_error(wire.ask("GET", f"/v2/models/{DIGITS}/versions/9/stats"), 404),
            "no such model": lambda: check_error(wire.ask("GET", "/v2/models/nothing/stats"), 404),
        },
    )


def test_every_refusal_is_the_protocols_own(wire: Wire, ledger: Ledger, strictness: Strict) -> None:
    good = b'{"inputs":[]}'
    path = infer_path(INT32)
    checks: dict[str, Check] = {
        "401 without a key": lambda: check_error(wire.ask("POST", path, good, key=None), 401),
        "401 with a wrong key": lambda: check_error(wire.ask("POST", path, good, key="mrg_live_wrong"), 401),
        "403 without the scope": lambda: check_error(wire.ask("POST", path, good, key=strictness.no_scope), 403),
        "404 no such model": lambda: check_error(wire.ask("POST", infer_path("nothing"), good), 404),
        "404 no such path": lambda: check_error(wire.ask("GET", "/v2/nothing"), 404),
        "404 outside v2": lambda: check_error(wire.ask("GET", "/nothing"), 404),
        "404 another tenant's path": lambda: check_error(wire.ask("POST", f"/t/other{path}", good), 404),
        "413 a body over the limit": strictness.too_large,
        "429 over the quota": strictness.over_quota,
    }
    for method, where in (
        ("GET", path), ("PUT", path), ("DELETE", path), ("POST", "/v2"), ("POST", "/v2/health/live"),
        ("POST", f"/v2/models/{INT32}"), ("PUT", "/v2/repository/index"), ("TRACE", "/v2/"),
    ):  # fmt: skip
        checks[f"405 {method} {where}"] = lambda method=method, where=where: refused_method(wire, method, where)  # type: ignore[misc]
    note_all(ledger, "errors", checks)


def refused_method(wire: Wire, method: str, path: str) -> None:
    got = wire.ask(method, path)
    check_error(got, 405)
    assert got.headers.get("allow"), "405 without Allow"


@pytest.mark.parametrize("name", MALFORMED)
def test_a_malformed_request_is_refused_with_400(wire: Wire, ledger: Ledger, name: str) -> None:
    body, headers = MALFORMED[name]
    note_all(
        ledger, "errors", {f"400 {name}": lambda: check_error(wire.ask("POST", infer_path(INT32), body, headers), 400)}
    )


def test_a_refused_request_does_not_end_the_connection_for_the_next(wire: Wire, ledger: Ledger) -> None:
    def both() -> None:
        check_error(wire.ask("POST", infer_path(INT32), b"{"), 400)
        found = answer(ask_int32(wire).body, None)
        np.testing.assert_equal(sorted(found.tensors), ["x_out", "y_out"])

    note_all(ledger, "errors", {"the next request is answered": both})
