"""The command: quick to start, plain to read by programs, one line for a failure."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from moorage_sdk.cli.app import app
from moorage_sdk.cli.context import parse_pairs, parse_profiles, parse_weights
from moorage_sdk.cli.output import print_line, print_rows
from moorage_sdk.errors import SdkError

COMMANDS = ("login", "logout", "members",
             "push", "deploy", "apply", "models", "versions", "traffic", "infer", "bench", "status", "usage",
            "events", "logs", "whoami", "up", "keys", "tenants", "explain", "gpus",
            "defragment", "nodes", "quota", "scheduler", "rollout", "feedback")  # fmt: skip
CLEAN = {key: value for key, value in os.environ.items() if not key.startswith("MOORAGE_")}


def moorage(*arguments: str, home: Path, stdin: str = "") -> subprocess.CompletedProcess[str]:
    environment = {**CLEAN, "MOORAGE_PROFILE_FILE": str(home / "profiles.yaml")}
    command = [sys.executable, "-c", "from moorage_sdk.cli import main; main()", *arguments]
    return subprocess.run(
        command, env=environment, capture_output=True, text=True, timeout=120, input=stdin, check=False
    )


def test_help_names_every_command_and_loads_no_heavy_library() -> None:
    code = (
        "import sys, moorage_sdk.cli.app\n"
        "heavy = {'numpy', 'pydantic', 'httpx', 'yaml', 'moorage_runtime', 'moorage_local'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
    shown = CliRunner().invoke(app, ["--help"]).stdout
    for command in COMMANDS:
        assert f"  {command} " in shown


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help(command: str) -> None:
    shown = CliRunner().invoke(app, [command, "--help"])
    assert shown.exit_code == 0
    assert "Usage:" in shown.stdout


def test_a_failure_is_one_line_that_says_what_to_do(tmp_path: Path) -> None:
    failed = moorage("models", home=tmp_path)
    assert failed.returncode == 1
    assert failed.stdout == ""
    assert failed.stderr == "moorage: MOORAGE_REGISTRY is not set; set it, or run: moorage login\n"


def test_a_manifest_is_checked_before_the_platform_is_asked(tmp_path: Path) -> None:
    failed = moorage("apply", "-f", "-", home=tmp_path, stdin="model: digits\nresorces: {gpu: 1}\n")
    assert failed.returncode == 1
    assert "stdin: resorces: unknown field; did you mean resources?" in failed.stderr


def test_weights_are_percent_by_version() -> None:
    assert parse_weights(["1=90", "2=10"]) == {1: 90.0, 2: 10.0}
    with pytest.raises(SdkError, match="'1:90' is not VERSION=PERCENT"):
        parse_weights(["1:90"])


def test_gpu_profiles_and_labels_are_pairs() -> None:
    assert parse_profiles(["H100=0.2,4Gi", "T4=0.5"]) == {
        "H100": {"gpu": "0.2", "gpu_memory": "4Gi"},
        "T4": {"gpu": "0.5"},
    }
    for wrong in (["zone"], ["=a"], ["zone=a", "zone=b"]):
        with pytest.raises(SdkError, match="is not NAME=VALUE"):
            parse_pairs(wrong, "NAME=VALUE")


def test_a_local_platform_that_does_not_run_says_how_to_start_it(tmp_path: Path) -> None:
    failed = CliRunner().invoke(app, ["login", "--local", str(tmp_path)])
    assert "moorage up --state" in str(failed.exception)


def test_data_that_is_not_json_says_what_to_give() -> None:
    failed = CliRunner().invoke(app, ["infer", "digits", "--data", "[1,"])
    assert "the data is not JSON" in str(failed.exception)


def test_nothing_that_a_model_said_reaches_a_terminal_as_an_order(capsys: pytest.CaptureFixture[str]) -> None:
    said = "failed: \x1b]0;owned\x07 \x9b2J"
    print_line(f"{said}\tgrüße")
    print_rows([{"reason": said, "ways": [said]}], ["reason", "ways"])
    shown = capsys.readouterr().out
    assert not set(shown) & {"\x1b", "\x07", "\x9b"}
    assert "failed: ?]0;owned? ?2J\tgrüße\n" in shown
