"""Readings of 2,000 sensors, as a plant would give them: a small physical process with known faults planted in it.

Each sensor sits on a machine with a load that follows the working day. Load heats the machine (first-order lag),
vibration grows with load and wear, pressure follows temperature (ideal gas at constant volume), and humidity falls as
the air warms. A faulty sensor shows, in its last hours, a seized bearing, a leak or a wet enclosure.
"""

from dataclasses import dataclass

import numpy as np
import pandas as pd

SENSORS = 2_000
HOURS = 48
FAULTY_SHARE = 0.02
FAULT_HOURS = 6
FEATURES = ("temperature_c", "vibration_mm_s", "pressure_kpa", "humidity_pct")


@dataclass(frozen=True)
class Plant:
    """`readings`: one row a sensor and hour (sensor_id, event_timestamp, FEATURES). `faulty`: sensors with a fault."""

    readings: pd.DataFrame
    faulty: frozenset[int]


def simulate(end: pd.Timestamp, *, seed: int = 7) -> Plant:
    """The last 48 hours before `end`. The same seed gives the same values."""
    rng = np.random.default_rng(seed)
    ambient = rng.normal(21.0, 1.5, SENSORS)
    wear = rng.gamma(2.0, 0.15, SENSORS)
    sealed_kpa = rng.normal(101.3, 0.6, SENSORS)
    faulty = rng.choice(SENSORS, int(SENSORS * FAULTY_SHARE), replace=False)
    fault = dict(zip(faulty.tolist(), rng.integers(0, 3, len(faulty)).tolist(), strict=True))

    heat = np.zeros(SENSORS)
    hours = []
    for hour in range(HOURS):
        working = 0.5 + 0.4 * np.sin(2 * np.pi * (hour % 24 - 6) / 24)
        load = np.clip(working + rng.normal(0, 0.08, SENSORS), 0, 1)
        heat += 0.35 * (32.0 * load - heat)
        temperature = ambient + heat + rng.normal(0, 0.4, SENSORS)
        vibration = 0.8 + 2.2 * load + 1.5 * wear * load + np.abs(rng.normal(0, 0.15, SENSORS))
        pressure = sealed_kpa * (273.15 + temperature) / (273.15 + ambient) + rng.normal(0, 0.2, SENSORS)
        humidity = np.clip(62.0 - 0.9 * heat + rng.normal(0, 2.0, SENSORS), 5, 100)
        values = np.stack([temperature, vibration, pressure, humidity], axis=1)
        if hour >= HOURS - FAULT_HOURS:
            _break(values, fault, (hour - (HOURS - FAULT_HOURS) + 1) / FAULT_HOURS)
        frame = pd.DataFrame(values, columns=list(FEATURES))
        frame.insert(0, "sensor_id", np.arange(SENSORS, dtype=np.int64))
        frame["event_timestamp"] = end - pd.Timedelta(hours=HOURS - 1 - hour)
        hours.append(frame)
    return Plant(pd.concat(hours, ignore_index=True), frozenset(fault))


def _break(values: np.ndarray, fault: dict[int, int], severity: float) -> None:
    """Plant the faults; `severity` grows from 0 to 1."""
    for sensor, kind in fault.items():
        if kind == 0:  # a bearing seizes: hot and shaking
            values[sensor, 0] += 45 * severity
            values[sensor, 1] += 12 * severity
        elif kind == 1:  # a leak: pressure falls, moist air comes in
            values[sensor, 2] -= 35 * severity
            values[sensor, 3] = min(100.0, values[sensor, 3] + 30 * severity)
        else:  # a wet enclosure: cold, soaked and rattling
            values[sensor, 0] -= 18 * severity
            values[sensor, 1] += 6 * severity
            values[sensor, 3] = min(100.0, values[sensor, 3] + 45 * severity)
