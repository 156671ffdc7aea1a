"""Frames come out as they went in, however the stream is cut; whatever is no frame is BadFrame and nothing else."""

import random
import struct
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moorage_common.contracts import host_frames
from moorage_common.contracts.host_frames import MOST_BYTES, Answer, BadFrame, Call, Frames

U32 = st.integers(0, 2**32 - 1)
BYTES = st.binary(max_size=300)
CALLS = st.builds(Call, U32, U32, st.binary(min_size=55, max_size=55), BYTES, BYTES)
ANSWERS = st.builds(
    Answer, U32, st.integers(0, 65535), U32, U32, U32, st.integers(0, len(host_frames.STATES) - 1), BYTES, BYTES, BYTES
)
FRAMES = st.lists(st.one_of(CALLS, ANSWERS, U32), max_size=8)
TRACE = b"00-" + b"a" * 32 + b"-" + b"b" * 16 + b"-01"
HEAD = b"POST /v2/models/m/versions/1/infer HTTP/1.1\r\naccept: */*\r\n"
CALL = Call(7, 1000, TRACE, HEAD, b"body")
ANSWER = Answer(7, 200, 120, 4, 1, 0, b"content-type: application/json\r\n", b"{}")
COMPACT = ANSWER._replace(output=b"cyes")


def encoded(frame: Call | Answer | int) -> bytes:
    if isinstance(frame, Call):
        return host_frames.encode_call(frame)
    return host_frames.encode_cancel(frame) if isinstance(frame, int) else host_frames.encode_answer(frame)


def split(*parts: bytes) -> list[Call | Answer | int]:
    frames = Frames()
    return [frame for part in parts for frame in frames.feed(part)]


def with_length(rest: bytes) -> bytes:
    return struct.pack("!I", len(rest)) + rest


@given(FRAMES, st.randoms(use_true_random=False))
def test_frames_come_out_as_they_went_in_however_the_stream_is_cut(
    frames: list[Call | Answer | int], rng: random.Random
) -> None:
    stream = b"".join(map(encoded, frames))
    cuts = sorted(rng.randrange(len(stream) + 1) for _ in range(rng.randrange(6)))
    parts = [stream[a:b] for a, b in zip([0, *cuts], [*cuts, len(stream)], strict=True)]
    assert split(*parts) == frames


def test_a_stream_may_be_cut_at_every_byte() -> None:
    frames: list[Call | Answer | int] = [CALL, 9, ANSWER, COMPACT]
    stream = b"".join(map(encoded, frames))
    for at in range(len(stream) + 1):
        assert split(stream[:at], stream[at:]) == frames
    assert split(*(stream[at : at + 1] for at in range(len(stream)))) == frames


def test_a_frame_is_given_out_as_soon_as_it_is_whole() -> None:
    frames, data = Frames(), encoded(ANSWER)
    assert frames.feed(data[:-1]) == []
    assert frames.feed(data[-1:] + data[:3]) == [ANSWER]
    assert frames.feed(data[3:]) == [ANSWER]


def test_an_answer_that_carries_no_output_is_what_a_peer_of_before_outputs_reads() -> None:
    assert encoded(ANSWER)[4] == host_frames.ANSWER
    assert encoded(COMPACT)[4] == host_frames.COMPACT


def test_numbers_too_large_for_a_frame_go_out_as_the_largest() -> None:
    (call,) = split(encoded(CALL._replace(left_ms=2**40)))
    (answer,) = split(encoded(ANSWER._replace(service_us=2**40, queue_us=2**40, rows=2**40)))
    assert isinstance(call, Call)
    assert isinstance(answer, Answer)
    assert {call.left_ms, answer.service_us, answer.queue_us, answer.rows} == {2**32 - 1}


def test_the_longest_frame_passes_and_a_longer_one_is_refused_by_its_length_alone() -> None:
    longest = ANSWER._replace(body=b"")
    longest = longest._replace(body=bytes(MOST_BYTES - len(encoded(longest))))
    assert split(encoded(longest)) == [longest]
    with pytest.raises(BadFrame):
        split(encoded(longest._replace(body=longest.body + b"x"))[:4])
    with pytest.raises(BadFrame):
        split(b"\xff\xff\xff\xff")


@given(st.one_of(st.binary(max_size=400), st.binary(max_size=100).map(with_length)))
def test_arbitrary_bytes_are_frames_or_bad_frames_and_raise_nothing_else(data: bytes) -> None:
    try:
        found = split(data)
    except BadFrame:
        return
    assert all(isinstance(one, Call | Answer | int) for one in found)


@given(st.one_of(CALLS, ANSWERS, U32), st.data())
def test_a_damaged_frame_raises_nothing_but_bad_frame(frame: Call | Answer | int, data: st.DataObject) -> None:
    stream = bytearray(encoded(frame))
    for _ in range(3):
        stream[data.draw(st.integers(0, len(stream) - 1))] = data.draw(st.integers(0, 255))
    try:
        split(bytes(stream) * 2)
    except BadFrame:
        return


LYING = {
    "no kind": with_length(b""),
    "an unknown kind": with_length(b"\x09" + bytes(80)),
    "kind nought": with_length(b"\x00" + bytes(80)),
    "a call that ends in its numbers": with_length(encoded(CALL)[4:60]),
    "a call whose head is longer than itself": with_length(encoded(CALL._replace(body=b""))[4:-1]),
    "an answer that ends in its numbers": with_length(encoded(ANSWER)[4:20]),
    "an answer whose fields are longer than itself": with_length(encoded(ANSWER._replace(body=b""))[4:-1]),
    "an answer of an unknown state": encoded(ANSWER._replace(state=3)),
    "a compact answer that ends in its numbers": with_length(encoded(COMPACT)[4:30]),
    "a compact answer whose output is longer than itself": with_length(encoded(COMPACT._replace(body=b""))[4:-1]),
    "a compact answer of an unknown state": encoded(COMPACT._replace(state=3)),
    "a compact answer without its output": with_length(b"\4" + bytes(26)),
    "a cancel without its id": with_length(b"\x02"),
    "a cancel with half an id": with_length(b"\x02\x00\x00"),
    "a cancel with more than an id": with_length(b"\x02\x00\x00\x00\x07more"),
}


@pytest.mark.parametrize("lie", LYING.values(), ids=LYING.keys())
@pytest.mark.parametrize("following", [b"", encoded(9), encoded(ANSWER), encoded(CALL)])
def test_a_frame_that_lies_about_its_lengths_is_refused_whatever_follows_it(lie: bytes, following: bytes) -> None:
    with pytest.raises(BadFrame):
        split(lie + following)


def test_what_came_before_a_bad_frame_in_an_earlier_read_is_given_out() -> None:
    frames = Frames()
    assert frames.feed(encoded(ANSWER)) == [ANSWER]
    with pytest.raises(BadFrame):
        frames.feed(LYING["an unknown kind"])


def test_the_longest_frame_byte_by_byte_takes_time_that_grows_with_its_bytes() -> None:
    longest = ANSWER._replace(body=bytes(MOST_BYTES - 100))
    stream = encoded(longest)
    frames, found, began = Frames(), list[Call | Answer | int](), time.process_time()
    for at in range(len(stream)):
        found += frames.feed(stream[at : at + 1])
    assert found == [longest]
    assert time.process_time() - began < 2  # copying what came before for each byte takes eight times that


@pytest.mark.parametrize(
    "lines",
    [
        b"", b"a: b\r\n", b"a: \r\n", b"content-type: application/json\r\nx-1: \xc3\xa9 \xff\r\n",
        b"moorage-error: host_stale\r\nretry-after: 1\r\n", b"inference-header-content-length: 12\r\n", b"te-x: a\r\n",
        b"content-encoding: gzip\r\n",
    ],
)  # fmt: skip
def test_whole_header_lines_are_fields(lines: bytes) -> None:
    assert host_frames.are_fields(lines)


@pytest.mark.parametrize(
    "text",
    [
        b"a: b", b"a: b\r", b"a: b\n", b"\r\n", b"a: b\r\n\r\n", b"\r\na: b\r\n", b"a: b\r\n\r\nHTTP/1.1 200 OK\r\n",
        b": b\r\n", b"a:b\r\n", b"a : b\r\n", b" a: b\r\n", b"a: b\r\n c\r\n", b"a: b\rc: d\r\n", b"a: b\nc: d\r\n",
        b"a: b\0\r\n", b"a\0: b\r\n", b"a: \x7f\r\n", b"a b: c\r\n", b"a(: b\r\n", b"A: b\r\n", b"\xe9: b\r\n",
        b"a\r\n",
    ],
)  # fmt: skip
def test_what_could_end_a_head_or_be_read_in_two_ways_is_no_field(text: bytes) -> None:
    assert not host_frames.are_fields(text)


@pytest.mark.parametrize(
    "name",
    [
        "content-length", "transfer-encoding", "connection", "keep-alive", "proxy-connection", "te", "trailer",
        "upgrade", "date", "server", "moorage-request-id", "moorage-out-rows",
    ],
)  # fmt: skip
def test_fields_of_framing_and_the_routers_own_are_no_fields_of_an_answer(name: str) -> None:
    assert not host_frames.are_fields(f"{name}: 5\r\n".encode())
    assert not host_frames.are_fields(f"a: b\r\n{name}: 5\r\nc: d\r\n".encode())
    assert host_frames.are_fields(f"x-{name}: 5\r\n".encode())


@given(st.binary(max_size=60))
def test_fields_have_as_many_lines_as_line_ends(text: bytes) -> None:
    if host_frames.are_fields(text):
        assert text.count(b"\r") == text.count(b"\n") == len(text.split(b"\r\n")) - 1
        assert all(line.partition(b": ")[0] for line in text.split(b"\r\n")[:-1])
