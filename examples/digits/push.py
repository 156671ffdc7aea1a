"""Train two classifiers of handwritten digits, push them, deploy them by the manifest beside this file, and ask.

Needs a running platform: `moorage up`, then `moorage login --local .moorage` (or the variables MOORAGE_REGISTRY,
MOORAGE_ROUTER and MOORAGE_API_KEY). Run: python examples/digits/push.py
"""

from pathlib import Path

import numpy as np
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import MinMaxScaler

from moorage_sdk import Client
from moorage_sdk.manifest import read_manifests

X, y = load_digits(return_X_y=True)
(manifest,) = read_manifests(Path(__file__).with_name("deploy.yaml"))

with Client(progress=print) as client:
    models = [make_pipeline(MinMaxScaler(), LogisticRegression(C=c, max_iter=300)).fit(X, y) for c in (0.05, 1.0)]
    versions = [client.push(model, name=manifest.model, example=X[:8]) for model in models]
    for change in client.apply(manifest):
        print(f"{change.path}: {change.before} -> {change.after}")
    for version, model in zip(versions, models, strict=True):
        client.wait_until_ready(manifest.model, version.version)
        answers = client.infer(manifest.model, X[:100], version=version.version)
        np.testing.assert_array_equal(answers["predict"], model.predict(X[:100]))
        print(f"version {version.version} answers as the model that was trained here does")
    print(f"ask it at {client.endpoint(manifest.model).url}")
