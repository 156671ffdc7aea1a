"""Plans: named sets of limits, from the registry's setting `plans`. Pure."""

from collections.abc import Mapping
from typing import Any

from moorage_common.errors import Unprocessable
from moorage_registry.tenants.models import LimitsChange, PlanDefaults

STANDARD = "standard"


def planned(change: LimitsChange, plans: Mapping[str, PlanDefaults]) -> LimitsChange:
    """The change with what its plan sets of the fields that it does not. Raises Unprocessable for an unknown plan."""
    if change.plan is None:
        return change
    plan = plans.get(change.plan)
    if plan is None:
        known = ", ".join(sorted(plans))
        raise Unprocessable(f"there is no plan {change.plan}; there are {known}", code="plan_unknown")
    return LimitsChange.model_validate({**_said(plan), **_said(change)})


def _said(limits: LimitsChange | PlanDefaults) -> dict[str, Any]:
    """What was given; a null says something of the month alone."""
    said = {name: getattr(limits, name) for name in limits.model_fields_set}
    return {name: value for name, value in said.items() if value is not None or name == "requests_per_month"}


def begun(limits: LimitsChange, plans: Mapping[str, PlanDefaults]) -> LimitsChange:
    """The limits of a new tenant: of the plan `standard`, where there is one, unless another is given."""
    if limits.plan is None and STANDARD in plans:
        return planned(limits.model_copy(update={"plan": STANDARD}), plans)
    return planned(limits, plans)
