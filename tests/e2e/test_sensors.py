"""The sensors example on a running platform: features materialized by Feast, joined by ids, scored in one request."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from e2e_platform import Platform

EXAMPLE = Path(__file__).parents[2] / "examples" / "sensors" / "sensors.py"

pytestmark = pytest.mark.timeout(400)


def test_one_request_scores_2000_sensors_as_the_model_itself_would_and_finds_the_faulty_ones(
    platform: Platform,
) -> None:
    done = subprocess.run(
        [sys.executable, str(EXAMPLE), "--state", str(platform.state)],
        capture_output=True,
        text=True,
        timeout=240,
        env={name: value for name, value in os.environ.items() if not name.startswith("MOORAGE_")},
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["same_as_local"]
    assert (found["sensors"], found["faulty"]) == (2000, 40)
    assert found["faulty_flagged"] >= 36
    assert found["flagged"] <= 100
