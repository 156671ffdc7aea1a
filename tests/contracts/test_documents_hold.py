"""What the OpenAPI documents say is what is answered, whatever is asked in whatever order, by people of each role."""

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from contracts_fuzz import run
from contracts_stage import Stage

from moorage_common.contracts.roles import ROLES

SECONDS = int(os.environ.get("MOORAGE_CONTRACTS_SECONDS", "15"))
"""Of each service by each caller; all three at once. Twice that where a busy machine left no time for one call."""
CALLERS = [*(f"role {role}" for role in ROLES), "operator", "nobody"]
OF_SERVICE = {"registry": "rival", "router": "demo", "features": "demo"}
"""Whose callers ask: what is deployed is `demo`'s, and nothing there may be deleted."""


@pytest.mark.timeout(SECONDS * 12 + 400)
@pytest.mark.skipif("MOORAGE_CONTRACTS_SECONDS" not in os.environ, reason="MOORAGE_CONTRACTS_SECONDS is not set")
@pytest.mark.parametrize("name", CALLERS)
def test_no_call_fails_and_every_answer_is_as_the_document_says(
    stage: Stage, tmp_path: Path, name: str, record_property: Callable[[str, object], None]
) -> None:
    by_name = {
        service: next(one for one in [stage.operator, *stage.callers[tenant]] if one.name == name)
        for service, tenant in OF_SERVICE.items()
    }
    with ThreadPoolExecutor(len(by_name)) as pool:
        running = [
            pool.submit(run, stage, service, caller, tmp_path / service, SECONDS) for service, caller in by_name.items()
        ]
        found = [one.result() for one in running]
    found = [
        one if one.cases else run(stage, one.service, by_name[one.service], tmp_path / f"{one.service}-2", SECONDS * 2)
        for one in found
    ]
    for one in found:
        record_property(f"{one.service}_cases", one.cases)
        print(f"{one.service} as {name}: {one.cases} calls, {one.answered} answered")  # noqa: T201
    failures = [failure for one in found for failure in one.failures]
    assert not failures, "\n".join([*failures, *(one.tail for one in found if one.failures)])
    assert all(one.cases > 0 and one.answered > 0 for one in found)
