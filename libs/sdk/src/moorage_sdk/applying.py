"""What applying a manifest with `rollout: {to: N}` comes to, by what stands and what was rolled out before. Pure."""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

from moorage_sdk.errors import SdkError
from moorage_sdk.rollouts_answers import Rollout
from moorage_sdk.spec import Json

SETTLES_S = 60.0
"""After a rollout has ended, until the version that lost has left the deployment for certain."""


@dataclass(frozen=True, slots=True)
class Deploy:
    """Nothing answers yet: the version gets all the traffic at once."""


@dataclass(frozen=True, slots=True)
class Begin:
    """A rollout begins; `stable` answers now."""

    stable: int


@dataclass(frozen=True, slots=True)
class Leave:
    """No rollout begins; `why` is for people, empty where the version answers already."""

    why: str = ""


Wanted = Deploy | Begin | Leave


def wanted(model: str, to: int, standing: Json | None, history: Sequence[Rollout], *, again: bool) -> Wanted:
    """Whether a rollout to version `to` begins.

    Args:
        standing: the deployment as the registry shows it, None where there is none.
        history: the model's rollouts, newest first.
        again: even where the last one to this version was rolled back or aborted.

    Raises:
        SdkError: a rollout to another version runs.
    """
    if standing is None:
        return Deploy()
    last = history[0] if history else None
    if last is not None and not last.is_final:
        if last.candidate != to:
            raise SdkError(
                f"{model}: a rollout to version {last.candidate} runs; wait until it has ended, "
                f"or run: moorage rollout abort {model}"
            )
        return Leave(f"the rollout to version {to} goes on ({last.state} at {last.weight:g} %)")
    stable = stable_of(standing)
    if stable == to:
        return Leave()
    before = next((one for one in history if one.candidate == to), None)
    if before is not None and before.state in ("rolled_back", "aborted") and not again:
        how = "rolled back" if before.state == "rolled_back" else "aborted"
        why = f" ({before.reason.rstrip('.')})" if before.reason else ""
        return Leave(f"version {to} was {how}{why}; apply with --again to roll it out once more")
    return Begin(stable)


def stable_of(standing: Json) -> int:
    """The version with the most traffic."""
    arms = [arm for arm in standing["traffic"]["arms"] if arm.get("role") != "shadow"]
    heaviest = max(arms, key=lambda arm: (arm["weight_bp"], arm["version"]))
    return int(heaviest["version"])


def settling(history: Sequence[Rollout], now: float) -> frozenset[int]:
    """Versions whose settings are the last rollout's: while it runs, and until the one that lost has left."""
    if not history:
        return frozenset()
    last = history[0]
    is_over = last.is_final and (last.finished_at is None or now - last.finished_at > SETTLES_S)
    return frozenset() if is_over else frozenset({last.stable, last.candidate})


def spec_for(declared: Json, standing: Json | None, to: int, what: Wanted, left: Collection[int] = frozenset()) -> Json:
    """The body to put: versions that are held, as declared where they are; `to` beside them if it is to begin.

    A declared version that is not held any more is left out, so that an applied manifest brings none back; one of
    `left` stays as it is held.
    """
    of = {_settled(version["version"], to): version for version in declared["versions"]}
    settled = {number: {**version, "version": number} for number, version in of.items()}
    held = {int(version["version"]): version for version in standing["versions"]} if standing is not None else {}
    as_held = {number: version for number, version in held.items() if number in left or number not in settled}
    numbers = _numbers(held, to, what, declared=to in settled)
    versions = [as_held.get(number) or settled.get(number) or {"version": number} for number in numbers]
    return {**declared, "versions": versions}


def _settled(version: int | str, to: int) -> int:
    return to if version == "latest" else int(version)


def _numbers(held: Iterable[int], to: int, what: Wanted, *, declared: bool) -> list[int]:
    if isinstance(what, Deploy):
        return [to]
    added = {to} if isinstance(what, Begin) and declared else set()
    return sorted({*held, *added})
