"""Rings as a router looks callers up in them. Pure."""

from collections.abc import Container, Mapping
from dataclasses import dataclass

from moorage_common.contracts.routes import WHOLE_BP, RouteRing


@dataclass(frozen=True, slots=True)
class Ring:
    """Callers whose header has one of `values`, or whose key is one of `kids`: `share` of theirs go to `version`."""

    stratum: str
    header: bytes
    values: frozenset[bytes]
    kids: frozenset[str]
    version: int
    share: float

    def holds(self, fields: Mapping[bytes, bytes], kid: str) -> bool:
        """Whether the caller with these header fields, names in lower case, is one of them."""
        return kid in self.kids or (bool(self.values) and fields.get(self.header) in self.values)


def rings_of(rings: list[RouteRing], held: Container[int]) -> tuple[Ring, ...]:
    """Those of a route whose version is held, in order."""
    return tuple(
        Ring(
            stratum=f"ring:{ring.name}",
            header=ring.header.lower().encode("latin-1"),
            values=frozenset(value.encode() for value in ring.values) if ring.header else frozenset(),
            kids=frozenset(ring.kids),
            version=ring.version,
            share=ring.weight_bp / WHOLE_BP,
        )
        for ring in rings
        if ring.version in held
    )


def ring_of(rings: tuple[Ring, ...], fields: Mapping[bytes, bytes], kid: str) -> Ring | None:
    """The first ring that holds the caller."""
    return next((ring for ring in rings if ring.holds(fields, kid)), None)
