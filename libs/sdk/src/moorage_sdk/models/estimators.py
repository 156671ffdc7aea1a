"""scikit-learn estimators and Pipelines: skops, or ONNX through skl2onnx."""

from typing import Any

from moorage_common.contracts.tensors import Signature
from moorage_runtime.libraries import libraries
from moorage_runtime.signature import INPUT, example_answers
from moorage_sdk.errors import ModelRefused
from moorage_sdk.models.archives import canonical
from moorage_sdk.models.prepared import Prepared
from moorage_sdk.models.signature import signature_of, stand_in

_ONNX_OUTPUTS = {"label": "predict", "probabilities": "predict_proba", "variable": "predict"}
"""Outputs of skl2onnx's graphs and the methods that they are."""


def as_skops(estimator: Any, example: Any) -> Prepared:
    """The estimator as it is, in a format that holds no code."""
    from skops import io as skops_io  # noqa: PLC0415 - loads scikit-learn

    signature = signature_of(estimator, stand_in(estimator) if example is None else example)
    return Prepared(
        format="skops",
        content=canonical(skops_io.dumps(estimator)),
        signature=signature,
        libraries=libraries("skops"),
        answer=lambda given: example_answers(estimator, given, signature),
    )


def _as_methods(graph: Any, own: Signature) -> None:
    """Outputs with the names and ranks of the estimator's methods: skl2onnx has its own, and regressors as columns."""
    from onnx import TensorProto, helper  # noqa: PLC0415 - optional

    ranks = {spec.name: len(spec.shape) for spec in own.outputs}
    for output in graph.output:
        name = _ONNX_OUTPUTS.get(output.name, output.name)
        shape = output.type.tensor_type.shape
        if len(shape.dim) == 2 and ranks.get(name) == 1:
            flat = helper.make_tensor(f"{name}_shape", TensorProto.INT64, [1], [-1])
            graph.initializer.append(flat)
            graph.node.append(helper.make_node("Reshape", [output.name, flat.name], [name]))
            del shape.dim[1:]
        else:
            graph.node.append(helper.make_node("Identity", [output.name], [name]))
        output.name = name


def _converted(estimator: Any, own: Signature) -> bytes:
    """skl2onnx's graph of the estimator, numbers as FP32."""
    try:
        import skl2onnx  # noqa: PLC0415 - optional
        from skl2onnx.common.data_types import FloatTensorType, StringTensorType  # noqa: PLC0415
    except ImportError:
        raise ModelRefused("format='onnx' needs skl2onnx; run: pip install 'moorage-sdk[models]'") from None
    from sklearn.base import is_classifier  # noqa: PLC0415 - loads scikit-learn

    types = []
    for spec in own.inputs:
        kind = StringTensorType if spec.datatype == "BYTES" else FloatTensorType
        types.append((spec.name, kind([None, *(spec.shape[1:] or [1])])))
    options = {"zipmap": False} if is_classifier(estimator) else None
    try:
        model = skl2onnx.convert_sklearn(estimator, initial_types=types, options=options)
    except Exception as error:
        text = " ".join(str(error).split())[:300]
        raise ModelRefused(f"skl2onnx cannot convert the estimator: {text}; push it as skops instead") from error
    _as_methods(model.graph, own)
    return bytes(model.SerializeToString())


def as_onnx(estimator: Any, example: Any) -> Prepared:
    """The estimator converted; its answers must be the estimator's own to the precision of FP32.

    Raises:
        ModelRefused: skl2onnx is not installed or knows no conversion.
    """
    from moorage_sdk.models.graphs import graph_signature  # noqa: PLC0415 - loads onnxruntime

    own = signature_of(estimator, stand_in(estimator) if example is None else example)
    content = _converted(estimator, own)
    signature = graph_signature(content)
    if own.inputs[0].name == INPUT and own.inputs[0].columns:
        named = signature.inputs[0].model_copy(update={"columns": own.inputs[0].columns})
        signature = signature.model_copy(update={"inputs": [named]})
    return Prepared(
        format="onnx",
        content=content,
        signature=signature,
        libraries=libraries("onnx") | libraries("skops"),
        answer=lambda given: example_answers(estimator, given, own),
    )
