"""Which version answers a request, and what the judge is to know of that choice. Pure: draws come from outside.

A version in the path is pinned. Else a ring comes first: its share of its callers' requests goes to its version. What
is left is shared out by the weights, by a draw, or by the key where the route is sticky. One point u in [0, 1) decides
all of it: below the ring's share r it is the ring's, else (u - r) / (1 - r) is looked up in the split, whose candidate
begins at 0. So what a candidate gets of a ring and of everybody is one part of the line from 0, which grows with either
weight: raising one never moves a key off the candidate.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import blake2b
from typing import TYPE_CHECKING, NamedTuple

from moorage_common.contracts.routes import Route
from moorage_common.errors import Unavailable
from moorage_router import splits
from moorage_router.calls import Call
from moorage_router.rings import Ring, ring_of, rings_of
from moorage_runtime.v2 import Array

if TYPE_CHECKING:
    from moorage_router.routes import ServedRoute, ServedVersion

UNKEYED = "unkeyed"
_MANTISSA = 53
_BELOW_ONE = 1.0 - 2.0**-_MANTISSA
_SALT_MAX = 64


class Assigned(NamedTuple):
    """A choice.

    Attributes:
        stratum: which requests are shared out by the same odds (contracts/signals.py); None for a pinned version, which
            nobody chose by lot: it is not judged.
        key: 63-bit hash of the sticky key, where one decided.
    """

    served: "ServedVersion"
    stratum: str | None
    key: int | None


@dataclass(frozen=True, slots=True)
class Keying:
    """What of a request decides, besides the draw: its rings, and where the route is sticky, the key's place."""

    rings: tuple[Ring, ...]
    header: bytes | None
    entity: str | None
    salt: bytes

    @property
    def is_sticky(self) -> bool:
        return self.header is not None or self.entity is not None


def keying_of(route: Route) -> Keying | None:
    """None where every request is shared out by its draw alone."""
    rings = rings_of(route.rings, {version.version for version in route.versions})
    sticky = route.sticky
    if sticky is None:
        return Keying(rings, None, None, b"") if rings else None
    by_header = sticky.by == "header"
    return Keying(
        rings,
        header=sticky.name.lower().encode("latin-1", "replace") if by_header else None,
        entity=None if by_header else sticky.name,
        salt=sticky.salt.encode()[:_SALT_MAX],
    )


def hash_of(salt: bytes, key: bytes) -> int:
    """64 bits of keyed BLAKE2b (RFC 7693)."""
    return int.from_bytes(blake2b(key, digest_size=8, key=salt).digest(), "big")


def point_of(hashed: int) -> float:
    """A 64-bit hash as a point in [0, 1), uniform."""
    return (hashed >> (64 - _MANTISSA)) * 2.0**-_MANTISSA


def choose(route: "ServedRoute", call: Call, kid: str, draw: float, entity: bytes | None = None) -> Assigned:
    """The version that answers.

    Args:
        kid: of the caller's key.
        draw: uniform in [0, 1).
        entity: the first row of the input that the route is sticky by; None where it was not sent.

    Raises:
        NotFound: no such version. Unavailable: no version takes traffic.
    """
    if call.version is not None:
        return route.pinned(call.version)
    keying = route.keying
    if keying is None:
        arm = splits.choose(route.split, draw)  # as in _by_split, a call less for most of all requests
        return route.assigned[arm.version] if arm is not None else _by_split(route, draw)
    fields = call.fields
    ring = ring_of(keying.rings, fields, kid) if keying.rings else None
    key, point, stratum = None, draw, "" if ring is None else ring.stratum
    if keying.is_sticky:
        said = entity if keying.header is None else _said(fields, keying.header)
        if said is None:
            stratum = f"{stratum}/{UNKEYED}" if stratum else UNKEYED
        else:
            hashed = hash_of(keying.salt, said)
            key, point = hashed >> 1, point_of(hashed)
    if ring is not None:
        if point < ring.share:
            return Assigned(route.versions[ring.version], stratum, key)
        point = min((point - ring.share) / (1.0 - ring.share), _BELOW_ONE)
    return Assigned(_by_split(route, point).served, stratum, key)


def entity_of(array: Array | None) -> bytes | None:
    """The first element of an input as a key: whole floats are integers, since pandas makes floats of those."""
    if array is None or not array.size:
        return None
    first = array.flat[0]
    if isinstance(first, bytes):
        return first or None
    plain = first.item() if hasattr(first, "item") else first
    if isinstance(plain, float) and plain.is_integer():
        plain = int(plain)
    return str(plain).encode()


def _said(fields: Mapping[bytes, bytes], name: bytes) -> bytes | None:
    return (fields.get(name) or b"").strip() or None


def _by_split(route: "ServedRoute", point: float) -> Assigned:
    arm = splits.choose(route.split, point)
    if arm is None:
        message = f"no version of {route.model} takes traffic; set it with `moorage traffic {route.model}`"
        raise Unavailable(message, code="no_traffic", retry_after_s=5)
    return route.assigned[arm.version]
