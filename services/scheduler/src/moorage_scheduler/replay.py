"""Recorded decisions made again: `moorage scheduler replay state.json`. Needs neither Ray nor a platform."""

import json
from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from moorage_common.contracts.desired import Resources
from moorage_scheduler.journal import FORMAT, decision_json
from moorage_scheduler.placement.deciding import Grounds, decide
from moorage_scheduler.placement.decisions import Decision
from moorage_scheduler.placement.fragmentation import Typical
from moorage_scheduler.placement.plan import place
from moorage_scheduler.placement.state import Ask, ClusterState, Held, NodeSize

_UNKNOWN: Mapping[str, Any] = {key: [] for key in ("movable", "ready", "spare", "least")}
"""Left out of the context of decisions that do not rest on it."""
_NAMED = ("tenant", "model", "version", "scheduling_class", "priority")


def replay(recorded: Mapping[str, Any], asked: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Make every recorded decision again, on the state it was made on.

    Args:
        recorded: as `Journal.recorded` gave it.
        asked: resources to decide on too, against the state at the end; may name tenant, model and version.

    Returns:
        `{"decisions": [{number, ask, recorded, replayed, same}], "asked": {ask, decided} | None}`.

    Raises:
        ValueError: `recorded` is of another format, or `asked` of none.
    """
    if recorded.get("format") != FORMAT:
        message = f"this is no recorded state of format {FORMAT}; make one with: moorage scheduler state"
        raise ValueError(message)
    try:
        state = ClusterState.of_recorded(recorded["base"])
        context = {**recorded["context"]}
        rows = [_again(number, entry, state, context) for number, entry in enumerate(recorded["decisions"], start=1)]
        final = ClusterState.of_recorded(recorded["state"])
    except (KeyError, TypeError, AttributeError, ValidationError) as error:
        message = f"the recorded state cannot be read: {type(error).__name__}: {error}"
        raise ValueError(message) from error
    return {"decisions": rows, "asked": None if asked is None else _on(final, asked)}


def _again(number: int, entry: Mapping[str, Any], state: ClusterState, context: dict[str, Any]) -> dict[str, Any]:
    """The next decision; `state` and `context` are brought to where it was made."""
    _apply(state, entry["changes"])
    context.update(entry["context"])
    ask = Ask.of_recorded(entry["ask"])
    again = json.loads(json.dumps(decision_json(decide_again(state, ask, {**_UNKNOWN, **context} if context else {}))))
    return {
        "number": number,
        "ask": _shown_ask(ask),
        "recorded": shown(entry["decision"]),
        "replayed": shown(again),
        "same": again == entry["decision"],
    }


def decide_again(state: ClusterState, ask: Ask, context: Mapping[str, Any]) -> Decision:
    """As it was decided; without grounds it was a plain placement."""
    return decide(state, ask, Grounds.of_recorded(context)) if context else place(state, ask)


def _apply(state: ClusterState, changes: Mapping[str, Any]) -> None:
    """Bring `state` to where the decision was made."""
    for replica in changes["removed"]:
        state.remove(replica)
    if changes["nodes"] is not None:
        state.set_nodes(NodeSize(**size) for size in changes["nodes"])
    for replica, held in changes["added"].items():
        state.add(replica, Held.of_recorded(held))
    if changes["closed"] is not None:
        state.close(changes["closed"])
    if changes["typical"] is not None:
        state.learn(Typical(tuple((_tuples(klass), count) for klass, count in changes["typical"])))


def _tuples(value: Any) -> Any:
    """Lists of JSON as the tuples they were."""
    return tuple(_tuples(one) for one in value) if isinstance(value, list) else value


def _on(state: ClusterState, asked: Mapping[str, Any]) -> dict[str, Any]:
    unknown = asked.keys() - Resources.model_fields.keys() - set(_NAMED)
    if unknown:
        message = (
            f"--ask knows no {', '.join(sorted(unknown))}; there are {', '.join([*_NAMED, *Resources.model_fields])}"
        )
        raise ValueError(message)
    named = {"tenant": "?", "model": "?", "version": 1, **{name: asked[name] for name in _NAMED if name in asked}}
    try:
        resources = Resources.model_validate({name: asked[name] for name in asked if name not in _NAMED})
    except ValidationError as error:
        message = f"--ask: {error.errors()[0]['loc']}: {error.errors()[0]['msg']}"
        raise ValueError(message) from error
    ask = Ask(**named, resources=resources)
    return {"ask": _shown_ask(ask), "decided": shown(decision_json(place(state, ask)))}


def _shown_ask(ask: Ask) -> str:
    asked = ask.resources.model_dump(mode="json", exclude_defaults=True)
    return f"{ask.tenant}/{ask.model} v{ask.version} {json.dumps(asked, separators=(',', ':'))}"


def shown(decision: Mapping[str, Any]) -> str:
    """A decision in a line."""
    kind = str(decision["decision"])
    if kind == "queue":
        return f"queue: {decision['reason']}"
    if kind == "place":
        return f"place {_place(decision)}"
    others = decision.get("victims") or [move["replica"] for move in decision.get("moves", ())]
    return f"{kind} {', '.join(others)}, then {_place(decision['place'])}"


def _place(place: Mapping[str, Any]) -> str:
    devices = ",".join(map(str, place["devices"]))
    return f"{place['node']} GPU {devices} ({place['gpu_milli']})" if devices else str(place["node"])
