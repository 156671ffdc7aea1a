"""The host's door, as routers see it."""

import gzip
import socket
import threading
from typing import Any

import numpy as np
import orjson
import pytest
import skops.io
from sklearn.datasets import load_iris
from sklearn.linear_model import LinearRegression, LogisticRegression

from moorage_common.contracts import host_calls
from moorage_runtime import v2
from moorage_runtime.signature import infer_signature
from moorage_runtime.v2.compression import chosen_encoding

X, Y = load_iris(return_X_y=True)
MODEL = LogisticRegression(max_iter=500).fit(X, Y)
SIGNATURE = infer_signature(MODEL, X[:4])
BLOB = skops.io.dumps(MODEL)


@pytest.fixture
def client(blobs: Any, start_host: Any) -> Any:
    return start_host(blobs.spec(blobs.put(BLOB), "skops", SIGNATURE), max_body_bytes=500_000)


def _body(rows: v2.Array = X[:3], **more: Any) -> bytes:
    return v2.encode_request({"input": rows}, **more).body


def test_an_inference_is_answered_with_what_the_router_wants_to_know(client: Any) -> None:
    answer = client.infer(_body(id="q"))
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "application/json"
    body = answer.json()
    assert (body["model_name"], body["model_version"], body["id"]) == ("m", "1", "q")
    assert body["outputs"][0] == {"name": "predict", "datatype": "INT64", "shape": [3], "data": [0, 0, 0]}
    np.testing.assert_array_equal(np.reshape(body["outputs"][1]["data"], (3, 3)), MODEL.predict_proba(X[:3]))
    assert answer.headers[host_calls.OUT_ROWS] == "3"
    assert answer.headers[host_calls.OUT_STATE] == "ok"
    assert int(answer.headers[host_calls.OUT_SERVICE_US]) > 0


def test_binary_goes_both_ways(client: Any) -> None:
    sent = v2.encode_request({"input": X}, binary=True)
    answer = client.infer(sent.body, sent.headers)
    assert answer.headers["content-type"] == "application/octet-stream"
    response = v2.decode_response(answer.content, answer.headers[v2.HEADER_LENGTH])
    np.testing.assert_array_equal(response.outputs["predict"], MODEL.predict(X))


def test_outputs_may_be_chosen(client: Any) -> None:
    answer = client.infer(_body(outputs=["predict"]))
    assert [o["name"] for o in answer.json()["outputs"]] == ["predict"]
    unknown = client.infer(_body(outputs=["nope"]))
    assert unknown.status_code == 400
    assert "'predict', 'predict_proba'" in unknown.json()["error"]


def _refused(answer: Any, status: int, code: str) -> str:
    assert answer.status_code == status, answer.text
    assert answer.headers[host_calls.ERROR_CODE] == code
    assert answer.headers["content-type"] == "application/json"
    body = orjson.loads(answer.content)
    assert list(body) == ["error"]
    return str(body["error"])


def test_only_the_token_of_this_generation_opens(client: Any) -> None:
    for token in ("", "x", client.identity["token"][:-1], client.identity["token"] + "x"):
        _refused(client.infer(_body(), {host_calls.TOKEN: token}), 401, host_calls.HOST_STALE)


def test_another_tenant_and_unknown_versions_are_not_found(client: Any) -> None:
    _refused(client.infer(_body(), {host_calls.TENANT: "other"}), 404, "tenant_mismatch")
    for path in ("m/versions/2", "n/versions/1", "m/versions/x", "m/versions/" + "9" * 400):
        _refused(client.infer(_body(), path=f"/v2/models/{path}/infer"), 404, "version_unknown")
    _refused(client.infer(_body(), path="/v2/models/m/infer"), 404, "not_found")


@pytest.mark.parametrize(
    ("rows", "says"),
    [
        (X[:3, :2], r"has shape [3, 2], the model takes [-1, 4]"),
        (X[0], "has shape [4]"),
        (X[:0], "no rows"),
        (np.array([["a"] * 4], dtype=object), "is BYTES, the model takes FP64; send that datatype"),
        (X[:1].astype("c16"), ""),
    ],
)
def test_tensors_that_do_not_fit_the_signature_are_400(client: Any, rows: v2.Array, says: str) -> None:
    if rows.dtype.kind == "c":
        body = b'{"inputs":[{"name":"wrong","datatype":"FP64","shape":[1,4],"data":[1,2,3,4]}]}'
        assert "unknown input 'wrong'; the model takes 'input'" in _refused(client.infer(body), 400, "bad_request")
        return
    assert says in _refused(client.infer(_body(rows)), 400, "bad_request")


def test_floats_of_less_precision_are_taken(client: Any) -> None:
    answer = client.infer(_body(X[:3].astype(np.float32)))
    assert answer.json()["outputs"][0]["data"] == [0, 0, 0]


def test_bodies_may_be_compressed_and_bombs_are_not_unpacked(client: Any) -> None:
    answer = client.infer(gzip.compress(_body(X)), {"content-encoding": "gzip", "accept-encoding": "identity"})
    assert answer.status_code == 200
    _refused(client.infer(gzip.compress(b" " * 600_000), {"content-encoding": "gzip"}), 413, "too_large")
    _refused(client.infer(b"nope", {"content-encoding": "gzip"}), 400, "bad_request")
    _refused(client.infer(b"nope", {"content-encoding": "br"}), 400, "bad_request")
    packed = client.infer(_body(np.repeat(X, 10, axis=0)), {"accept-encoding": "gzip"})
    assert packed.headers["content-encoding"] == "gzip"
    assert len(packed.json()["outputs"][0]["data"]) == 1500


def test_a_body_over_the_cap_is_413(client: Any) -> None:
    assert "fewer rows" in _refused(client.infer(b" " * 500_001), 413, "too_large")


def test_a_deadline_that_passed_is_504(client: Any) -> None:
    for left in ("0", "-5"):
        _refused(client.infer(_body(), {host_calls.DEADLINE_MS: left}), 504, "deadline_exceeded")
    _refused(client.infer(_body(), {host_calls.DEADLINE_MS: "soon"}), 400, "bad_request")


def test_many_callers_each_get_their_own_rows(client: Any) -> None:
    wrong: list[int] = []

    def call(number: int) -> None:
        other = client.another()
        with other.http:
            for at in range(number, 150, 16):
                answer = other.infer(_body(X[at : at + 1], id=str(at))).json()
                probabilities = np.array(answer["outputs"][1]["data"])
                if answer["id"] != str(at) or not np.allclose(probabilities, MODEL.predict_proba(X[at : at + 1])[0]):
                    wrong.append(at)

    threads = [threading.Thread(target=call, args=(n,)) for n in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_nan_answers_are_500_as_json_and_travel_as_binary(blobs: Any, start_host: Any) -> None:
    model = LinearRegression().fit(X, Y)
    model.intercept_ = np.inf
    spec = blobs.spec(blobs.put(skops.io.dumps(model)), "skops", infer_signature(model, X[:3]))
    client = start_host(spec)
    answer = client.infer(_body())
    assert "NaN or Inf" in _refused(answer, 500, "nan_output")
    assert answer.headers[host_calls.OUT_STATE] == "nan"
    sent = v2.encode_request({"input": X[:2]}, binary=True)
    assert client.infer(sent.body, sent.headers).headers[host_calls.OUT_STATE] == "nan"


def test_versions_load_and_unload_while_the_host_serves(blobs: Any, start_host: Any) -> None:
    client = start_host()
    spec = blobs.spec(blobs.put(BLOB), "skops", SIGNATURE)
    _refused(client.infer(_body()), 404, "version_unknown")
    assert client.host.load(spec.model_dump_json())["state"] == "ready"
    assert client.host.load(spec.model_dump_json())["state"] == "ready"
    assert len(blobs.hits) == 1
    assert client.infer(_body()).status_code == 200
    client.host.unload("m", 1)
    assert client.host.identity()["versions"] == []
    _refused(client.infer(_body()), 404, "version_unknown")


def test_a_version_that_does_not_load_says_why_and_answers_503(blobs: Any, start_host: Any) -> None:
    ref = blobs.put(b"not a model")
    client = start_host(blobs.spec(ref, "skops", SIGNATURE))
    (held,) = client.host.identity()["versions"]
    assert (held["state"], "not a skops archive" in held["reason"]) == ("failed", True)
    answer = client.infer(_body())
    _refused(answer, 503, "not_loaded")
    assert answer.headers["retry-after"] == "1"
    assert any("version failed to load" in line for line in client.host.logs(50))


def test_a_restarted_host_loads_from_the_cache_with_another_token(blobs: Any, start_host: Any) -> None:
    spec = blobs.spec(blobs.put(BLOB), "skops", SIGNATURE)
    first = start_host(spec)
    second = start_host(spec.model_copy(update={"artifact": spec.artifact.model_copy(update={"url": ""})}))
    assert second.infer(_body()).status_code == 200
    assert len(blobs.hits) == 1
    assert first.identity["generation"] != second.identity["generation"]
    _refused(second.infer(_body(), {host_calls.TOKEN: first.identity["token"]}), 401, host_calls.HOST_STALE)


@pytest.mark.parametrize(
    ("accepted", "chosen"),
    [
        ("gzip", "gzip"), ("deflate", "deflate"), ("br, gzip;q=0.5", "gzip"), ("GZIP;Q=1.0", "gzip"), ("br", None),
        ("gzip;q=0", None), ("gzip;q=0.000, deflate", "deflate"), ("identity", None), ("*", None),
    ],
)  # fmt: skip
def test_an_answer_is_packed_only_as_the_caller_takes_it(accepted: str, chosen: str | None) -> None:
    assert chosen_encoding(accepted) == chosen


def test_a_long_body_whose_chunks_break_off_is_the_callers_fault(client: Any) -> None:
    said = f"{host_calls.TOKEN}: {client.identity['token']}\r\n{host_calls.TENANT}: demo\r\n"
    head = f"POST /v2/models/m/versions/1/infer HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n{said}\r\n"
    address, _, port = client.identity["address"].rpartition(":")
    with socket.create_connection((address, int(port)), timeout=10) as peer:
        peer.sendall(head.encode() + b"50000\r\n" + bytes(0x50000) + b"\r\nzz\r\n")
        answer = peer.makefile("rb").read()
    assert answer.startswith(b"HTTP/1.1 400 ")
    assert b"moorage-error: bad_http" in answer
