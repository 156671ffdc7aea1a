"""Independent clients, each in an environment of its own, against the whole platform."""

import os
from pathlib import Path

import pytest
from conformance.cells import Ledger, assert_no_red
from conformance.drivers import CLIENTS_TRIED, SCHEMATHESIS, Client, drive, item, job, judge
from conformance.environments import NoEnvironment, python_of
from conformance.expectations import judge_call
from e2e_platform import Platform


def environment(client: str) -> Path:
    """The client's Python; without it the test is skipped, unless MOORAGE_REQUIRE_OPTIONAL=1."""
    try:
        return python_of(client)
    except NoEnvironment as error:
        if os.environ.get("MOORAGE_REQUIRE_OPTIONAL") == "1":
            raise
        pytest.skip(f"no environment for {client}: {error}")


@pytest.mark.parametrize("client", CLIENTS_TRIED, ids=lambda client: client.driver)
def test_a_client_gets_what_it_asks_for(client: Client, platform: Platform, ledger: Ledger) -> None:
    cells = {cell.name: cell for cell in client.cells()}
    python = environment(client.environment)
    answered = drive(python, client.driver, job(platform, [item(client, cell) for cell in cells.values()]))
    ledger.versions[client.name] = answered["version"]
    outcomes = []
    for result in answered["results"]:
        name = result["cell"]
        known = cells.pop(name, None)
        outcomes.append(
            judge_call(client, name, result, ledger) if known is None else judge(client, known, result, ledger)
        )
    assert not cells, f"the driver answered nothing for {', '.join(cells)}"
    assert_no_red(outcomes)


def test_answers_are_what_the_specification_describes(platform: Platform, ledger: Ledger) -> None:
    answered = drive(environment(SCHEMATHESIS), "schemathesis_run", job(platform, []))
    ledger.versions[SCHEMATHESIS] = answered["version"]
    outcomes = []
    for result in answered["results"]:
        text = result.get("error", "")
        if result["cell"] == "every operation" and not text:
            whole = result["value"]
            told = f"{whole['cases']} cases, {whole['answered']} of them with an answer"
            ledger.remarks[SCHEMATHESIS] = told
            text = "" if whole["is_complete"] and whole["cases"] >= 100 and whole["answered"] >= 10 else told
        outcomes.append(ledger.note(SCHEMATHESIS, "specification", result["cell"], text))
    assert_no_red(outcomes)
