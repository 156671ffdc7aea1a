"""Signatures of models in a notebook: what they take and give, and what they answer to an example.

Heavy libraries are imported only for models of theirs. Supported: scikit-learn estimators and pipelines, XGBoost and
LightGBM (their scikit-learn classes and bare boosters), ONNX as a path.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from moorage_common.contracts.tensors import Format, Signature, TensorSpec
from moorage_common.errors import Unprocessable
from moorage_runtime.formats.estimators import METHODS, call_methods
from moorage_runtime.v2 import DTYPES, Array, canonical, datatype_of

INPUT = "input"
"""Name of the one input of models that take a matrix."""


def format_of(model: Any) -> Format:
    """The format that Moorage stores `model` in.

    Raises:
        Unprocessable: not a model that Moorage knows.
    """
    if isinstance(model, str | Path):
        return "onnx"
    library = type(model).__module__.partition(".")[0]
    if library == "xgboost":
        return "xgboost"
    if library == "lightgbm":
        return "lightgbm"
    if hasattr(model, "get_params") and any(hasattr(model, method) for method in METHODS):
        return "skops"
    raise Unprocessable(
        f"{type(model).__module__}.{type(model).__name__} is no model that Moorage knows; push a scikit-learn, XGBoost "
        "or LightGBM model, or a path to an ONNX file",
        code="unknown_model",
    )


def infer_signature(model: Any, example: Any = None) -> Signature:
    """The signature of a fitted model.

    Args:
        model: an estimator, a booster or the path of an ONNX file.
        example: a few rows as the model was trained on: array (rows, features), data frame, or an array or list of
            texts. Not needed for ONNX, whose graph states all.

    Raises:
        Unprocessable: an example that V2 tensors cannot carry, or whose answers have no row each.
    """
    model_format = format_of(model)
    if model_format == "onnx":
        from moorage_runtime.formats.onnx import open_session, session_signature  # noqa: PLC0415 - heavy

        return session_signature(open_session(Path(model), threads=1))
    if example is None:
        raise Unprocessable("give an example, such as the first rows of the training data: example=X[:8]")
    inputs = _input_specs(model, example, model_format)
    answers = _answers(model, example)
    rows = len(example)
    outputs = []
    for name, array in answers.items():
        if array.ndim == 0 or len(array) != rows:
            raise Unprocessable(f"{name} answers shape {list(array.shape)} to {rows} rows; export the model to ONNX")
        labels = _labels(model) if name == "predict" and model_format == "lightgbm" else None
        shape = [-1, *array.shape[1:]]
        outputs.append(TensorSpec(name=name, datatype=datatype_of(array), shape=shape, labels=labels))
    return Signature(inputs=inputs, outputs=outputs, batchable=True)


def example_inputs(signature: Signature, example: Any) -> dict[str, Array]:
    """`example` as the named V2 arrays that a request carries.

    Args:
        example: as for `infer_signature`; for ONNX an array (one input) or a mapping from input name to array.
    """
    if isinstance(example, Mapping):
        return {name: canonical(np.asarray(value)) for name, value in example.items()}
    if _is_frame(example) and len(signature.inputs) == len(example.columns) and len(signature.inputs[0].shape) == 1:
        return {str(c): canonical(_column(example[c])) for c in example.columns}
    spec = signature.inputs[0]
    array = example.to_numpy() if _is_frame(example) else np.asarray(example)
    return {
        spec.name: canonical(array if spec.datatype == "BYTES" else array.astype(DTYPES[spec.datatype], copy=False))
    }


def example_answers(model: Any, example: Any, signature: Signature) -> dict[str, Array]:
    """What `model` itself answers to `example`, by output name, for validation on a host to agree with.

    Raises:
        BadRequest: the model refuses the example.
    """
    if format_of(model) == "onnx":
        from moorage_runtime.formats.onnx import OnnxModel, open_session  # noqa: PLC0415 - heavy

        names = [o.name for o in signature.outputs]
        return OnnxModel(open_session(Path(model), threads=1)).predict(example_inputs(signature, example), names)
    answers = _answers(model, example)
    return {o.name: canonical(answers[o.name]) for o in signature.outputs}


def _is_frame(example: Any) -> bool:
    return hasattr(example, "columns") and hasattr(example, "dtypes") and hasattr(example, "to_numpy")


def _answers(model: Any, example: Any) -> dict[str, Array]:
    if hasattr(model, "get_params"):
        found = {}
        for name in _outputs_of(model):
            answer = call_methods(model, example, [name])[name]
            if name == "predict" or answer.ndim <= 2:  # probabilities of several outputs come as a list
                found[name] = answer
        return found
    if type(model).__module__.startswith("xgboost"):
        import xgboost  # noqa: PLC0415 - heavy

        matrix = example if isinstance(example, xgboost.DMatrix) else xgboost.DMatrix(example)
        best = model.attr("best_iteration")
        return {"predict": np.asarray(model.predict(matrix, iteration_range=(0, int(best) + 1 if best else 0)))}
    return {"predict": np.asarray(model.predict(example))}


def _outputs_of(estimator: Any) -> list[str]:
    """The methods that say what the estimator is for."""
    if not hasattr(estimator, "predict"):
        return ["transform"]
    if hasattr(estimator, "predict_proba"):
        return ["predict", "predict_proba"]
    scores = [name for name in ("decision_function", "score_samples") if hasattr(estimator, name)]
    kind = getattr(estimator, "_estimator_type", None)
    if kind is None and hasattr(estimator, "__sklearn_tags__"):
        kind = estimator.__sklearn_tags__().estimator_type
    return ["predict", *scores] if kind in {"classifier", "outlier_detector", "density_estimator"} else ["predict"]


def _labels(model: Any) -> list[int | str] | None:
    """Labels that LightGBM's text format does not hold; None when they are 0..n-1 anyway or there are none."""
    classes = getattr(model, "classes_", None)
    if classes is None or not hasattr(model, "predict_proba"):
        return None
    array = np.asarray(classes)
    if array.dtype.kind in "OUS":
        return [str(c) for c in array.tolist()]
    return [int(c) for c in array.tolist()]


def _input_specs(model: Any, example: Any, model_format: Format) -> list[TensorSpec]:
    if _is_frame(example) and all(isinstance(c, str) for c in example.columns):
        return _frame_specs(example, model_format)
    array = np.asarray(example)
    if array.ndim == 1 and array.dtype.kind in "OUS":
        return [TensorSpec(name=INPUT, datatype="BYTES", shape=[-1])]
    if array.ndim < 2:
        raise Unprocessable("the example must be rows of features, shape (rows, features); use X[:8], not X[0]")
    columns = getattr(model, "feature_names_in_", None) if model_format == "skops" else None
    names = None if columns is None else [str(c) for c in columns]
    return [TensorSpec(name=INPUT, datatype=datatype_of(array), shape=[-1, *array.shape[1:]], columns=names)]


def _frame_specs(frame: Any, model_format: Format) -> list[TensorSpec]:
    """One matrix with columns if all are numbers, else one input a column."""
    columns = [str(c) for c in frame.columns]
    arrays = [_column(frame[c]) for c in frame.columns]
    if model_format != "skops" and any(hasattr(frame[c].dtype, "categories") for c in frame.columns):
        raise Unprocessable(
            "a booster on pandas categories cannot be pushed; train on integer codes or one-hot columns"
        )
    if all(a.dtype.kind in "iuf" for a in arrays):
        datatype = datatype_of(np.empty(0, dtype=np.result_type(*arrays)))
        return [TensorSpec(name=INPUT, datatype=datatype, shape=[-1, len(columns)], columns=columns)]
    return [
        TensorSpec(name=c, datatype=datatype_of(a), shape=[-1], columns=[c])
        for c, a in zip(columns, arrays, strict=True)
    ]


def _column(series: Any) -> Array:
    """A data frame's column as an array that has a V2 datatype."""
    array = series.to_numpy()
    if array.dtype.kind == "O":
        kinds = {type(v).__name__ for v in array.tolist()}
        if kinds - {"str", "bytes"}:
            raise Unprocessable(
                f"column '{series.name}' holds {', '.join(sorted(kinds))}; make it all strings or all numbers (missing "
                "strings need a value of their own, such as '')"
            )
    return np.asarray(array)
