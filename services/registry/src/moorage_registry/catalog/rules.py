"""What may become a version. Pure."""

import hashlib
import json

from moorage_common.contracts.features import FeatureServiceInfo
from moorage_common.contracts.tensors import CODE_FORMATS, DATA_FORMATS, Signature, TensorSpec

TENSORS_MAX = 64
RANK_MAX = 8
SIGNATURE_BYTES_MAX = 32 * 1024
PENDING_MAX = 16
"""Versions of a model that may await validation at once."""

_WAYS_OUT = {
    "pickle": "loading a pickle runs whatever code it holds",
    "joblib": "a joblib file is a pickle, and loading one runs whatever code it holds",
    "torch": "a torch checkpoint is a pickle, and loading one runs whatever code it holds",
}


def format_fault(name: str) -> str | None:
    """Why versions of this format are refused, with the way out, or None."""
    if name in DATA_FORMATS | CODE_FORMATS:
        return None
    if name in _WAYS_OUT:
        return (
            f"{name} is refused, since {_WAYS_OUT[name]}; push scikit-learn models as skops, torch modules as onnx, "
            "XGBoost and LightGBM models in their own formats (moorage_sdk.push does it for you)"
        )
    return f"format {name!r} is not served; the formats are {', '.join(sorted(DATA_FORMATS | CODE_FORMATS))}"


def signature_fault(signature: Signature) -> str | None:
    """What is wrong with a signature, or None."""
    size_bytes = len(signature.model_dump_json().encode())
    if size_bytes > SIGNATURE_BYTES_MAX:
        return f"the signature has {size_bytes} bytes of JSON; at most {SIGNATURE_BYTES_MAX} are taken"
    for side, tensors in (("inputs", signature.inputs), ("outputs", signature.outputs)):
        if not 1 <= len(tensors) <= TENSORS_MAX:
            return f"the signature has {len(tensors)} {side}; give 1 to {TENSORS_MAX}"
        names = [t.name for t in tensors]
        if len(set(names)) != len(names):
            return f"two of the signature's {side} have the same name"
        for tensor in tensors:
            fault = _tensor_fault(tensor)
            if fault is not None:
                return f"{side}: {fault}"
    return None


def _tensor_fault(tensor: TensorSpec) -> str | None:
    if not 1 <= len(tensor.name) <= 256:
        return "a tensor's name has 1 to 256 characters"
    if len(tensor.shape) > RANK_MAX:
        return f"tensor {tensor.name!r} has rank {len(tensor.shape)}; at most {RANK_MAX} is served"
    if any(size < -1 or size == 0 for size in tensor.shape):
        return f"tensor {tensor.name!r}: a dimension is positive, or -1 where it is free"
    if tensor.columns is not None and tensor.shape and tensor.shape[-1] not in (-1, len(tensor.columns)):
        return f"tensor {tensor.name!r} names {len(tensor.columns)} columns for a last axis of {tensor.shape[-1]}"
    return None


def content_digest(artifact: str, name: str, signature: Signature, service: FeatureServiceInfo | None) -> str:
    """The same for versions that would answer alike: equal pushes are one version."""
    content = {
        "artifact": artifact,
        "format": name,
        "signature": signature.model_dump(mode="json"),
        "features": [service.name, service.fingerprint] if service is not None else None,
    }
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
