"""The tenants' page on rollouts: every number of a policy, with the default that it has."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from moorage_common.contracts.rollouts import RolloutPolicy, Step


def _shown(value: Any) -> str:
    whole = isinstance(value, float) and value.is_integer()
    return value if isinstance(value, str) else json.dumps(int(value) if whole else value)


def defaults(part: type[BaseModel], prefix: str = "") -> Iterator[tuple[str, str]]:
    """`errors.margin_pp`, `2` and so on; a step's fields once."""
    for name, field in part.model_fields.items():
        value = field.get_default(call_default_factory=True)
        if isinstance(value, BaseModel):
            yield from defaults(type(value), f"{name}.")
        elif name == "steps":
            yield "steps", ", ".join(_shown(step.weight) for step in value)
            yield from defaults(Step, "steps.")
        else:
            yield f"{prefix}{name}", _shown(value)


def test_every_number_of_a_policy_is_explained_with_its_default(root: Path) -> None:
    page = (root / "docs/tenants/rollouts.md").read_text()
    rows = re.findall(r"^\| `([a-z_.0-9]+)` \| ([^|]*?) \| [^|]+ \|$", page, re.MULTILINE)
    assert dict(rows) == dict(defaults(RolloutPolicy))
