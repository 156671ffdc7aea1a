"""Which library a model comes from, told by its classes' names so that nothing is imported to find out."""

import os
from pathlib import Path
from typing import Any, Literal

from moorage_common.contracts.tensors import Format
from moorage_sdk.errors import ModelRefused

Kind = Literal["file", "onnx", "xgboost", "lightgbm", "torch", "sklearn"]

_CLASSES: dict[tuple[str, str], Kind] = {
    ("onnx", "ModelProto"): "onnx",
    ("xgboost", "Booster"): "xgboost",
    ("xgboost", "XGBModel"): "xgboost",
    ("lightgbm", "Booster"): "lightgbm",
    ("lightgbm", "LGBMModel"): "lightgbm",
    ("torch", "Module"): "torch",
    ("sklearn", "BaseEstimator"): "sklearn",
}

_FORMATS: dict[str, Format] = {
    ".onnx": "onnx",
    ".skops": "skops",
    ".ubj": "xgboost",
    ".json": "xgboost",
    ".txt": "lightgbm",
}

_AS_SKOPS = (
    "save it in a safe format instead: skops.io.dump(model, 'model.skops') (pip install skops), "
    "or push the model object itself: moorage_sdk.push(model, name=..., example=X[:8])"
)

_OTHER_FILES = {
    ".pt": "export it to ONNX, or push the torch module itself: moorage_sdk.push(module, name=..., example=x)",
    ".pth": "export it to ONNX, or push the torch module itself: moorage_sdk.push(module, name=..., example=x)",
    ".safetensors": "these are weights without a model; export the model to ONNX",
    ".bst": "save it as JSON or UBJ: booster.save_model('model.ubj')",
    ".model": "save it as JSON or UBJ: booster.save_model('model.ubj')",
    ".h5": "export it to ONNX with tf2onnx",
    ".keras": "export it to ONNX with tf2onnx",
}
_PICKLES = frozenset({".pkl", ".pickle", ".joblib", ".dill", ".cloudpickle"})
_ZLIB_STARTS = (b"\x78\x01", b"\x78\x5e", b"\x78\x9c", b"\x78\xda")
_PICKLE_PROTOCOLS = range(2, 6)


def kind_of(model: Any) -> Kind:
    """The kind of a model object or path.

    Raises:
        ModelRefused: a kind that is not taken; the text says which are.
    """
    if isinstance(model, (str, os.PathLike)):
        return "file"
    if isinstance(model, (bytes, bytearray)):
        raise ModelRefused(f"bytes are not taken as a model, since they may be a pickle, which runs code; {_AS_SKOPS}")
    for ancestor in type(model).__mro__:
        kind = _CLASSES.get((ancestor.__module__.split(".")[0], ancestor.__name__))
        if kind is not None:
            return kind
    raise ModelRefused(
        f"a {type(model).__module__}.{type(model).__qualname__} is not taken; push a scikit-learn estimator, an "
        "XGBoost or LightGBM model, a torch module, an ONNX ModelProto, or the path of an .onnx, .skops, .ubj, .json "
        "or .txt file"
    )


def file_format(path: Path, head: bytes) -> Format:
    """The format of a model file by its name, checked against its first bytes.

    Raises:
        ModelRefused: pickle and joblib, whatever they are called, and formats that are not taken.
    """
    suffix = path.suffix.lower()
    if suffix in _PICKLES or _looks_pickled(head):
        raise ModelRefused(f"{path.name} is a pickle, which runs code when it is loaded; {_AS_SKOPS}")
    if suffix.partition(":")[0] == ".py":
        raise ModelRefused(
            f"{path.name} is Python; a Ray Serve application in it goes as format='ray-serve' (--format ray-serve), "
            "named like pipeline.py:app"
        )
    if suffix in _OTHER_FILES:
        raise ModelRefused(f"{path.name}: {suffix} files are not taken; {_OTHER_FILES[suffix]}")
    if suffix not in _FORMATS:
        raise ModelRefused(f"{path.name}: {suffix or 'no'} ending; model files end in {', '.join(_FORMATS)}")
    found = _FORMATS[suffix]
    if found == "skops" and not head.startswith(b"PK\x03\x04"):
        raise ModelRefused(f"{path.name} is not a skops file; {_AS_SKOPS}")
    if found == "lightgbm" and not head.startswith(b"tree"):
        raise ModelRefused(f"{path.name} is not a LightGBM text model; write one: booster.save_model('model.txt')")
    return found


def _looks_pickled(head: bytes) -> bool:
    """A pickle of protocol 2 or later (PROTO opcode), or one that joblib compressed with zlib."""
    is_pickle = len(head) > 1 and head[0] == 0x80 and head[1] in _PICKLE_PROTOCOLS
    return is_pickle or head.startswith(_ZLIB_STARTS)
