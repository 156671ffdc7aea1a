"""Push the application in `pipeline.py` in two versions, split its traffic between them, and ask.

Needs a running platform (`moorage up`, `moorage login --local .moorage`) whose operator lets the tenant run code:

    curl -X PUT $MOORAGE_REGISTRY/v1/tenants/demo/limits -H "authorization: Bearer $ADMIN_KEY" -d '{"allow_code": true}'

Run: python examples/pipeline/push.py
"""

from pathlib import Path

import numpy as np
from sklearn.datasets import load_digits
from train import train

from moorage_sdk import Client

HERE = Path(__file__).parent
NAME = "digits-pipeline"
X, _y = load_digits(return_X_y=True)

with Client(progress=print) as client:
    for strength in (0.01, 1.0):
        expected = train(strength)
        version = client.push(
            f"{HERE / 'pipeline.py'}:app",
            name=NAME,
            format="ray-serve",
            include=["weights.npz"],
            example={"pixels": X[:8]},
        )
        client.deploy(version, cpu="400m")
        answers = client.infer(NAME, {"pixels": X[:200]}, version=version.version)
        np.testing.assert_array_equal(answers["digit"], expected[:200])
        print(f"version {version.version} answers as what was trained here; oddest row: {answers['novelty'].argmax()}")
    client.set_traffic(NAME, {1: 50, 2: 50})
    print(f"ask it at {client.endpoint(NAME).url}")
