"""Asking a model, blocking and async, over a real server."""

import asyncio
import contextlib
import inspect
import json
import socket
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pandas as pd
import pytest
from sdk_far_side import METADATA, REQUEST_ID, BrokenServer, FarSide

from moorage_common.testing.servers import free_port, wait_until
from moorage_runtime.v2 import HEADER_LENGTH
from moorage_sdk import Answer, AsyncClient
from moorage_sdk.client import Client
from moorage_sdk.errors import MoorageApiError, NotConfigured, SdkError, WaitTimedOut
from moorage_sdk.inputs import WrongInputs

ROWS = np.array([[1.0, 2.0], [3.0, 4.0]], dtype=np.float32)
Ask = Callable[..., Any]


@pytest.fixture(params=["blocking", "async"])
def ask(request: pytest.FixtureRequest) -> Ask:
    """`ask(url, inputs, **options)` by either client: `of` are the client's options."""

    def blocking(url: str, inputs: Any, of: dict[str, Any] | None = None, **options: Any) -> Any:
        with Client("", url, "key", **(of or {})) as client:
            return client.infer("double", inputs, **options)

    def by_loop(url: str, inputs: Any, of: dict[str, Any] | None = None, **options: Any) -> Any:
        async def run() -> Any:
            async with AsyncClient(url, "key", **(of or {})) as client:
                return await client.infer("double", inputs, **options)

        return asyncio.run(run())

    return blocking if request.param == "blocking" else by_loop


def test_tensors_are_binary_both_ways_and_the_answer_says_who_gave_it(far: FarSide, ask: Ask) -> None:
    answer = ask(far.url, ROWS)
    assert isinstance(answer, Answer)
    np.testing.assert_array_equal(answer["y"], ROWS * 2)
    assert answer["word"].tolist() == ["Wörter 0".encode(), "Wörter 1".encode()]
    assert (answer.model_name, answer.model_version, answer.request_id) == ("double", "3", REQUEST_ID)
    (seen,) = far.infers()
    assert HEADER_LENGTH in seen.headers
    assert ROWS.tobytes() in seen.body
    assert seen.headers["authorization"] == "Bearer key"
    assert seen.headers["accept-encoding"] == "identity"


def test_the_answers_arrays_can_be_written_to(far: FarSide, ask: Ask) -> None:
    answer = ask(far.url, ROWS)
    answer["y"] += 1
    assert answer["y"].flags.aligned


def test_json_is_sent_when_asked_for(far: FarSide, ask: Ask) -> None:
    answer = ask(far.url, ROWS, binary=False)
    np.testing.assert_array_equal(answer["y"], ROWS * 2)
    (seen,) = far.infers()
    assert json.loads(seen.body)["inputs"][0]["data"] == [1.0, 2.0, 3.0, 4.0]


def test_missing_values_travel_as_binary_and_not_as_json(far: FarSide, ask: Ask) -> None:
    assert np.isnan(ask(far.url, [[np.nan, 1.0]])["y"][0, 0])
    with pytest.raises(WrongInputs, match="NaN"):
        ask(far.url, [[np.nan, 1.0]], binary=False)
    assert len(far.infers()) == 1


@pytest.mark.parametrize("rows", [ROWS, ROWS.astype(np.float64), ROWS.astype(int), [[1, 2], [3, 4]]])
def test_numbers_go_as_bf16_where_the_model_takes_that_and_come_back_as_float32(
    far: FarSide, ask: Ask, rows: Any
) -> None:
    far.datatype = "BF16"
    answer = ask(far.url, rows)
    assert answer["y"].dtype == np.float32
    np.testing.assert_array_equal(answer["y"], ROWS * 2)
    (seen,) = far.infers()
    assert seen.body.endswith(bytes.fromhex("803f004040408040"))


def test_bf16_is_not_sent_as_json_and_texts_for_it_are_the_servers_to_refuse(far: FarSide, ask: Ask) -> None:
    far.datatype = "BF16"
    with pytest.raises(WrongInputs, match="no JSON form"):
        ask(far.url, ROWS, binary=False)
    with pytest.raises(MoorageApiError, match="x takes BF16"):
        ask(far.url, [["a", "b"]])
    assert len(far.infers()) == 1


def test_a_v2_request_goes_as_it_is_and_needs_no_metadata(far: FarSide, ask: Ask) -> None:
    request = {"id": "mine", "inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 2], "data": [1, 2]}]}
    answer = ask(far.url, request)
    assert answer["y"].tolist() == [[2.0, 4.0]]
    assert answer.id == "mine"
    assert [json.loads(seen.body) for seen in far.seen] == [request]
    with pytest.raises(WrongInputs, match="has its own id"):
        ask(far.url, request, id="other")
    with pytest.raises(WrongInputs, match="not JSON"):
        ask(far.url, {"inputs": [{"name": "x", "data": [float("nan")]}]})


def test_outputs_id_parameters_and_version_are_the_callers(far: FarSide, ask: Ask) -> None:
    answer = ask(far.url, ROWS, outputs=["y"], id="r-1", parameters={"threshold": 0.5}, version=3)
    assert list(answer) == ["y"]
    assert answer.id == "r-1"
    (seen,) = far.infers()
    assert seen.path == "/v2/models/double/versions/3/infer"
    head = json.loads(seen.body[: int(seen.headers[HEADER_LENGTH])])
    assert head["parameters"]["threshold"] == 0.5


def test_raw_is_the_protocols_json(far: FarSide, ask: Ask) -> None:
    answer = ask(far.url, ROWS, raw=True)
    assert answer["model_version"] == "3"
    assert answer["outputs"][0]["data"] == [2.0, 4.0, 6.0, 8.0]


def test_gzip_compresses_what_is_large_both_ways(far: FarSide, ask: Ask) -> None:
    rows = np.zeros((500, 2), dtype=np.float32)
    np.testing.assert_array_equal(ask(far.url, rows, binary=False, gzip=True)["y"], rows)
    np.testing.assert_array_equal(ask(far.url, rows, gzip=True)["y"], rows)
    assert ask(far.url, ROWS, gzip=True)["y"].shape == (2, 2)
    assert ["content-encoding" in seen.headers for seen in far.infers()] == [True, True, False]


def test_a_data_frame_goes_in_by_column_name_and_comes_out_with_its_index(far: FarSide, ask: Ask) -> None:
    frame = pd.DataFrame({"b": [2, 4], "other": ["-", "-"], "a": [1, 3]}, index=["one", "two"])
    answer = ask(far.url, frame, frame=True)
    expected = pd.DataFrame(
        {"y_0": [2.0, 6.0], "y_1": [4.0, 8.0], "word": ["Wörter 0", "Wörter 1"]}, index=["one", "two"]
    ).astype({"y_0": np.float32, "y_1": np.float32})
    pd.testing.assert_frame_equal(answer, expected)
    assert answer.attrs == {"model_version": "3", "request_id": REQUEST_ID}
    assert isinstance(ask(far.url, frame), Answer)


def test_a_refusal_of_the_quota_is_waited_for_and_sent_again(far: FarSide, ask: Ask) -> None:
    request = {"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 2], "data": [1, 2]}]}
    far.refusals.extend([(429, {"retry-after": "0"}), (503, {"retry-after": "0"})])
    assert ask(far.url, request)["y"].tolist() == [[2.0, 4.0]]
    assert len(far.infers()) == 3


def test_retries_switched_off_show_the_refusal_at_once(far: FarSide, ask: Ask) -> None:
    request = {"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 2], "data": [1, 2]}]}
    for options in ({"of": {"retries": 0}}, {"retries": 0}):
        far.refusals.append((429, {"retry-after": "1"}))
        with pytest.raises(MoorageApiError, match="no") as caught:
            ask(far.url, request, **options)
        assert (caught.value.status, caught.value.code, caught.value.retry_after) == (429, "refused", 1.0)
    assert len(far.infers()) == 2


def test_a_wait_that_is_longer_than_the_calls_time_is_not_begun(far: FarSide, ask: Ask) -> None:
    request = {"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 2], "data": [1, 2]}]}
    far.refusals.append((503, {"retry-after": "5"}))
    with pytest.raises(MoorageApiError) as caught:
        ask(far.url, request, timeout_s=2.0)
    assert (caught.value.status, caught.value.retry_after) == (503, 5.0)


def test_a_call_out_of_time_ends_and_closes_its_connection(far: FarSide, ask: Ask) -> None:
    far.is_held = True
    request = {"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 2], "data": [1, 2]}]}
    with pytest.raises(MoorageApiError, match=r"did not answer within 0\.3 s") as caught:
        ask(far.url, request, timeout_s=0.3)
    assert (caught.value.status, caught.value.code) == (0, "timed_out")
    wait_until(lambda: far.gone == 1, timeout_s=5, what="the far side seeing the client go")
    assert len(far.infers()) == 1


def test_an_answer_that_trickles_does_not_outlive_the_calls_time(ask: Ask) -> None:
    def trickle(connection: socket.socket) -> None:
        connection.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: 1000000\r\n\r\n")
        with contextlib.suppress(OSError):
            while not ended.wait(0.02):
                connection.sendall(b" ")

    ended = threading.Event()
    request = {"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 2], "data": [1, 2]}]}
    with BrokenServer(lambda _line: b"{}") as server:
        server.script.append(trickle)
        with pytest.raises(MoorageApiError) as caught:
            ask(server.url, request, timeout_s=0.3)
        ended.set()
    assert caught.value.code == "timed_out"
    assert len(server.requests) == 1


def test_threads_share_a_client(far: FarSide, caller: Client) -> None:
    rows = [np.full((1, 2), at, dtype=np.float32) for at in range(100)]
    with ThreadPoolExecutor(16) as threads:
        answers = list(threads.map(lambda row: caller.infer("double", row)["y"][0, 0], rows))
    assert answers == [2.0 * at for at in range(100)]
    assert len({seen.client for seen in far.seen}) <= 16


def test_an_address_where_nothing_listens_is_tried_again_and_then_said(ask: Ask) -> None:
    with pytest.raises(MoorageApiError, match="did not answer") as caught:
        ask(f"http://127.0.0.1:{free_port()}", ROWS)
    assert caught.value.code == "unreachable"
    with pytest.raises(NotConfigured, match="MOORAGE_ROUTER"):
        ask("", ROWS)


def test_an_answer_of_another_protocol_says_so(ask: Ask) -> None:
    request = {"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 2], "data": [1, 2]}]}
    with BrokenServer(lambda _line: b"<html>") as server, pytest.raises(MoorageApiError, match="address") as caught:
        ask(server.url, request)
    assert caught.value.code == "bad_answer"
    with BrokenServer(lambda _line: b"{}") as server:
        server.script.append(b"HTTP/1.1 301 Moved\r\nlocation: https://x/\r\ncontent-length: 0\r\n\r\n")
        with pytest.raises(MoorageApiError, match="answered 301"):
            ask(server.url, request)


def answering(platform: str) -> Callable[[bytes], bytes]:
    metadata = json.dumps({**METADATA, "platform": platform}).encode()
    answer = json.dumps(
        {"model_name": "double", "outputs": [{"name": "y", "datatype": "FP32", "shape": [1], "data": [1.0]}]}
    ).encode()
    return lambda line: answer if line.startswith(b"POST") else metadata


def test_a_kept_connection_that_closes_is_replaced_once_for_a_format_of_data() -> None:
    with BrokenServer(answering("moorage_onnx")) as server, Client("", server.url, "key") as client:
        client.infer("double", ROWS)
        server.script.append(None)
        assert client.infer("double", ROWS)["y"].tolist() == [1.0]
        server.script.extend([None, None])
        with pytest.raises(MoorageApiError, match="did not answer"):
            client.infer("double", ROWS)
    assert [line.split()[0] for line in server.requests] == [b"GET", *[b"POST"] * 5]


def test_a_lost_answer_is_not_asked_for_again_from_code_or_a_fresh_connection() -> None:
    with BrokenServer(answering("moorage_ray_serve")) as server, Client("", server.url, "key") as client:
        client.infer("double", ROWS)
        server.script.append(None)
        with pytest.raises(MoorageApiError, match="did not answer"):
            client.infer("double", ROWS)
    assert len(server.requests) == 3
    with BrokenServer(answering("moorage_onnx")) as server, Client("", server.url, "key") as client:
        client.infer("double", ROWS)
        server.script.append(b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\n{")
        with pytest.raises(MoorageApiError, match="did not answer"):
            client.infer("double", ROWS)
    assert len(server.requests) == 3


def test_reading_is_repeated_after_a_lost_answer() -> None:
    with BrokenServer(answering("moorage_onnx")) as server, Client("", server.url, "key") as client:
        server.script.append(None)
        assert client.infer("double", ROWS)["y"].tolist() == [1.0]
    assert [line.split()[0] for line in server.requests] == [b"GET", b"GET", b"POST"]


async def test_hundreds_of_calls_share_few_connections_and_one_look_at_the_metadata(far: FarSide) -> None:
    async with AsyncClient(far.url, "key", connections=8) as client:
        rows = [np.full((1, 2), at, dtype=np.float32) for at in range(200)]
        answers = await asyncio.gather(*(client.infer("double", row) for row in rows))
    for at, answer in enumerate(answers):
        assert answer["y"].tolist() == [[2.0 * at, 2.0 * at]]
    assert len(far.seen) == 201
    assert len({seen.client for seen in far.seen}) <= 8
    assert far.most_at_once <= 8


async def test_a_cancelled_call_closes_its_connection_and_the_client_goes_on(far: FarSide) -> None:
    async with AsyncClient(far.url, "key", connections=2) as client:
        await client.infer("double", ROWS)
        far.is_held = True
        calls = [asyncio.create_task(client.infer("double", ROWS)) for _ in range(2)]
        await asyncio.to_thread(wait_until, lambda: far.at_once == 2, timeout_s=5, what="two calls under way")
        for call in calls:
            call.cancel()
        assert all(
            isinstance(end, asyncio.CancelledError) for end in await asyncio.gather(*calls, return_exceptions=True)
        )
        await asyncio.to_thread(wait_until, lambda: far.gone == 2, timeout_s=5, what="the far side seeing both go")
        far.is_held = False
        np.testing.assert_array_equal((await client.infer("double", ROWS))["y"], ROWS * 2)


async def test_readiness_is_asked_once_a_look_and_can_be_waited_for(far: FarSide) -> None:
    async with AsyncClient(far.url, "key") as client:
        far.refusals.append((503, {"retry-after": "0"}))
        assert not await client.is_ready("double")
        assert await client.is_ready("double", 3)
        far.refusals.append((404, {}))
        await client.wait_until_ready("double", timeout_s=5)
        far.refusals.extend([(503, {})] * 100)
        with pytest.raises(WaitTimedOut, match="moorage status double"):
            await client.wait_until_ready("double", timeout_s=0.2)
        far.refusals.clear()
        far.refusals.append((401, {}))
        with pytest.raises(MoorageApiError):
            await client.is_ready("double")


def test_both_clients_ask_alike() -> None:
    blocking, by_loop = (inspect.signature(client.infer) for client in (Client, AsyncClient))
    assert blocking == by_loop


def test_an_answer_that_is_no_table_says_so() -> None:
    from moorage_sdk.frames import frame_of

    with pytest.raises(SdkError, match=r"shape \[1, 2, 3\]"):
        frame_of(Answer({"image": np.zeros((1, 2, 3))}), [], None)
    with pytest.raises(SdkError, match="outputs="):
        frame_of(Answer({"a": np.zeros(1), "b": np.zeros(2)}), [], None)
    assert list(frame_of(Answer({"a": np.zeros((3, 1))}), [], None)["a"]) == [0.0, 0.0, 0.0]
