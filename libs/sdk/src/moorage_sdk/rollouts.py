"""Rollouts: a version takes another's place step by step, and is taken back when the evidence speaks against it.

>>> rollout = client.rollouts.start("fraud", to=3)
>>> rollout.wait()
"""

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal
from urllib.parse import quote

from moorage_common.contracts.rollouts import RolloutPolicy
from moorage_sdk.errors import MoorageApiError, RolledBack, WaitTimedOut
from moorage_sdk.rollouts_answers import Explained, Replayed, Rollout, Verdict, Verdicts
from moorage_sdk.rollouts_policy import policy_of
from moorage_sdk.transport import Transport

CURRENT = "current"
"""In place of an id: the rollout that runs, else the last one."""

POLL_S = 1.0

Until = Literal["promoted", "done"]
Policy = RolloutPolicy | Mapping[str, Any] | str | Path
"""As a value, as nested mappings, or the path of a YAML file."""

_PASSING = ("unreachable", "timed_out")


@dataclass(frozen=True, slots=True)
class Look:
    """A rollout as it was at `at` (seconds since 1970); `problem` says why the registry did not answer since."""

    rollout: Rollout
    verdicts: tuple[Verdict, ...]
    at: float
    problem: str = ""


class Rollouts:
    """One tenant's rollouts. Every method may raise `MoorageApiError`."""

    def __init__(self, transport: Transport, progress: Callable[[str], None]) -> None:
        self._http = transport
        self._progress = progress

    def start(
        self, model: str, *, to: int | Literal["latest"] = "latest", policy: Policy | None = None
    ) -> "LiveRollout":
        """Begin to replace the version that answers by version `to`; returns at once.

        A version that the deployment does not hold yet is added with the settings of the one that it replaces.

        Args:
            model: the model's name; it is deployed already.
            to: the version's number, or "latest".
            policy: what differs from the deployment's policy, or else from the default.

        Raises:
            InvalidManifest: a policy with an unknown field or a value of the wrong form.
            MoorageApiError: also when one runs already (`rollout_running`).
        """
        body: dict[str, Any] = {"to": to}
        if policy is not None:
            body["policy"] = policy_of(policy).model_dump(mode="json")
        return self._live(self._http.json("POST", _path(model), json=body))

    def get(self, model: str, rollout: str = CURRENT) -> "LiveRollout":
        """The rollout that runs, else the last one; or one by its id."""
        return self._live(self._http.json("GET", _path(model, rollout)))

    def last(self, model: str) -> Rollout | None:
        """The newest rollout, or None where there was none yet."""
        return next(iter(self.history(model)), None)

    def history(self, model: str) -> list[Rollout]:
        """The model's rollouts, newest first, a hundred at most."""
        answer = self._http.json("GET", _path(model), params={"limit": "100"})
        return [Rollout.model_validate(row) for row in answer["rollouts"]]

    def read(self, model: str, rollout: str = CURRENT) -> Rollout:
        return Rollout.model_validate(self._http.json("GET", _path(model, rollout)))

    def pause(self, model: str, rollout: str = CURRENT) -> Rollout:
        """Leave the weights as they are until `resume`; a rollback still happens."""
        return self._order(model, rollout, "pause")

    def resume(self, model: str, rollout: str = CURRENT) -> Rollout:
        return self._order(model, rollout, "resume")

    def promote(self, model: str, rollout: str = CURRENT) -> Rollout:
        """Give the candidate the traffic now, whatever the evidence; the guard follows."""
        return self._order(model, rollout, "promote")

    def abort(self, model: str, rollout: str = CURRENT) -> Rollout:
        """Give the traffic back to the stable version now."""
        return self._order(model, rollout, "abort")

    def verdicts(self, model: str, rollout: str = CURRENT) -> Verdicts:
        """Every decision, oldest first, and whether the chain of their hashes holds."""
        return Verdicts.model_validate(self._http.json("GET", _path(model, rollout, "verdicts")))

    def explain(self, model: str, rollout: str = CURRENT) -> Explained:
        """Why the rollout is where it is, in a sentence with numbers."""
        return Explained.model_validate(self._http.json("GET", _path(model, rollout, "explain")))

    def replay(self, model: str, rollout: str = CURRENT, *, policy: Policy | None = None) -> Replayed:
        """Judge the rollout again from its log: by its own policy, or by what another one would have done."""
        body = {} if policy is None else {"policy": policy_of(policy).model_dump(mode="json")}
        return Replayed.model_validate(self._http.json("POST", _path(model, rollout, "replay"), json=body))

    def log(self, model: str, rollout: str = CURRENT, *, page: int = 500) -> Iterator[dict[str, Any]]:
        """What the rollout saw, in the order it was judged: `{seq, at, kind, entry}`."""
        after = 0
        while True:
            params = {"after": str(after), "limit": str(page)}
            found = self._http.json("GET", _path(model, rollout, "log"), params=params)
            yield from found["entries"]
            if found["next_after"] is None:
                return
            after = int(found["next_after"])

    def looks(self, model: str, rollout: str, *, every_s: float = POLL_S) -> Iterator[Look]:
        """The rollout every `every_s`, until it is final. A registry that is away for a while does not end it."""
        last: Look | None = None
        while True:
            began = time.monotonic()
            try:
                found = self.read(model, rollout)
                last = Look(found, tuple(self.verdicts(model, found.id).verdicts), time.time())
            except MoorageApiError as error:
                if last is None or not (error.code in _PASSING or error.status >= 500):
                    raise
                last = Look(last.rollout, last.verdicts, last.at, error.message)
            yield last
            if last.rollout.is_final:
                return
            time.sleep(max(0.0, every_s - (time.monotonic() - began)))

    def _order(self, model: str, rollout: str, order: str) -> Rollout:
        return Rollout.model_validate(self._http.json("POST", _path(model, rollout, order)))

    def _live(self, answer: Any) -> "LiveRollout":
        return LiveRollout(Rollout.model_validate(answer), self, self._progress)


@dataclass(slots=True)
class LiveRollout:
    """A rollout to wait for and to steer; a notebook shows it as a picture. `seen` is as it was last looked at."""

    seen: Rollout
    _rollouts: Rollouts = field(repr=False)
    _progress: Callable[[str], None] = field(repr=False)

    @property
    def id(self) -> str:
        return self.seen.id

    @property
    def state(self) -> str:
        """As it is now."""
        return self.refresh().state

    def refresh(self) -> Rollout:
        self.seen = self._rollouts.read(self.seen.model, self.seen.id)
        return self.seen

    def wait(self, *, until: Until = "promoted", timeout_s: float | None = None) -> Rollout:
        """Wait until the candidate has the traffic, or with "done" until the guard has ended too.

        Raises:
            RolledBack: it was rolled back or aborted; the text says why.
            WaitTimedOut: after `timeout_s`; the rollout goes on.
        """
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        told = 0
        for look in self._rollouts.looks(self.seen.model, self.seen.id):
            self.seen = look.rollout
            for verdict in look.verdicts[told:]:
                self._progress(f"{self.seen.model}: {verdict.sentence or verdict.kind}")
            told = len(look.verdicts)
            if look.rollout.state == "done" or (until == "promoted" and look.rollout.is_promoted):
                break
            if deadline is not None and time.monotonic() > deadline and not look.rollout.is_final:
                raise WaitTimedOut(
                    f"the rollout of {self.seen.model} to version {self.seen.candidate} is {self.seen.state} after "
                    f"{timeout_s:g} s: {self.seen.reason or 'no reason given'}. It goes on; "
                    f"see: moorage rollout status {self.seen.model}"
                )
        if not self.seen.is_promoted:
            raise RolledBack(_ended(self.seen), self.seen)
        return self.seen

    def pause(self) -> Rollout:
        """As `Rollouts.pause`."""
        return self._noted(self._rollouts.pause(self.seen.model, self.seen.id))

    def resume(self) -> Rollout:
        """As `Rollouts.resume`."""
        return self._noted(self._rollouts.resume(self.seen.model, self.seen.id))

    def promote(self) -> Rollout:
        """As `Rollouts.promote`."""
        return self._noted(self._rollouts.promote(self.seen.model, self.seen.id))

    def abort(self) -> Rollout:
        """As `Rollouts.abort`."""
        return self._noted(self._rollouts.abort(self.seen.model, self.seen.id))

    def explain(self) -> Explained:
        """As `Rollouts.explain`."""
        return self._rollouts.explain(self.seen.model, self.seen.id)

    def replay(self, *, policy: Policy | None = None) -> Replayed:
        """As `Rollouts.replay`."""
        return self._rollouts.replay(self.seen.model, self.seen.id, policy=policy)

    def _noted(self, found: Rollout) -> Rollout:
        self.seen = found
        return found

    def _repr_html_(self) -> str:
        from moorage_sdk.pictures.rollout_html import html  # noqa: PLC0415 - a notebook alone needs it

        verdicts = self._rollouts.verdicts(self.seen.model, self.seen.id).verdicts
        return html(self.refresh(), verdicts)


def _ended(found: Rollout) -> str:
    how = "was rolled back" if found.state == "rolled_back" else "was aborted"
    why = f": {found.reason}" if found.reason else ""
    return f"the rollout of {found.model} to version {found.candidate} {how}{why}"


def _path(model: str, *parts: str) -> str:
    return "/".join([f"/v1/deployments/{quote(model, safe='')}/rollouts", *(quote(part, safe="") for part in parts)])
