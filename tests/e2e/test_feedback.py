"""Labels over the whole platform: each meets the answer of the version that gave it, once."""

import httpx
import numpy as np
import pytest
from e2e_platform import Platform, until
from sklearn.datasets import load_digits
from sklearn.pipeline import Pipeline

from moorage_sdk.client import Client
from moorage_sdk.errors import MoorageApiError
from moorage_sdk.manifest import parse_manifests

ANSWERS = 120
WRONG = 12


@pytest.mark.timeout(300)
def test_labels_sent_at_once_or_later_and_twice_tell_each_versions_accuracy(
    platform: Platform, client: Client, name: str, classifier: Pipeline, pictures: np.ndarray
) -> None:
    client.push(classifier, name=name, example=pictures[:8])
    (manifest,) = parse_manifests(f"model: {name}\nversion: 1\nfeedback: {{output: predict}}\n")
    client.apply(manifest)
    client.wait_until_ready(name, 1)
    truth = load_digits().target
    given, ids = [], []
    for row in range(ANSWERS):
        answer = client.infer(name, pictures[row : row + 1], outputs=["predict_proba"])
        given.append(int(answer["predict_proba"].argmax()))
        ids.append(answer.request_id)
        if row < 40:  # before the registry has heard of the answer
            client.feedback(name, answer, label=given[-1] if row >= WRONG else 10)
    expected = WRONG + sum(given[row] != truth[row] for row in range(40, ANSWERS))
    labels = [{"id": ids[row], "label": int(truth[row])} for row in range(40, ANSWERS)]
    forged = {"id": ids[0][:-1] + ("0" if ids[0][-1] != "0" else "1"), "label": 1}
    for _ in range(2):
        taken = client.feedback(name, [*labels, forged])
        assert (taken.accepted, [one.index for one in taken.refused]) == (ANSWERS - 40, [ANSWERS - 40])
    with pytest.raises(MoorageApiError, match="no label was taken"):
        client.feedback(name, forged["id"], label=1)

    until(lambda: client.registry.feedback(name).settled == ANSWERS, 60, "the labels")
    status = client.registry.feedback(name)
    assert (status.outputs, status.labels, status.waiting, status.lost) == (ANSWERS, ANSWERS, 0, 0)
    (version,) = status.versions
    assert (version.version, version.labels, version.wrong) == (1, ANSWERS, expected)
    assert status.delay_s is not None
    assert 0 <= status.delay_s.p50 <= status.delay_s.p90 < 300
    other = httpx.post(
        f"{platform.info['router']}/v2/models/{name}/feedback", json={"id": ids[0], "label": 1}, timeout=10
    )
    assert other.status_code == 401
