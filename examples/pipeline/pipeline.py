"""Two models of handwritten digits behind one name, asked at the same time: which digit it is, and how odd it looks.

`app` is an ordinary Ray Serve application. Its ingress takes a dict of arrays by input name and answers one by output
name; the rest is Serve's own: deployments call each other by handles, and an answer that is not there yet can be
handed on. `push.py` trains what `weights.npz` holds.
"""

import asyncio
from pathlib import Path

import numpy as np
from ray import serve
from ray.serve.handle import DeploymentHandle

SMALL = {"ray_actor_options": {"num_cpus": 0.1}, "max_ongoing_requests": 64}
"""Serve hands a replica five requests at a time unless told otherwise, and makes the others wait."""
WEIGHTS = Path(__file__).with_name("weights.npz")


@serve.deployment(**SMALL)
class Features:
    """Pixels as their principal components. Shapes (rows, 64) -> (rows, 16)."""

    def __init__(self) -> None:
        with np.load(WEIGHTS) as weights:
            self._mean, self._components = weights["mean"], weights["components"]

    def __call__(self, pixels: np.ndarray) -> np.ndarray:
        return (pixels - self._mean) @ self._components.T


@serve.deployment(**SMALL)
class Classifier:
    """A logistic regression. Shapes (rows, 16) -> (rows, 10)."""

    def __init__(self) -> None:
        with np.load(WEIGHTS) as weights:
            self._coefficients, self._intercepts = weights["coefficients"], weights["intercepts"]

    def __call__(self, features: np.ndarray) -> np.ndarray:
        scores = features @ self._coefficients.T + self._intercepts
        odds = np.exp(scores - scores.max(axis=1, keepdims=True))
        return odds / odds.sum(axis=1, keepdims=True)


@serve.deployment(**SMALL)
class Novelty:
    """The distance to the nearest class. Shapes (rows, 16) -> (rows,)."""

    def __init__(self) -> None:
        with np.load(WEIGHTS) as weights:
            self._centres = weights["centres"]

    def __call__(self, features: np.ndarray) -> np.ndarray:
        return np.linalg.norm(features[:, None, :] - self._centres[None], axis=2).min(axis=1)


@serve.deployment(**SMALL)
class Digits:
    """The ingress."""

    def __init__(self, features: DeploymentHandle, classifier: DeploymentHandle, novelty: DeploymentHandle) -> None:
        self._features, self._classifier, self._novelty = features, classifier, novelty

    async def __call__(self, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        pixels = inputs["pixels"]
        if pixels.min() < 0 or pixels.max() > 16:
            raise ValueError("pixels are 0 to 16")  # callers get it as 400
        features = self._features.remote(pixels)
        odds, novelty = await asyncio.gather(self._classifier.remote(features), self._novelty.remote(features))
        return {"digit": odds.argmax(axis=1), "probability": odds.max(axis=1), "novelty": novelty}


app = Digits.bind(Features.bind(), Classifier.bind(), Novelty.bind())
