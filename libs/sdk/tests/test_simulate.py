import json
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from moorage_sdk.cli.app import app
from moorage_sdk.errors import SdkError


def test_simulate_prints_a_line_a_policy_and_writes_what_it_names(tmp_path: Path) -> None:
    command = [
        "simulate",
        "--gpus",
        "8xT4",
        "--gpus",
        "8",
        "--policy",
        "firstfit",
        "--policy",
        "fgd",
        "--arrivals",
        "50",
    ]
    shown = CliRunner().invoke(app, [*command, "--no-plots", "--json", "--out", str(tmp_path)])
    assert shown.exit_code == 0, shown.output
    assert [row["policy"] for row in json.loads(shown.stdout)] == ["firstfit", "fgd"]
    assert {path.name for path in tmp_path.iterdir()} == {"summary.json", "firstfit.csv", "fgd.csv"}
    assert str(tmp_path / "fgd.csv") in shown.stderr


def test_simulate_names_every_column_of_a_trace_in_its_help() -> None:
    from moorage_scheduler.simulate import trace

    shown = " ".join(CliRunner().invoke(app, ["simulate", "--help"]).stdout.split())
    assert [column for column in (*trace.NEEDED, *trace.WHERE_WANTED) if column not in shown] == []


def test_what_simulate_cannot_use_is_one_error_that_says_why(tmp_path: Path) -> None:
    failed = CliRunner().invoke(app, ["simulate", "--gpus", "T4x8", "--no-plots", "--out", str(tmp_path)])
    assert isinstance(failed.exception, SdkError)
    assert "64xT4" in str(failed.exception)


def test_simulate_without_the_scheduler_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] == "moorage_scheduler"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "moorage_scheduler", None)  # type: ignore[arg-type]
    failed = CliRunner().invoke(app, ["simulate"])
    assert isinstance(failed.exception, SdkError)
    assert "pip install" in str(failed.exception)
