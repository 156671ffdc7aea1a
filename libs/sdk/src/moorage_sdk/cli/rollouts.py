"""`rollout start | status | pause | resume | promote | abort | history | explain | replay | policy`."""

import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from moorage_sdk.cli.context import AsJson, ModelName, connect, say
from moorage_sdk.cli.output import print_json, print_line, print_rows
from moorage_sdk.errors import SdkError

if TYPE_CHECKING:
    from moorage_sdk.rollouts import Rollouts
    from moorage_sdk.rollouts_answers import Replayed, Rollout

app = typer.Typer(help="Replace a version step by step, judged by what it answers.", no_args_is_help=True)

RolloutId = Annotated[
    str, typer.Argument(help="Its id; the one that runs, else the last, when left out.", metavar="[ID]")
]
PolicyFile = Annotated[
    Path | None, typer.Option(help="YAML; what it leaves out is as in `moorage rollout policy`.", metavar="FILE")
]
Watch = Annotated[
    bool,
    typer.Option("--watch", "-w", help="Draw it each second until it ends: exit 0 promoted, 2 rolled back, 3 aborted."),
]
Until = Annotated[
    Literal["promoted", "done"] | None,
    typer.Option(help="Where --watch ends: once promoted, or once the guard is done too; promoted if it is not yet."),
]


def _version(to: str) -> "int | Literal['latest']":
    if to == "latest":
        return "latest"
    try:
        return int(to)
    except ValueError:
        raise SdkError(f"--to {to}: write a version's number, or latest") from None


@app.command()
def start(
    context: typer.Context,
    *,
    model: ModelName,
    to: Annotated[str, typer.Option(help="The version that is to take the traffic; a number or latest.")],
    policy: PolicyFile = None,
    watch: Watch = False,
    until: Until = None,
    as_json: AsJson = False,
) -> None:
    """Begin to replace the version that answers; without --watch it returns at once."""
    version = _version(to)
    with connect(context) as client:
        live = client.rollouts.start(model, to=version, policy=policy)
        if watch:
            say(f"rollout {live.id} of {model} to version {live.seen.candidate} has begun")
            raise typer.Exit(_watch(client.rollouts, model, live.id, until))
    if as_json:
        print_json(live.seen.model_dump(mode="json"))
    else:
        print_line(f"{model}\t{live.id}\t{live.seen.stable} -> {live.seen.candidate}")
        say(f"see: moorage rollout status {model} --watch")


@app.command()
def status(
    context: typer.Context,
    model: ModelName,
    rollout: RolloutId = "current",
    *,
    watch: Watch = False,
    until: Until = None,
    as_json: AsJson = False,
) -> None:
    """Show where a rollout is: weights, the rates of both versions, the evidence against and for, the last verdicts."""
    with connect(context) as client:
        if watch:
            raise typer.Exit(_watch(client.rollouts, model, rollout, until))
        found = client.rollouts.read(model, rollout)
        verdicts = client.rollouts.verdicts(model, found.id).verdicts
    if as_json:
        told = found.model_dump(mode="json")
        print_json({**told, "verdicts": [verdict.model_dump(mode="json") for verdict in verdicts]})
        return
    from moorage_sdk.cli.rollout_watch import shown  # noqa: PLC0415 - keeps --help quick

    sys.stdout.write(shown(found, verdicts, time.time()))


def _watch(rollouts: "Rollouts", model: str, rollout: str, until: "Literal['promoted', 'done'] | None") -> int:
    from moorage_sdk.cli.rollout_watch import watch  # noqa: PLC0415 - as above

    found = rollouts.read(model, rollout)
    ends = until or ("done" if found.state == "guarded" else "promoted")
    return watch(rollouts.looks(model, found.id), ends)


def _ordered(found: "Rollout", as_json: bool) -> None:
    from moorage_sdk.pictures.rollout_words import stand  # noqa: PLC0415 - as above

    if as_json:
        print_json(found.model_dump(mode="json"))
    else:
        print_line(stand(found))


@app.command()
def pause(context: typer.Context, model: ModelName, as_json: AsJson = False) -> None:
    """Keep the weights as they are until `resume`; a rollback still happens."""
    with connect(context) as client:
        _ordered(client.rollouts.pause(model), as_json)


@app.command()
def resume(context: typer.Context, model: ModelName, as_json: AsJson = False) -> None:
    """Go on with a rollout that was paused."""
    with connect(context) as client:
        _ordered(client.rollouts.resume(model), as_json)


@app.command()
def promote(context: typer.Context, model: ModelName, as_json: AsJson = False) -> None:
    """Give the new version the traffic now, whatever the evidence; the guard follows."""
    with connect(context) as client:
        _ordered(client.rollouts.promote(model), as_json)


@app.command()
def abort(context: typer.Context, model: ModelName, as_json: AsJson = False) -> None:
    """Give the traffic back to the old version now."""
    with connect(context) as client:
        _ordered(client.rollouts.abort(model), as_json)


@app.command()
def history(context: typer.Context, model: ModelName, as_json: AsJson = False) -> None:
    """List a model's rollouts, newest first, and how each ended."""
    from moorage_sdk.pictures.rollout_words import clock, took  # noqa: PLC0415 - as above

    with connect(context) as client:
        found = client.rollouts.history(model)
    if as_json:
        print_json([one.model_dump(mode="json") for one in found])
        return
    now = time.time()
    rows = [
        {
            "id": one.id,
            "from": one.stable,
            "to": one.candidate,
            "state": one.state,
            "weight": one.weight,
            "started": clock(one.started_at, now),
            "took": took(one, now),
            "by": one.started_by,
            "reason": one.reason,
        }
        for one in found
    ]
    print_rows(rows, ["id", "from", "to", "state", "weight", "started", "took", "by", "reason"])


@app.command()
def explain(context: typer.Context, model: ModelName, rollout: RolloutId = "current", as_json: AsJson = False) -> None:
    """Say why a rollout is where it is, with numbers; then every verdict, and whether their chain is intact."""
    from moorage_sdk.pictures.moves import counted  # noqa: PLC0415 - as above
    from moorage_sdk.pictures.rollout_words import verdict_line  # noqa: PLC0415

    with connect(context) as client:
        told = client.rollouts.explain(model, rollout)
        chain = client.rollouts.verdicts(model, rollout)
    if as_json:
        print_json({**told.model_dump(mode="json"), **chain.model_dump(mode="json")})
    else:
        now = time.time()
        print_line(told.sentence)
        for verdict in chain.verdicts:
            print_line(f"  {verdict_line(verdict, now)}")
        number = counted(len(chain.verdicts), "verdict")
        print_line(f"the chain of {number} is intact" if chain.intact else f"THE CHAIN OF {number} IS BROKEN")
    if not chain.intact:
        raise SdkError(f"a verdict of this rollout of {model} was changed, taken out or put in after it was written")


@app.command()
def replay(
    context: typer.Context,
    *,
    model: ModelName,
    rollout: RolloutId = "current",
    policy: PolicyFile = None,
    as_json: AsJson = False,
) -> None:
    """Judge a rollout again from its log, or with --policy say what that policy would have done."""
    with connect(context) as client:
        found = client.rollouts.replay(model, rollout, policy=policy)
    if as_json:
        print_json(found.model_dump(mode="json"))
    else:
        _print_replay(found, is_other=policy is not None)
    if policy is None and found.same is False:
        raise SdkError("the evidence came out otherwise than it was stored; is this the release that judged it?")


def _print_replay(found: "Replayed", *, is_other: bool) -> None:
    from moorage_sdk.pictures.rollout_words import clock, percent  # noqa: PLC0415 - as above

    stored = {one.name: one for one in found.stored.signals}
    rows = [
        {
            "signal": one.name,
            "stable": percent(one.stable_bad, one.stable_n),
            "candidate": percent(one.candidate_bad, one.candidate_n),
            "stored_log_e": stored[one.name].log_e if one.name in stored else None,
            "log_e": one.log_e,
            "acts_at": one.threshold,
        }
        for one in found.evidence.signals
    ]
    print_rows(rows, ["signal", "stable", "candidate", "stored_log_e", "log_e", "acts_at"])
    now = time.time()
    for crossing in found.failures:
        print_line(f"{clock(crossing.at, now)} {crossing.signal}: {crossing.sentence}")
    would = "this policy would not have acted" if is_other else "no signal reached its threshold"
    if not found.failures:
        print_line(would)
    if found.same is not None and not is_other:
        print_line("the evidence is the same to the bit" if found.same else "the evidence differs from what was stored")


@app.command("policy")
def print_policy() -> None:
    """Print the default policy as YAML, every number with what it means: moorage rollout policy > policy.yaml."""
    from moorage_sdk.rollouts_policy import policy_yaml  # noqa: PLC0415 - as above

    sys.stdout.write(policy_yaml())
