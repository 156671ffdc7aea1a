"""What a server answers by itself, before any handler."""

from typing import NamedTuple

import orjson

from moorage_common.contracts.host_calls import ERROR_CODE


class Refusal(NamedTuple):
    """Why a request is not taken. The connection ends with it."""

    status: int
    code: str
    text: str

    @property
    def fields(self) -> bytes:
        """Header lines without those of framing."""
        return f"content-type: application/json\r\n{ERROR_CODE}: {self.code}\r\n".encode()

    @property
    def body(self) -> bytes:
        return orjson.dumps({"error": self.text})


BAD_HTTP = Refusal(400, "bad_http", "this is not a valid HTTP request; check its framing headers")
TINY_CHUNKS = Refusal(400, "bad_framing", "the chunks of this body are too small; send larger ones")
TOO_SLOW = Refusal(408, "too_slow", "the request did not come in time; send it again")
TOO_MANY = Refusal(503, "too_many_connections", "too many connections; close idle ones and try again")
UNFORESEEN = Refusal(500, "internal", "something failed on our side; try again, and report it if it goes on")


def target_too_long(most: int) -> Refusal:
    return Refusal(414, "url_too_long", f"the URL has more than {most} bytes; shorten it")


def head_too_long(most: int) -> Refusal:
    return Refusal(431, "head_too_large", f"the request's headers are over {most} bytes, or too many; send fewer")
