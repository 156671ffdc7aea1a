"""Compressed bodies (`Content-Encoding`), unpacked within a limit and packed where the other side takes it."""

import zlib

from moorage_common.errors import BadRequest, TooLarge
from moorage_runtime.v2.messages import Encoded

COMPRESS_FROM_BYTES = 16 * 1024
_WBITS = {"gzip": 31, "deflate": 15}


def is_packed(encoding: str) -> bool:
    """Whether a body of this `Content-Encoding` is to be unpacked; `identity` is as good as none.

    Raises:
        BadRequest: an encoding that nobody here knows.
    """
    name = encoding.lower()
    if name != "identity" and name not in _WBITS:
        raise BadRequest(f"Content-Encoding '{encoding[:40]}' is not known; use gzip or deflate")
    return name in _WBITS


def unpack(body: bytes | bytearray, encoding: str, *, limit_bytes: int) -> bytes | bytearray:
    """The body without its compression, never more than `limit_bytes` and one in memory.

    Raises:
        BadRequest: another encoding than gzip and deflate, a body that is not of it, or breaks off.
        TooLarge: more than `limit_bytes` unpacked.
    """
    if not is_packed(encoding):
        return body
    unpacker = zlib.decompressobj(_WBITS[encoding.lower()])
    try:
        found = unpacker.decompress(body, limit_bytes + 1)
    except zlib.error:
        raise BadRequest(f"the body is not {encoding}") from None
    if len(found) > limit_bytes:
        raise TooLarge(f"the request is larger than {limit_bytes} bytes; send fewer rows at a time")
    if not unpacker.eof:
        raise BadRequest(f"the {encoding} body ends too soon")
    return found


def packed(encoded: Encoded, accepted: str) -> Encoded:
    """`encoded` compressed if it is worth it and `accepted`, an `Accept-Encoding`, names what we know."""
    if len(encoded.body) < COMPRESS_FROM_BYTES:
        return encoded
    encoding = chosen_encoding(accepted)
    if encoding is None:
        return encoded
    packer = zlib.compressobj(1, zlib.DEFLATED, _WBITS[encoding])
    return Encoded(packer.compress(encoded.body) + packer.flush(), {**encoded.headers, "content-encoding": encoding})


def chosen_encoding(accepted: str) -> str | None:
    """Gzip or deflate where `Accept-Encoding` names it with a weight over 0 (RFC 9110, section 12.5.3)."""
    for part in accepted.lower().split(","):
        name, *more = (word.strip() for word in part.split(";"))
        if name in _WBITS and not any(word.startswith("q=") and not word[2:].strip("0.") for word in more):
            return name
    return None
