"""Trains the two models of `pipeline.py` on scikit-learn's digits and writes `weights.npz` beside it."""

from pathlib import Path

import numpy as np
from sklearn.datasets import load_digits
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression

WEIGHTS = Path(__file__).with_name("weights.npz")


def train(strength: float, path: Path = WEIGHTS) -> np.ndarray:
    """Train with this inverse of the regularisation; the digits as the classifier sees them. Shape (1797,)."""
    pixels, digits = load_digits(return_X_y=True)
    reduction = PCA(16, random_state=0).fit(pixels)
    features = reduction.transform(pixels)
    classifier = LogisticRegression(C=strength, max_iter=2000).fit(features, digits)
    np.savez(
        path,
        mean=reduction.mean_,
        components=reduction.components_,
        coefficients=classifier.coef_,
        intercepts=classifier.intercept_,
        centres=np.stack([features[digits == digit].mean(axis=0) for digit in range(10)]),
    )
    predicted: np.ndarray = classifier.predict(features)
    return predicted
