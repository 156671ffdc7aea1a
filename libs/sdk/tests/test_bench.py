"""`moorage bench`: what it counts, what it shows, and that it drives a real server within its bounds."""

import io
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console
from sdk_far_side import REQUEST_ID, FarServer, FarSide
from typer.testing import CliRunner

from moorage_sdk.bench.connection import version_of
from moorage_sdk.bench.report import Report, bar, draw, milliseconds
from moorage_sdk.bench.statistics import Observed, histogram, percentile, summarize
from moorage_sdk.cli.app import app
from moorage_sdk.cli.bench import parse_connections
from moorage_sdk.errors import SdkError


def observed(latencies_s: list[float], seconds: float = 1.0) -> Observed:
    found = Observed(connections=4, seconds=seconds)
    found.latencies_s.extend(latencies_s)
    return found


def test_percentiles_are_by_nearest_rank_and_none_where_too_few_answers_carry_them() -> None:
    values = [float(at) for at in range(1, 1001)]
    assert [percentile(values, share) for share in (0.5, 0.9, 0.99, 0.999)] == [500.0, 900.0, 990.0, 999.0]
    assert percentile(values[:999], 0.999) is None
    assert percentile(values[:100], 0.99) == 99.0
    assert percentile([], 0.5) is None


def test_a_step_is_rates_and_milliseconds_of_what_was_answered() -> None:
    found = observed([0.001] * 90 + [0.010] * 10, seconds=2.0)
    found.versions.update({"1": 90, "2": 10})
    found.errors.update({"429 over_quota": 5, "503 no_replica": 2, "connection": 1})
    step = summarize(found)
    assert (step.answered, step.per_second, step.p50_ms, step.p90_ms, step.p99_ms) == (100, 50.0, 1.0, 1.0, 10.0)
    assert (step.p999_ms, step.max_ms, step.mean_ms) == (None, 10.0, pytest.approx(1.9))
    assert (step.over_quota, step.failed) == (5, 3)
    assert summarize(Observed(1)).per_second == 0.0


@given(st.lists(st.floats(min_value=1e-3, max_value=1e6), min_size=1, max_size=200))
def test_every_answer_is_in_one_bar_and_bars_are_few(values: list[float]) -> None:
    bars = histogram(sorted(values))
    assert sum(found.count for found in bars) == len(values)
    assert bars[-1].upto_ms >= max(values)
    assert bars[0].count > 0
    assert len(bars) <= 32
    assert [found.upto_ms for found in bars] == sorted(found.upto_ms for found in bars)


def test_bars_are_in_proportion_and_a_single_answer_is_seen() -> None:
    assert bar(100, 100, 10) == "█" * 10
    assert bar(50, 100, 10) == "█" * 5
    assert bar(1, 100_000, 10) == "▏"
    assert bar(0, 100, 10) == ""
    assert [milliseconds(value) for value in (0.1234, 12.34, 123.4, None)] == ["0.12", "12.3", "123", "-"]


def test_the_version_is_read_from_the_request_id() -> None:
    assert version_of(REQUEST_ID) == "3"
    assert version_of("") == "unknown"


def test_connections_are_numbers_within_reason() -> None:
    assert parse_connections("1, 8,32") == [1, 8, 32]
    for wrong in ("", "0", "1;8", "2000", "-1", "9999999999"):
        with pytest.raises(SdkError, match="1,8,32"):
            parse_connections(wrong)


def test_what_is_drawn_names_rates_tail_versions_and_refusals() -> None:
    found = observed([0.002] * 999 + [0.2])
    found.versions.update({"1": 900, "2": 100})
    found.errors.update({"429 over_quota": 1234})
    report = Report("churn", None, "http://router", "zeros, x float64[1, 3], binary", 120, [summarize(found)])
    console = Console(file=io.StringIO(), width=110, highlight=False, markup=False)
    draw(console, report)
    assert isinstance(console.file, io.StringIO)
    shown = console.file.getvalue()
    assert "churn at http://router: zeros, x float64[1, 3], binary, 120 bytes" in shown
    for words in ("1,000", "p99.9 ms", "answered by version 1 90.0%, version 2 10.0%", "1,234 x 429 over_quota", "█"):
        assert words in shown
    assert max(map(len, shown.splitlines())) <= 110


@pytest.fixture
def command(far: FarSide, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> CliRunner:
    monkeypatch.setenv("MOORAGE_PROFILE_FILE", str(tmp_path / "profiles.yaml"))
    monkeypatch.setenv("MOORAGE_ROUTER", far.url)
    monkeypatch.setenv("MOORAGE_API_KEY", "key")
    monkeypatch.delenv("MOORAGE_REGISTRY", raising=False)
    return CliRunner()


def test_a_bench_is_a_table_for_programs_and_json_where_asked(command: CliRunner, far: FarSide, tmp_path: Path) -> None:
    out = tmp_path / "bench.json"
    arguments = ["bench", "double", "--connections", "1,4", "--requests", "40", "--seconds", "20"]
    shown = command.invoke(app, [*arguments, "--out", str(out)], catch_exceptions=False)
    header, *rows = shown.stdout.splitlines()
    assert header.split("\t")[:3] == ["connections", "per_second", "p50_ms"]
    assert [row.split("\t")[0] for row in rows] == ["1", "4"]
    written = json.loads(out.read_text())
    assert written["loop"] == "closed"
    assert [(step["connections"], step["answered"], step["versions"]) for step in written["steps"]] == [
        (1, 40, {"3": 40}),
        (4, 40, {"3": 40}),
    ]
    assert len(far.infers()) == 81
    assert len({seen.client for seen in far.infers()}) == 6
    printed = command.invoke(app, [*arguments, "--json-output", "--json"], catch_exceptions=False)
    document = json.loads(printed.stdout)
    assert document["request"] == "zeros, x float32[1, 2], JSON"
    assert json.loads(far.seen[-1].body)["inputs"][0]["data"] == [0.0, 0.0]


def test_a_step_ends_in_its_time_and_counts_apart_what_the_quota_refused(command: CliRunner, far: FarSide) -> None:
    far.quota = 21
    arguments = ["bench", "double", "--connections", "2", "--seconds", "1", "--json-output"]
    shown = command.invoke(app, arguments, catch_exceptions=False)
    (step,) = json.loads(shown.stdout)["steps"]
    assert (step["answered"], list(step["errors"])) == (20, ["429 over_quota"])
    assert 1 <= step["errors"]["429 over_quota"] <= 4
    assert step["seconds"] < 5
    assert "the rate is the quota's, not the model's" in shown.stderr


def test_data_that_the_model_refuses_is_said_before_any_load(command: CliRunner, far: FarSide) -> None:
    failed = command.invoke(app, ["bench", "double", "--data", '{"x": [["a", "b"]]}'])
    assert "x takes FP32" in str(failed.exception)
    assert len(far.infers()) == 1


def test_a_model_that_takes_no_zeros_asks_for_data(command: CliRunner, far: FarSide) -> None:
    far.takes_zeros = False
    failed = command.invoke(app, ["bench", "double"])
    assert str(failed.exception) == "double does not take zeros: no zeros; give rows that it takes: --data"
    assert len(far.infers()) == 1


def test_tls_is_spoken_and_the_certificate_looked_at(tmp_path: Path) -> None:
    certificate, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    made = subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "1",
         "-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1", "-keyout", str(key),
         "-out", str(certificate)],
        capture_output=True, timeout=30, check=False,
    )  # fmt: skip
    assert made.returncode == 0, made.stderr
    side = FarSide()
    with FarServer(side, certificate, key):
        command = [sys.executable, "-c", "from moorage_sdk.cli import main; main()", "bench", "double", "--connections",
                   "2", "--requests", "10", "--json-output"]  # fmt: skip
        settings = {"MOORAGE_ROUTER": side.url, "MOORAGE_API_KEY": "key", "MOORAGE_PROFILE_FILE": str(tmp_path / "p")}
        for trusted, status in (({"SSL_CERT_FILE": str(certificate)}, 0), ({}, 1)):
            done = subprocess.run(
                command, env={**os.environ, **settings, **trusted}, capture_output=True, text=True, timeout=60,
                check=False,
            )  # fmt: skip
            assert done.returncode == status, done.stderr
        assert "certificate" in done.stderr.lower()
    assert len(side.infers()) == 11
