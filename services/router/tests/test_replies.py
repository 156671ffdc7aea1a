"""What the router reads from a host's answer."""

import pytest

from moorage_common.contracts import host_calls
from moorage_common.contracts.feedback import Output
from moorage_common.contracts.host_frames import Answer
from moorage_router.replies import of_frame, of_http
from moorage_router.upstream import Reply

JSON = b"content-type: application/json\r\n"


def _http(value: bytes) -> Reply:
    return Reply(200, [(b"content-type", b"application/json"), (host_calls.OUT_COMPACT.encode(), value)], b"{}", None)


def test_the_compact_output_is_read_and_never_reaches_the_caller() -> None:
    yes = Output(kind="class", value="größte, ja")
    reply = of_http(_http(b"cgr%C3%B6%C3%9Fte%2C%20ja"))
    assert (reply.output, reply.fields) == (yes, JSON)
    reply = of_frame(Answer(1, 200, 5, 0, 1, 0, JSON, b"{}", b"c" + yes.value.encode()))
    assert (reply.output, reply.fields) == (yes, JSON)
    assert of_frame(Answer(1, 200, 5, 0, 1, 0, JSON, b"{}")).output is None


@pytest.mark.parametrize("data", [b"x", b"nNaN", b"c\xff", b"c" + b"a" * 5000])
def test_an_output_that_is_none_is_left_out_and_the_answer_stands(data: bytes) -> None:
    reply = of_frame(Answer(1, 200, 5, 0, 1, 0, JSON, b"{}", data))
    assert (reply.status, reply.output, reply.body) == (200, None, b"{}")
    assert of_http(_http(data)).output is None
