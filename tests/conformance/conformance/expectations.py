"""What clients' calls beside inference must bring, by the names that the drivers give them."""

from collections.abc import Callable
from typing import Any

from conformance.cells import Ledger, Outcome
from conformance.drivers import Client
from conformance.models import DIGITS, WIDE, identity_of
from conformance.tensors import DATATYPES

Result = dict[str, Any]
Check = Callable[[Result], None]

SERVED = {identity_of(datatype) for datatype in DATATYPES} | {WIDE, DIGITS}


def _value(result: Result) -> Any:
    assert "error" not in result, result["error"]
    return result["value"]


def gives(*wanted: Any) -> Check:
    """One of these values."""

    def check(result: Result) -> None:
        value = _value(result)
        assert any(value == one for one in wanted), f"{value!r:.300} instead of {wanted[0]!r:.300}"

    return check


def raises(*words: str) -> Check:
    """The client's own error, with the server's text in it: one of `words`."""

    def check(result: Result) -> None:
        told = str(result.get("error") or result.get("value"))
        assert any(word in told for word in words), f"{told:.300} says none of {', '.join(words)}"

    return check


def server(result: Result) -> None:
    found = _value(result)
    assert "binary_tensor_data" in found["extensions"], found
    assert found["name"], found
    assert found["version"], found


def digits_metadata(result: Result) -> None:
    found = _value(result)
    assert found["name"] == DIGITS, found
    assert found["versions"] == ["1", "2"], found
    assert [(t["name"], t["datatype"], t["shape"]) for t in found["inputs"]] == [("input", "FP64", [-1, 64])], found


def index(result: Result) -> None:
    found = _value(result)
    assert {row["name"] for row in found} == SERVED, found
    assert all(row["state"] == "READY" for row in found), found
    assert sorted(row["version"] for row in found if row["name"] == DIGITS) == ["1", "2"], found


def statistics(*versions: str) -> Check:
    """Of digits; of everything when no version is given."""

    def check(result: Result) -> None:
        rows = _value(result)["model_stats"]
        if not versions:
            assert {row["name"] for row in rows} == SERVED, rows
        else:
            assert sorted((row["name"], row["version"]) for row in rows) == [(DIGITS, v) for v in versions], rows
        assert all(row["inference_stats"]["success"]["count"] >= 0 for row in rows), rows

    return check


def _capability(call: str) -> str:
    for part, capability in (
        ("ready", "health"), ("live", "health"), ("metadata", "metadata"), ("index", "repository index"),
        ("statistics", "statistics"), ("infer", "errors"),
    ):  # fmt: skip
        if part in call:
            return capability
    return "infer"


NO_KEY = "API key"
CALLS: dict[str, Check] = {
    "server live": gives(True, None),
    "server ready": gives(True, None),
    "model ready": gives(True, None),
    "version ready": gives(True, None),
    "absent model ready": gives(False),
    "absent version ready": lambda result: (
        gives(False)(result) if result.get("value") is False else raises("version", "9")(result)
    ),
    "server metadata": server,
    "model metadata": digits_metadata,
    "version metadata": digits_metadata,
    "absent model metadata": raises("nothing"),
    "metadata below a base path": digits_metadata,
    "repository index": index,
    "statistics of a version": statistics("2"),
    "statistics of a model": statistics("1", "2"),
    "statistics of all": statistics(),
    "infer without a key": raises(NO_KEY),
    "infer of an absent model": raises("nothing"),
    "infer without data": raises("data", "input"),
    "infer of another input": raises("input"),
    "infer below a base path": gives(["x_out", "y_out"]),
    "20 at once": gives(20),
    "micro-batches as a command": gives([f"batch-{at}" for at in range(8)]),
}


def judge_call(client: Client, name: str, result: Result, ledger: Ledger) -> Outcome:
    """Hold one call's result to what it must bring."""
    text = ""
    try:
        CALLS[name](result)
    except (AssertionError, KeyError, TypeError) as error:
        text = f"{type(error).__name__}: {error}"
    return ledger.note(client.name, _capability(name), name, text)
