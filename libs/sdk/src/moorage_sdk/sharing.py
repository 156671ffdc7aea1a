"""A change of a model's traffic, from how people write it: what is not named stays. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from moorage_sdk.answers import Traffic
from moorage_sdk.errors import SdkError
from moorage_sdk.spec import Json, basis_points, traffic_spec

NONE = "none"
_STICKY = "header:NAME or entity:INPUT, such as header:x-user, or none"
_RING = "RING:VERSION=PERCENT such as beta:3=50, or none"
_SHADOW = "VERSION=PERCENT such as 3=5, or none"


@dataclass(frozen=True, slots=True)
class TrafficChange:
    """What is to change.

    Attributes:
        weights: percent by version, adding up to 100.
        sticky: `header:x-user`, `entity:account`, or `none`.
        reshuffle: draw every sticky key anew.
        shadows: percent of the requests by the version that gets copies; with 0 it gets none any more. () ends all.
        rings: (ring, version, percent of its callers' requests), with 0 the ring is taken out. () takes all out.
        copies_to_code: let shadows whose format is code act on copies.
    """

    weights: Mapping[int, float] | None = None
    sticky: str | None = None
    reshuffle: bool = False
    shadows: Sequence[tuple[int, float]] | None = None
    rings: Sequence[tuple[str, int, float]] | None = None
    copies_to_code: bool = False

    @property
    def is_empty(self) -> bool:
        return self == TrafficChange()

    def body(self, now: Traffic) -> Json:
        """The body of `PUT /v1/deployments/{model}/traffic`. Raises SdkError."""
        body: Json = {"arms": [*self._serving(now), *self._copied(now)], "revision": now.revision}
        sticky = self._stickiness(now)
        if self.sticky is not None or self.reshuffle:
            body["stickiness"] = sticky
        if self.rings is not None:
            body["rings"] = self._rings(now)
        return body

    def _serving(self, now: Traffic) -> list[Json]:
        if self.weights is not None:
            return traffic_spec(self.weights)
        return [
            {"version": arm.version, "weight_bp": arm.weight_bp, "role": arm.role}
            for arm in now.arms
            if arm.role != "shadow"
        ]

    def _copied(self, now: Traffic) -> list[Json]:
        held = {arm.version: (arm.weight_bp, arm.copies_to_code) for arm in now.arms if arm.role == "shadow"}
        if self.shadows is not None:
            named = {
                version: (basis_points(percent, f"shadow {version}"), self.copies_to_code)
                for version, percent in self.shadows
            }
            held = {**held, **named} if self.shadows else {}
        serving = {version for version, percent in (self.weights or {}).items() if percent}
        return [
            {"version": version, "weight_bp": points, "role": "shadow", "copies_to_code": code}
            for version, (points, code) in held.items()
            if points and version not in serving
        ]

    def _stickiness(self, now: Traffic) -> Json | None:
        if self.sticky == NONE:
            return None
        if self.sticky is None:
            held = now.stickiness
            if self.reshuffle and held is None:
                raise SdkError("the traffic sticks to nothing, so there is nothing to draw anew; see --sticky")
            return None if held is None else {**held.model_dump(), "reshuffle": self.reshuffle}
        by, colon, name = self.sticky.partition(":")
        if by not in ("header", "entity") or not colon or not name:
            raise SdkError(f"{self.sticky!r} is not {_STICKY}")
        return {"by": by, "name": name, "reshuffle": self.reshuffle}

    def _rings(self, now: Traffic) -> list[Json]:
        if not self.rings:
            return []
        held = {ring.ring: (ring.version, ring.weight_bp) for ring in now.rings}
        for name, version, percent in self.rings:
            held[name] = (version, basis_points(percent, f"ring {name}"))
        return [
            {"ring": name, "version": version, "weight_bp": points}
            for name, (version, points) in held.items()
            if points
        ]


def parse_shadows(pairs: Sequence[str]) -> list[tuple[int, float]]:
    """`["3=5"]` -> [(3, 5.0)]; `["none"]` -> []. Raises SdkError."""
    if list(pairs) == [NONE]:
        return []
    return [_share(pair, pair, _SHADOW) for pair in pairs]


def parse_rings(pairs: Sequence[str]) -> list[tuple[str, int, float]]:
    """`["beta:3=50"]` -> [("beta", 3, 50.0)]; `["none"]` -> []. Raises SdkError."""
    if list(pairs) == [NONE]:
        return []
    found = []
    for pair in pairs:
        name, _, share = pair.partition(":")
        if not name:
            raise SdkError(f"{pair!r} is not {_RING}")
        found.append((name, *_share(share, pair, _RING)))
    return found


def _share(text: str, pair: str, form: str) -> tuple[int, float]:
    version, _, percent = text.partition("=")
    try:
        return int(version), float(percent)
    except ValueError:
        raise SdkError(f"{pair!r} is not {form}") from None
