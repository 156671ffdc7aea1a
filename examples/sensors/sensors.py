"""2,000 sensors: offline readings to an anomaly model, one request scoring many sensors by their ids.

moorage up --state ./state           # elsewhere
python examples/sensors/sensors.py --state ./state
"""

import argparse
import json
import tempfile
import warnings
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pandas as pd
from readings import FEATURES, Plant, simulate
from sklearn.ensemble import IsolationForest

from moorage_sdk import Client

MODEL = "sensor-anomaly"
SERVICE = "sensor_health"


def publish_features(local: dict[str, str], plant: Plant, now: pd.Timestamp, directory: Path) -> str:
    """Write the offline Parquet, `feast apply`, materialize into Redis, and upload the definitions.

    Returns:
        The fingerprint of the feature service.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Feast and its libraries warn of each other
        from feature_repo import definitions, feature_store  # noqa: PLC0415 - Feast takes seconds to load

        parquet = directory / "readings.parquet"
        plant.readings.to_parquet(parquet)
        store = feature_store(directory, local["tenant"], local["features_redis"])
        store.apply(definitions(parquet))
        store.materialize(start_date=now - pd.Timedelta(days=3), end_date=now + pd.Timedelta(minutes=1))
    answer = httpx.put(
        f"{local['feature_proxy']}/v1/features/definitions",
        content=(directory / "registry.db").read_bytes(),
        headers={"authorization": f"Bearer {local['api_key']}"},
        timeout=10,
    )
    answer.raise_for_status()
    return next(str(s["fingerprint"]) for s in answer.json()["services"] if s["name"] == SERVICE)


def train(plant: Plant, now: pd.Timestamp) -> IsolationForest:
    """An isolation forest on the readings of the first day and a half, before any fault."""
    healthy = plant.readings[plant.readings["event_timestamp"] <= now - pd.Timedelta(hours=8)]
    sample = healthy.sample(20_000, random_state=7)
    return IsolationForest(n_estimators=100, contamination=0.005, random_state=7).fit(sample[list(FEATURES)])


def deploy(client: Client, model: IsolationForest, plant: Plant) -> Any:
    """Push the model with its feature service, and deploy it with sensor ids as its only input."""
    example = plant.readings[list(FEATURES)].head(8)
    version = client.push(model, name=MODEL, example=example, feature_service=SERVICE)
    features = {"entity": {"sensor_id": "sensor_id"}, "deadline_ms": 1000, "on_miss": "fail"}
    return client.deploy(version, features=features)


def score(endpoint: Any, sensors: list[int]) -> np.ndarray:
    """One request: -1 for an anomalous sensor, 1 for a healthy one. The platform fetches the readings."""
    ids = {"name": "sensor_id", "datatype": "INT64", "shape": [len(sensors)], "data": sensors}
    return np.asarray(endpoint.predict({"inputs": [ids]}))


def main(state: Path) -> dict[str, Any]:
    local = json.loads((state / "local.json").read_text())
    now = pd.Timestamp.now(tz="UTC").floor("s")
    plant = simulate(now)
    model = train(plant, now)
    with tempfile.TemporaryDirectory() as directory:
        fingerprint = publish_features(local, plant, now, Path(directory))
    with Client(local["registry"], local["router"], local["api_key"]) as client:
        endpoint = deploy(client, model, plant)
        sensors = sorted(plant.readings["sensor_id"].unique().tolist())
        verdicts = score(endpoint, sensors)
    latest = plant.readings[plant.readings["event_timestamp"] == now].set_index("sensor_id").loc[sensors]
    found = {sensor for sensor, verdict in zip(sensors, verdicts, strict=True) if verdict == -1}
    return {
        "fingerprint": fingerprint,
        "sensors": len(sensors),
        "flagged": len(found),
        "faulty": len(plant.faulty),
        "faulty_flagged": len(found & plant.faulty),
        "same_as_local": bool((verdicts == model.predict(latest[list(FEATURES)])).all()),
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--state", type=Path, required=True, help="the directory given to `moorage up --state`")
    print(json.dumps(main(parser.parse_args().state)))
