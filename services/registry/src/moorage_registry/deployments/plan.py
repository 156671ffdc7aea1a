"""Deciding what a deployment becomes: versions settled, traffic shared out, differences told. Pure."""

from collections.abc import Mapping, Sequence
from typing import Any

from moorage_common.contracts.routes import WHOLE_BP, Arm
from moorage_common.errors import Conflict, NotFound, Unprocessable
from moorage_registry.deployments.models import (
    ArmSpec,
    Change,
    DeploymentSpec,
    PlacedVersion,
    Revision,
)

MANUAL = "manual"


def settle_number(asked: int | str, model: str, states: Mapping[int, str]) -> int:
    """The version number meant by `asked`. `states` are those of all versions by number.

    Raises NotFound, or Conflict where it was rejected.
    """
    if asked == "latest":
        usable = [number for number, state in states.items() if state != "rejected"]
        if not usable:
            raise NotFound(f"model {model} has no version that could be deployed", code="version_not_found")
        return max(usable)
    number = int(asked)
    if number not in states:
        raise NotFound(f"model {model} has no version {number}", code="version_not_found")
    if states[number] == "rejected":
        message = f"version {number} of {model} was rejected at validation; see its reason and push a corrected one"
        raise Conflict(message, code="version_rejected")
    return number


def settle(spec: DeploymentSpec, model: str, states: Mapping[int, str]) -> Revision:
    """The revision that `spec` asks for, `latest` settled. Raises NotFound, Conflict, Unprocessable."""
    versions = []
    for wanted in spec.versions:
        number = settle_number(wanted.version, model, states)
        versions.append(PlacedVersion(**{**dict(wanted), "version": number}))
    numbers = [v.version for v in versions]
    if len(set(numbers)) != len(numbers):
        raise Unprocessable(f"a version is named twice: {numbers}", code="version_named_twice")
    versions.sort(key=lambda v: v.version)
    return Revision(
        versions=versions,
        features=spec.features,
        deadline_ms=spec.deadline_ms,
        policy=spec.policy,
        feedback=spec.feedback,
    )


def settle_arms(arms: Sequence[ArmSpec], model: str, states: Mapping[int, str], held: Sequence[int]) -> list[Arm]:
    """Arms of versions that the deployment holds, adding up to the whole. Raises Unprocessable, NotFound, Conflict."""
    settled = []
    for arm in arms:
        number = settle_number(arm.version, model, states)
        if number not in held:
            message = f"version {number} is not part of the deployment, which holds {sorted(held)}; deploy it first"
            raise Unprocessable(message, code="version_not_deployed")
        settled.append(
            Arm(
                arm=f"v{number}",
                version=number,
                weight_bp=arm.basis_points,
                role=arm.role,
                copies_to_code=arm.copies_to_code,
            )
        )
    if len({arm.version for arm in settled}) != len(settled):
        raise Unprocessable("a version has more than one arm", code="version_named_twice")
    total = sum(arm.weight_bp for arm in settled if arm.role != "shadow")
    if total != WHOLE_BP:
        message = f"the weights add up to {total / 100:g} %, not 100 % (shadow arms do not count)"
        raise Unprocessable(message, code="weights_not_whole")
    return settled


def all_to(version: int) -> list[Arm]:
    return [Arm(arm=f"v{version}", version=version, weight_bp=WHOLE_BP)]


def kept_arms(arms: Sequence[Arm], held: Sequence[int]) -> list[Arm]:
    """`arms` without versions no longer held; all to the highest version where none with a weight is left."""
    kept = share_out(arms, set(held))
    return kept or all_to(max(held))


def share_out(arms: Sequence[Arm], able: set[int]) -> list[Arm]:
    """Arms of the versions `able`, the weight of the others shared out in proportion; [] where nobody has weight.

    Largest remainders get the basis points that rounding leaves.
    """
    left = [arm for arm in arms if arm.version in able]
    serving = [arm for arm in left if arm.role != "shadow"]
    total = sum(arm.weight_bp for arm in serving)
    if total == 0:
        return []
    shares = {arm.version: divmod(arm.weight_bp * WHOLE_BP, total) for arm in serving}
    missing = WHOLE_BP - sum(whole for whole, _ in shares.values())
    by_remainder = sorted(shares, key=lambda version: (-shares[version][1], version))
    lucky = set(by_remainder[:missing])
    return [
        arm
        if arm.role == "shadow"
        else arm.model_copy(update={"weight_bp": shares[arm.version][0] + (arm.version in lucky)})
        for arm in left
    ]


def differences(before: Any, after: Any, path: str = "") -> list[Change]:
    """Every place where two JSON values differ, by dotted path; entries of lists of versions go by version."""
    if isinstance(before, dict) and isinstance(after, dict):
        found = []
        for key in sorted({*before, *after}):
            place = f"{path}.{key}" if path else str(key)
            found += differences(before.get(key), after.get(key), place)
        return found
    if before == after:
        return []
    return [Change(path=path, before=before, after=after)]


def comparable(revision: Revision | None, traffic: Mapping[str, Any]) -> dict[str, Any]:
    """A deployment and its traffic as nested JSON objects for `differences`."""
    if revision is None:
        return {}
    told = revision.model_dump(mode="json")
    told["versions"] = {str(v.pop("version")): v for v in told["versions"]}
    return told | dict(traffic)
