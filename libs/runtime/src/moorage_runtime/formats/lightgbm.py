"""LightGBM boosters as text, answering as LGBMClassifier and LGBMRegressor do."""

from collections.abc import Collection
from pathlib import Path

import lightgbm
import numpy as np

from moorage_common.contracts.desired import LoadSpec
from moorage_common.errors import BadRequest, Unprocessable
from moorage_runtime.formats.classes import is_classifier, labelled, output_spec, two_columns
from moorage_runtime.formats.estimators import as_matrix, check_width
from moorage_runtime.v2 import Array


class LightgbmModel:
    """A booster; the labels it was trained on come from the signature."""

    def __init__(self, booster: lightgbm.Booster, spec: LoadSpec) -> None:
        self._booster = booster
        self._signature = spec.signature
        self._threads = spec.threads
        self._classifier = is_classifier(spec.signature)

    def predict(self, inputs: dict[str, Array], wanted: Collection[str]) -> dict[str, Array]:
        """Labels and probabilities of classifiers, else the booster's own prediction as `predict`."""
        matrix = as_matrix(self._signature, inputs)
        try:
            raw = np.asarray(self._booster.predict(matrix, num_threads=self._threads))
        except (lightgbm.basic.LightGBMError, ValueError) as error:
            raise BadRequest(f"the model refuses the input: {str(error)[:300]}") from None
        if not self._classifier:
            return {"predict": raw}
        probabilities = raw if raw.ndim > 1 else two_columns(raw)
        labels = labelled(np.argmax(probabilities, axis=1), output_spec(self._signature, "predict"))
        return {"predict": labels, "predict_proba": probabilities} if "predict_proba" in wanted else {"predict": labels}


def load(path: Path, spec: LoadSpec) -> LightgbmModel:
    """Load the booster.

    Raises:
        Unprocessable: not LightGBM's text format, or another number of features than the signature's.
    """
    try:
        text = path.read_text(encoding="utf-8")
        if not text.startswith("tree"):
            raise ValueError("it does not start with 'tree'")
        booster = lightgbm.Booster(model_str=text)
    except (ValueError, lightgbm.basic.LightGBMError) as error:
        raise Unprocessable(
            f"lightgbm {lightgbm.__version__} cannot load the model: {str(error)[:300]}; save it with "
            "booster_.save_model",
            code="bad_lightgbm",
        ) from None
    check_width(spec.signature, booster.num_feature())
    return LightgbmModel(booster, spec)
