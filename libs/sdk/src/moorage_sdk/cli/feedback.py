"""`feedback`: labels for what was answered, and what they say."""

import csv
import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from moorage_sdk.cli.context import AsJson, ModelName, connect
from moorage_sdk.cli.output import print_json, print_line, print_rows
from moorage_sdk.errors import SdkError

if TYPE_CHECKING:
    from moorage_sdk.answers import FeedbackStatus
    from moorage_sdk.feedback import FeedbackTaken

_COLUMNS = ("version", "labels", "accuracy", "wrong", "mean_loss", "pairs")
_YES, _NO = frozenset({"true", "1", "yes"}), frozenset({"false", "0", "no"})
_SHOWN = 20


def feedback(
    context: typer.Context,
    *,
    model: ModelName,
    file: Annotated[
        str,
        typer.Argument(
            help="Labels: .csv with the columns id and label, correct or loss; .jsonl or .json; - for JSON on stdin.",
            metavar="[FILE]",
        ),
    ] = "",
    request_id: Annotated[str, typer.Option("--id", help="One answer, by its Moorage-Request-Id.")] = "",
    label: Annotated[str | None, typer.Option(help="What would have been right.")] = None,
    correct: Annotated[bool | None, typer.Option("--correct/--wrong", help="Whether the answer was right.")] = None,
    loss: Annotated[float | None, typer.Option(help="How far off the answer was.")] = None,
    as_json: AsJson = False,
) -> None:
    """Send labels for a model's answers; without any, show what those that came say of its versions."""
    if file and request_id:
        raise SdkError("give a file of labels or --id, not both")
    with connect(context) as client:
        if file or request_id:
            labels = read_labels(file) if file else request_id
            taken = client.feedback(model, labels, label=label, correct=correct, loss=loss)
            _print_taken(taken, as_json=as_json)
        elif (label, correct, loss) != (None, None, None):
            raise SdkError("say which answer this is about: --id <Moorage-Request-Id>")
        else:
            _print_status(client.registry.feedback(model), as_json=as_json)


def read_labels(file: str) -> list[dict[str, Any]]:
    """Labels of a file, `-` for JSON on stdin.

    Raises:
        SdkError: it cannot be read, or is of another form.
    """
    try:
        text = typer.get_text_stream("stdin").read() if file == "-" else Path(file).read_text(encoding="utf-8-sig")
        if file.endswith(".csv"):
            return [_of_csv(row) for row in csv.DictReader(text.splitlines())]
        found = _of_json(text)
    except (OSError, UnicodeDecodeError, csv.Error, ValueError) as error:
        raise SdkError(f"{file} cannot be read: {error}") from None
    if not all(isinstance(one, dict) for one in found):
        raise SdkError(f'{file}: each label is {{"id": <Moorage-Request-Id>, "label": <the truth>}}')
    return found


def _of_json(text: str) -> list[Any]:
    """A list, `{"feedback": [...]}`, one label, or a label a line. Raises ValueError."""
    try:
        found = json.loads(text)
    except ValueError:
        return [json.loads(line) for line in text.splitlines() if line.strip()]
    if isinstance(found, dict):
        found = found.get("feedback", [found])
    return found if isinstance(found, list) else [found]


def _of_csv(row: dict[str, str]) -> dict[str, Any]:
    """A line of a table: what is empty is not there. Raises ValueError."""
    found: dict[str, Any] = {name: row[name] for name in ("id", "label") if row.get(name)}
    if said := row.get("correct"):
        if said.lower() not in _YES | _NO:
            message = f"correct is true or false, not {said!r}"
            raise ValueError(message)
        found["correct"] = said.lower() in _YES
    if said := row.get("loss"):
        found["loss"] = float(said)
    return found


def _print_taken(taken: "FeedbackTaken", *, as_json: bool) -> None:
    """Raises SdkError where some were refused: a script must see it."""
    if as_json:
        print_json(taken.model_dump())
    else:
        print_line(f"{taken.accepted} accepted, {len(taken.refused)} refused")
        for one in taken.refused[:_SHOWN]:
            print_line(f"  number {one.index}, {one.id}: {one.error} ({one.code})")
    if taken.refused:
        raise SdkError(f"{len(taken.refused)} labels were refused; those accepted are kept")


def _print_status(status: "FeedbackStatus", *, as_json: bool) -> None:
    if as_json:
        print_json(status.model_dump(mode="json"))
        return
    if status.policy is None:
        print_line("feedback: not declared, so answers are not kept; labels need `correct` or `loss` of your own")
    kept = f"{status.outputs:,} answers kept, {status.settled:,} labels settled"
    print_line(f"{kept}, {status.waiting:,} wait for their answer, {status.lost:,} have lost it")
    if status.delay_s is not None:
        print_line(
            f"labels come {status.delay_s.p50:,.0f} s after the request, nine in ten within {status.delay_s.p90:,.0f} s"
        )
    if status.versions:
        print_rows([version.model_dump() for version in status.versions], _COLUMNS)
