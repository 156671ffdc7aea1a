"""XGBoost and LightGBM, in their own formats."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from moorage_runtime.libraries import libraries
from moorage_runtime.signature import example_answers
from moorage_runtime.v2 import Array
from moorage_sdk.models.prepared import Prepared
from moorage_sdk.models.signature import signature_of, stand_in


def xgboost_model(model: Any, example: Any) -> Prepared:
    """An XGBClassifier, XGBRegressor or XGBRanker, or a Booster."""
    import xgboost  # noqa: PLC0415 - heavy

    if isinstance(model, xgboost.Booster):
        booster = model = _plain(model, example)
        shown = np.zeros((1, booster.num_features())) if example is None else example
    else:
        booster = model.get_booster()
        shown = stand_in(model) if example is None else example
    signature = signature_of(model, shown)
    return Prepared(
        format="xgboost",
        content=bytes(booster.save_raw("ubj")),
        signature=signature,
        libraries=libraries("xgboost"),
        answer=lambda given: example_answers(model, given, signature),
    )


def _plain(booster: Any, example: Any) -> Any:
    """The booster as `Booster.predict` uses it.

    That takes every round, unlike the wrappers: the attribute would make a host stop at the best one. Feature names
    would make it refuse an array.
    """
    copied = booster.copy()
    copied.set_attr(best_iteration=None, best_score=None)
    if not hasattr(example, "columns"):
        copied.feature_names = None
    return copied


def lightgbm_model(model: Any, example: Any) -> Prepared:
    """An LGBMClassifier, LGBMRegressor or LGBMRanker, or a Booster."""
    import lightgbm  # noqa: PLC0415 - heavy

    is_booster = isinstance(model, lightgbm.Booster)
    booster = model if is_booster else model.booster_
    shown = np.zeros((1, booster.num_feature())) if example is None else example
    with _without_name_warnings():
        signature = signature_of(model, shown)

    def answer(given: Any) -> dict[str, Array]:
        with _without_name_warnings():
            return example_answers(model, given, signature)

    return Prepared(
        format="lightgbm",
        content=booster.model_to_string().encode(),
        signature=signature,
        libraries=libraries("lightgbm"),
        answer=answer,
    )


@contextmanager
def _without_name_warnings() -> Iterator[None]:
    """LightGBM names its own columns when fitted on an array, and scikit-learn then warns that arrays lack names."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="X does not have valid feature names")
        yield
