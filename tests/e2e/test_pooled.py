"""Small models of one tenant in one process."""

import os
import signal

import numpy as np
import pytest
from e2e_platform import Note, Platform, until
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import MinMaxScaler

from moorage_sdk.client import Client

pytestmark = pytest.mark.timeout(300)


def test_pooled_models_share_a_process_and_answer_again_when_it_is_killed(
    platform: Platform, client: Client, name: str, pictures: np.ndarray, note: Note
) -> None:
    target = load_digits().target
    models = {
        f"{name}-{number}": make_pipeline(MinMaxScaler(), LogisticRegression(C=strength)).fit(pictures, target)
        for number, strength in enumerate((0.001, 0.01, 0.1))
    }
    endpoints = {}
    for called, model in models.items():
        version = client.push(model, name=called, example=pictures[:8])
        endpoints[called] = client.deploy(version, isolation="pooled")

    def answers_are_each_models_own() -> None:
        for called, model in models.items():
            got = endpoints[called].infer(pictures[:100])["predict_proba"]
            np.testing.assert_allclose(got, model.predict_proba(pictures[:100]), rtol=1e-6)

    answers_are_each_models_own()
    (host_id,) = {replica.host_id for called in models for replica in client.registry.status(called).replicas}
    killed = platform.hosts()[host_id]
    os.kill(killed, signal.SIGKILL)
    note("pool_back_s", until(lambda: platform.hosts()[host_id] != killed, 60, "another process of the pool"))
    for called in models:
        until(lambda called=called: client.registry.status(called).ready, 60, f"{called} again")  # type: ignore[misc]
    answers_are_each_models_own()
