"""XGBoost boosters in JSON or UBJSON, answering as XGBClassifier and XGBRegressor do."""

import json
from collections.abc import Collection
from pathlib import Path

import numpy as np
import xgboost

from moorage_common.contracts.desired import LoadSpec
from moorage_common.contracts.tensors import Signature
from moorage_common.errors import BadRequest, Unprocessable
from moorage_runtime.formats.classes import is_classifier, labelled, output_spec, two_columns
from moorage_runtime.formats.estimators import as_matrix, check_width
from moorage_runtime.v2 import Array


class XgboostModel:
    """A booster with the rounds that early stopping found best."""

    def __init__(self, booster: xgboost.Booster, signature: Signature) -> None:
        self._booster = booster
        self._signature = signature
        self._classifier = is_classifier(signature)
        config = json.loads(booster.save_config())
        self._objective = str(config["learner"]["objective"]["name"])
        self._linear = config["learner"]["gradient_booster"]["name"] == "gblinear"
        best = booster.attr("best_iteration")
        self._rounds = (0, int(best) + 1) if best is not None else (0, 0)

    def predict(self, inputs: dict[str, Array], wanted: Collection[str]) -> dict[str, Array]:
        """Labels and probabilities of classifiers, else the booster's own prediction as `predict`."""
        try:
            raw = self._raw(as_matrix(self._signature, inputs))
        except (xgboost.core.XGBoostError, ValueError) as error:
            raise BadRequest(f"the model refuses the input: {str(error).splitlines()[0][:300]}") from None
        if not self._classifier:
            return {"predict": raw}
        outputs = {"predict": labelled(self._indexes(raw), output_spec(self._signature, "predict"))}
        if "predict_proba" in wanted:
            outputs["predict_proba"] = raw if raw.ndim > 1 else two_columns(raw)
        return outputs

    def _raw(self, matrix: Array) -> Array:
        if self._linear:
            return np.asarray(self._booster.predict(xgboost.DMatrix(matrix), iteration_range=self._rounds))
        raw: Array = self._booster.inplace_predict(matrix, iteration_range=self._rounds, validate_features=False)
        return raw

    def _indexes(self, raw: Array) -> Array:
        if raw.ndim > 1 and self._objective.startswith("multi:"):
            return np.asarray(np.argmax(raw, axis=1))
        if self._objective == "multi:softmax":
            return raw.astype(np.int64)
        return (raw > 0.5).astype(np.int64)


def load(path: Path, spec: LoadSpec) -> XgboostModel:
    """Load the booster.

    Raises:
        Unprocessable: not XGBoost JSON or UBJSON, or another number of features than the signature's.
    """
    booster = xgboost.Booster({"nthread": spec.threads})
    try:
        blob = bytearray(path.read_bytes())
        if blob[:1] != b"{":  # XGBoost aborts the process on an empty file
            raise ValueError("it does not start with '{'")
        booster.load_model(blob)
    except Exception as error:  # noqa: BLE001 - the C++ parser's errors are of one type, ours to translate
        text = str(error).splitlines()[0][:300]
        raise Unprocessable(
            f"xgboost {xgboost.__version__} cannot load the model: {text}; save it as JSON or UBJ", code="bad_xgboost"
        ) from None
    booster.set_param({"nthread": spec.threads, "device": "cpu"})
    check_width(spec.signature, booster.num_features())
    return XgboostModel(booster, spec.signature)
