"""Every operation of every service, by every kind of caller, on its own tenant's things and on another's."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import httpx
import pytest
from access_table import TABLES, Row
from contracts_documents import documents, rules_in
from contracts_stage import MODEL, Caller, Stage

ABSENT = {
    "tenant": "absent", "kid": "0" * 12, "digest": "sha256:" + "0" * 64, "model": "absent", "number": "1",
    "version": "1", "name": "absent", "rollout": "current", "node": "none-such", "subject": "nobody",
}  # fmt: skip
NO_KEY_KEEPS = ("signed URL", "internal token", "internal")
SERVICES = ["registry", "router", "features"]


@pytest.mark.parametrize("service", SERVICES)
def test_every_operation_has_the_rule_that_was_decided_and_nothing_else_is_served(service: str) -> None:
    assert rules_in(documents()[service]) == {operation: row.rule for operation, row in TABLES[service].items()}


def lets_in(rule: str, caller: Caller, model: str) -> bool | None:
    """Whether the rule is kept; None where no key keeps it."""
    if rule == "anyone":
        return True
    if rule in NO_KEY_KEEPS:
        return None
    if not caller.is_known or rule == "any key":
        return caller.is_known
    if "{model}" in rule:
        return any(caller.may(one.partition(":")[0], model) for one in rule.split(" or "))
    return caller.may(rule) or caller.may("platform:admin")


@dataclass(frozen=True)
class Call:
    """An operation with the places of its path filled in."""

    service: str
    operation: str
    row: Row
    path: str

    def by(self, stage: Stage, caller: Caller, **options: Any) -> httpx.Response:
        body = {"json": self.row.body} if self.row.body is not None else {}
        method = self.operation.partition(" ")[0]
        if self.row.ends_session and caller.spare is not None:
            caller = replace(caller, key=caller.spare)
        return stage.ask(self.service, method, self.path, caller, **body, **options)


def calls(service: str, names: Mapping[str, str]) -> Iterator[Call]:
    """One of each operation."""
    for operation, row in TABLES[service].items():
        yield Call(service, operation, row, operation.partition(" ")[2].format(**names) + row.query)


def code_of(answer: httpx.Response) -> str:
    """Its refusal's code."""
    if "moorage-error" in answer.headers:
        return answer.headers["moorage-error"]
    is_json = answer.headers.get("content-type", "").startswith("application/json")
    said = answer.json() if is_json and answer.content else {}
    return str(said.get("code", "")) if isinstance(said, dict) else ""


def fault(answer: httpx.Response, row: Row, caller: Caller, allowed: bool | None) -> str:
    """What is wrong with an answer about the caller's own tenant; "" for nothing."""
    status, code = answer.status_code, code_of(answer)
    if status >= 500:
        return f"{status} {answer.text}"
    if allowed is None:
        return "" if status in (401, 403) else f"{status} without what stands for a key"
    if allowed:
        is_refused = status == 401 or (status == 403 and code in {"", "scope_missing"})
        return f"refused with {status} {code}" if is_refused else ""
    if not caller.is_known:
        return "" if status == 401 else f"{status} {code} to nobody"
    return "" if status == 403 and code in {"", "scope_missing"} else f"{status} {code} in spite of {row.rule}"


@pytest.mark.parametrize("service", SERVICES)
def test_every_caller_is_let_in_by_its_scopes_and_by_nothing_else(stage: Stage, service: str) -> None:
    names = ABSENT
    if service == "router":
        names = {**ABSENT, "tenant": "demo", "model": MODEL}
    wrong = []
    for caller in stage.callers["demo"]:
        for call in calls(service, names):
            answer = call.by(stage, caller)
            found = fault(answer, call.row, caller, lets_in(call.row.rule, caller, names["model"]))
            wrong += [f"{caller.name}: {call.operation}: {found}"] if found else []
    assert not wrong


@pytest.mark.parametrize("service", SERVICES)
def test_an_operator_is_let_in_where_the_platform_is_run(stage: Stage, service: str) -> None:
    names = {**ABSENT, "tenant": "platform"} if service == "router" else ABSENT
    wrong = []
    for call in calls(service, names):
        answer = call.by(stage, stage.operator)
        if service == "registry":
            found = fault(answer, call.row, stage.operator, lets_in(call.row.rule, stage.operator, ""))
        elif call.row.rule in ("anyone", "any key"):
            found = "" if answer.is_success else f"{answer.status_code}"
        else:
            found = "" if answer.status_code in (403, 404) else f"{answer.status_code}: no scope of the data plane"
        wrong += [f"{call.operation}: {found}"] if found else []
    assert not wrong


@pytest.mark.parametrize("service", SERVICES)
def test_another_tenants_things_do_not_exist_for_any_caller(stage: Stage, service: str) -> None:
    things = dict(stage.things["demo"])
    names = {**things, "name": things["feature_service" if service == "features" else "ring"]}
    before = whole_of(stage)
    wrong = []
    for caller in stage.callers["rival"]:
        for call in calls(service, names):
            answer = call.by(stage, caller)
            found = foreign_fault(answer, call, caller)
            wrong += [f"{caller.name}: {call.operation}: {found}"] if found else []
    assert not wrong
    assert whole_of(stage) == before, "a stranger changed something"


def foreign_fault(answer: httpx.Response, call: Call, caller: Caller) -> str:
    """What is wrong with an answer to a caller of another tenant."""
    row, operation = call.row, call.operation
    allowed = lets_in(row.rule, caller, MODEL)
    status = answer.status_code
    if status >= 500:
        return f"{status} {answer.text}"
    if "{" in operation and row.foreign == "hidden" and caller.is_known and row.rule != "signed URL":
        # A router looks a model up before it looks at scopes; whoever may not even look is told that.
        hidden = {404} if allowed else {403, 404}
        return "" if status in hidden else f"{status} {answer.text[:200]}"
    if "{" not in operation and row.rule != "anyone" and answer.is_success:
        told = [word for word in ("demo", '"beta"', MODEL) if re.search(rf"\b{word}\b", answer.text)]
        return f"tells of {told}" if told else ""
    return fault(answer, row, caller, allowed)


def whole_of(stage: Stage) -> dict[str, str]:
    """All that the tenant has, as its owner sees it; without what time alone changes."""
    owner = stage.callers["demo"][0]
    registry = ("/v1/models", "/v1/deployments", "/v1/rings", f"/v1/models/{MODEL}/versions", "/v1/tenants/demo")
    whole = {path: stage.ask("registry", "GET", path, owner).text for path in registry}
    whole["members"] = stage.ask("registry", "GET", "/v1/members", owner).text
    keys = stage.ask("registry", "GET", "/v1/keys", owner).json()["keys"]
    whole["keys"] = str([{name: value for name, value in key.items() if name != "last_used_at"} for key in keys])
    whole["features"] = stage.ask("features", "GET", "/v1/features/services", owner).text
    return whole


def test_only_an_operator_names_another_tenant_in_a_header(stage: Stage) -> None:
    wrong = []
    for service in ("registry", "features"):
        for caller in stage.callers["rival"]:
            for call in calls(service, ABSENT):
                if call.row.rule in ("anyone", *NO_KEY_KEEPS):
                    continue
                answer = call.by(stage, replace(caller, spare=None), headers={"moorage-tenant": "demo"})
                if answer.status_code != (403 if caller.is_known else 401):
                    wrong.append(f"{caller.name}: {service} {call.operation}: {answer.status_code}")
    assert not wrong
